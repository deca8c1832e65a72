"""Every family of models that read pictures: what kedit does with one holds for all, whatever its processor is like."""

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image
from torch import Tensor

from kedit.data.scenes import Scenes
from kedit.edit.edit import Edit, EditWarning
from kedit.edit.operators import Zero
from kedit.internals.hooks import after, before
from kedit.internals.positions import Positions
from kedit.internals.sites import decoder_path, embedding_path
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import Quantile
from kedit.locate.target import Target
from kedit.models import chat
from kedit.models.encoder import OwnLayers
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import IMAGE, MODALITIES
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt
from kedit.samples import Concept, Counterfactual

INSIDE = (
    "llava", "llava_next", "llava_onevision", "blip2", "instructblip", "idefics3", "smolvlm", "paligemma", "gemma3",
    "internvl", "janus", "emu3",
)  # fmt: skip
"""Families with the picture in the language model's sequence."""
EVERY = (*INSIDE, "mllama")
EVEN = NeuronSet(tuple(NeuronId(layer, index) for layer in range(3) for index in range(0, 24, 2)))
STAR = Concept("star")


@cache
def built(family: str) -> HuggingFaceMLLM:
    return tiny(family)


def noise(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator).to(torch.uint8).numpy())


PROMPTS = (Prompt("Is it red?", noise(0)), Prompt("What is to the left of it?", noise(1)))


@pytest.mark.parametrize("family", EVERY)
def test_image_positions_are_those_whose_embedding_is_not_their_token_s_own(family: str) -> None:
    model, looked = built(family), dict[str, Tensor]()
    batch = model.read(PROMPTS, [(90, 91), ()])
    path = embedding_path(model.module)
    assert path is not None
    with ExitStack() as hooks:
        hooks.enter_context(after(model.module, path, lambda out: looked.update({"tokens": out} | looked)))
        decoder = decoder_path(model.module)
        hooks.enter_context(before(model.module, decoder, lambda args, kwargs: looked.update(inside(kwargs))))
        model.logits(batch)
    changed = (looked["tokens"] != looked.get("inputs", looked["tokens"])).any(-1)
    assert torch.equal(changed, batch.token_types == IMAGE)
    assert torch.equal(changed, batch.modalities == MODALITIES.index("image"))
    assert bool(changed.any()) == (family in INSIDE)


# BLIP's processors tell no kinds, Gemma's call them token types, and Janus's says that all is text.
@pytest.mark.parametrize("family", ["idefics3", "smolvlm", "llava_next", "llava_onevision", "internvl", "emu3"])
def test_image_positions_are_those_of_the_processor_without_the_marks_around_them(family: str) -> None:
    model, prompt = built(family), PROMPTS[0]
    assert prompt.image is not None
    batch = model.read([prompt], [()])
    told = model.processor(
        text=[chat.render(model.processor, prompt)],
        images=[[prompt.image]],
        return_mm_token_type_ids=True,
        return_tensors="pt",
    )
    assert torch.equal(told["input_ids"], batch.inputs["input_ids"])
    marks = (told["mm_token_type_ids"] == 1) & (batch.token_types != IMAGE)
    assert ((batch.token_types == IMAGE) <= (told["mm_token_type_ids"] == 1)).all()
    named = [model.tokenizer.convert_ids_to_tokens(one) for one in batch.inputs["input_ids"][marks].tolist()]
    # The marks of Idefics 3 lie in lines of their own.
    assert all(name == "Ċ" or name[0] == "<" for name in named)


def inside(kwargs: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Return what a decoder is called with in place of tokens, if anything."""
    given = kwargs.get("inputs_embeds")
    return {} if given is None else {"inputs": given}


@pytest.mark.parametrize("family", EVERY)
def test_a_prompt_reads_the_same_alone_and_in_a_padded_batch(family: str) -> None:
    model, prefixes = built(family), [(90, 91), (92,)]
    together = model.logits(model.read(PROMPTS, prefixes))[:, 0]
    alone = [model.logits(model.read([one], [prefix]))[0, 0] for one, prefix in zip(PROMPTS, prefixes, strict=True)]
    assert (together - torch.stack(alone)).abs().max() < 1e-4
    assert (alone[0] - alone[1]).abs().max() > 1e-2


@pytest.mark.parametrize("family", EVERY)
def test_an_edited_caption_is_what_reading_it_word_for_word_predicts(family: str) -> None:
    model, where = built(family), span(family)
    images = [one.image for one in PROMPTS if one.image is not None]
    with Edit(EVEN, Zero(), where).applied(model):
        captions = model.caption(images)
        for n in range(4):
            seen = model.logits(model.teacher_forced(images, [one.tokens[:n] for one in captions]))
            assert seen[:, -1].argmax(-1).tolist() == [one.tokens[n] for one in captions]


@pytest.mark.parametrize("family", EVERY)
def test_an_edit_at_the_picture_writes_the_same_with_a_cache_and_without(family: str) -> None:
    model, inputs = built(family), built(family).encode(PROMPTS)
    said = {}
    for name, edits in {"edited": [Edit(EVEN, Zero(), span(family))], "plain": []}.items():
        for use_cache in (True, False):
            with ExitStack() as stack, torch.no_grad():
                for one in edits:
                    stack.enter_context(one.applied(model))
                out = model.module.generate(  # type: ignore[operator]
                    **inputs, do_sample=False, max_new_tokens=4, min_new_tokens=4, use_cache=use_cache,
                    return_dict_in_generate=True, output_logits=True, disable_compile=True, pad_token_id=0,
                )  # fmt: skip
            said[name, use_cache] = torch.stack(out.logits)
    assert (said["edited", True] - said["edited", False]).abs().max() < 1e-4
    assert (said["edited", True] - said["plain", True]).abs().max() > 1e-2


def span(family: str) -> Positions:
    return "image" if family in INSIDE else "all"


@pytest.mark.parametrize("family", EVERY)
def test_a_question_without_a_picture_is_answered_and_an_edit_at_pictures_leaves_it_alone(family: str) -> None:
    model, asked = built(family), [Prompt("How many legs has a cow?"), Prompt("Why?")]
    plain = model.ask(asked)
    assert all(one.tokens for one in plain)
    batch = model.read(asked, [(90,), ()])
    assert not (batch.token_types == IMAGE).any()
    if family in INSIDE:
        with Edit(EVEN, Zero(), "image").applied(model):
            assert model.ask(asked) == plain
    # Llama 3.2 Vision passes its layers of cross-attention by where there is no picture, which an edit says.
    passed_by = pytest.warns(EditWarning, match="not layers 1 of the 3") if family == "mllama" else nullcontext()
    with passed_by, Edit(EVEN, Zero()).applied(model):
        assert model.ask(asked) != plain


@cache
def pairs() -> tuple[Counterfactual, ...]:
    split = Scenes().split(STAR, locate=2, target=1, retention=1, seed=0)
    found = []
    for sample in split.locate:
        assert sample.render_without is not None
        found.append(Counterfactual(sample, STAR, sample.render_without("star")))
    return tuple(found)


def two_stage() -> Locator:
    stages = {
        "difference": Stage(ActivationDifference(), Quantile(0.5)),
        "gradcam": Stage(GradCAM(), Quantile(0.5)),
    }
    return Locator(stages, target=Target(on_missing="force"))


@pytest.mark.parametrize("family", INSIDE)
def test_two_stage_filtering_locates_and_its_neurons_can_be_edited(family: str) -> None:
    model, locator = built(family), two_stage()
    scores = locator.score(model, pairs())
    assert all(one.values.isfinite().all() for one in scores.values())
    neurons = locator.select(scores)
    assert 0 < len(neurons) <= 36
    images = [pair.sample.image for pair in pairs()]
    prefixes = [model.mention(one, STAR, force=True) for one in model.caption(images)]
    batch = model.teacher_forced(images, [one.prefix for one in prefixes if one])
    before_it = model.logits(batch)
    with Edit(neurons, Zero(), "image").applied(model):
        assert (model.logits(batch) - before_it).abs().max() > 1e-3


def test_a_model_that_looks_at_the_picture_from_outside_says_that_it_has_no_image_positions() -> None:
    model = built("mllama")
    with pytest.raises(ValueError, match="`positions=image` counts image tokens, and the prompts hold none"):
        two_stage().score(model, pairs())
    with pytest.raises(LookupError, match="look at the picture from outside the sequence; use `all`"):
        Edit(EVEN, Zero(), "image").applied(model).__enter__()


def test_a_picture_in_front_of_an_encoder_is_captioned_and_read_and_no_neuron_is_located_there() -> None:
    model = built("blip2_t5")
    images = [one.image for one in PROMPTS if one.image is not None]
    captions = model.caption(images)
    for n in range(4):
        batch = model.teacher_forced(images, [one.tokens[:n] for one in captions])
        assert (batch.token_types == IMAGE).sum(1).tolist() == [4, 4]
        assert model.logits(batch)[:, -1].argmax(-1).tolist() == [one.tokens[n] for one in captions]
    together = model.logits(model.read(PROMPTS, [(90, 91), (92,)]))[:, 0]
    alone = [
        model.logits(model.read([one], [prefix]))[0, 0] for one, prefix in zip(PROMPTS, ((90, 91), (92,)), strict=True)
    ]
    assert (together - torch.stack(alone)).abs().max() < 1e-4
    with pytest.raises(ValueError, match="is an encoder-decoder, whose neurons cannot be located"):
        two_stage().score(model, pairs())


@pytest.mark.parametrize("family", ["t5", "blip2_t5"])
def test_the_encoder_of_two_sequences_encodes_texts(family: str) -> None:
    """Such models can be edited and evaluated, and their captions compared as other models' are."""
    model = built(family)
    (found,) = OwnLayers(model).encode(["a dog"])
    assert found.shape == (len(model.tokenizer("a dog").input_ids), 16)
    assert found.isfinite().all()


def test_pictures_that_a_model_would_pad_to_one_size_are_not_read_together() -> None:
    model, (wide, square) = built("emu3"), (Image.new("RGB", size, "red") for size in ((100, 40), (64, 64)))
    assert len(model.caption([square, square.copy()])) == 2
    with pytest.raises(ValueError, match=r"`tiny-emu3` pads the pictures of a batch to one size .* set `batch_size=1`"):
        model.caption([square, wide])
    alone = replace(model, batch_size=1)
    assert alone.caption([square, wide])[0] == alone.caption([square])[0]


def test_the_language_model_of_one_that_insists_on_pictures_encodes_texts_alone() -> None:
    model = built("blip2")
    (found,) = OwnLayers(model).encode(["a dog"])
    states = model.module.language_model(
        **model.tokenizer("a dog", return_tensors="pt"), output_hidden_states=True
    ).hidden_states
    torch.testing.assert_close(found, states[OwnLayers(model).layer][0])
