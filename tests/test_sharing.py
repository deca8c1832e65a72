"""Sharing keeps what the published codes keep."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from knowledge_neurons_golden import meta, reference
from torch import Tensor

from kedit.locate.reduction import Vote
from kedit.locate.sharing import Sharing
from kedit.neurons import NeuronId, NeuronScores, NeuronSet, SiteName

FIXED = Sharing(0.5, (0, 1000), iterations=1, at_least=1)
"""At least half of the samples, however many neurons that gives."""


def as_set(ids: Sequence[Sequence[int]], site: SiteName = "mid") -> NeuronSet:
    return NeuronSet(tuple(NeuronId(*one) for one in ids), site)


def voted(votes: Tensor, n_samples: int, ties: Tensor | None = None) -> NeuronScores:
    return NeuronScores(votes, "votes", provenance={"n_samples": str(n_samples)}, ties=ties)


# --- the published neurons


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_samples_votes_are_the_published_coarse_neurons(name: str) -> None:
    for number, wanted in enumerate(meta(name)["coarse_adaptive0.3"]):
        votes = Vote(of_max=0.3)(reference(name, [number]))
        assert as_set(votes[0].nonzero().tolist()) == as_set(wanted)
    votes = Vote(quantile=0.99)(reference(name, [0]))
    assert as_set(votes[0].nonzero().tolist()) == as_set(meta(name)["coarse_percentile99"])


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_shared_votes_are_the_published_refined_neurons(name: str) -> None:
    # The reference keeps neurons of more than a quarter of 4 prompts.
    votes = Vote(of_max=0.1)(reference(name, range(4))).mean(0)
    assert FIXED(voted(votes, 4)) == as_set(meta(name)["refined_p0.25_adaptive0.1"])


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_set_difference_removes_the_neurons_of_negative_prompts(name: str) -> None:
    own = FIXED(voted(Vote(of_max=0.1)(reference(name, range(4))).mean(0), 4))
    others = FIXED(voted(Vote(of_max=0.1)(reference(name, ["neg0", "neg1"])).mean(0), 2))
    left = own - others
    assert own & others
    assert not left & others
    assert len(left) < len(as_set(meta(name)["refined_p0.25_adaptive0.1_neg"]))  # whose filter removes nothing


# --- the loop


def published(counts: Tensor, n: int, share: float = 0.7, low: int = 2, high: int = 5) -> NeuronSet:
    """The official loop (2_get_kn.py) over the votes of one bag of prompts, in exact hundredths."""
    hundredths, kept = round(100 * share), NeuronSet()
    for _ in range(6):
        kept = as_set([one for one in counts.nonzero().tolist() if counts[*one] * 100 >= max(n * hundredths, 300)])
        if len(kept) < low:
            hundredths -= 5
        elif len(kept) > high:
            hundredths += 5
        else:
            break
    return kept


@settings(max_examples=80)
@given(st.integers(1, 24), st.data())
def test_sharing_is_the_official_loop(n: int, data: st.DataObject) -> None:
    counts = torch.tensor(data.draw(st.lists(st.integers(0, n), min_size=12, max_size=12))).reshape(2, 6)
    assert Sharing()(voted(counts / n, n)) == published(counts, n)


def test_the_share_falls_until_there_are_enough_neurons_and_rises_until_there_are_few_enough() -> None:
    few = voted(torch.tensor([[0.5, 0.5, 0.1, 0.0, 0.0, 0.0, 0.0]]), 10)
    assert [one.index for one in Sharing()(few)] == [0, 1]
    assert not Sharing(iterations=4)(few)  # 0.7, 0.65, 0.6, 0.55
    many = voted(torch.tensor([[0.7, 0.7, 0.7, 0.7, 0.8, 0.9, 0.9]]), 10)
    assert [one.index for one in Sharing()(many)] == [4, 5, 6]
    assert len(Sharing(iterations=1)(many)) == 7


def test_fewer_samples_than_must_vote_share_nothing() -> None:
    votes = torch.ones(1, 3)
    assert not Sharing()(voted(votes, 2))
    assert len(Sharing()(voted(votes, 3))) == 3
    assert len(Sharing(at_least=1)(voted(votes, 2))) == 3


def test_a_neuron_that_was_left_out_is_never_shared_and_candidates_are_counted_alone() -> None:
    votes = torch.tensor([[1.0, math.nan, 1.0, 0.4, 0.4, 0.4]])
    assert [one.index for one in Sharing()(voted(votes, 5))] == [0, 2]
    among = as_set([(0, 2), (0, 3), (0, 4)])
    # The share falls to 0.45, and 2 of 5 votes are fewer than the 3 there must be.
    assert [one.index for one in Sharing()(voted(votes, 5), among)] == [2]


@pytest.mark.parametrize(("value", "shown"), [(0.3, "0.3"), (2.0, "2"), (-1.0, "-1")])
def test_scores_that_are_no_votes_are_refused(value: float, shown: str) -> None:
    with pytest.raises(ValueError, match=f"the votes of 4 samples, and votes scores a neuron {shown}; set its"):
        Sharing()(voted(torch.tensor([[0.25, value]]), 4))


def test_votes_of_unknown_number_are_refused() -> None:
    with pytest.raises(ValueError, match="the scores have no `n_samples` in provenance"):
        Sharing()(NeuronScores(torch.ones(1, 2), "votes"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 70}, "`share` is a share of the samples between 0 and 1, got 70"),
        ({"step": -0.1}, "`step` is a share of the samples between 0 and 1, got -0.1"),
        ({"between": (5, 2)}, r"`between` is the fewest and the most neurons to keep, got \(5, 2\)"),
        ({"iterations": 0}, "`iterations` is 1 or more, got 0"),
        ({"at_least": 0}, "`at_least` is 1 or more, got 0"),
    ],
)
def test_a_sharing_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sharing(**options)
