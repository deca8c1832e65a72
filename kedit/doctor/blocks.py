"""Where the neurons are, and whether what is recorded there is what the feed-forward block computes with."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, at_most
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.internals.block_stacks import find_block_stacks, language_among
from kedit.internals.blocks import FeedForward, feed_forwards
from kedit.internals.hooks import after, before, record
from kedit.internals.weights import unwrapped
from kedit.neurons import NeuronId

COLUMNS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The types of weight whose columns can be read and written; others are quantized."""
Given = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of a call."""


def sites(under_test: ModelUnderTest) -> Finding:
    """Count the language model's blocks in which there are neurons, and all that it has."""
    under_test.site  # noqa: B018 - a SiteError says why there is none
    by_scope = feed_forwards(under_test.module)
    stacks = find_block_stacks(under_test.module)
    mine = [
        f"{path}.{n}." for path in language_among(under_test.module, list(stacks)) for n in range(len(stacks[path]))
    ]
    covered = [path for path in mine if any(block.output.startswith(path) for block in by_scope["language"])]
    there = max(len(mine), _described_layers(under_test.module))
    what = f"blocks with neurons; {', '.join(f'{scope} {_summed(blocks)}' for scope, blocks in by_scope.items())}"
    if len(covered) >= there:
        return Finding("SUPPORTED", "", len(covered), there, ">=", what)
    why = f"the neurons of {there - len(covered)} of {there} layers cannot be found, and are never located nor edited"
    return Finding("DEGRADED", why, len(covered), there, ">=", what)


def recorded(under_test: ModelUnderTest) -> Finding:
    """Apply each output projection's weight and bias to what was recorded, and compare with what it returned."""
    module, blocks = under_test.module, under_test.site.blocks
    given: dict[int, Given] = {}
    written: dict[int, Tensor] = {}
    with ExitStack() as attached:
        for layer, block in blocks.items():
            take = lambda args, kwargs, layer=layer: given.__setitem__(layer, (args, kwargs))  # noqa: E731
            keep = lambda output, layer=layer: written.__setitem__(layer, output.detach().clone())  # noqa: E731
            attached.enter_context(before(module, block.output, take))
            attached.enter_context(after(module, block.output, keep))
        activations = attached.enter_context(record(module, under_test.site))
        under_test.logits()
    if idle := sorted(blocks.keys() - activations.keys()):
        return _never_ran(under_test, idle)
    gaps = {
        layer: gap(_applied(under_test, layer, activations[layer], given[layer]), written[layer]) for layer in blocks
    }
    worst = max(gaps, key=lambda layer: gaps[layer])
    return at_most(
        gaps[worst], under_test.tolerance, f"difference of recorded x weight and the projection's output, {SHARE}",
        f"`{blocks[worst].output}` does not compute with what is recorded at its input",
    )  # fmt: skip


def unreadable(under_test: ModelUnderTest, layer: int) -> str:
    """Return why the columns of the output projection's weight cannot be read and written; empty where they can."""
    from accelerate.utils import has_offloaded_params

    projection = under_test.module.get_submodule(under_test.site.blocks[layer].output)
    weights = list(projection.parameters(recurse=False))
    if any(one.is_meta for one in weights) or has_offloaded_params(projection):
        return "the weight is offloaded, and what is written to it would be lost"
    odd = [one.dtype for one in weights if one.dtype not in COLUMNS]
    if not weights and unwrapped(projection) is not projection:
        return f"the weight is inside an adapter ({type(projection).__name__})"
    if odd or not weights:
        return f"the weight is quantized ({odd[0] if odd else 'no parameter'} in {type(projection).__name__})"
    vector = under_test.site.value_vector(under_test.module, NeuronId(layer, 0)).untyped_storage().data_ptr()
    if vector not in [one.untyped_storage().data_ptr() for one in weights]:
        return f"{type(projection).__name__} keeps its weight in another form"
    return ""


def silent(under_test: ModelUnderTest, layer: int) -> bool:
    """Return whether the layer's neurons write nothing, since the weight of its output projection is zero."""
    return not unreadable(under_test, layer) and not bool(under_test.site.value_matrix(under_test.module, layer).any())


@torch.no_grad()
def _applied(under_test: ModelUnderTest, layer: int, activations: Tensor, given: Given) -> Tensor:
    """Return what the output projection of `layer` makes of `activations`, by its weight where that can be read."""
    block = under_test.site.blocks[layer]
    projection: Any = under_test.module.get_submodule(block.output)
    if unreadable(under_test, layer):
        own: Tensor = type(projection).forward(projection, activations)
        return own
    values = under_test.site.value_matrix(under_test.module, layer).double()
    if block.experts is not None:
        return _mixed(projection, block.experts, activations.double(), values, given)
    product: Tensor = activations.double() @ values
    bias = getattr(projection, "bias", None)
    return product if bias is None else product + bias.double()


def _mixed(experts: Any, n_experts: int, activations: Tensor, values: Tensor, given: Given) -> Tensor:
    """Return what each expert makes of its neurons, weighted as the router said: `[token, d_model]`."""
    inputs = dict(zip(("hidden_states", "top_k_index", "top_k_weights"), given[0], strict=False)) | given[1]
    weights = inputs["top_k_weights"].double()
    routed = weights.new_zeros(len(activations), n_experts).scatter(1, inputs["top_k_index"], weights)
    mixed: Tensor = (activations.unflatten(1, (n_experts, -1)) * routed[..., None]).flatten(1) @ values
    bias = getattr(experts, "down_proj_bias", None)
    if bias is not None:
        mixed = mixed + routed @ bias.double()
    return mixed


def _never_ran(under_test: ModelUnderTest, idle: list[int]) -> Finding:
    path = under_test.site.blocks[idle[0]].output
    return at_most(
        len(idle), 0, "layers whose output projection never ran",
        f"`{path}` is passed by (layers {', '.join(map(str, idle))}): nothing is recorded and edits do nothing there",
    )  # fmt: skip


def _described_layers(module: nn.Module) -> int:
    """Return how many layers the configuration gives the language model; 0 where it does not say."""
    described: Any = getattr(module, "config", None)
    text = described.get_text_config() if hasattr(described, "get_text_config") else described
    found = getattr(text, "num_hidden_layers", None)
    return found if isinstance(found, int) else 0


def _summed(blocks: Sequence[FeedForward]) -> str:
    """Return how many layers there are of which widths, as in `3 x 24`."""
    widths = sorted({block.width for block in blocks})
    return f"{len(blocks)} x {widths[0]}" if len(widths) == 1 else f"{len(blocks)} x {widths[0]} to {widths[-1]}"
