"""The causal effect of a neuron is what silencing it alone does, however many share a forward."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from PIL import Image
from tiny_llava import D_FF, N_LAYERS, tiny_llava
from torch import Tensor, nn

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.locate.causal_effect import CausalEffect
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.knowledge_neurons import KnowledgeNeurons
from kedit.locate.locator import Locator, Stage
from kedit.locate.reduction import Vote
from kedit.locate.selection import Quantile, TopK
from kedit.locate.target import Target
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.samples import Concept, Counterfactual

CAPTIONS = ("a red star .", "the unicorn", "a picture of the blue sky and a unicorn")
SEEN = Concept("thing", ("star", "unicorn"))
STARS = (picture("one", (5,)), picture("two", (1, 2), (9,)), picture("three", (0,), (15, 14)))
ESTIMATE = GradCAM("all", "sum")
"""The first-order estimate of the causal effect."""


@pytest.fixture(scope="module")
def model() -> HuggingFaceMLLM:
    return tiny_llava()


@pytest.fixture(scope="module")
def told(model: HuggingFaceMLLM) -> list[Generated]:
    ids = [model.tokenizer(text, add_special_tokens=False).input_ids for text in CAPTIONS]
    return [Generated(text, tuple(one)) for text, one in zip(CAPTIONS, ids, strict=True)]


@pytest.fixture(scope="module")
def seen() -> list[Counterfactual]:
    plain = Image.new("RGB", (32, 32), (128, 128, 128))
    return [Counterfactual(picture(str(n), (n,), (15 - n, 7)), SEEN, plain) for n in range(len(CAPTIONS))]


def silencing(scorer: CausalEffect, k: int = 3, **options: Any) -> Locator:
    return Locator({"causal_effect": Stage(scorer, TopK(k))}, **options)


def scored(scorer: CausalEffect, model: HuggingFaceMLLM, *given: Any, **options: Any) -> NeuronScores:
    return silencing(scorer, **options).score(model, given[0], captions=given[1])["causal_effect"]


@torch.no_grad()
def one_by_one(
    model: HuggingFaceMLLM, locator: Locator, pairs: Sequence[Counterfactual], told: Any, positions: Any
) -> Tensor:
    """Return the mean drop of the target as each neuron in turn is edited away: `[layer, neuron]`."""
    drops = []
    for case in locator.cases(model, pairs, told):
        batch = model.teacher_forced([case.pair.sample.image], [locator.target.prefix(case.mention)])

        def output(batch: Any = batch, mention: Any = case.mention) -> Tensor:
            logits = model.logits(batch, locator.target.n_last([mention]))
            return locator.target.output(logits, [mention])[0]

        before = output()
        site = model.site(locator.site)
        drop = torch.zeros(len(site.blocks), site.widths[0])
        for layer, width in site.widths.items():
            for index in range(width):
                with Edit(NeuronSet((NeuronId(layer, index),), site.name), Zero(), positions).applied(model):
                    drop[layer, index] = before - output()
        drops.append(drop)
    return torch.stack(drops).mean(0)


@pytest.mark.parametrize(("site", "positions"), [("mid", "all"), ("mid", "image"), ("pre", "text")])
def test_every_effect_is_that_of_an_edit_of_the_neuron_alone(
    model: HuggingFaceMLLM, told: list[Generated], seen: list[Counterfactual], site: Any, positions: Any
) -> None:
    locator = silencing(CausalEffect(positions=positions, at_once=7), site=site)
    found = locator.score(model, seen[1:], captions=told[1:])["causal_effect"].values
    wanted = one_by_one(model, locator, seen[1:], told[1:], positions)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert wanted.abs().max() > 1e-2


@pytest.mark.parametrize("target", [Target("prob", "last"), Target("logprob", "mean")])
def test_the_locators_target_is_what_drops(
    model: HuggingFaceMLLM, told: list[Generated], seen: list[Counterfactual], target: Target
) -> None:
    locator = silencing(CausalEffect(), target=target)
    found = locator.score(model, seen[1:2], captions=told[1:2])["causal_effect"].values
    torch.testing.assert_close(
        found, one_by_one(model, locator, seen[1:2], told[1:2], "all"), atol=1e-5, rtol=1e-4
    )  # fmt: skip


def test_the_planted_neuron_has_the_largest_effect_and_the_decoy_speaks_for_nothing(planted: Planted) -> None:
    pairs = [without(sample, STAR_CONCEPT) for sample in STARS]
    locator = silencing(CausalEffect())
    scores = locator.score(planted.model, pairs)["causal_effect"]
    wanted = one_by_one(planted.model, locator, pairs, None, "all")
    torch.testing.assert_close(scores.values, wanted, atol=1e-4, rtol=1e-4)
    assert locator.limited(1).select({"causal_effect": scores}) == planted.star
    assert scores.of(planted.decoy).item() < 0  # without what it writes, the norm leaves more of the rest
    assert 0 < scores.of(planted.prior).item() < 0.5 * scores.of(planted.star).item()


def test_an_effect_at_the_target_position_is_silence_at_the_last_position(
    model: HuggingFaceMLLM, told: list[Generated], seen: list[Counterfactual]
) -> None:
    found = scored(CausalEffect(positions="target"), model, seen[:1], told[:1]).values
    locator = silencing(CausalEffect())
    torch.testing.assert_close(
        found, one_by_one(model, locator, seen[:1], told[:1], "last"), atol=1e-5, rtol=1e-4
    )  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_how_many_neurons_share_a_forward_does_not_matter(
    model: HuggingFaceMLLM, told: list[Generated], seen: list[Counterfactual], at_once: int
) -> None:
    found = scored(CausalEffect(at_once=at_once), model, seen[1:2], told[1:2]).values
    wanted = scored(CausalEffect(), model, seen[1:2], told[1:2]).values
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shortlist", [ESTIMATE, replace(ESTIMATE, over_samples=Vote()), ActivationDifference()])
def test_a_shortlist_is_the_best_of_another_scorer_and_its_effects_are_the_full_ones(
    model: HuggingFaceMLLM, told: list[Generated], seen: list[Counterfactual], shortlist: Any
) -> None:
    few = scored(CausalEffect(shortlist, m=8), model, seen, told)
    ranked = Locator({"only": Stage(shortlist, TopK(8))})
    listed = ranked.select(ranked.score(model, seen, captions=told))
    assert NeuronSet(tuple(few.ranking())) == listed
    full = scored(CausalEffect(), model, seen, told)
    torch.testing.assert_close(few.of(listed), full.of(listed), atol=1e-5, rtol=1e-4)
    assert few.n_missing == N_LAYERS * D_FF - 8


def test_neurons_that_are_not_on_the_shortlist_are_never_selected_and_worth_no_warning(
    model: HuggingFaceMLLM, told: list[Generated], seen: list[Counterfactual], caplog: pytest.LogCaptureFixture
) -> None:
    locator = silencing(CausalEffect(ESTIMATE, m=4), k=10)
    with caplog.at_level(logging.WARNING):
        kept = locator.select(locator.score(model, seen, captions=told))
    assert len(kept) == 4
    assert not caplog.records


@pytest.mark.parametrize(
    ("scorer", "forwards", "backwards"),
    [
        (CausalEffect(at_once=7), N_LAYERS * D_FF + 1, 0),
        (CausalEffect(ESTIMATE, m=8), 1 + 8 + 1, 1),
        (CausalEffect(ActivationDifference(), m=8), 2 + 8 + 1, 0),
    ],
)
def test_the_provenance_counts_every_pass(
    model: HuggingFaceMLLM,
    told: list[Generated],
    seen: list[Counterfactual],
    scorer: CausalEffect,
    forwards: int,
    backwards: int,
) -> None:
    sizes: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        sizes.append(len(output))

    handle = model.module.get_submodule("lm_head").register_forward_hook(count)
    try:
        about = scored(scorer, model, seen, told).provenance
    finally:
        handle.remove()
    assert (int(about["forwards"]), int(about["backwards"])) == (sum(sizes), 3 * backwards)
    assert sum(sizes) == 3 * forwards
    assert max(sizes) <= scorer.at_once


def test_a_small_effect_is_close_to_its_first_order_estimate(planted: Planted) -> None:
    pairs = [without(sample, STAR_CONCEPT) for sample in STARS]
    locator = Locator({"exact": Stage(CausalEffect(), TopK(1)), "estimate": Stage(ESTIMATE, TopK(1))})
    scores = locator.score(planted.model, pairs)
    exact, estimate = (scores[name].of(planted.prior).item() for name in ("exact", "estimate"))
    assert exact == pytest.approx(estimate, rel=0.1)


def test_effects_are_a_second_stage_behind_the_difference_and_a_third_behind_knowledge_neurons(
    planted: Planted,
) -> None:
    locator = Locator(
        {
            "difference": Stage(ActivationDifference(), Quantile(0.5)),
            "knowledge_neurons": Stage(KnowledgeNeurons(4, positions="all", over_samples="mean"), TopK(3)),
            "causal_effect": Stage(CausalEffect(), TopK(1)),
        }
    )
    pairs = [without(sample, STAR_CONCEPT) for sample in STARS]
    scores = locator.score(planted.model, pairs)
    assert locator.select(scores) == planted.star
    n, layers, neurons = len(pairs), 2, 16
    assert int(scores["causal_effect"].provenance["forwards"]) == n * (2 + (1 + layers * 5) + (neurons + 1))


def test_scoring_leaves_the_model_as_it_was_and_gives_the_same_again(
    model: HuggingFaceMLLM, told: list[Generated], seen: list[Counterfactual]
) -> None:
    before = tiny.state_of(model.module)
    first = scored(CausalEffect(ESTIMATE, m=9), model, seen, told).values
    assert tiny.state_of(model.module) == before
    again = scored(CausalEffect(ESTIMATE, m=9), model, seen, told).values
    assert torch.equal(first.nan_to_num(7), again.nan_to_num(7))


def test_logits_that_are_no_numbers_are_reported_with_the_sample_and_the_way_out(
    told: list[Generated], seen: list[Counterfactual]
) -> None:
    broken = tiny_llava()
    with torch.no_grad():
        broken.module.lm_head.weight[:] = math.inf
    with pytest.raises(ValueError, match=r"the logit of `thing` is (inf|nan|-inf) for sample `0`.*`tiny`.*bfloat16"):
        scored(CausalEffect(), broken, seen, told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortlist": KnowledgeNeurons()}, "`shortlist` is a scorer of neurons, such as GradCAM, or null, got Know"),
        ({"m": 0}, "`m` is a number of neurons, 1 or more, got 0"),
        ({"at_once": 0}, "`at_once` is a number of neurons, 1 or more, got 0"),
        ({"positions": "last"}, "`positions` is one of all, image, text, image_end, target, got 'last'"),
        ({"over_samples": "median"}, "`over_samples` is one of mean, max, vote, got 'median'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalEffect(**options)
