"""A model of the user's own is left as it was, wherever its weights are; what kedit cannot use it for is told."""

import copy
import hashlib
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from transformers import BertModel, LlamaModel

from kedit.edit.edit import Edit
from kedit.edit.operators import Scale, Zero
from kedit.internals.hooks import record
from kedit.internals.positions import Positions
from kedit.internals.unembedding import Unembedding
from kedit.internals.weights import WeightError, weight_of
from kedit.locate.locator import Locator
from kedit.locate.target import Target
from kedit.locate.two_stage import two_stage
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load, wrap
from kedit.models.passes import input_device
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.tiny.families import tiny
from kedit.models.tiny.tokens import byte_tokenizer
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt
from kedit.samples import Question

PAIRS = [without(picture(f"star {place}", (place,)), STAR_CONCEPT) for place in (5, 9)]
PROMPTS = [Prompt("Hi"), Prompt("What is the color of it?")]
ON_DISK = {
    "model.vision_tower": "cpu",
    "model.multi_modal_projector": "disk",
    "model.language_model.embed_tokens": "disk",
    "model.language_model.layers.0": "cpu",
    "model.language_model.layers.1": "disk",
    "model.language_model.layers.2": "disk",
    "model.language_model.norm": "disk",
    "model.language_model.rotary_emb": "cpu",
    "lm_head": "disk",
}


def locator() -> Locator:
    return Locator(two_stage().stages, target=Target(on_missing="force"))


def some(model: HuggingFaceMLLM) -> NeuronSet:
    return NeuronSet([NeuronId(layer, index) for layer in model.site().blocks for index in range(0, 24, 2)])


def state(module: Any, processor: Any) -> dict[str, Any]:
    """Return everything about the user's objects that kedit could have changed."""
    tokenizer = getattr(processor, "tokenizer", processor)
    return {
        "training": {path: one.training for path, one in module.named_modules()},
        "graded": {path: (weight.requires_grad, weight.grad is None) for path, weight in module.named_parameters()},
        "hooks": {
            path: tuple(len(getattr(one, f"_{kind}_hooks")) for kind in ("forward", "forward_pre", "backward"))
            for path, one in module.named_modules()
        },
        "attributes": {path: sorted(vars(one)) for path, one in module.named_modules()},
        "generation": module.generation_config.to_dict(),
        "config": module.config.to_dict(),
        "weights": hashlib.sha256(save({key: one.clone() for key, one in module.state_dict().items()})).hexdigest(),
        "tokenizer": [getattr(tokenizer, key) for key in ("padding_side", "truncation_side", "pad_token")],
        "words": tokenizer.get_vocab(),
    }  # fmt: skip


def use_everything(model: HuggingFaceMLLM) -> None:
    """Run whatever kedit does with a model."""
    model.ask(PROMPTS)
    model.logits(model.read(PROMPTS, [(30,), (40, 50)]))
    with record(model.module, model.site(), differentiable=True), Edit(some(model), Zero()).applied(model):
        model.ask(PROMPTS)
    Unembedding.of(model.module).directions([40])
    if "image" in model.media:
        locator().score(model, PAIRS)
        model.answer([Question("what is it?", "a star", "picture", PAIRS[0].sample)])


@pytest.mark.parametrize("family", ["llava", "gpt2"])
@pytest.mark.parametrize("training", [True, False])
def test_a_wrapped_model_is_the_users_own_and_stays_as_it_was(family: str, training: bool) -> None:
    own = tiny(family)
    module: Any = own.module.train(training).requires_grad_(True)
    processor = own.processor
    first = next(one for one in module.modules() if isinstance(one, torch.nn.Linear))
    # A model's first pass with pictures leaves hooks of transformers' own on it.
    module(**(own.teacher_forced([PAIRS[0].image], [()]) if family == "llava" else own.read(PROMPTS, [(), ()])).inputs)
    with first.register_forward_hook(lambda module, inputs, output: None):
        before = state(module, processor)
        model = wrap(module, processor, name="mine")
        use_everything(model)
        after = state(module, processor)
    assert model.module is module
    assert model.processor is processor
    assert {key for key, value in before.items() if after[key] != value} == set()


def test_a_model_in_training_mode_is_read_without_its_dropout() -> None:
    own = tiny("gpt2")
    model = wrap(copy.deepcopy(own.module).train(), own.processor, max_new_tokens=8)
    with torch.no_grad():
        noisy = [model.module(**model.read(PROMPTS[:1], [()]).inputs).logits for _ in range(2)]
        assert not torch.equal(*noisy)
        assert torch.equal(*(one.logits(one.read(PROMPTS, [(), ()])) for one in (own, model)))
    assert model.ask(PROMPTS) == own.ask(PROMPTS)
    assert all(one.training for one in model.module.modules())


def test_the_name_of_a_wrapped_model_is_that_of_its_folder_or_its_class() -> None:
    own = tiny("gpt2")
    assert wrap(own.module, own.processor).name == "GPT2LMHeadModel"
    own.module.config.name_or_path = "somebody/gpt2-small"
    assert wrap(own.module, own.processor).name == "gpt2-small"


def without_padding() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    return tokenizer


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: ("gpt2", byte_tokenizer()), "`module` is a model in memory, got str; `load` takes a folder"),
        (lambda: (tiny("gpt2").module, None), "needs a processor or a tokenizer of transformers, got NoneType"),
        (lambda: (tiny("gpt2").module, without_padding()), "has no padding token, .* set `tokenizer.pad_token = tok"),
        (lambda: (tiny("gpt2").module, tiny("bert").processor), "knows 260 tokens, and GPT2LMHeadModel embeds 259"),
        (lambda: (LlamaModel(tiny("llama").module.config), byte_tokenizer()), "LlamaModel, which has no output matrix"),
        (lambda: (BertModel(tiny("bert").module.config), byte_tokenizer()), "BertModel, which has no output matrix"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap(*parts())


def test_a_tokenizer_too_small_for_the_models_own_marks_is_another_models() -> None:
    own = tiny("gpt2")
    own.module.resize_token_embeddings(400, mean_resizing=False)  # type: ignore[operator]
    wrap(own.module, own.processor)
    own.module.generation_config.eos_token_id = 390
    with pytest.raises(
        ValueError, match=r"`eos_token_id` of GPT2LMHeadModel is 390, and the tokenizer of .* knows 259"
    ):
        wrap(own.module, own.processor)


def test_a_processor_with_another_image_token_is_refused() -> None:
    own = tiny("llava")
    own.module.config.image_token_id = 7
    with pytest.raises(ValueError, match=r"marks pictures with token 3, and .* looks for 7: it is the processor of"):
        wrap(own.module, own.processor)


# --- models that read text alone


@pytest.mark.parametrize("positions", ["all", "text", "last"])
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_an_edit_of_a_language_model_changes_what_it_says_and_is_gone_afterwards(
    family: str, positions: Positions
) -> None:
    model = tiny(family)
    answers = model.ask(PROMPTS)
    with Edit(some(model), Scale(-3.0), positions).applied(model):
        edited = model.ask(PROMPTS)
        assert edited != answers
        assert [model.ask([one])[0] for one in PROMPTS] == edited
    assert model.ask(PROMPTS) == answers


def test_what_needs_a_picture_is_refused_by_a_model_without_before_it_is_run() -> None:
    model, gray = tiny("gpt2"), Image.new("RGB", (8, 8))
    why = "`tiny-gpt2` reads text, not image, .* the configuration of GPT2LMHeadModel names no `image_token_id`"
    for refused in (
        lambda: model.caption([gray]),
        lambda: model.teacher_forced([gray], [()]),
        lambda: model.ask([PROMPTS[0], Prompt("what is it?", gray)]),
        lambda: locator().score(model, PAIRS),
    ):
        with pytest.raises(ValueError, match=why):
            refused()
    blind = wrap(tiny("llava").module, tiny("llava").tokenizer, name="blind")
    with pytest.raises(ValueError, match=r"`blind` reads text, not image, .* it was given a tokenizer, and Llava"):
        blind.caption([gray])


def test_a_masked_model_writes_nothing_and_is_read_at_its_first_mask() -> None:
    model = tiny("bert")
    with pytest.raises(ValueError, match=r"`tiny-bert` .* has no `generate`: it completes masks and writes no text"):
        model.ask([Prompt("it is [MASK]")])
    with pytest.raises(
        ValueError, match="prompt 0 has 1 and an answer of 1 tokens is to be put there; write at least 2"
    ):
        model.read([Prompt("it is [MASK]")], [(30,)])
    two = model.logits(model.read([Prompt("[MASK][MASK] x")], [(30,)]))
    letter = model.tokenizer.decode([30])
    assert torch.equal(two, model.logits(model.read([Prompt(f"{letter}[MASK] x")], [()])))
    with Edit(some(model), Zero()).applied(model):
        assert not torch.equal(two, model.logits(model.read([Prompt("[MASK][MASK] x")], [(30,)])))
    assert torch.equal(two, model.logits(model.read([Prompt("[MASK][MASK] x")], [(30,)])))


def test_the_neurons_of_an_encoder_decoder_are_not_located_and_the_reason_is_given() -> None:
    with pytest.raises(ValueError, match=r"`tiny-t5` .* is an encoder-decoder, whose neurons cannot be located"):
        locator().score(tiny("t5"), PAIRS)


# --- weights that are elsewhere


@pytest.fixture(scope="module")
def llavas(tmp_path_factory: pytest.TempPathFactory) -> tuple[HuggingFaceMLLM, HuggingFaceMLLM, HuggingFaceMLLM]:
    """The same model in memory, mostly on disk, and in half precision."""
    folder, own = tmp_path_factory.mktemp("llava"), tiny("llava")
    own.module.save_pretrained(folder)  # type: ignore[operator]
    own.processor.save_pretrained(folder)
    how: dict[str, Any] = {"batch_size": 4, "max_new_tokens": 8}
    offloaded = load(folder, device_map=ON_DISK, offload_folder=str(folder / "offloaded"), **how)
    return load(folder, **how), offloaded, load(folder, dtype="bfloat16", **how)


def test_a_model_on_disk_captions_answers_and_is_edited_as_one_in_memory(llavas: tuple[HuggingFaceMLLM, ...]) -> None:
    plain, offloaded, _ = llavas
    assert sum(weight.is_meta for weight in offloaded.module.parameters()) > 20
    images = [pair.sample.image for pair in PAIRS]
    told = []
    for model in (plain, offloaded):
        with torch.no_grad(), Edit(some(model), Scale(-2.0), "image").applied(model):
            told.append(
                (model.caption(images), model.ask(PROMPTS), model.logits(model.teacher_forced(images, [(), (30,)])))
            )
    assert told[0][:2] == told[1][:2]
    assert torch.equal(told[0][2], told[1][2])


def test_a_model_on_disk_has_the_scores_and_the_weights_of_one_in_memory(llavas: tuple[HuggingFaceMLLM, ...]) -> None:
    plain, offloaded, _ = llavas
    scores = [locator().score(model, PAIRS) for model in (plain, offloaded)]
    for stage, one in scores[0].items():
        assert torch.equal(one.values, scores[1][stage].values)
        assert one.values.isfinite().all()
    assert torch.equal(*(model.site().value_matrix(model.module, 2) for model in (plain, offloaded)))
    ways = [Unembedding.of(model.module) for model in (plain, offloaded)]
    assert torch.equal(*(way.directions([40, 50]) for way in ways))
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(way.logits(vectors) for way in ways))


@pytest.mark.parametrize(
    ("spread", "device"),
    [
        ({"lm_head": "cuda:0", "model": "cuda:1"}, "cuda:0"),
        ({"model": "disk", "lm_head": "cpu", "other": "cuda:1"}, "cuda:1"),
        ({"": "disk"}, "cpu"),
        ({}, "cpu"),
    ],
)
def test_inputs_go_to_where_accelerate_computes_what_is_elsewhere(spread: dict[str, Any], device: str) -> None:
    module = torch.nn.Linear(2, 2, device="meta")
    module.hf_device_map = spread  # type: ignore[assignment]
    assert input_device(module) == torch.device(device)


def test_a_weight_that_is_nowhere_is_refused() -> None:
    with pytest.raises(WeightError, match="the weight of `down` is on the meta device: it holds no numbers"):
        weight_of(torch.nn.Linear(2, 2, device="meta"), "down")


def test_a_model_in_half_precision_is_located_and_edited_in_it(llavas: tuple[HuggingFaceMLLM, ...]) -> None:
    _, _, half = llavas
    assert all(one.values.isfinite().all() for one in locator().score(half, PAIRS).values())
    batch = half.teacher_forced([PAIRS[0].sample.image], [()])
    with torch.no_grad():
        with Edit(some(half), Zero()).applied(half):
            hooked = half.logits(batch)
        for layer, block in half.site().blocks.items():
            half.module.get_submodule(block.output).weight[:, list(some(half).by_layer()[layer])] = 0
        assert torch.equal(hooked, half.logits(batch))
    assert hooked.dtype == torch.float32
