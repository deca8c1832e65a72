"""Neurons outside the language model: vision tower, projector, Q-Former, and all parts counted together."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from tiny_llava import tiny_llava
from torch import Tensor, nn

from kedit.edit.edit import Edit
from kedit.edit.operators import Patch, Scale, Zero
from kedit.inspection.decode import decode
from kedit.internals.hooks import record
from kedit.internals.sites import Site, SiteError, language_paths
from kedit.locate.activation import Activation
from kedit.locate.causal_effect import CausalEffect
from kedit.locate.contribution import Contribution
from kedit.locate.damage import Damage
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.modality_importance import ModalityImportance
from kedit.locate.random import LayerMatched, Uniform
from kedit.locate.selection import TopK
from kedit.locate.target import Target
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.reading import prompted
from kedit.models.tiny.families import tiny as tiny_of
from kedit.neurons import NeuronId, NeuronScores, NeuronSet, load_scores, save_scores
from kedit.samples import Counterfactual

PROMPTS = tiny.prompt([5, 6, 7], [8, 9, 10])
START = torch.tensor([[tiny.PAD, 5, 6], [tiny.PAD, 7, 8]])


def asked_of_instructblip() -> dict[str, Tensor]:
    return PROMPTS | {"qformer_input_ids": torch.tensor([[1, 2, 3], [1, 4, 5]])}


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, Tensor]]]] = {
    "llava": (tiny.llava, lambda: PROMPTS),
    "blip2": (tiny.blip2, lambda: PROMPTS),
    "blip2_t5": (tiny_families.blip2_t5, lambda: PROMPTS | {"decoder_input_ids": START}),
    "instructblip": (tiny_families.instructblip, asked_of_instructblip),
    "qwen2_5_vl": (tiny_families.qwen2_5_vl, lambda: tiny_families.qwen_prompt([5, 6, 10], [11, 12, 13])),
    "bert": (tiny_families.bert, lambda: {"input_ids": START}),
    "t5": (tiny_families.t5, lambda: {"input_ids": PROMPTS["input_ids"][:, 5:], "decoder_input_ids": START}),
    "gated t5": (lambda: tiny_families.t5(gated=True), lambda: {"input_ids": START, "decoder_input_ids": START}),
}
PARTS: dict[tuple[str, str], list[str]] = {
    ("llava", "language"): [f"model.language_model.layers.{n}.mlp.down_proj" for n in range(2)],
    ("llava", "vision"): [f"model.vision_tower.encoder.layers.{n}.mlp.fc2" for n in range(2)],
    ("llava", "projector"): ["model.multi_modal_projector.linear_2"],
    ("blip2", "vision"): ["vision_model.encoder.layers.0.mlp.fc2", "vision_model.encoder.layers.1.mlp.fc2"],
    ("blip2", "qformer"): ["qformer.encoder.layer.0.output_query.dense", "qformer.encoder.layer.1.output_query.dense"],
    ("blip2_t5", "language"): [
        *(f"language_model.encoder.block.{n}.layer.1.DenseReluDense.wo" for n in range(2)),
        *(f"language_model.decoder.block.{n}.layer.2.DenseReluDense.wo" for n in range(2)),
    ],
    ("instructblip", "qformer"): [
        *(f"qformer.encoder.layer.{n}.output_query.dense" for n in range(2)),
        *(f"qformer.encoder.layer.{n}.output.dense" for n in range(2)),
    ],
    ("qwen2_5_vl", "vision"): ["model.visual.blocks.0.mlp.down_proj", "model.visual.blocks.1.mlp.down_proj"],
    ("qwen2_5_vl", "projector"): ["model.visual.merger.mlp.2"],
    ("bert", "language"): ["bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"],
    ("t5", "language"): [
        *(f"encoder.block.{n}.layer.1.DenseReluDense.wo" for n in range(2)),
        *(f"decoder.block.{n}.layer.2.DenseReluDense.wo" for n in range(2)),
    ],
    ("gated t5", "language"): [
        *(f"encoder.block.{n}.layer.1.DenseReluDense.wo" for n in range(2)),
        *(f"decoder.block.{n}.layer.2.DenseReluDense.wo" for n in range(2)),
    ],
}  # fmt: skip


@cache
def built(family: str) -> Any:
    return FAMILIES[family][0]()


@torch.no_grad()
def logits(family: str) -> Tensor:
    return built(family)(**FAMILIES[family][1]()).logits


def site_of(family: str, scope: str) -> Site:
    return Site.of(built(family), "mid", scope)  # type: ignore[arg-type]


@pytest.mark.parametrize(("family", "scope"), PARTS)
def test_each_part_has_its_blocks_in_order(family: str, scope: str) -> None:
    site = site_of(family, scope)
    assert [site.block(layer).output for layer in range(len(site.blocks))] == PARTS[family, scope]
    assert site.scope == scope and {block.scope for block in site.blocks.values()} == {scope}


@pytest.mark.parametrize(("family", "scope"), PARTS)
def test_recorded_neurons_times_the_output_weight_are_what_the_block_writes(family: str, scope: str) -> None:
    module, site = built(family), site_of(family, scope)
    written: dict[int, Tensor] = {}
    handles = [
        module.get_submodule(site.block(layer).output).register_forward_hook(
            lambda one, i, out, n=layer: written.update({n: out})
        )
        for layer in site.blocks
    ]
    with record(module, site) as neurons:
        logits(family)
    for handle in handles:
        handle.remove()
    assert neurons.keys() == site.blocks.keys()
    for layer, activation in neurons.items():
        bias = module.get_submodule(site.block(layer).output).bias
        made = activation @ site.value_matrix(module, layer) + (0 if bias is None else bias)
        torch.testing.assert_close(made, written[layer], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("family", "scope"), PARTS)
def test_silencing_neurons_by_an_edit_equals_zeroing_their_part_of_the_weight_bit_for_bit(
    family: str, scope: Any
) -> None:
    module, site, before = built(family), site_of(family, scope), logits(family)
    for layer in site.blocks:
        silent = NeuronSet((NeuronId(layer, 1), NeuronId(layer, 7)), "mid", scope)
        with Edit(silent, Zero()).applied(module):
            hooked = logits(family)
        values = [site.value_vector(module, one) for one in silent]
        kept = [value.clone() for value in values]
        for value in values:
            value.zero_()
        written = logits(family)
        for value, old in zip(values, kept, strict=True):
            value.copy_(old)
        assert torch.equal(hooked, written)
        unread = (family, scope, layer) == ("instructblip", "qformer", 3)  # the text's last layer, which nothing reads
        assert torch.equal(hooked, before) is unread, f"layer {layer}"
    assert torch.equal(logits(family), before) and tiny.our_hooks(module) == []


def test_neurons_of_a_vision_tower_see_patches_and_those_of_a_packed_one_all_pictures_patches() -> None:
    with record(built("llava"), site_of("llava", "vision")) as seen:
        logits("llava")
    assert seen[0].shape == (2, 5, tiny.NEURONS)  # four patches and one for the whole picture
    with record(built("qwen2_5_vl"), site_of("qwen2_5_vl", "vision")) as seen:
        logits("qwen2_5_vl")
    assert seen[0].shape == (32, 12)
    with record(built("instructblip"), site_of("instructblip", "qformer")) as seen:
        logits("instructblip")
    assert seen[0].shape == (2, tiny.N_IMAGE, tiny.NEURONS) and seen[2].shape == (2, 3, tiny.NEURONS)


@pytest.mark.parametrize("family", ["llava", "blip2", "qwen2_5_vl"])
def test_all_parts_together_count_the_language_model_first_and_each_block_once(family: str) -> None:
    whole, language = site_of(family, "all"), site_of(family, "language")
    assert {layer: block.output for layer, block in whole.blocks.items() if layer in language.blocks} == {
        layer: block.output for layer, block in language.blocks.items()
    }
    outputs = [block.output for block in whole.blocks.values()]
    assert list(whole.blocks) == list(range(len(outputs))) and len(set(outputs)) == len(outputs)
    scopes = [block.scope for block in whole.blocks.values()]
    assert scopes[0] == "language" and len(set(scopes)) == 3


def test_a_neuron_of_all_parts_is_the_same_as_of_its_own() -> None:
    by_all, by_part = ((4, 3), "all"), ((0, 3), "projector")
    found = []
    for one, scope in (by_all, by_part):
        with Edit(NeuronSet((NeuronId(*one),), "mid", scope), Scale(-8.0)).applied(built("llava")):  # type: ignore[arg-type]
            found.append(logits("llava"))
    assert torch.equal(*found) and not torch.equal(found[0], logits("llava"))


def test_a_part_that_the_model_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(SiteError, match="no neurons in scope `audio`; it has vision, language, projector"):
        site_of("llava", "audio")
    with pytest.raises(SiteError, match="BertForMaskedLM has no neurons in scope `vision`; it has language"):
        site_of("bert", "vision")
    with pytest.raises(SiteError, match="no scope `eyes`; a scope is one of language, vision, projector"):
        site_of("llava", "eyes")


def test_an_encoder_and_a_decoder_are_named_in_that_order() -> None:
    assert language_paths(built("t5")) == ["encoder", "decoder"]
    assert language_paths(built("llava")) == ["model.language_model"]


@pytest.mark.parametrize(("positions", "phase"), [("image", "both"), ("last", "both"), ("all", "decode")])
def test_positions_of_the_sequence_are_refused_outside_the_language_model(positions: Any, phase: Any) -> None:
    told = "mean the language model's sequence, and the neurons are of scope `vision`, which has none"
    with pytest.raises(ValueError, match=told):
        Edit(NeuronSet(((0, 1),), "mid", "vision"), Zero(), positions, phase)


def test_a_reference_measured_in_the_language_model_is_refused_outside_it_and_a_constant_is_not() -> None:
    neurons = NeuronSet(((0, 1),), "mid", "vision")
    with pytest.raises(ValueError, match=r"a reference is measured in the language model, and .* scope `vision`"):
        Edit(neurons, Patch({0: torch.zeros(tiny.NEURONS)}))
    before = logits("llava")
    with Edit(neurons, Patch(3.0)).applied(built("llava")):
        assert not torch.equal(logits("llava"), before)


# --- sets and scores


def test_sets_of_different_parts_do_not_combine() -> None:
    one, other = NeuronSet(((0, 1),), "mid", "vision"), NeuronSet(((0, 1),))
    with pytest.raises(ValueError, match="of scope `vision` and of `language` cannot be combined"):
        one | other
    assert one != other and (one | one) == one and (one - one).scope == "vision"
    assert one.layer_matched({0: 9}, seed=0).scope == "vision"
    assert repr(one) == "NeuronSet(1 neurons at `mid` of `vision`, by layer {0: 1})"
    with pytest.raises(ValueError, match="no scope `eyes`; a scope is one of language"):
        NeuronSet((), "mid", "eyes")  # type: ignore[arg-type]


def test_a_saved_set_keeps_its_part_and_an_old_file_is_of_the_language_model(tmp_path: Path) -> None:
    one = NeuronSet(((0, 1), (2, 3)), "mid", "qformer")
    one.save(tmp_path / "one.json")
    assert NeuronSet.load(tmp_path / "one.json") == one
    (tmp_path / "old.json").write_text(json.dumps({"site": "act", "neurons": [[0, 1]]}))
    assert NeuronSet.load(tmp_path / "old.json") == NeuronSet(((0, 1),), "act", "language")


def test_saved_scores_keep_their_part_and_old_ones_are_of_the_language_model(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    made = NeuronScores(torch.rand(2, 3), "by hand", scope="vision")
    save_scores({"one": made}, tmp_path / "scores.safetensors")
    assert load_scores(tmp_path / "scores.safetensors")["one"].scope == "vision"
    assert TopK(2)(made).scope == "vision"
    old = {"one": {"method": "by hand", "site": "mid", "provenance": {}}}
    save_file({"one": torch.rand(2, 3)}, tmp_path / "old.safetensors", metadata={"kedit.scores": json.dumps(old)})
    assert load_scores(tmp_path / "old.safetensors")["one"].scope == "language"


# --- locating


@cache
def seeing() -> HuggingFaceMLLM:
    model = tiny_llava()
    model.module.requires_grad_(False)
    return model


@cache
def pairs() -> tuple[Counterfactual, ...]:
    shown = (picture("a", (5,)), picture("b", (1, 2), (9,)), picture("c", (0,), (15,)))
    return tuple(without(one, STAR_CONCEPT) for one in shown)


@cache
def told() -> tuple[Generated, ...]:
    texts = ("a red star .", "star", "a picture of the blue sky and a star")
    tokens = [tuple(seeing().tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    return tuple(Generated(text, some) for text, some in zip(texts, tokens, strict=True))


def located(scorer: Any, scope: Any, **options: Any) -> NeuronScores:
    locator = Locator({"only": Stage(scorer, TopK(3))}, scope=scope, **options)
    return locator.score(seeing(), pairs(), captions=told())["only"]


def fired(scope: Any, which: str, **options: Any) -> list[dict[int, Tensor]]:
    """Return each picture's activations by layer, `[patch, neuron]`, from a pass over it alone."""
    found, model = [], seeing()
    for pair in pairs():
        image = pair.sample.image if which == "original" else pair.image
        with record(model.module, Site.of(model.module, "mid", scope)) as seen:
            model.logits(model.teacher_forced([image], [()]))
        found.append({layer: one.flatten(0, -2).clone() for layer, one in seen.items()})
    return found


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("scope", ["vision", "projector"])
def test_a_difference_outside_the_language_model_is_that_of_all_patches(scope: str, signed: bool) -> None:
    scores = located(ActivationDifference(signed=signed), scope)
    counted: Any = (lambda one: one) if signed else Tensor.abs
    before, after = fired(scope, "original"), fired(scope, "counterfactual")
    for layer, row in enumerate(scores.values):
        pictures = zip(before, after, strict=True)
        peaks = [(counted(one[layer]) - counted(other[layer])).max(0).values for one, other in pictures]
        torch.testing.assert_close(row[: len(peaks[0])], torch.stack(peaks).mean(0), atol=1e-5, rtol=1e-4)
    assert scores.scope == scope and float(scores.values.abs().max()) > 0.01


def test_activation_times_gradient_outside_the_language_model_is_that_of_autograd() -> None:
    scores = located(GradCAM(over_positions="sum"), "vision")
    model, expected = seeing(), []
    site = Site.of(model.module, "mid", "vision")
    for pair, caption in zip(pairs(), told(), strict=True):
        mention = model.mention(caption, pair.concept)
        assert mention is not None
        batch = model.teacher_forced([pair.sample.image], [mention.prefix])
        with record(model.module, site, differentiable=True) as seen:
            said = model.logits(batch)[0, -1, mention.word[0]]
        (gradient,) = torch.autograd.grad(said, [seen[0]])
        expected.append((gradient * seen[0]).detach().flatten(0, -2).sum(0))
    torch.testing.assert_close(scores.values[0], torch.stack(expected).mean(0), atol=1e-6, rtol=1e-3)
    assert float(scores.values.abs().max()) > 0


def test_layers_that_nothing_reads_have_no_gradient_and_score_zero() -> None:
    model = seeing()
    model.module.config.vision_feature_layer = -2  # the input of the tower's only layer
    try:
        scores = located(GradCAM(over_positions="sum"), "all")
    finally:
        model.module.config.vision_feature_layer = -1
    vision = [layer for layer, block in model.site("mid", "all").blocks.items() if block.scope == "vision"]
    assert bool((scores.values[vision].nan_to_num(0) == 0).all())
    assert bool((scores.values[0].nan_to_num(0) != 0).any())


def test_in_all_parts_together_the_language_model_scores_as_it_does_alone() -> None:
    for scorer in (ActivationDifference(), GradCAM()):
        whole, alone = located(scorer, "all"), located(scorer, "language")
        torch.testing.assert_close(whole.values[: len(alone.values), :12], alone.values, atol=1e-5, rtol=1e-3)
        assert len(whole.values) == len(alone.values) + 2


def test_what_is_located_in_the_vision_tower_is_edited_there() -> None:
    locator = Locator({"only": Stage(ActivationDifference(), TopK(8))}, scope="vision")
    found = locator.select(locator.score(seeing(), pairs(), captions=told()))
    assert found.scope == "vision" and len(found) == 8
    batch = seeing().teacher_forced([pairs()[0].sample.image], [()])
    before = seeing().logits(batch)
    with Edit(found, Zero()).applied(seeing()):
        assert not torch.equal(seeing().logits(batch), before)
    assert torch.equal(seeing().logits(batch), before)


@pytest.mark.parametrize(
    ("scorer", "reason"),
    [
        (ActivationDifference("text"), "counts `positions=text` of the prompt"),
        (GradCAM("target"), "counts `positions=target` of the prompt"),
        (Contribution(), "reads what neurons write in words"),
        (ModalityImportance("image"), "tells the positions of the prompt apart"),
        (CausalEffect(), "runs the model by positions of the prompt"),
    ],
)
def test_what_needs_the_prompts_positions_is_refused_outside_the_language_model(scorer: Any, reason: str) -> None:
    stages = {"first": Stage(Activation(), TopK(1)), "second": Stage(scorer, TopK(1))}
    with pytest.raises(ValueError, match=f"stage `second` cannot score neurons of scope `vision`: .*{reason}"):
        Locator(stages, scope="vision")
    assert Locator(stages).scope == "language"


def test_random_neurons_are_found_in_every_part() -> None:
    scores = located(Uniform(), "vision")
    assert scores.n_missing == 0 and scores.values.shape == (1, 16)
    inside = Locator({"only": Stage(ActivationDifference(), TopK(3))}, scope="vision")
    with pytest.raises(ValueError, match="`scope` is `language` and that of the locator inside `vision`"):
        LayerMatched(inside)
    control = LayerMatched(inside, scope="vision")
    made = control.score(seeing(), pairs(), captions=told())
    assert control.select(made).scope == "vision" and not control.select(made) & inside.select(made)


def test_an_unknown_part_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"`scope` is one of language, vision, .*, got 'eyes'"):
        Locator({"only": Stage(Activation(), TopK(1))}, scope="eyes")  # type: ignore[arg-type]


def test_neurons_outside_the_language_model_are_not_read_by_position() -> None:
    site = Site.of(seeing().module, "mid", "vision")
    with pytest.raises(ValueError, match="neurons of scope `vision` see no positions of the prompt"):
        next(iter(prompted(seeing(), site, [pairs()[0].image])))


def test_neurons_outside_the_language_model_have_no_words() -> None:
    with pytest.raises(ValueError, match="neurons of scope `vision` do not write into the stream that becomes words"):
        decode(seeing(), NeuronSet(((0, 1),), "mid", "vision"))


def test_two_linear_maps_beside_a_stack_are_a_projector_only_with_an_activation() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 4)
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))])
            self.bridge = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4))
            self.projector = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 4))

    assert [block.output for block in Site.of(Bare(), "mid", "projector").blocks.values()] == ["projector.2"]


def test_weights_that_may_be_trained_change_no_score_and_may_be_trained_afterwards() -> None:
    """As `from_pretrained` gives a model: the layers of its eye do not lie on the way from one to the other."""
    model = tiny_of("mllama")
    pairs = [without(picture("a", star=(5,)), STAR_CONCEPT)]
    for scorer in (GradCAM("all", "sum"), Damage()):
        locator = Locator({"only": Stage(scorer, TopK(3))}, target=Target(on_missing="force"), scope="all")
        model.module.requires_grad_(False)
        frozen = locator.score(model, pairs)["only"].values
        model.module.requires_grad_(True)
        trained = locator.score(model, pairs)["only"].values
        torch.testing.assert_close(trained, frozen, equal_nan=True)
        assert all(weight.requires_grad for weight in model.module.parameters())
        assert frozen[0].nan_to_num().abs().max() > 0
