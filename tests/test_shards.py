"""Shards of the samples: each scored on its own, and merged into what one job would have found."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from kedit.locate.causal_effect import CausalEffect
from kedit.locate.difference import ActivationDifference
from kedit.locate.domain_entropy import DomainEntropy
from kedit.locate.gradcam import GradCAM
from kedit.locate.knowledge_neurons import KnowledgeNeurons
from kedit.locate.locator import Locator, Stage
from kedit.locate.miner import Miner
from kedit.locate.nam import NAM
from kedit.locate.random import LayerMatched
from kedit.locate.reduction import Vote
from kedit.locate.selection import TopK
from kedit.locate.shards import Shard, check_shareable, merge
from kedit.locate.target import Target
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, picture, planted, without
from kedit.neurons import NeuronScores, ids_to, load_scores, save_scores

LOCATOR = Locator({"difference": Stage(ActivationDifference(), TopK(8)), "gradcam": Stage(GradCAM(), TopK(4))})
SMALL = Locator({"gradcam": Stage(GradCAM(), TopK(4))})
PICTURES = [picture(name, (number,), (15 - number,)) for number, name in enumerate("abcde")]
PAIRS = [without(one, STAR_CONCEPT) for one in PICTURES]


@cache
def told() -> list[Generated]:
    return planted().model.caption([one.image for one in PICTURES])


def scored(
    index: int, count: int, locator: Locator = SMALL, captions: Sequence[Generated] | None = None, **changed: Any
) -> dict[str, NeuronScores]:
    pairs, some = (Shard(index, count).of(all_) for all_ in (PAIRS, captions or told()))
    return locator.score(replace(planted().model, **changed), pairs, captions=some, dtype=torch.float64)


def test_the_shards_in_order_are_all_items() -> None:
    items = list("abcdefgh")
    for count in (1, 2, 3, 8, 11):
        shares = [Shard(index, count).of(items) for index in range(count)]
        assert [one for some in shares for one in some] == items
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for index, count in ((2, 2), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=rf"got {index} of {count}"):
            Shard(index, count)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_merged_shards_are_one_job_to_nine_places(count: int) -> None:
    merged = merge([scored(index, count, LOCATOR) for index in range(count)])
    expected = LOCATOR.score(planted().model, PAIRS, captions=told())
    assert list(merged) == list(expected)
    for name, one in merged.items():
        torch.testing.assert_close(one.values, expected[name].values, atol=1e-9, rtol=0)
        assert one.values.dtype == torch.float32
        assert dict(one.provenance) | {"seconds": ""} == dict(expected[name].provenance) | {"seconds": ""}
        assert (one.method, one.site, one.scope) == (expected[name].method, expected[name].site, expected[name].scope)
    assert LOCATOR.select(merged) == LOCATOR.select(expected)


def test_means_are_weighed_by_how_many_samples_they_are_of() -> None:
    few, many = (NeuronScores(torch.tensor([[mean]]), "m", "mid", about(n)) for mean, n in ((1.0, 1), (5.0, 3)))
    merged = merge([{"a": few}, {"a": many}])["a"]
    assert merged.values.item() == 4.0
    assert merged.provenance == about(4) | {
        "samples": '["1a", "3a", "3b", "3c, d"]',
        "seconds": "3.5",
        "skipped": "4",
    }


def about(n: int) -> dict[str, str]:
    names = ids_to(f"{n}{letter}" for letter in ("a", "b", "c, d")[:n])
    return {"n_samples": str(n), "samples": names, "skipped": str(n), "seconds": f"{n}.5", "model": "m"}


def test_shards_keep_64_bits_in_a_file(tmp_path: Any) -> None:
    third = torch.tensor([[1 / 3]], dtype=torch.float64)
    save_scores({"a": NeuronScores(third, "m", "mid", about(1))}, tmp_path / "scores.safetensors")
    assert torch.equal(load_scores(tmp_path / "scores.safetensors")["a"].values, third)
    assert scored(0, 2)["gradcam"].values.dtype == torch.float64


def test_a_shard_without_a_usable_sample_is_left_out_unless_all_are() -> None:
    merged = merge([{}, scored(0, 1), {}])
    assert torch.equal(merged["gradcam"].values, SMALL.score(planted().model, PAIRS, captions=told())["gradcam"].values)
    with pytest.raises(ValueError, match="no caption in any of 2 shards names the concept"):
        merge([{}, {}])


def test_shards_that_do_not_belong_together_are_refused_with_what_differs() -> None:
    one = scored(0, 2)
    strangers = {
        "`model` is 'another' and 'planted'": scored(1, 2, name="another"),
        "`method` is": scored(1, 2, Locator({"gradcam": Stage(GradCAM("all"), TopK(1))})),
        "`target` is": scored(1, 2, replace(SMALL, target=Target("prob"))),
        "`site` is 'act' and 'mid'": scored(1, 2, replace(SMALL, site="act")),
        "their stages are": scored(1, 2, LOCATOR),
        "sample `a` would count 2 times": scored(0, 5),
    }
    for message, other in strangers.items():
        with pytest.raises(ValueError, match=message):
            merge([one, other])


@pytest.mark.parametrize(
    ("scorer", "why"),
    [
        (GradCAM(over_samples=Vote(0.9)), "GradCAM makes of them is no mean"),
        (GradCAM(over_samples="max"), "GradCAM makes of them is no mean"),
        (KnowledgeNeurons(), "KnowledgeNeurons makes of them is no mean"),
        (DomainEntropy(), "DomainEntropy makes of them is no mean"),
        (CausalEffect(shortlist=GradCAM()), "set `shortlist` to null"),
    ],
)
def test_what_is_no_mean_over_samples_is_refused(scorer: Any, why: str) -> None:
    locator = Locator({"first": Stage(scorer, TopK(1))})
    for one in (locator, LayerMatched(locator)):
        with pytest.raises(ValueError, match=f"stage `first` has to see all samples at once .*{why}"):
            check_shareable(one)


def test_means_may_be_shared_out_and_miner_may_not() -> None:
    means = {"nam": NAM(), "effect": CausalEffect(), "kn": KnowledgeNeurons(over_samples="mean")}
    check_shareable(Locator({name: Stage(scorer, TopK(1)) for name, scorer in means.items()}))
    with pytest.raises(ValueError, match="Miner has to see all samples at once"):
        check_shareable(Miner())


def test_of_what_a_prober_noted_the_largest_is_kept() -> None:
    locator = Locator({"kn": Stage(KnowledgeNeurons(steps=2, over_samples="mean"), TopK(1))})
    shards = [scored(index, 2, locator) for index in range(2)]
    errors = [one["kn"].provenance["completeness_error"] for one in shards]
    assert merge(shards)["kn"].provenance["completeness_error"] == max(errors, key=float)
