"""On the shipped model the size of the batches changes no caption, no neuron and no number by more than 1e-5."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from kedit.data.inpaint import Exact
from kedit.data.scenes import Scenes
from kedit.edit.reference import CounterfactualMean
from kedit.evaluation.bertscore import bert_scores
from kedit.inspection.responses import at_image, by_modality
from kedit.locate.miner import Miner
from kedit.locate.two_stage import two_stage
from kedit.models import lengths
from kedit.models.encoder import OwnLayers
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.mllm import Generated
from kedit.models.tiny import families
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt
from kedit.samples import Counterfactual, find_concept

SIZES = (1, 2, 8, 32)
N_SAMPLES = 8


class Scene(NamedTuple):
    model: HuggingFaceMLLM
    pairs: list[Counterfactual]
    told: list[Generated]


@cache
def scene() -> Scene:
    model, data = load("scenes", prompt="describe the picture .", max_new_tokens=28, batch_size=32), Scenes()
    star = find_concept(data.concepts, "star")
    samples = data.split(star, locate=N_SAMPLES, target=1, retention=0, seed=0).locate
    return Scene(model, [Exact()(one, star) for one in samples], model.caption([one.image for one in samples]))


def sized() -> Iterator[HuggingFaceMLLM]:
    return (replace(scene().model, batch_size=size) for size in SIZES)


def assert_close(numbers: Callable[[HuggingFaceMLLM], list[torch.Tensor]]) -> None:
    expected, *others = [numbers(model) for model in sized()]
    scales = [float(one.abs().max()) for one in expected]
    assert any(scales)
    for other in others:
        for one, mine, scale in zip(other, expected, scales, strict=True):
            torch.testing.assert_close(one, mine, atol=1e-5 * scale, rtol=0)


def test_captions_are_the_same_for_any_batch() -> None:
    images = [pair.sample.image for pair in scene().pairs]
    assert all(model.caption(images) == scene().told for model in sized())


def test_two_stage_scores_are_the_same_for_any_batch() -> None:
    prefixes = {len(case.mention.prefix) for case in two_stage().cases(scene().model, scene().pairs, scene().told)}
    assert len(prefixes) > 1, "captions that name the star at one place alone prove nothing"
    scores = [two_stage().score(model, scene().pairs, captions=scene().told) for model in sized()]
    each = iter(scores)
    assert_close(lambda _: [one.values for one in next(each).values()])
    assert scores[0]["gradcam"].values.max() > 0
    assert len({two_stage().select(one).ids for one in scores}) == 1


def test_what_heat_maps_and_modalities_are_made_of_is_the_same_for_any_batch() -> None:
    some = NeuronSet(tuple(NeuronId(layer, index) for layer in range(2) for index in range(0, 500, 50)))
    images = [pair.sample.image for pair in scene().pairs]
    site = scene().model.site("mid")
    assert_close(lambda model: [torch.from_numpy(one.values) for one in at_image(model, site, [some], images)])
    kinds = [by_modality(model, site, some, images) for model in sized()]
    assert all(one == kinds[0] for one in kinds)


def test_what_a_patch_is_made_of_is_the_same_for_any_batch() -> None:
    def patched(model: HuggingFaceMLLM) -> list[torch.Tensor]:
        reference = CounterfactualMean()(model, scene().pairs).reference
        assert not isinstance(reference, float)
        return list(reference.values())

    assert_close(patched)


def test_bertscore_is_the_same_for_any_batch() -> None:
    texts = [one.text for one in scene().told]
    shuffled = texts[1:] + texts[:1]
    assert_close(
        lambda model: [
            torch.tensor([(one.precision, one.recall) for one in bert_scores(OwnLayers(model), texts, shuffled)])
        ]
    )


def test_prompts_of_any_length_weigh_the_same_in_any_batch() -> None:
    prompts = [Prompt(text) for text in ("a star", "a red star", "the sky", "a star", "one", "a star")]

    def importance(model: HuggingFaceMLLM) -> list[torch.Tensor]:
        return [one.values for one in Miner().score_prompts(model, {"texts": prompts}).values()]

    assert_close(importance)


def test_a_batch_of_pictures_has_one_tail_and_every_place_once() -> None:
    images = [Image.new("RGB", size) for size in ((64, 48), (36, 100), (8, 8), (64, 48), (20, 90))]
    model = replace(scene().model, batch_size=2)
    prompts = [Prompt("what is it ?", image=image) for image in images]
    assert lengths.of_prompts(model, prompts) == [[2, 4], [0, 3], [1]], "the smaller pictures first"
    assert lengths.of_prompts(model, prompts, [1, 1, 2, 2, 1]) == [[2, 3], [4, 0], [1]]
    assert lengths.of_prompts(model, []) == []


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "llava"])
def test_pictures_that_take_different_numbers_of_tokens_are_read_as_each_alone(family: str) -> None:
    model = replace(families.tiny(family), batch_size=8)
    images = [Image.effect_noise(size, 90).convert("RGB") for size in ((64, 48), (36, 100), (64, 48), (20, 90))]
    some = NeuronSet(tuple(NeuronId(layer, index) for layer in range(2) for index in range(0, 24, 5)))
    together, alone = (at_image(one, one.site("mid"), [some], images) for one in (model, replace(model, batch_size=1)))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.values, other.values, atol=1e-5 * abs(other.values).max(), rtol=0)
