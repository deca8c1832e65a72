"""What stands around a model or its blocks changes no score, no edit and no answer; or it is refused in one line."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
    offload_wrapper,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

from kedit.edit.edit import Edit, EditWarning, active
from kedit.edit.operators import Zero
from kedit.internals.hooks import record
from kedit.internals.sites import Site
from kedit.internals.wrappers import call, checkpoints, evaluating
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.locate.target import Target
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import wrap
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet

PAIRS = [without(picture(f"star {place}", (place,)), STAR_CONCEPT) for place in (5, 9)]
IMAGES = [pair.sample.image for pair in PAIRS]
SOME = NeuronSet([(layer, index) for layer in range(3) for index in range(0, 24, 2)])


class Passing(nn.Module):
    """What FSDP leaves around a block when it wraps it: another name in every path below."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = wrapped

    def __getattr__(self, name: str) -> Any:
        own = name == "_fsdp_wrapped_module"
        return super().__getattr__(name) if own else getattr(self._fsdp_wrapped_module, name)

    def forward(self, *given: Any, **named: Any) -> Any:
        return self._fsdp_wrapped_module(*given, **named)


def scores(model: HuggingFaceMLLM) -> Tensor:
    locator = Locator({"s": Stage(GradCAM(), TopK(5))}, target=Target(on_missing="force"))
    return locator.score(model, PAIRS)["s"].values


def blocks(kind: Any, wrap_one: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return what wraps each block of a class in place."""
    return lambda module: apply_activation_checkpointing(
        module, checkpoint_wrapper_fn=wrap_one, check_fn=lambda one: isinstance(one, kind)
    )


def compiled_in_place(module: Any) -> None:
    for layer in module.model.language_model.layers:
        layer.compile(backend="eager")


def compiled_children(module: Any) -> None:
    layers = module.model.language_model.layers
    for number, layer in enumerate(layers):
        layers[number] = torch.compile(layer, backend="eager")


WRAPPED: dict[str, Callable[[Any], None]] = {
    "checkpoints": blocks(LlamaDecoderLayer, checkpoint_wrapper),
    "reentrant": blocks(LlamaDecoderLayer, partial(checkpoint_wrapper, checkpoint_impl=CheckpointImpl.REENTRANT)),
    "feed-forward": blocks(LlamaMLP, checkpoint_wrapper),
    "projections": blocks(nn.Linear, checkpoint_wrapper),
    "fsdp": blocks(LlamaDecoderLayer, Passing),
    "compiled": compiled_children,
    "compiled in place": compiled_in_place,
}


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def plain() -> HuggingFaceMLLM:
    return tiny("llava")


@pytest.fixture(scope="module")
def told(plain: HuggingFaceMLLM) -> tuple[Any, ...]:
    """What the model is without wrappers: scores, captions, and captions under an edit."""
    unedited = scores(plain), plain.caption(IMAGES)
    with Edit(SOME, Zero()).applied(plain):
        return *unedited, plain.caption(IMAGES)


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_blocks_have_the_scores_the_edits_and_the_answers_of_bare_ones(
    name: str, plain: HuggingFaceMLLM, told: tuple[Any, ...]
) -> None:
    module = copy.deepcopy(plain.module)
    WRAPPED[name](module)
    model = wrap(module, plain.processor, max_new_tokens=8)
    assert torch.equal(scores(model), told[0])
    assert model.caption(IMAGES) == told[1]
    with Edit(SOME, Zero()).applied(model):
        assert model.caption(IMAGES) == told[2] != told[1]


@pytest.mark.parametrize("around", [partial(torch.compile, backend="eager"), checkpoint_wrapper, offload_wrapper])
def test_a_wrapper_of_the_whole_model_is_taken_off(around: Any, plain: HuggingFaceMLLM) -> None:
    wrapped = around(plain.module)
    assert wrap(wrapped, plain.processor).module is plain.module
    assert HuggingFaceMLLM(wrapped, plain.processor).module is plain.module
    with Edit(SOME, Zero()).applied(wrapped):
        assert len(active(plain.module)) == len(active(wrapped)) == 1
        plain.caption(IMAGES[:1])


def test_a_model_that_is_spread_over_devices_is_refused_with_what_to_pass(plain: HuggingFaceMLLM) -> None:
    spread = nn.DataParallel(plain.module)
    for refused in (lambda: wrap(spread, plain.processor), lambda: HuggingFaceMLLM(spread, plain.processor)):
        with pytest.raises(ValueError, match=r"inside a DataParallel, .* pass `\.module`, the whole model in it"):
            refused()


def test_an_edit_by_position_of_a_model_that_is_spread_is_that_of_the_model(plain: HuggingFaceMLLM) -> None:
    spread, inputs = nn.DataParallel(plain.module), plain.teacher_forced(IMAGES, [(), ()]).inputs
    with Edit(SOME, Zero(), "text").applied(plain):
        wanted = plain.module(**inputs).logits
    with Edit(SOME, Zero(), "text").applied(spread):
        assert torch.equal(spread(**inputs).logits, wanted)


def test_virtual_tokens_are_refused_since_they_shift_every_position(plain: HuggingFaceMLLM) -> None:
    module = copy.deepcopy(plain.module)
    module.peft_config = {"default": SimpleNamespace(num_virtual_tokens=8, peft_type="PeftType.PROMPT_TUNING")}  # type: ignore[assignment]
    for refused in (lambda: wrap(module, plain.processor), lambda: Edit(SOME, Zero()).applied(module).__enter__()):
        with pytest.raises(ValueError, match=r"adapter \(PROMPT_TUNING\) puts 8 virtual tokens before the prompt"):
            refused()


def test_checkpoints_are_set_aside_while_a_model_is_read_and_come_back(plain: HuggingFaceMLLM) -> None:
    module = copy.deepcopy(plain.module)
    WRAPPED["checkpoints"](module)
    module.grad_checkpointing = True  # type: ignore[assignment]  # as timm's towers have it
    before = [vars(one).get("checkpoint_fn") for one in module.modules()]
    assert checkpoints(module)
    with evaluating(module):
        assert not checkpoints(module)
        with evaluating(module):
            assert [one for one in map(vars, module.modules()) if one.get("checkpoint_fn", call) is not call] == []
        assert not module.grad_checkpointing
    assert module.grad_checkpointing
    assert [vars(one).get("checkpoint_fn") for one in module.modules()] == before


def test_gradients_that_the_user_takes_through_checkpoints_are_the_edited_ones(plain: HuggingFaceMLLM) -> None:
    module = copy.deepcopy(plain.module).requires_grad_(True)
    inputs = plain.teacher_forced(IMAGES[:1], [()]).inputs
    found = []
    for wrapped in (False, True):
        if wrapped:
            WRAPPED["checkpoints"](module)
        module.zero_grad()
        with Edit(SOME, Zero()).applied(module):
            module(**inputs).logits[0, -1].max().backward()
        found.append({path: one.grad.clone() for path, one in module.named_parameters() if one.grad is not None})
    first, second = (
        {path.replace("_checkpoint_wrapped_module.", ""): one for path, one in some.items()} for some in found
    )
    assert first.keys() == second.keys()
    assert all(torch.allclose(one, second[path]) for path, one in first.items())


def test_a_backward_pass_that_is_left_for_later_is_told_of_through_checkpoints(plain: HuggingFaceMLLM) -> None:
    module = copy.deepcopy(plain.module).requires_grad_(True)
    WRAPPED["checkpoints"](module)
    inputs = plain.teacher_forced(IMAGES[:1], [()]).inputs
    with (
        pytest.warns(EditWarning, match="computes blocks again in the backward pass"),
        Edit(SOME, Zero()).applied(module),
    ):
        module(**inputs)


# --- torch's own encoder, which packs padded rows


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation=nn.GELU())
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, ids: Tensor, padding: Tensor | None = None) -> Tensor:
        found: Tensor = self.head(self.encoder(self.embedding(ids), src_key_padding_mask=padding))
        return found


@pytest.fixture
def encoder() -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder().eval().requires_grad_(False)


IDS = torch.arange(12).view(2, 6)
PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])


@pytest.mark.parametrize("padding", [None, PADDING], ids=["whole rows", "padding"])
@pytest.mark.parametrize("layer", [0, 1])
def test_an_edit_of_torchs_encoder_is_a_zeroed_weight(layer: int, padding: Tensor | None, encoder: Encoder) -> None:
    kept = torch.ones_like(PADDING) if padding is None else ~padding
    by_hand = copy.deepcopy(encoder)
    by_hand.encoder.layers[layer].linear2.weight.zero_()  # type: ignore[operator, union-attr]
    whole = NeuronSet([NeuronId(layer, index) for index in range(32)])
    plain = encoder(IDS, padding)
    with Edit(whole, Zero()).applied(encoder):
        edited = encoder(IDS, padding)
    assert torch.allclose(edited[kept], by_hand(IDS, padding)[kept], atol=1e-6)
    assert not torch.allclose(edited[kept], plain[kept], atol=1e-3)
    assert torch.equal(encoder(IDS, padding), plain)


@pytest.mark.parametrize("name", ["mid", "act"])
def test_what_torchs_encoder_computes_is_recorded_row_by_row(name: Any, encoder: Encoder) -> None:
    with record(encoder, Site.of(encoder, name)) as padded:
        encoder(IDS, PADDING)
    with record(encoder, Site.of(encoder, name)) as alone:
        encoder(IDS[1:, :4])
    assert all(torch.allclose(padded[layer][1, :4], alone[layer][0], atol=1e-6) for layer in (0, 1))


def test_torchs_encoder_packs_rows_again_when_the_last_intervention_ends_in_any_order(encoder: Encoder) -> None:
    site = Site.of(encoder)
    first, second = record(encoder, site), record(encoder, site)
    assert encoder.encoder.use_nested_tensor
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not encoder.encoder.use_nested_tensor
    second.__exit__(None, None, None)
    assert encoder.encoder.use_nested_tensor


def test_a_nested_tensor_of_the_users_is_refused_in_one_line(encoder: Encoder) -> None:
    # The layers alone: the encoder would pack the rows itself.
    layer = encoder.encoder.layers[0]
    rows = torch.nested.nested_tensor([torch.randn(3, 16), torch.randn(5, 16)])

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([layer])

        def forward(self, rows: Tensor) -> Tensor:
            return layer.linear2(layer.linear1(rows))  # type: ignore[no-any-return, operator, union-attr]

    module = Alone()
    with (
        pytest.raises(ValueError, match=r"called with a nested tensor, .* call it with padded rows and their mask"),
        record(module, Site.of(module)),
    ):
        module(rows)
