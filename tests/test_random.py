"""What chance finds is chance, repeats with its seed, and matches the layers it should."""

from dataclasses import replace

import pytest
import torch
from tiny_llava import D_FF, N_LAYERS, tiny_llava

from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.random import LayerMatched, Uniform
from kedit.locate.selection import TopK
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.neurons import NeuronId, NeuronScores, NeuronSet

PAIRS = [without(picture(name, cells), STAR_CONCEPT) for name, cells in (("a", (5,)), ("b", (1, 2)))]
INSIDE = Locator({"gradcam": Stage(GradCAM("all"), TopK(6))})


@pytest.fixture(scope="module")
def tiny() -> HuggingFaceMLLM:
    return tiny_llava()


@pytest.fixture(scope="module")
def captions(tiny: HuggingFaceMLLM) -> list[Generated]:
    return [Generated("a star", tuple(tiny.tokenizer("a star", add_special_tokens=False).input_ids))] * 2


def uniform(model: HuggingFaceMLLM, captions: list[Generated], seed: int, n_pairs: int = 2) -> NeuronScores:
    locator = Locator({"random": Stage(Uniform(seed), TopK(3))})
    return locator.score(model, PAIRS[:n_pairs], captions=captions[:n_pairs])["random"]


def test_uniform_scores_run_no_model_and_depend_on_the_seed_alone(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    one, again, other = (uniform(tiny, captions, seed) for seed in (3, 3, 4))
    assert torch.equal(one.values, again.values)
    assert torch.equal(one.values, uniform(tiny, captions, 3, n_pairs=1).values)
    assert not torch.equal(one.values, other.values)
    assert (one.provenance["forwards"], one.provenance["backwards"]) == ("0", "0")


def test_every_neuron_has_the_same_chance(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    """Over 400 seeds the mean of a neuron's 400 scores is off 1/2 by 5 standard errors of 0.0144 at most."""
    mean = torch.stack([uniform(tiny, captions, seed, n_pairs=1).values for seed in range(400)]).mean(0)
    assert mean.shape == (N_LAYERS, D_FF)
    assert (mean - 0.5).abs().max() < 5 * 0.0144


def test_matched_neurons_are_as_many_in_each_layer_and_others(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    matched = LayerMatched(INSIDE)
    scores = matched.score(tiny, PAIRS, captions=captions)
    assert torch.equal(scores["gradcam"].values, INSIDE.score(tiny, PAIRS, captions=captions)["gradcam"].values)
    found, drawn = INSIDE.select(scores), matched.select(scores)
    assert {layer: len(some) for layer, some in drawn.by_layer().items()} == {
        layer: len(some) for layer, some in found.by_layer().items()
    }
    assert not drawn & found
    assert matched.select(scores) == drawn
    assert any(replace(matched, seed=seed).select(scores) != drawn for seed in range(1, 4))


def test_a_budget_is_the_budget_of_the_locator_inside(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    matched = LayerMatched(INSIDE, seed=5)
    scores = matched.score(tiny, PAIRS, captions=captions)
    for k in (0, 1, 4):
        limited = matched.limited(k)
        assert (len(limited.select(scores)), limited.seed) == (k, 5)
        assert limited.locator == INSIDE.limited(k)


def test_no_neuron_is_drawn_that_a_narrower_layer_does_not_have() -> None:
    """Only the neurons at the end of a layer are missing: others without a score are there to be drawn."""
    values = torch.tensor([[5.0, torch.nan, 1.0, torch.nan], [4.0, 3.0, 2.0, 1.0]])
    matched = LayerMatched(Locator({"a": Stage(GradCAM(), TopK(1))}))
    drawn = {replace(matched, seed=seed).select({"a": NeuronScores(values, "a")}) for seed in range(20)}
    assert drawn == {NeuronSet((NeuronId(0, 1),)), NeuronSet((NeuronId(0, 2),))}


def test_neurons_that_a_method_leaves_out_are_there_to_be_drawn(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    """Only some of a layer's neurons have a score, none of them at its end: how wide it is, the scores cannot tell."""
    made = INSIDE.score(tiny, PAIRS, captions=captions)["gradcam"]
    some = torch.full_like(made.values, torch.nan)
    some[:, 3] = 1.0
    matched = LayerMatched(Locator({"gradcam": Stage(GradCAM("all"), TopK(1))}))
    drawn = {replace(matched, seed=seed).select({"gradcam": replace(made, values=some)}).ids[0] for seed in range(50)}
    assert max(one.index for one in drawn) > 3
    assert all(one.index < D_FF for one in drawn)


def test_a_layer_with_too_few_other_neurons_is_named() -> None:
    scores = {"a": NeuronScores(torch.tensor([[3.0, 2.0, 1.0]]), "a")}
    with pytest.raises(ValueError, match="layer 0 has 3 neurons: too few for 2 random ones"):
        LayerMatched(Locator({"a": Stage(GradCAM(), TopK(2))})).select(scores)


def test_another_site_than_that_of_the_locator_inside_is_refused() -> None:
    with pytest.raises(ValueError, match="`site` is `act` and that of the locator inside `mid`"):
        LayerMatched(INSIDE, site="act")
