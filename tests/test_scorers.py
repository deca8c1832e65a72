"""The scorers of one forward and one backward: golden scores, and what they are by hand and to each other."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_llava import N_LAYERS
from torch import Tensor, nn

from kedit.internals.hooks import intervene, record
from kedit.internals.sites import Site
from kedit.internals.unembedding import Unembedding
from kedit.locate.activation import Activation
from kedit.locate.contribution import Contribution
from kedit.locate.gradcam import GradCAM
from kedit.locate.gradient import Gradient
from kedit.locate.locator import Locator, Stage
from kedit.locate.nam import NAM
from kedit.locate.readout import Readout
from kedit.locate.scorer import LayerEvidence, Scorer
from kedit.locate.selection import TopK
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import IMAGE, TEXT, Generated
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.neurons import NeuronId, NeuronScores

FIXTURE = Path(__file__).parent / "fixtures" / "pan_multimodal_tiny"
FIRST_STEP = 266
"""The position that predicts the first generated token."""
PICTURES = (picture("a", (5,)), picture("b", (1, 2), (9,)), picture("c", (0,), (15,)))
PAIRS = [without(one, STAR_CONCEPT) for one in PICTURES]


@pytest.fixture(scope="module")
def told(tiny: HuggingFaceMLLM) -> list[Generated]:
    return [written(tiny, text) for text in ("a star", "the red star", "a house and a star .")]


def written(model: HuggingFaceMLLM, text: str) -> Generated:
    return Generated(text, tuple(model.tokenizer(text, add_special_tokens=False).input_ids))


def scored(
    model: HuggingFaceMLLM, told: list[Generated] | None, scorers: Mapping[str, Scorer], **options: object
) -> dict[str, NeuronScores]:
    locator = Locator({name: Stage(one, TopK(1)) for name, one in scorers.items()}, **options)  # type: ignore[arg-type]
    return locator.score(model, PAIRS, captions=told)


def without_norm(model: HuggingFaceMLLM) -> HuggingFaceMLLM:
    """Return a copy of the model whose last hidden state goes to the output matrix as it is."""
    module = copy.deepcopy(model.module)
    module.get_submodule("model.language_model").norm = nn.Identity()
    return replace(model, module=module)


def frozen(layer: int, original: Tensor, **parts: Tensor | Readout) -> LayerEvidence:
    return LayerEvidence(layer, torch.tensor([[IMAGE, TEXT]]), original, **parts)  # type: ignore[arg-type]


# --- golden: the reference code of MM_Neurons


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(FIXTURE / "golden.safetensors")


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(FIXTURE).eval().requires_grad_(False)


@pytest.mark.parametrize("noun", ["w18", "w68", "w93"])
def test_scores_are_those_of_the_reference_code(noun: str, golden: dict[str, Tensor], reference: nn.Module) -> None:
    """The reference rounds activation, projection and product to half precision: three times 2**-11 of a score.

    In its own arithmetic, repeated in double precision, kedit's scores agree within 1e-5 of their scale.
    """
    about = json.loads((FIXTURE / "nouns.json").read_text())[noun]
    position = FIRST_STEP + about["step"]
    site = Site.of(reference, "act")
    with torch.no_grad(), record(reference, site) as seen:
        reference(inputs_embeds=golden["inputs_embeds"][:, : position + 1])
    unembedding, token = Unembedding.of(reference), torch.tensor([about["token"]])
    layers, exact = [], []
    for layer, activation in seen.items():
        readout = Readout(reference, site, layer, unembedding)
        token_types = torch.full(activation.shape[:2], TEXT)
        evidence = LayerEvidence(layer, token_types, activation, readout=readout, target=token)
        layers.append(Contribution().score(evidence)[0])
        down = reference.get_submodule(f"model.layers.{layer}.mlp.down_proj").weight.double()
        projection = down.T @ reference.get_submodule("lm_head").weight.double().T
        exact.append(activation[0, -1].double() * projection[:, about["token"]])
    found, expected = NeuronScores(torch.stack(layers), "pan_multimodal"), golden[f"scores.{noun}"].float()
    activations = torch.stack([seen[layer][0, -1] for layer in seen])
    torch.testing.assert_close(activations, golden["last_activation"][about["step"]].float(), atol=2e-4, rtol=2**-11)
    torch.testing.assert_close(found.values, expected, atol=1e-4, rtol=3 * 2**-11)
    scale = float(expected.abs().max())
    assert (found.values - torch.stack(exact)).abs().max() <= 1e-5 * scale
    # By their scores there, as two neurons may have the same in half precision.
    best = NeuronScores(expected, "reference")
    assert best.of(found.ranking()[:10]).tolist() == best.of([NeuronId(*one) for one in about["top10"]]).tolist()


# --- laws


def test_without_a_final_norm_the_contribution_of_the_last_layer_is_activation_times_gradient(
    tiny: HuggingFaceMLLM, told: list[Generated]
) -> None:
    scorers = {"direct": Contribution(), "gradcam": GradCAM("target")}
    scores = scored(without_norm(tiny), told, scorers)
    direct, whole = scores["direct"].values, scores["gradcam"].values
    torch.testing.assert_close(direct[-1], whole[-1], atol=1e-6, rtol=1e-5)
    for layer in range(N_LAYERS - 1):
        assert not torch.allclose(direct[layer], whole[layer], atol=0.01 * float(whole[layer].abs().max()))


def test_a_final_norm_takes_a_part_of_each_contribution_away_and_so_can_reorder_them(
    tiny: HuggingFaceMLLM, told: list[Generated]
) -> None:
    """dy/da = (U_c . v - (y . U_c)(y . v) / d) / rms, y the normalized stream and U with the norm's scale folded in."""
    module = copy.deepcopy(tiny.module)
    decoder = module.get_submodule("model.language_model")
    decoder.norm.weight.copy_(torch.linspace(0.5, 2.0, len(decoder.norm.weight)))  # type: ignore[union-attr, operator, arg-type]
    model = replace(tiny, module=module)
    mention = model.mention(told[0], STAR_CONCEPT)
    assert mention is not None
    streams: list[Tensor] = []
    handle = decoder.norm.register_forward_pre_hook(lambda one, inputs: streams.append(inputs[0]))  # type: ignore[union-attr, operator]
    with torch.no_grad():
        model.logits(model.teacher_forced([PICTURES[0].image], [mention.prefix]))
    handle.remove()
    stream = streams[0][0, -1]
    rms = stream.pow(2).mean().sqrt()
    site = model.site()
    values = site.value_matrix(module, N_LAYERS - 1)
    unembedding = Unembedding.of(module)
    folded = unembedding.directions([mention.word[0]])[0]
    y = stream / rms
    gradient = (values @ folded - (y @ folded) * (values @ y) / len(y)) / rms
    scorers = {"grad": Gradient("target"), "direct": Contribution(norm="gamma"), "plain": Contribution(),
               "active": Activation("target")}  # fmt: skip
    locator = Locator({name: Stage(one, TopK(1)) for name, one in scorers.items()})
    scores = {name: one.values[-1] for name, one in locator.score(model, PAIRS[:1], captions=told[:1]).items()}
    torch.testing.assert_close(scores["grad"], gradient, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(scores["direct"], scores["active"] * (values @ folded))
    torch.testing.assert_close(scores["plain"], scores["active"] * (values @ unembedding.weight[mention.word[0]]))
    ratio = (values @ folded) / scores["grad"]
    assert ratio.std() > 0.1 * ratio.abs().mean(), "the raw product is proportional to the gradient"


@pytest.mark.parametrize(
    ("change", "same"),
    [(lambda a: 0.5 * a, True), (torch.zeros_like, True), (lambda a: torch.full_like(a, -0.3), False)],
)
def test_scaling_is_the_same_at_the_activation_and_after_the_gate_and_a_constant_is_not(
    change: Callable[[Tensor], Tensor], same: bool, tiny: HuggingFaceMLLM
) -> None:
    batch = tiny.teacher_forced([one.image for one in PICTURES], [()] * len(PICTURES))
    said = []
    for name in ("mid", "act"):
        with torch.no_grad(), intervene(tiny.module, tiny.site(name), {1: change}):  # type: ignore[arg-type]
            said.append(tiny.logits(batch))
    assert torch.allclose(*said, atol=1e-6) == same


def test_a_caption_without_the_concept_does_not_shift_the_words_of_the_others(
    tiny: HuggingFaceMLLM, told: list[Generated]
) -> None:
    scorers = {"direct": Contribution(), "nam": NAM(), "grad": Gradient("all")}
    stages = {name: Stage(one, TopK(1)) for name, one in scorers.items()}
    between = [PAIRS[0], PAIRS[1], PAIRS[2]]
    captions = [told[0], written(tiny, "a house and the sky"), told[2]]
    found = Locator(stages).score(tiny, between, captions=captions)
    alone = Locator(stages).score(tiny, [PAIRS[0], PAIRS[2]], captions=[told[0], told[2]])
    for name in scorers:
        assert found[name].provenance["skipped"] == "1"
        torch.testing.assert_close(found[name].values, alone[name].values, atol=1e-6, rtol=1e-5)


# --- by hand


def test_activation_and_gradient_are_reduced_over_the_positions_that_count() -> None:
    original = torch.tensor([[[1.0, -2.0, 0.0], [5.0, 3.0, 0.0]]])
    gradient = torch.tensor([[[0.5, -4.0, 1.0], [-1.0, 0.0, 2.0]]])
    evidence = frozen(0, original, gradient=gradient)
    assert Activation().score(evidence).tolist() == [[1, -2, 0]]
    assert Activation("all").score(evidence).tolist() == [[5, 3, 0]]
    assert Activation("target").score(evidence).tolist() == [[5, 3, 0]]
    assert Gradient().score(evidence).tolist() == [[0.5, -4, 1]]
    assert Gradient(absolute=True).score(evidence).tolist() == [[0.5, 4, 1]]
    assert Gradient("all", "sum").score(evidence).tolist() == [[-0.5, -4, 3]]
    assert Gradient("all", "sum", absolute=True).score(evidence).tolist() == [[1.5, 4, 3]]


def test_a_gradient_times_the_activation_is_gradcam(tiny: HuggingFaceMLLM, told: list[Generated]) -> None:
    scorers = {"active": Activation("target"), "grad": Gradient("target"), "gradcam": GradCAM("target")}
    locator = Locator({name: Stage(one, TopK(1)) for name, one in scorers.items()})
    scores = {name: one.values for name, one in locator.score(tiny, PAIRS[:1], captions=told[:1]).items()}
    torch.testing.assert_close(scores["active"] * scores["grad"], scores["gradcam"])


def test_the_baselines_cost_what_they_read(tiny: HuggingFaceMLLM, told: list[Generated]) -> None:
    for scorer, passes in ((Activation(), ("3", "0")), (Contribution(), ("3", "0")), (Gradient(), ("3", "3"))):
        about = scored(tiny, told, {"only": scorer})["only"].provenance
        assert (about["forwards"], about["backwards"]) == passes


def test_on_the_planted_model_the_activation_finds_what_fires_and_the_gradient_what_would_speak(
    planted: Planted,
) -> None:
    scores = scored(planted.model, None, {"active": Activation(), "grad": Gradient("image", "sum")})
    star, decoy, prior = (one.ids[0] for one in (planted.star, planted.decoy, planted.prior))
    assert scores["active"].of([star]) == scores["active"].of([decoy])
    assert scores["grad"].ranking()[0] == star
    # Not zero: what a decoy writes where nobody reads still makes the stream longer, which the final norm takes out.
    assert scores["grad"].of([decoy]).abs() < 0.01 * scores["grad"].of([star])
    assert scores["grad"].of([prior]).item() > 0


def test_no_planted_neuron_writes_into_the_word_itself(planted: Planted) -> None:
    """The attention after it moves what it writes, which a direct contribution cannot see."""
    scores = scored(planted.model, None, {"only": Contribution("all", "sum")})["only"]
    assert scores.of(planted.star).item() == 0


@pytest.mark.parametrize("scorer", [Activation, Gradient, Contribution])
@pytest.mark.parametrize("name", ["positions", "over_positions", "over_samples"])
def test_an_unknown_reduction_is_refused_with_the_known_ones(scorer: type, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is one of .*max|all.*, got 'median'"):
        scorer(**{name: "median"})
