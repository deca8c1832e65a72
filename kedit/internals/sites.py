"""Where neurons live: which tensor of which feed-forward blocks, in which part of a model."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

from torch import Tensor, nn

from kedit.internals.block_stacks import SiteError as SiteError
from kedit.internals.block_stacks import embedding_path as embedding_path
from kedit.internals.block_stacks import find_block_stacks, language_among
from kedit.internals.blocks import FeedForward, is_closed, is_fused
from kedit.internals.blocks import feed_forwards as feed_forwards_by_scope
from kedit.internals.weights import WRAPPED, weight_of
from kedit.neurons import NeuronId, Scope, SiteName

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """Which tensor of which feed-forward blocks holds the neurons.

    `mid` is the input of the output projection (after the gate's product): zeroing, scaling and amplifying
    it is exactly an edit of a column of that weight. `act` is the output of the activation function
    and `pre` its input; in an ungated block `act` equals `mid`.

    Where an adapter stands around the projection, `mid` is what goes into the adapter, as into the weight that merging
    would leave: what IA3 multiplies the activations with belongs to the weight.
    """

    name: SiteName
    blocks: Mapping[int, FeedForward]
    scope: Scope = "language"

    @classmethod
    def of(cls, module: nn.Module, name: SiteName = "mid", scope: Scope = "language") -> "Site":
        """Find the site `name` in a part of `module`; a SiteError says what is missing.

        Args:
            module: Any model of transformers, or a module of the user's own.
            name: The tensor.
            scope: The part. `all` counts the language model's layers first, so that they have the numbers they have
                alone, and then those of the other parts in the module's order.
        """
        if name not in ("mid", "act", "pre"):
            raise SiteError(f"no site `{name}`; a site is `mid`, `act` or `pre`")
        blocks = {block.layer: block for block in feed_forwards(module, scope)}
        bare = [block.output for block in blocks.values() if block.activation is None]
        if name != "mid" and bare:
            raise SiteError(f"site `{name}` needs an activation module, and `{bare[0]}` has none beside it; use `mid`")
        site = cls(name, blocks, scope)
        site._refuse_shared(module)
        _tell_of_closed_experts(module)
        return site

    @cached_property
    def widths(self) -> dict[int, int]:
        """The number of neurons of each layer."""
        return {layer: block.width for layer, block in self.blocks.items()}

    @property
    def n_neurons(self) -> int:
        """The number of neurons in all layers."""
        return sum(self.widths.values())

    def by_layer_number(self, rows: Tensor) -> Tensor:
        """Return a row for each layer from 0 on, `[layer, neuron]`, from one for each block, `[block, neuron]`.

        Layers without neurons get NaN.
        """
        numbers = list(self.blocks)
        placed = rows.new_full((max(numbers) + 1, rows.shape[1]), math.nan)
        placed[numbers] = rows
        return placed

    def block(self, layer: int) -> FeedForward:
        """Return the block of `layer`; a SiteError names the layers there are."""
        if layer not in self.blocks:
            first, last = min(self.blocks), max(self.blocks)
            known = f"{first} to {last}" if len(self.blocks) == last - first + 1 else str(sorted(self.blocks))
            raise SiteError(f"no layer {layer} with neurons; the model has layers {known}")
        return self.blocks[layer]

    def module_path(self, layer: int) -> str:
        """Return the path of the module at whose input or output the neurons are seen, or that holds the experts."""
        block = self.block(layer)
        return block.output if self.name == "mid" else str(block.activation)

    def expert(self, one: NeuronId) -> tuple[int, int, int] | None:
        """Return layer, expert and index within the expert; None for a neuron of an ordinary block."""
        block = self._block_of(one)
        return block.experts and (one.layer, *divmod(one.index, block.width // block.experts))  # type: ignore[return-value]

    def label(self, one: NeuronId) -> str:
        """Return the neuron's name for tables: `3.17`, or `3.e5.17` for neuron 17 of expert 5."""
        found = self.expert(one)
        return f"{one.layer}.{one.index}" if found is None else f"{found[0]}.e{found[1]}.{found[2]}"

    def of_expert(self, layer: int, expert: int, index: int) -> NeuronId:
        """Return the identifier of neuron `index` of an expert."""
        block = self.block(layer)
        if block.experts is None:
            raise SiteError(f"layer {layer} has no experts but one feed-forward block, `{block.output}`")
        width = block.width // block.experts
        if not (0 <= expert < block.experts and 0 <= index < width):
            raise SiteError(f"no neuron {index} of expert {expert} in layer {layer}: {block.experts} experts x {width}")
        return NeuronId(layer, expert * width + index)

    def value_vector(self, module: nn.Module, one: NeuronId) -> Tensor:
        """Return what the neuron writes into the stream, or a norm before it, for an activation of 1: `[d_model]`.

        An expert's is what it writes with a routing weight of 1. The result is a view of the weight where that is
        what the module multiplies with; see `kedit.internals.weights.weight_of`.
        """
        found = self.expert(one)
        if found is None:
            return self.value_matrix(module, one.layer)[one.index]
        return _values_of_experts(module, self.block(one.layer).output)[found[1], found[2]]

    def value_matrix(self, module: nn.Module, layer: int) -> Tensor:
        """Return the value vectors of all neurons of `layer`: `[neuron, d_model]`; a copy where there are experts.

        Raises:
            SiteError: They cannot be read; the message names the module.
        """
        block = self.block(layer)
        if block.experts is not None:
            return _values_of_experts(module, block.output).flatten(0, 1)
        return weight_of(module.get_submodule(block.output), block.output).T

    def _block_of(self, one: NeuronId) -> FeedForward:
        block = self.block(one.layer)
        if not 0 <= one.index < block.width:
            raise SiteError(f"no neuron {one.index} in layer {one.layer}, which has {block.width}")
        return block

    def _refuse_shared(self, module: nn.Module) -> None:
        """Raise where two layers run the same module: a hook could not tell whose neurons it sees."""
        seen: dict[nn.Module, int] = {}
        for layer in self.blocks:
            other = seen.setdefault(module.get_submodule(self.module_path(layer)), layer)
            if other != layer:
                raise SiteError(
                    f"layers {other} and {layer} share the module `{self.module_path(layer)}`, so their neurons at "
                    f"site `{self.name}` cannot be told apart" + ("" if self.name == "mid" else "; use `mid`")
                )


def feed_forwards(module: nn.Module, scope: Scope = "language") -> list[FeedForward]:
    """Return the feed-forward blocks of a part of `module`, by layer; a SiteError names the parts that have any."""
    if scope not in get_args(Scope):
        raise SiteError(f"no scope `{scope}`; a scope is one of {', '.join(get_args(Scope))}")
    if scope != "all" and (found := feed_forwards_by_scope(module, scope).get(scope)):
        return sorted(found, key=lambda block: block.layer)
    by_scope = feed_forwards_by_scope(module)
    if not by_scope:
        stacks = find_block_stacks(module)
        searched = f"{sum(map(len, stacks.values()))} blocks searched"
        raise SiteError(f"no feed-forward block in `{'`, `'.join(stacks)}` of {type(module).__name__}: {searched}")
    if scope == "all":
        others = [blocks for part, blocks in by_scope.items() if part != "language"]
        return _counted_on([by_scope.get("language", []), *others])
    raise SiteError(f"{type(module).__name__} has no neurons in scope `{scope}`; it has {', '.join(by_scope)}")


def decoder_path(module: nn.Module) -> str:
    """Return the path of the module that owns the language model's stack of blocks, the decoder's if there are two."""
    return language_paths(module)[-1]


def language_paths(module: nn.Module) -> list[str]:
    """Return the paths of the modules that own the language model's stacks of blocks, in order."""
    blocks = feed_forwards_by_scope(module, "language").get("language", [])
    stacks = language_among(module, list(find_block_stacks(module)))
    used = [path for path in stacks if any(block.output.startswith(f"{path}.") for block in blocks)]
    return list(dict.fromkeys(path.rpartition(".")[0] for path in used or stacks))


def _counted_on(parts: list[list[FeedForward]]) -> list[FeedForward]:
    """Return the blocks of all parts, each part numbered behind the one before it."""
    counted: list[FeedForward] = []
    for blocks in parts:
        start = max((block.layer for block in counted), default=-1) + 1
        ordered = sorted(blocks, key=lambda block: block.layer)
        counted += [replace(block, layer=start + block.layer) for block in ordered]
    return counted


def _values_of_experts(module: nn.Module, path: str) -> Tensor:
    """Return `[expert, neuron, d_model]`, a view of the weight; a SiteError where it is not what they multiply with."""
    experts = module.get_submodule(path)
    if wrapped := [name for name in WRAPPED if name in path.split(".")]:
        outer = path.partition(f".{wrapped[0]}")[0]
        raise SiteError(
            f"the experts `{outer}` are inside an adapter ({type(module.get_submodule(outer)).__name__}), so what "
            "their neurons write cannot be read; merge it into the model (`merge_and_unload()`)"
        )
    weight = experts.down_proj
    assert isinstance(weight, Tensor)
    return weight if experts.is_transposed else weight.transpose(1, 2)


def _tell_of_closed_experts(module: nn.Module) -> None:
    closed = [path for path, one in module.named_modules() if is_fused(one) and is_closed(one)]
    if closed:
        logger.warning(
            "the experts of %d layers, such as `%s` (%s), leave no place for a hook between their two weights: "
            "their neurons are left out",
            len(closed),
            closed[0],
            type(module.get_submodule(closed[0])).__name__,
        )
