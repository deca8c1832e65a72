"""The doctor finds models that were broken on purpose, and leaves them as they were."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, GPT2Model

from kedit.doctor.diagnose import CHECKS, diagnose
from kedit.doctor.model_under_test import picture
from kedit.internals import positions
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import IMAGE, MODALITIES, PADDING, TeacherForced
from kedit.models.tiny.families import tiny
from tests.text_model import TextModel
from tests.tiny import gpt2, state_of
from tests.tiny_llava import tiny_llava

OTHER_TOKEN = 7
CACHE = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"
"""What transformers calls the cache of a call; its name changed in 5.24."""
MEANS_ELSE = "the edit means something else without a cache; unedited, the logits agree"
DOES_NOTHING = "the edit does nothing"


def language(model: HuggingFaceMLLM) -> Any:
    """Return the language model inside."""
    module: Any = model.module
    return module.model.language_model


def projections(model: HuggingFaceMLLM) -> list[Any]:
    return [layer.mlp.down_proj for layer in language(model).layers]


def replace_forward(module: Any, make: Callable[[Any], Callable[..., Any]]) -> None:
    """Let `make` build the module's forward out of the one it has."""
    module.forward = make(module.forward)


def fused_kernel(model: HuggingFaceMLLM) -> None:
    """The feed-forward blocks compute with the output projection's weight, and pass its module by."""
    for layer in language(model).layers:
        mlp = layer.mlp

        def fused(x: Tensor, mlp: Any = mlp) -> Tensor:
            return functional.linear(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight)

        mlp.forward = fused


def one_block_fused(model: HuggingFaceMLLM) -> None:
    mlp = language(model).layers[1].mlp
    mlp.forward = lambda x: functional.linear(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight)


def two_layers_share_a_block(model: HuggingFaceMLLM) -> None:
    layers = language(model).layers
    layers[2].mlp = layers[0].mlp


def a_layer_without_neurons(model: HuggingFaceMLLM) -> None:
    language(model).layers[1].mlp = nn.Identity()


def opening_left_out(model: HuggingFaceMLLM) -> None:
    """The first token of a prompt is lost, as the `<|im_start|>` of SmolLM2's chats once was."""
    whole = model.encode

    def shortened(prompts: Any) -> dict[str, Tensor]:
        inputs = whole(prompts)
        return {key: one[:, 1:] if one.shape == inputs["input_ids"].shape else one for key, one in inputs.items()}

    object.__setattr__(model, "encode", shortened)


def attention_mask_ignored(model: HuggingFaceMLLM) -> None:
    replace_forward(language(model), lambda forward: lambda *a, **k: forward(*a, **(k | {"attention_mask": None})))


def caches_among(named: dict[str, Any]) -> list[Any]:
    return [one for one in named.values() if isinstance(one, Cache)]


def forgetful(model: HuggingFaceMLLM, kind: str) -> None:
    """With a cache of that kind, new tokens do not see the first four columns."""

    def make(forward: Callable[..., Any]) -> Callable[..., Any]:
        def without_the_first(*given: Any, **named: Any) -> Any:
            mask = named.get("attention_mask")
            for past in caches_among(named):
                if type(past).__name__ == kind and past.get_seq_length() and isinstance(mask, Tensor):
                    named["attention_mask"] = mask.masked_fill(torch.arange(mask.shape[1]) < 24, 0)
            return forward(*given, **named)

        return without_the_first

    replace_forward(language(model), make)


def image_tokens_hidden(model: HuggingFaceMLLM) -> None:
    """The token embedding gets other tokens in the place of image tokens, as in Gemma 4: no harm."""
    module: Any = model.module
    embedding = module.model.get_input_embeddings()
    module.model.get_input_embeddings = lambda: lambda ids: embedding(ids.masked_fill(ids == model.image_token, 0))


def cache_drops_tokens(model: HuggingFaceMLLM) -> None:
    forgetful(model, "DynamicCache")


def beams_keep_their_caches(model: HuggingFaceMLLM) -> None:
    """When beams change places, their caches stay where they are."""

    def make(forward: Callable[..., Any]) -> Callable[..., Any]:
        def stuck(*given: Any, **named: Any) -> Any:
            for one in caches_among(named):
                one.reorder_cache = lambda order: None
            return forward(*given, **named)

        return stuck

    replace_forward(language(model), make)


def static_cache_drops_tokens(model: HuggingFaceMLLM) -> None:
    """With a cache of fixed size, new tokens see no picture."""

    def make(forward: Callable[..., Any]) -> Callable[..., Any]:
        def forgetful(*given: Any, **named: Any) -> Any:
            for past in caches_among(named):
                if type(past).__name__ == "StaticCache" and past.get_seq_length():
                    for layer in past.layers:
                        layer.values = layer.values * 0.5
            return forward(*given, **named)

        return forgetful

    replace_forward(language(model), make)


def final_norm_left_out(model: HuggingFaceMLLM) -> None:
    inner = language(model)

    def make(forward: Callable[..., Any]) -> Callable[..., Any]:
        def without_norm(*given: Any, **named: Any) -> Any:
            norm, inner.norm = inner.norm, nn.Identity()
            try:
                return forward(*given, **named)
            finally:
                inner.norm = norm

        return without_norm

    replace_forward(inner, make)


def head_scaled(model: HuggingFaceMLLM) -> None:
    module: Any = model.module
    replace_forward(module.lm_head, lambda forward: lambda x: 0.25 * forward(x))


def head_squeezed(model: HuggingFaceMLLM) -> None:
    module: Any = model.module
    replace_forward(module.lm_head, lambda forward: lambda x: 5 * (forward(x) / 5).tanh())


def detached_layer(model: HuggingFaceMLLM) -> None:
    replace_forward(language(model).layers[1], lambda forward: lambda *a, **k: forward(*a, **k).detach())


def nan_weight(model: HuggingFaceMLLM) -> None:
    projections(model)[1].weight.data[3, 4] = torch.nan


def other_image_token(model: HuggingFaceMLLM) -> None:
    module: Any = model.module
    module.config.image_token_id = OTHER_TOKEN


class Late:
    """A language model whose input arrives one position late."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return super().__call__(*given, **(named | {"inputs_embeds": named["inputs_embeds"].roll(1, 1)}))  # type: ignore[misc]


def picture_one_late(model: HuggingFaceMLLM) -> None:
    """The picture's features land one position behind the tokens that stand for them."""
    inner = language(model)
    inner.__class__ = type("LateModel", (Late, type(inner)), {})


def every_word_an_image(model: HuggingFaceMLLM) -> None:
    read = model.read

    def credulous(*given: Any) -> TeacherForced:
        batch = read(*given)
        seen = batch.token_types != PADDING
        return replace(batch, token_types=seen * IMAGE, modalities=seen * MODALITIES.index("image"))

    object.__setattr__(model, "read", credulous)


def input_erased_in_place(model: HuggingFaceMLLM) -> None:
    def make(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def erasing(x: Tensor) -> Tensor:
            output = forward(x)
            x.zero_()
            return output

        return erasing

    replace_forward(projections(model)[1], make)


def swapped_columns(model: HuggingFaceMLLM) -> None:
    replace_forward(projections(model)[1], lambda forward: lambda x: forward(x.roll(1, dims=-1)))


def noisy(model: HuggingFaceMLLM) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = lambda x: x + 10 * torch.randn(x.shape, generator=generator)  # noqa: E731
    replace_forward(projections(model)[1], lambda forward: lambda x: noise(forward(x)))


def another_path_under_hooks(model: HuggingFaceMLLM) -> None:
    """A block that takes a rounder way to compute as soon as somebody watches."""
    layer = projections(model)[1]
    forward = layer.forward
    layer.forward = lambda x: forward(x.to(torch.float16).to(x.dtype) if layer._forward_pre_hooks else x)


def blind(model: HuggingFaceMLLM) -> None:
    module: Any = model.module
    module.model.multi_modal_projector.linear_2.weight.data.zero_()


def learns_while_it_runs(model: HuggingFaceMLLM) -> None:
    layer = projections(model)[1]

    def make(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def learning(x: Tensor) -> Tensor:
            layer.weight.data += 1e-3
            return forward(x)

        return learning

    replace_forward(layer, make)


def gathers_gradients(model: HuggingFaceMLLM) -> None:
    layer = projections(model)[1]

    def make(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def gathering(x: Tensor) -> Tensor:
            layer.weight.grad = torch.ones_like(layer.weight)
            return forward(x)

        return gathering

    replace_forward(layer, make)


def drops_foreign_hooks(model: HuggingFaceMLLM) -> None:
    layer = projections(model)[1]
    layer.register_forward_hook(lambda module, given, output: None)

    def make(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def dropping(x: Tensor) -> Tensor:
            for key in [key for key, hook in layer._forward_hooks.items() if hook.__module__ == __name__]:
                del layer._forward_hooks[key]
            return forward(x)

        return dropping

    replace_forward(layer, make)


def other_when_compiled(model: HuggingFaceMLLM) -> None:
    def make(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x: forward(x) * (2.0 if torch.compiler.is_compiling() else 1.0)

    replace_forward(language(model).layers[-1].mlp, make)


class Promoted(Tensor):
    """A tensor whose copies are 64-bit."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, given: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        done = super().__torch_function__(function, types, given, named or {})
        return done.as_subclass(Tensor).double() if function is Tensor.clone else done


def promoted_by_copying(model: HuggingFaceMLLM) -> None:
    mlp = language(model).layers[1].mlp
    replace_forward(mlp.act_fn, lambda forward: lambda x: forward(x).as_subclass(Promoted))
    replace_forward(mlp.down_proj, lambda forward: lambda x: forward(x.as_subclass(Tensor).float()))


Break = Callable[[HuggingFaceMLLM], None]
Found = dict[str, tuple[str, str]]
"""For each check that is run: the status it must find, and a part of its sentence."""
WRONG = "SILENTLY_WRONG"
FINE = ("SUPPORTED", "")
BROKEN: list[tuple[Break, Found]] = [
    (other_when_compiled, {"compiled": (WRONG, "a compiled block does something else"), "recorded": FINE}),
    (
        fused_kernel,
        {
            "sites": FINE,
            "recorded": (WRONG, "is passed by (layers 0, 1, 2)"),
            "zero": (WRONG, "zeroing every neuron changes no logit"),
            "column": (WRONG, "in layers 0, 1, 2 the neuron that is edited is not the column"),
            "cache": (WRONG, "the edit does nothing"),
            "gradients": (WRONG, "no gradient reaches layers 0, 1, 2"),
        },
    ),
    (one_block_fused, {"recorded": (WRONG, "(layers 1)"), "zero": FINE, "column": (WRONG, "in layers 1 the neuron")}),
    (
        two_layers_share_a_block,
        {
            "sites": ("ERROR", "layers 0 and 2 share the module"),
            "zero": ("ERROR", "see the check `sites`"),
            "media": FINE,
        },
    ),
    (
        a_layer_without_neurons,
        {"sites": ("DEGRADED", "the neurons of 1 of 3 layers cannot be found"), "recorded": FINE},
    ),
    (opening_left_out, {"chat": (WRONG, "first at token 0: '[IMG]' in place of '[CLS]'"), "identity": FINE}),
    (attention_mask_ignored, {"padding": (WRONG, "an ignored attention mask"), "identity": FINE}),
    (image_tokens_hidden, {"positions": FINE, "zero": FINE, "cache": FINE, "beams": FINE}),
    (
        cache_drops_tokens,
        {
            "padding": FINE,
            "cache": (WRONG, "without a cache gives other logits, also unedited"),
            "static_cache": (WRONG, "with a static cache gives other logits, also unedited"),
            **dict.fromkeys(("prefill", "decode", "text", "last"), (WRONG, "gives other logits, also unedited")),
        },
    ),
    (static_cache_drops_tokens, {"cache": FINE, "static_cache": (WRONG, "also unedited")}),
    (beams_keep_their_caches, {"cache": FINE, "beams": (WRONG, "by beam search without a cache")}),
    (final_norm_left_out, {"lens": (WRONG, "a norm or a transformation is left out or added")}),
    (head_scaled, {"lens": (WRONG, "the logits are 0.25 times it")}),
    (head_squeezed, {"lens": (WRONG, "squeezes its logits afterwards (a soft cap)")}),
    (detached_layer, {"gradients": (WRONG, "no gradient reaches layers 0, 1:"), "identity": FINE}),
    (
        nan_weight,
        {
            "finite": ("ERROR", "the first are in `model.language_model.layers.1.mlp.down_proj.weight`"),
            "identity": ("ERROR", "the model's logits are NaN"),
            "cache": ("ERROR", "the model's logits are NaN"),
            "gradients": (WRONG, "no finite gradient"),
        },
    ),
    (
        other_image_token,
        {
            "positions": ("ERROR", "Image features and image tokens do not match"),
            "media": ("ERROR", "Image features and image tokens do not match"),
        },
    ),
    (picture_one_late, {"positions": (WRONG, "2 that the image changes are not called image"), "media": FINE}),
    (every_word_an_image, {"positions": (WRONG, "are called so that it does not fill")}),
    (blind, {"media": (WRONG, "the logits do not depend on the image"), "positions": ("DEGRADED", "does not enter")}),
    (input_erased_in_place, {"recorded": (WRONG, "does not compute with what is recorded"), "identity": FINE}),
    (swapped_columns, {"recorded": (WRONG, "layers.1.mlp.down_proj` does not"), "column": (WRONG, "in layers 1 ")}),
    (noisy, {"identity": (WRONG, "the model is not deterministic"), "identity_text": (WRONG, "changes what is said")}),
    (
        another_path_under_hooks,
        {"identity": (WRONG, "an edit that changes nothing changes the logits"), "padding": FINE},
    ),
    (gathers_gradients, {"weight_gradients": (WRONG, "down_proj.weight` got a gradient"), "gradients": FINE}),
    (drops_foreign_hooks, {"restored": (WRONG, "a hook that is not kedit's (gone)")}),
    (learns_while_it_runs, {"restored": (WRONG, "the weight `model.language_model.layers.1.mlp.down_proj.weight`")}),
    (promoted_by_copying, {"dtype": ("ERROR", "Double"), "recorded": FINE}),
]
SPOILT_BY_RUNNING = (learns_while_it_runs, drops_foreign_hooks, gathers_gradients)
"""What these do to their own weights and hooks is not the doctor's to undo."""


@pytest.mark.parametrize(("break_it", "expected"), BROKEN, ids=lambda given: getattr(given, "__name__", ""))
def test_a_broken_model_is_found_and_left_as_it_was(break_it: Break, expected: Found) -> None:
    model = tiny_llava()
    model.module.requires_grad_(False)
    model.caption([picture(0)])  # transformers registers hooks of its own when a model first runs
    break_it(model)
    before = state_of(model.module)
    found = diagnose(model, list(expected))
    for name, (status, why) in expected.items():
        assert found.findings[name].status == status, f"{name}: {found.findings[name].summary}"
        assert why in found.findings[name].why
    assert found.sound == all(status in ("SUPPORTED", "DEGRADED") for status, _ in expected.values())
    if break_it not in SPOILT_BY_RUNNING:
        assert state_of(model.module) == before


def fused_when_decoding(model: HuggingFaceMLLM) -> None:
    """One column alone is computed with the output projection's weight, past its module, as fast decoders do."""
    for layer in language(model).layers:
        mlp, whole = layer.mlp, layer.mlp.forward

        def fused(x: Tensor, mlp: Any = mlp, whole: Callable[[Tensor], Tensor] = whole) -> Tensor:
            if x.shape[1] > 1:
                return whole(x)
            return functional.linear(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight)

        mlp.forward = fused


DRAWING: list[tuple[Break, Found]] = [
    (
        fused_when_decoding,
        {"column": FINE, "drawing": (WRONG, "while the model draws, the neurons that are edited are")},
    )
]


@pytest.mark.parametrize(("break_it", "expected"), DRAWING, ids=lambda given: getattr(given, "__name__", ""))
def test_a_model_that_draws_otherwise_than_it_reads_is_found_and_left_as_it_was(
    break_it: Break, expected: Found
) -> None:
    model = tiny("janus")
    assert diagnose(model, list(expected)).sound
    break_it(model)
    before = state_of(model.module)
    found = diagnose(model, list(expected))
    for name, (status, why) in expected.items():
        assert found.findings[name].status == status, f"{name}: {found.findings[name].summary}"
        assert why in found.findings[name].why
    assert state_of(model.module) == before


def test_every_check_finds_something_broken() -> None:
    every = [*BROKEN, *DRAWING]
    failing = {name for _, expected in every for name, (status, _) in expected.items() if status in (WRONG, "ERROR")}
    assert failing == set(CHECKS)


class Renaming:
    """Hands a module's cache over under another name than every other model does."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return super().__call__(*given, memory=named.pop(CACHE, None), **named)  # type: ignore[misc]

    def forward(self, *given: Any, memory: Any = None, **named: Any) -> Any:
        return super().forward(*given, **{CACHE: memory}, **named)  # type: ignore[misc]


BY_POSITION = ["cache", "static_cache", "beams", "prefill", "decode", "text", "last"]


@pytest.mark.parametrize("check", BY_POSITION)
def test_a_cache_is_known_whatever_the_name_it_is_handed_over_under(check: str) -> None:
    model = TextModel(gpt2())
    transformer = model.module.transformer
    transformer.__class__ = type("Renamed", (Renaming, type(transformer)), {})
    assert diagnose(model, check).findings[check].status == "SUPPORTED"


@pytest.mark.parametrize(("check", "why"), [("cache", MEANS_ELSE), ("prefill", MEANS_ELSE), ("decode", DOES_NOTHING)])
def test_a_cache_that_goes_unseen_is_silently_wrong(check: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "_cached_columns", lambda values: None)
    monkeypatch.setattr(positions.Sequence, "_contradiction", lambda *_: "")
    found = diagnose(TextModel(gpt2()), check).findings[check]
    assert found.status == WRONG
    assert found.why == why


@pytest.mark.parametrize("check", ["prefill", "decode"])
def test_a_cache_that_goes_unseen_is_told_from_the_mask(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "_cached_columns", lambda values: None)
    found = diagnose(TextModel(gpt2()), check).findings[check]
    assert found.status == "ERROR"
    assert "columns without a cache and a mask of" in found.why
