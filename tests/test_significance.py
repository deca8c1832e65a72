"""Tests of neurons: exact where it can be enumerated, uniform where nothing is there, and calibrated on the whole."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kedit.locate.fdr.significance import against_own_null, benjamini_hochberg, fewest_found, signed_rank

few = settings(max_examples=40)
# Few different values, so that ties and zeros are the rule; and any.
differences = st.one_of(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), min_size=1, max_size=8),
    st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=8),
)


def by_enumeration(values: list[float]) -> float:
    """Return the share of all sign patterns whose sum of positive ranks is as high; the same ranks for each pattern."""
    known = [value for value in values if value != 0]
    # The ranks that `signed_rank` gives: of equal sizes, the negative ones have the larger.
    order = sorted(range(len(known)), key=lambda place: (abs(known[place]), known[place] < 0))
    ranks = {place: rank + 1 for rank, place in enumerate(order)}
    observed = sum(ranks[place] for place, value in enumerate(known) if value > 0)
    patterns = list(itertools.product((False, True), repeat=len(known)))
    sums = [sum(ranks[place] for place, up in enumerate(pattern) if up) for pattern in patterns]
    return sum(one >= observed for one in sums) / len(sums)


@few
@given(differences)
def test_the_signed_rank_test_is_the_share_of_all_sign_patterns(values: list[float]) -> None:
    found = float(signed_rank(torch.tensor(values)[:, None]))
    if any(values):
        assert found == pytest.approx(by_enumeration(values), abs=1e-12)
    else:
        assert found != found


def test_the_signed_rank_test_agrees_with_the_published_table() -> None:
    # Wilcoxon's critical values, one-sided 5 %: T = 10 for n = 10 (P = 0.0420) and T = 60 for n = 20 (P = 0.0487).
    for n, negative, expected in ((10, (1, 2, 3, 4), 0.0420), (20, (20, 19, 18, 3), 0.0487)):
        signs = torch.tensor([-1.0 if rank in negative else 1.0 for rank in range(1, n + 1)])
        assert float(signed_rank((signs * torch.arange(1, n + 1))[:, None])) == pytest.approx(expected, abs=6e-5)


def test_a_neuron_that_differs_most_has_the_smallest_p_that_its_samples_can_give() -> None:
    rising = torch.arange(1.0, 31.0)[:, None]
    assert float(signed_rank(rising)) == pytest.approx(2.0**-30)
    assert float(signed_rank(-rising)) == pytest.approx(1.0)


@few
@given(differences, st.floats(0.1, 10))
def test_only_the_order_of_sizes_counts_not_the_samples_order_or_the_scale(values: list[float], scale: float) -> None:
    given_ = torch.tensor(values, dtype=torch.float64)[:, None]
    expected = signed_rank(given_)
    for other in (given_ * scale, given_.flip(0)):
        assert torch.equal(signed_rank(other).nan_to_num(-1), expected.nan_to_num(-1))


def test_neurons_without_evidence_are_not_tested() -> None:
    values = torch.tensor([[0.0, 1.0, torch.nan], [0.0, 0.0, 1.0]])
    assert signed_rank(values).isnan().tolist() == [True, False, True]
    null = torch.tensor([[0.0, 1.0, torch.nan]] * 3)
    assert against_own_null(torch.tensor([0.0, 2.0, 1.0]), null).isnan().tolist() == [True, False, True]


def exchangeable(n_neurons: int, n_draws: int, seed: int) -> Tensor:
    """Return draws whose first is like the others: cut at zero as maxima are, of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n_draws + 1, n_neurons, generator=generator).clamp(min=0)
    return values * torch.exp(2 * torch.randn(n_neurons, generator=generator))


def test_where_nothing_is_there_p_is_no_lower_than_chance_whatever_the_neurons_scales() -> None:
    for share in (0.01, 0.05, 0.2):
        found = [against_own_null(draws[0], draws[1:]) for draws in (exchangeable(500, 12, seed) for seed in range(8))]
        values = torch.cat(found)
        assert float((values <= share).double().mean()) <= 1.15 * share


def test_the_neuron_that_speaks_for_its_word_alone_is_the_most_surprising_one() -> None:
    draws = exchangeable(500, 12, 0)
    draws[0, 7] = 100 * draws[1:, 7].amax()
    found = against_own_null(draws[0], draws[1:])
    assert int(found.nan_to_num(1).argmin()) == 7
    assert bool((found[~found.isnan()] > 0).all())


def test_pvalues_do_not_depend_on_the_scale_of_the_layer() -> None:
    draws = exchangeable(50, 8, 1).double()
    ones, others = (against_own_null(scale * draws[0], scale * draws[1:]) for scale in (1.0, 1024.0))
    assert torch.equal(ones.nan_to_num(-1), others.nan_to_num(-1))


def test_two_draws_are_no_null_distribution() -> None:
    with pytest.raises(ValueError, match="3 draws or more, got 2"):
        against_own_null(torch.ones(4), torch.ones(2, 4))


def test_benjamini_and_hochberg_keep_what_their_example_keeps() -> None:
    # Benjamini and Hochberg (1995), section 3.2: 15 p-values, 4 rejected at 0.05.
    values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
              0.7590, 1.0000]  # fmt: skip
    rejected = benjamini_hochberg(torch.tensor(values, dtype=torch.float64), 0.05)
    assert rejected.tolist() == [True] * 4 + [False] * 11


def test_neurons_without_a_p_value_are_no_hypotheses() -> None:
    values = torch.tensor([[0.02, torch.nan], [0.04, torch.nan]])
    assert benjamini_hochberg(values, 0.05).tolist() == [[True, False], [True, False]]
    assert not benjamini_hochberg(torch.full((2, 2), torch.nan), 0.5).any()


@few
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 0.5))
def test_a_higher_rate_keeps_at_least_as_much(values: list[float], q: float) -> None:
    pvalues = torch.tensor(values, dtype=torch.float64)
    assert not bool((benjamini_hochberg(pvalues, q) & ~benjamini_hochberg(pvalues, min(1.0, 1.5 * q))).any())


@given(st.integers(2, 16), st.integers(1, 300), st.sampled_from([0.01, 0.05, 0.2]))
def test_fewer_than_the_fewest_are_never_kept(n_samples: int, n_neurons: int, q: float) -> None:
    smallest = 2.0**-n_samples
    fewest = fewest_found(smallest, n_neurons, q)
    if fewest > n_neurons:
        return
    values = torch.ones(n_neurons, dtype=torch.float64)
    values[: fewest - 1] = smallest
    assert not benjamini_hochberg(values, q).any() or smallest * n_neurons <= q * (fewest - 1)
    values[:fewest] = smallest
    assert int(benjamini_hochberg(values, q).sum()) >= fewest
