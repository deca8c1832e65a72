"""The contract of locators: what every file of conf/locate must keep, on every model of the suite."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from omegaconf import OmegaConf
from tiny_llava import tiny_llava
from tiny_minigpt4 import DOG, tiny_minigpt4
from tiny_minigpt4 import picture as tiny_picture

from kedit.cli.configuration import build
from kedit.data.inpaint import Exact, MeanFill
from kedit.data.scenes import Scenes
from kedit.locate.shards import Shard, check_shareable, merge, who_scores
from kedit.locate.shipped import FORMER
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, picture, planted, without
from kedit.neurons import NeuronScores, ids_from, load_scores, save_scores
from kedit.paths import conf_dir
from kedit.samples import Counterfactual

IN_DRAWINGS = {"nam_image"}
"""What locates in drawings alone; see test_drawn."""
METHODS = sorted({path.stem for path in (conf_dir() / "locate").glob("*.yaml")} - FORMER.keys() - IN_DRAWINGS)
SHORTLIST = {"_target_": "kedit.locate.gradcam.GradCAM", "positions": "all", "over_positions": "sum"}
SHORTENED: dict[tuple[str, str], dict[str, Any]] = {
    ("causal_effect", "scenes"): {"shortlist": SHORTLIST, "m": 12},
    ("knowledge_neurons", "scenes"): {"steps": 2},
    ("nam_grai", "scenes"): {"steps": 2},
    ("nam_ce", "scenes"): {"group": 256, "repeats": 1},
    ("causal_effect", "minigpt4"): {"shortlist": SHORTLIST, "m": 8},
    ("knowledge_neurons", "minigpt4"): {"steps": 2},
    ("nam_grai", "minigpt4"): {"steps": 2},
    ("nam_ce", "minigpt4"): {"repeats": 1},
}
"""Options of the scorer with which a method takes seconds, not minutes, on a model."""
PARTIAL = {
    *(("domain_entropy", name) for name in ("planted", "random", "scenes", "minigpt4")),
    *(("causal_effect", name) for name in ("scenes", "minigpt4")),
}
"""Where neurons are left out of the scores, as the classes of the methods say."""
SILENT = {("domain_entropy", "random")}
"""Where no neuron comes above the method's bar: more than one in twenty is active at every position."""
UNSHARED = {
    *("miner", "domain_entropy", "knowledge_neurons", "selective", "two_stage_selective"),
    *(("causal_effect", name) for name in ("scenes", "minigpt4")),
}
"""Whose scores are no mean over samples, or that make something of all of them first, as a shortlist."""
PICTURES = (picture("a", (5,)), picture("b", (1, 2), (9,)), picture("c", (0,), (15,)))


OTHERWISE = (2, 0, 1)
"""Another order of the samples."""


@dataclass(frozen=True, eq=False)
class Bench:
    """A model, pictures with and without a concept that it names, and what it says of them."""

    model: HuggingFaceMLLM
    pairs: Sequence[Counterfactual]
    told: Sequence[Generated]


def of_planted() -> Bench:
    model, pairs = planted().model, [without(one, STAR_CONCEPT) for one in PICTURES]
    return Bench(model, pairs, model.caption([one.image for one in PICTURES]))


def of_random() -> Bench:
    """A model of random weights, not frozen, that is told captions of different lengths."""
    model = tiny_llava()
    texts = ("a red star .", "star", "a picture of the blue sky and a star")
    tokens = [tuple(model.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    captions = [Generated(text, some) for text, some in zip(texts, tokens, strict=True)]
    return Bench(model, [without(one, STAR_CONCEPT) for one in PICTURES], captions)


def of_scenes() -> Bench:
    model, data = load("scenes", prompt="describe the picture .", max_new_tokens=28), Scenes()
    concept = next(one for one in data.concepts if one.name == "star")
    samples = data.split(concept, locate=3, target=1, retention=0, seed=0).locate
    return Bench(model, [Exact()(one, concept) for one in samples], model.caption([one.image for one in samples]))


def of_minigpt4() -> Bench:
    """A model of random weights with a Q-Former, whose token embedding lets pictures pass."""
    model = tiny_minigpt4("vicuna")
    samples = [tiny_picture(number, *shown) for number, shown in enumerate((("dog",), ("dog", "cat"), ("dog",)))]
    texts = ("a dog", "a cat and a dog", "dog")
    captions = [Generated(text, tuple(model.tokenizer(text, add_special_tokens=False).input_ids)) for text in texts]
    return Bench(model, [MeanFill()(one, DOG) for one in samples], captions)


BENCHES: dict[str, Callable[[], Bench]] = {
    "planted": cache(of_planted),
    "random": cache(of_random),
    "scenes": cache(of_scenes),
    "minigpt4": cache(of_minigpt4),
}
every_method_on_every_model = pytest.mark.parametrize(
    ("method", "name"), [(method, name) for name in BENCHES for method in METHODS]
)


@cache
def located(method: str, name: str) -> Any:
    """Return the locator that the file of `method` describes, shortened for the model called `name`."""
    node = OmegaConf.load(conf_dir() / "locate" / f"{method}.yaml")
    if (method, name) in SHORTENED:
        node = OmegaConf.merge(node, {"stages": {method: {"scorer": SHORTENED[method, name]}}})
    return build(OmegaConf.create({"locate": node}).locate)


def scored(method: str, name: str, order: Sequence[int] = (0, 1, 2), batch_size: int = 3) -> dict[str, NeuronScores]:
    bench = BENCHES[name]()
    model = replace(bench.model, batch_size=batch_size)
    pairs, told = [bench.pairs[number] for number in order], [bench.told[number] for number in order]
    scores: dict[str, NeuronScores] = located(method, name).score(model, pairs, captions=told)
    return scores


@cache
def first(method: str, name: str) -> dict[str, NeuronScores]:
    """Return the scores with all samples in one batch."""
    return scored(method, name)


@cache
def one_by_one(method: str, name: str) -> dict[str, NeuronScores]:
    """Return the scores with each sample in a batch of its own, in another order."""
    return scored(method, name, order=OTHERWISE, batch_size=1)


def assert_close(
    locator: Any, found: dict[str, NeuronScores], expected: dict[str, NeuronScores], within: float
) -> None:
    """Assert that scores are as expected, `within` a part of the largest, and choose the same neurons."""
    assert list(found) == list(expected)
    for stage, one in found.items():
        scale = float(expected[stage].values.nan_to_num(0.0).abs().max())
        torch.testing.assert_close(one.values, expected[stage].values, atol=within * scale, rtol=0, equal_nan=True)
    assert locator.select(found) == locator.select(expected)


def allowed(method: str, name: str, scores: dict[str, NeuronScores], k: int) -> int:
    """Return how many neurons a locator that is limited to `k` can find."""
    locator = located(method, name)
    locator = getattr(locator, "locator", locator)
    last = list(scores.values())[-1]
    if len(getattr(locator, "stages", ())) < 2:
        return min(k, last.values.numel() - last.n_missing)
    return min(k, len(list(locator.select_each(scores).values())[-2]))


@every_method_on_every_model
def test_scores_are_one_number_for_each_neuron_and_always_the_same_and_leave_the_model(method: str, name: str) -> None:
    bench, scores = BENCHES[name](), first(method, name)
    site = bench.model.site(located(method, name).site)
    for one in scores.values():
        assert one.values.shape == (len(site.blocks), max(site.widths.values()))
        assert one.site == site.name
        assert (method, name) in PARTIAL or bool(one.values.isfinite().all())
        assert not one.values.isinf().any()
        assert name == "planted" or (method, name) in SILENT or one.values.nan_to_num(0.0).abs().max() > 0
    before = tiny.state_of(bench.model.module)
    again = scored(method, name)
    assert tiny.state_of(bench.model.module) == before
    assert list(again) == list(scores)
    for stage, one in again.items():
        assert torch.equal(one.values.nan_to_num(-1.0), scores[stage].values.nan_to_num(-1.0))
    assert located(method, name).select(again) == located(method, name).select(scores)


@every_method_on_every_model
def test_scores_depend_neither_on_the_batch_nor_on_the_order_of_the_samples(method: str, name: str) -> None:
    assert_close(located(method, name), one_by_one(method, name), first(method, name), within=1e-5)


@every_method_on_every_model
def test_scores_of_two_shards_are_those_of_all_samples_or_the_method_refuses(method: str, name: str) -> None:
    bench, locator = BENCHES[name](), located(method, name)
    if method in UNSHARED or (method, name) in UNSHARED:
        with pytest.raises(ValueError, match="has to see all samples at once"):
            check_shareable(locator)
        return
    check_shareable(locator)
    shards, model = [], replace(bench.model, batch_size=1)  # in other batches activations differ in their last digit
    for shard in (Shard(0, 2), Shard(1, 2)):
        order = shard.of(OTHERWISE)
        pairs, told = [bench.pairs[number] for number in order], [bench.told[number] for number in order]
        shards.append(who_scores(locator).score(model, pairs, captions=told, dtype=torch.float64))
    merged, expected = merge(shards), one_by_one(method, name)
    assert_close(locator, merged, expected, within=1e-9)
    for stage, one in merged.items():
        assert dict(one.provenance) | {"seconds": ""} == dict(expected[stage].provenance) | {"seconds": ""}


@every_method_on_every_model
def test_the_last_of_each_stages_selections_is_the_selection(method: str, name: str) -> None:
    scores, locator = first(method, name), located(method, name)
    each = locator.select_each(scores)
    assert list(each.values())[-1] == locator.select(scores)
    assert all(one.site == locator.site for one in each.values())


@every_method_on_every_model
@pytest.mark.parametrize("k", [0, 1, 3])
def test_a_limited_locator_finds_that_many_where_there_are_as_many(method: str, name: str, k: int) -> None:
    scores, limited = first(method, name), located(method, name).limited(k)
    assert isinstance(limited, type(located(method, name)))
    assert len(limited.select(scores)) == allowed(method, name, scores, k)
    assert limited.select(scores) == list(limited.select_each(scores).values())[-1]


@every_method_on_every_model
def test_the_provenance_says_what_it_took_and_of_what(method: str, name: str) -> None:
    bench = BENCHES[name]()
    for one in first(method, name).values():
        about = one.provenance
        assert int(about["forwards"]) >= 0
        assert int(about["backwards"]) >= 0
        assert float(about["seconds"]) >= 0
        concept = bench.pairs[0].concept.name
        assert (about["skipped"], about["concept"], about["model"]) == ("0", concept, bench.model.name)
        assert ids_from(about["samples"]) == [pair.sample.id for pair in bench.pairs]
        assert about["n_samples"] == str(len(bench.pairs))
        assert about["target"]
        assert all(isinstance(value, str) for value in about.values())


@every_method_on_every_model
def test_scores_that_were_stored_select_the_same(method: str, name: str, tmp_path: Path) -> None:
    scores, locator = first(method, name), located(method, name)
    save_scores(scores, tmp_path / "scores.safetensors")
    stored = load_scores(tmp_path / "scores.safetensors")
    assert locator.select_each(stored) == locator.select_each(scores)
    assert locator.limited(3).select(stored) == locator.limited(3).select(scores)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_locate_in_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match="there is nothing to locate in: no counterfactual pairs"):
        located(method, "planted").score(BENCHES["planted"]().model, [])
