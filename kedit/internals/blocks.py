"""The feed-forward blocks of a model, read from shapes and parentage.

In a stack of blocks, the output projection of a feed-forward block is a linear map onto the residual stream whose
input another linear map of the same parent makes out of the residual stream. Attention is left out; a gate is
recognized by a second map, or one of double width. Experts that are stored as one weight of three axes are one block.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from kedit.internals.block_stacks import MIXER, embedding_path, find_block_stacks, named_by_model, scopes_of
from kedit.internals.weights import features_of, unwrapped
from kedit.neurons import Scope

FEED_FORWARD = re.compile(r"mlp|feed_?forward|ffn|\bff\b|dense|intermediate|expert|fc2|output", re.IGNORECASE)
AFTER_A_TOWER = re.compile(r"head|classif|pool|predict|score|time", re.IGNORECASE)
"""Names of two linear maps that are no projector though they stand outside every stack."""


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward block: the paths of its output projection and of its activation function."""

    layer: int
    output: str
    activation: str | None
    width: int
    """The number of neurons; with experts, of all of them together."""
    scope: Scope = "language"
    experts: int | None = None
    """How many experts share the one module `output`, as many neurons each, expert by expert."""


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


def feed_forwards(module: nn.Module, only: Scope | None = None) -> dict[Scope, list[FeedForward]]:
    """Return the feed-forward blocks of each scope that has any, numbered from 0 in each; or of one scope `only`.

    A block of a stack has the number of its place in it; where a scope has several stacks, as an encoder and a
    decoder, the second goes on where the first ends. Of several feed-forward blocks in one, the experts or else the
    last has that number, and the others follow behind all stacks.
    """
    stacks = find_block_stacks(module)
    found: dict[Scope, list[FeedForward]] = {}
    behind: dict[Scope, list[FeedForward]] = {}
    start: Counter[Scope] = Counter()
    for path, scope in scopes_of(module, list(stacks)).items():
        stack = stacks[path]
        if scope is None or only not in (None, scope):
            continue
        blocks = [_in_block(f"{path}.{number}", block, module) for number, block in enumerate(stack)]
        for number, several in enumerate(blocks):
            numbered = [replace(one, layer=start[scope] + number, scope=scope) for one in several]
            found.setdefault(scope, []).extend(numbered[:1])
            behind.setdefault(scope, []).extend(numbered[1:])
        start[scope] += len(stack) if any(blocks) else 0
    if only in (None, "projector"):
        behind.setdefault("projector", []).extend(_outside(module, list(stacks)))
    for scope, more in behind.items():
        found.setdefault(scope, []).extend(replace(one, layer=start[scope] + n) for n, one in enumerate(more))
    return {scope: blocks for scope, blocks in found.items() if blocks}


def _outside(root: nn.Module, stacks: Sequence[str]) -> Iterator[FeedForward]:
    """Yield the feed-forward blocks beside the stacks, two linear maps and an activation: the projectors."""
    head = named_by_model(root, "get_output_embeddings")
    for path, module in root.named_modules():
        if any(path.startswith(f"{stack}.") for stack in stacks) or AFTER_A_TOWER.search(path) or MIXER.search(path):
            continue
        children = ((f"{path}.{name}".lstrip("."), child) for name, child in module.named_children())
        linears = [one for at, child in children if (one := _linear(at, child)) is not None]
        if len(linears) < 2 or any(root.get_submodule(one.path) is head for one in linears):
            continue
        last, activation = linears[-1], _activation(linears[-1], linears, root)
        if activation is not None and any(one.n_out in (last.n_in, 2 * last.n_in) for one in linears[:-1]):
            yield FeedForward(0, last.path, activation, last.n_in, "projector")


def _in_block(path: str, block: nn.Module, root: nn.Module) -> list[FeedForward]:
    """Return the feed-forward blocks in a block: the experts or else the last one first, then the others in order."""
    linears = list(_linears(path, block))
    experts = list(_experts(path, block))
    if not linears and not experts:
        return []
    width = _residual_width(block) or _embedding_width(root) or (linears[0].n_in if linears else 0)
    outputs = [one for number, one in enumerate(linears) if one.n_out == width and _has_input(one, linears[:number])]
    named = [one for one in outputs if FEED_FORWARD.search(one.path.removeprefix(path))]
    last = {one.parent: one for one in named or outputs}
    found = [FeedForward(0, one.path, _activation(one, linears, root), one.n_in) for one in last.values()]
    return [*experts, *found] if experts else [*found[-1:], *found[:-1]]


def _experts(path: str, block: nn.Module) -> Iterator[FeedForward]:
    """Yield the modules below `block` that hold the weights of several experts as one, and can be reached by hooks."""
    for name, one in block.named_modules():
        weight = getattr(one, "down_proj", None)
        if is_fused(one) and not is_closed(one):
            assert isinstance(weight, Tensor)
            width = weight.shape[1 if one.is_transposed else 2]
            yield FeedForward(0, f"{path}.{name}".rstrip("."), None, len(weight) * width, experts=len(weight))


def is_fused(module: nn.Module) -> bool:
    """Return whether the module holds the weights of several experts as one of three axes."""
    weight = getattr(module, "down_proj", None)
    return isinstance(weight, Tensor) and weight.ndim == 3


def is_closed(experts: nn.Module) -> bool:
    """Return whether the experts go from their input to their output in one step, as Llama 4's: no hook fits in."""
    return not all(hasattr(experts, name) for name in ("_apply_gate", "has_gate", "is_transposed"))


def _linears(path: str, module: nn.Module) -> Iterator[Linear]:
    """Yield the linear maps below `module` in order, attention left out."""
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        if MIXER.search(name) or MIXER.search(type(child).__name__):
            continue
        one, inner = _linear(here, child), unwrapped(child)
        if one is not None:
            yield one
        elif inner is child:
            yield from _linears(here, child)
        else:  # not the adapter's own maps
            yield from _linears(next(path for path, part in child.named_modules(prefix=here) if part is inner), inner)


def _linear(path: str, module: nn.Module) -> Linear | None:
    """Return the linear map that `module` is, plain, transposed, packed or inside an adapter; else None."""
    features = features_of(module)
    return None if features is None else Linear(path, *features)


def _residual_width(block: nn.Module) -> int | None:
    sizes = [
        int(weight.numel())
        for path, one in block.named_modules()
        if "norm" in type(one).__name__.lower() and not MIXER.search(path.rpartition(".")[0])
        and isinstance(weight := getattr(one, "weight", None), Tensor) and weight.ndim == 1
    ]  # fmt: skip
    return Counter(sizes).most_common(1)[0][0] if sizes else None


def _embedding_width(root: nn.Module) -> int | None:
    path = embedding_path(root)
    return None if path is None else int(unwrapped(root.get_submodule(path)).embedding_dim)  # type: ignore[arg-type]


def _has_input(output: Linear, earlier: Sequence[Linear]) -> bool:
    """Return whether one of the earlier maps makes the input of `output` out of the residual stream."""
    return any(one.n_in == output.n_out and _feeds(one, output) for one in earlier)


def _feeds(one: Linear, output: Linear) -> bool:
    """Return whether `one` can make the input of `output`: of a fitting size, and beside it or its parent."""
    grandparent = output.parent.rpartition(".")[0]
    beside = one.parent == output.parent or one.parent.rpartition(".")[0] == grandparent
    return beside and one.n_out in (output.n_in, 2 * output.n_in)


def _activation(output: Linear, linears: Sequence[Linear], root: nn.Module) -> str | None:
    """Return the path of the activation module beside the block's linear maps, if there is one."""
    earlier = linears[: linears.index(output)]
    parents = [output.parent, *(one.parent for one in reversed(earlier) if _feeds(one, output))]
    for parent in dict.fromkeys(parents):
        for name, child in root.get_submodule(parent).named_children():
            is_activation = "act" in name or type(child).__module__ == "torch.nn.modules.activation"
            if is_activation and not any(True for _ in child.parameters()):
                return f"{parent}.{name}" if parent else name
    return None
