"""On the shipped model no number depends on the size of the batches, not in its last bit."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from tiny_llava import tiny_llava

from kedit.data.inpaint import Exact
from kedit.data.scenes import Scenes
from kedit.edit.reference import CounterfactualMean
from kedit.evaluation.bertscore import bert_scores
from kedit.inspection.responses import at_image, by_modality
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


def assert_equal(numbers: Callable[[HuggingFaceMLLM], list[torch.Tensor]]) -> None:
    expected, *others = [numbers(model) for model in sized()]
    assert any(one.abs().max() > 0 for one in expected)
    for other in others:
        assert len(other) == len(expected)
        assert all(torch.equal(one, mine) for one, mine in zip(other, expected, strict=True))


def test_two_stage_scores_are_the_same_for_any_batch() -> None:
    prefixes = {len(case.mention.prefix) for case in two_stage().cases(scene().model, scene().pairs, scene().told)}
    assert len(prefixes) > 1, "captions that name the star at one place alone prove nothing"
    assert_equal(
        lambda model: [one.values for one in two_stage().score(model, scene().pairs, captions=scene().told).values()]
    )


def test_what_heat_maps_and_modalities_are_made_of_is_the_same_for_any_batch() -> None:
    some = NeuronSet(tuple(NeuronId(layer, index) for layer in range(2) for index in range(0, 500, 50)))
    images = [pair.sample.image for pair in scene().pairs]
    site = scene().model.site("mid")
    assert_equal(lambda model: [torch.from_numpy(one.values) for one in at_image(model, site, [some], images)])
    kinds = [by_modality(model, site, some, images) for model in sized()]
    assert all(one == kinds[0] for one in kinds)


def test_what_a_patch_is_made_of_is_the_same_for_any_batch() -> None:
    def patched(model: HuggingFaceMLLM) -> list[torch.Tensor]:
        reference = CounterfactualMean()(model, scene().pairs).reference
        assert not isinstance(reference, float)
        return list(reference.values())

    assert_equal(patched)


def test_bertscore_is_the_same_for_any_batch() -> None:
    texts = [one.text for one in scene().told]
    shuffled = texts[1:] + texts[:1]
    assert_equal(
        lambda model: [
            torch.tensor([(one.precision, one.recall) for one in bert_scores(OwnLayers(model), texts, shuffled)])
        ]
    )


def test_a_batch_holds_rows_of_one_length_alone_and_every_place_once() -> None:
    model = replace(tiny_llava(), batch_size=2)
    prompts = [Prompt(text) for text in ("a star", "a red star", "the sky", "a star", "one", "a star")]
    found = lengths.of_prompts(model, prompts)
    assert sorted(place for batch in found for place in batch) == list(range(len(prompts)))
    assert max(map(len, found)) == 2
    for batch in found:
        assert not (model.read([prompts[place] for place in batch], [()] * len(batch)).kinds == 0).any()
    n_words = {len(one.text.split()) for one in prompts}
    assert len(lengths.of_prompts(replace(model, batch_size=9), prompts)) == len(n_words)


@pytest.mark.parametrize("family", ["qwen2_vl", "llava_next", "llava"])
def test_pictures_that_take_different_numbers_of_tokens_are_not_in_one_batch(family: str) -> None:
    model = replace(families.tiny(family), batch_size=8)
    images = [Image.new("RGB", size) for size in ((64, 48), (36, 100), (64, 48), (20, 90))]
    batches = lengths.of_pictures(model, images)
    assert (len(batches) == 1) == (family == "llava")
    for batch in batches:
        assert not (model.forced([images[place] for place in batch], [()] * len(batch)).kinds == 0).any()
