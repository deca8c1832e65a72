"""Where neurons live: the feed-forward blocks of a model, found by their structure.

The rule reads shapes and parentage, not names: in a stack of blocks, the output projection of a feed-forward
block is a linear map onto the residual stream whose input another linear map of the same parent makes out of the
residual stream. Attention is left out; a gate is recognized by a second map, or one of double width.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from kedit.neurons import NeuronId, SiteName
from kedit.weights import weight_of

MIXER = re.compile(r"attn|attention|mamba|ssm|rwkv", re.IGNORECASE)
"""Attribute and class names of what mixes positions: never a feed-forward block."""
FEED_FORWARD = re.compile(r"mlp|feed_?forward|ffn|\bff\b|dense|intermediate|expert|fc2|output", re.IGNORECASE)


class SiteError(LookupError):
    """The model has no such place for neurons."""


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward block: the paths of its output projection and of its activation function."""

    layer: int
    output: str
    activation: str | None
    width: int
    """The number of neurons."""


@dataclass(frozen=True)
class Linear:
    """A linear map found in a block; `n_in` and `n_out` are its feature counts."""

    path: str
    n_in: int
    n_out: int

    @property
    def parent(self) -> str:
        """The path of the module that holds the map."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True)
class Site:
    """Which tensor of which feed-forward blocks holds the neurons.

    `mid` is the input of the output projection (after the gate's product): zeroing, scaling and amplifying
    it is exactly an edit of a column of that weight. `act` is the output of the activation function
    and `pre` its input; in an ungated block `act` equals `mid`.
    """

    name: SiteName
    blocks: Mapping[int, FeedForward]

    @classmethod
    def of(cls, module: nn.Module, name: SiteName = "mid") -> "Site":
        """Find the site `name` in the language model of `module`; a SiteError says what is missing."""
        if name not in ("mid", "act", "pre"):
            raise SiteError(f"no site `{name}`; a site is `mid`, `act` or `pre`")
        blocks = {block.layer: block for block in feed_forwards(module)}
        bare = [block.output for block in blocks.values() if block.activation is None]
        if name != "mid" and bare:
            raise SiteError(f"site `{name}` needs an activation module, and `{bare[0]}` has none beside it; use `mid`")
        site = cls(name, blocks)
        site._refuse_shared(module)
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
        placed = rows.new_full((max(self.blocks) + 1, rows.shape[1]), math.nan)
        placed[list(self.blocks)] = rows
        return placed

    def block(self, layer: int) -> FeedForward:
        """Return the block of `layer`; a SiteError names the layers there are."""
        if layer not in self.blocks:
            first, last = min(self.blocks), max(self.blocks)
            known = f"{first} to {last}" if len(self.blocks) == last - first + 1 else str(sorted(self.blocks))
            raise SiteError(f"no layer {layer} with neurons; the model has layers {known}")
        return self.blocks[layer]

    def module_path(self, layer: int) -> str:
        """Return the path of the module at whose input or output the neurons are seen."""
        block = self.block(layer)
        return block.output if self.name == "mid" else str(block.activation)

    def value_vector(self, module: nn.Module, one: NeuronId) -> Tensor:
        """Return what the neuron writes into the residual stream, for an activation of 1: `[d_model]`."""
        block = self.block(one.layer)
        if not 0 <= one.index < block.width:
            raise SiteError(f"no neuron {one.index} in layer {one.layer}, which has {block.width}")
        return self.value_matrix(module, one.layer)[one.index]

    def value_matrix(self, module: nn.Module, layer: int) -> Tensor:
        """Return the value vectors of all neurons of `layer`: `[neuron, d_model]`."""
        output = module.get_submodule(self.block(layer).output)
        weight = weight_of(output, self.block(layer).output)
        return weight if _is_conv1d(output) else weight.T

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


def feed_forwards(module: nn.Module) -> list[FeedForward]:
    """Return the feed-forward blocks of the language model in `module`, by layer."""
    path, stack = _language_stack(module)
    found = [one for layer, block in enumerate(stack) for one in _in_block(layer, f"{path}.{layer}", block, module)]
    if not found:
        raise SiteError(f"no feed-forward block in `{path}` of {type(module).__name__}: {len(stack)} blocks searched")
    return found


def decoder_path(module: nn.Module) -> str:
    """Return the path of the module that owns the language model's stack of blocks."""
    return _language_stack(module)[0].rpartition(".")[0]


def embedding_path(module: nn.Module) -> str | None:
    """Return the path of the token embedding: the one the model names, else the largest."""
    named = getattr(module, "get_input_embeddings", None)
    if named is not None:
        own = named()
        found = [path for path, one in module.named_modules() if one is own]
        if found:
            return str(found[0])
    sizes = {path: one.num_embeddings for path, one in module.named_modules() if isinstance(one, nn.Embedding)}
    return max(sizes, key=lambda path: sizes[path], default=None)


def _language_stack(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the outermost stack of blocks that lives nearest to the token embedding."""
    stacks: dict[str, nn.ModuleList] = {}
    for path, one in module.named_modules():
        inside = any(path.startswith(outer + ".") for outer in stacks)
        if isinstance(one, nn.ModuleList) and len(one) and not inside and not MIXER.search(path):
            stacks[path] = one
    if not stacks:
        raise SiteError(f"{type(module).__name__} has no stack of blocks (a non-empty ModuleList)")
    embedding = (embedding_path(module) or "").split(".")

    def shared(path: str) -> int:
        parts = path.split(".")
        return next((i for i, (a, b) in enumerate(zip(parts, embedding, strict=False)) if a != b), len(parts))

    nearest = max(shared(path) for path in stacks)
    best = {path: stack for path, stack in stacks.items() if shared(path) == nearest}
    path = max(best, key=lambda path: len(best[path]))
    return path, best[path]


def _in_block(layer: int, path: str, block: nn.Module, root: nn.Module) -> Iterator[FeedForward]:
    linears = list(_linears(path, block))
    if not linears:
        return
    width = _residual_width(block) or _embedding_width(root) or linears[0].n_in
    outputs = [one for number, one in enumerate(linears) if one.n_out == width and _has_input(one, linears[:number])]
    named = [one for one in outputs if FEED_FORWARD.search(one.path.removeprefix(path))]
    for one in (named or outputs)[-1:]:
        yield FeedForward(layer, one.path, _activation(one, linears, root), one.n_in)


def _linears(path: str, module: nn.Module) -> Iterator[Linear]:
    """Yield the linear maps below `module` in order, attention left out."""
    for name, child in module.named_children():
        if MIXER.search(name) or MIXER.search(type(child).__name__):
            continue
        if _is_conv1d(child):
            weight = child.weight
            assert isinstance(weight, Tensor)
            yield Linear(f"{path}.{name}", weight.shape[0], weight.shape[1])
        elif isinstance(getattr(child, "in_features", None), int):
            yield Linear(f"{path}.{name}", int(child.in_features), int(child.out_features))  # type: ignore[arg-type]
        else:
            yield from _linears(f"{path}.{name}", child)


def _is_conv1d(module: nn.Module) -> bool:
    """Return whether the weight is stored `[in, out]`, as GPT-2's Conv1D does."""
    return type(module).__name__ == "Conv1D"


def _residual_width(block: nn.Module) -> int | None:
    sizes = [
        int(weight.numel())
        for path, one in block.named_modules()
        if "norm" in type(one).__name__.lower() and not MIXER.search(path)
        and isinstance(weight := getattr(one, "weight", None), Tensor) and weight.ndim == 1
    ]  # fmt: skip
    return Counter(sizes).most_common(1)[0][0] if sizes else None


def _embedding_width(root: nn.Module) -> int | None:
    path = embedding_path(root)
    return None if path is None else int(root.get_submodule(path).embedding_dim)  # type: ignore[arg-type]


def _has_input(output: Linear, earlier: list[Linear]) -> bool:
    """Return whether one of the earlier maps makes the input of `output` out of the residual stream."""
    grandparent = output.parent.rpartition(".")[0]
    return any(
        one.n_in == output.n_out
        and one.n_out in (output.n_in, 2 * output.n_in)
        and (one.parent == output.parent or one.parent.rpartition(".")[0] == grandparent)
        for one in earlier
    )


def _activation(output: Linear, linears: list[Linear], root: nn.Module) -> str | None:
    """Return the path of the activation module beside the block's linear maps, if there is one."""
    parents = [output.parent]
    parents += [one.parent for one in reversed(linears) if one.parent != output.parent and _has_input(output, [one])]
    for parent in parents:
        for name, child in root.get_submodule(parent).named_children():
            is_activation = "act" in name or type(child).__module__ == "torch.nn.modules.activation"
            if is_activation and not any(True for _ in child.parameters()):
                return f"{parent}.{name}"
    return None
