"""Prompts and pictures that a batch holds several times, read and looked at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from kedit.hooks import exchanging
from kedit.prompts import Prompt
from kedit.sites import language_paths
from kedit.stacks import SPEAKS_OF


@dataclass(frozen=True)
class Copies:
    """Which rows of a batch hold the same prompt."""

    first: tuple[int, ...]
    """The row in which each prompt comes first."""
    source: tuple[int, ...]
    """For each row, the place of its prompt in `first`."""

    @classmethod
    def among(cls, prompts: Sequence[Prompt]) -> "Copies":
        """Return where the same picture, video or sound comes with the same text."""
        numbers: dict[tuple[object, ...], int] = {}
        first: list[int] = []
        source = []
        for row, one in enumerate(prompts):
            key = (one.text, id(one.image), id(one.video), id(one.sound))
            if key not in numbers:
                numbers[key] = len(first)
                first.append(row)
            source.append(numbers[key])
        return cls(tuple(first), tuple(source))

    @property
    def any(self) -> bool:
        """Whether there are fewer prompts than rows."""
        return len(self.first) < len(self.source)

    def spread(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the inputs of all rows from those of each prompt; None where they are not one to a prompt."""
        if any(len(value) != len(self.first) for value in inputs.values()):
            return None
        at = torch.tensor(self.source)
        return {name: value[at.to(value.device)] for name, value in inputs.items()}


def encoded(prompts: Sequence[Prompt], copies: Copies, encode: Callable[[Sequence[Prompt]], dict[str, Tensor]]) -> Any:
    """Return the inputs of a batch of prompts, each of which `encode` reads once if that tells them all."""
    if not copies.any:
        return encode(prompts)
    return copies.spread(encode([prompts[row] for row in copies.first])) or encode(prompts)


@contextmanager
def looked_at_once(module: nn.Module, copies: Copies) -> Iterator[None]:
    """Let what stands before the language model run on one row of each prompt, and hand its output to all of them.

    Done only in calls whose every input tensor has a row for each row of the batch, equal for the same prompt, and whose
    output has a row for each row of its input: elsewhere nothing is shared.
    """
    with ExitStack() as attached:
        for path in outside(module) if copies.any else ():
            attached.enter_context(_shared(module, path, copies))
        yield


def outside(module: nn.Module) -> list[str]:
    """Return the paths of what stands beside the language model and is named for vision, sound or what joins them."""
    inner = language_paths(module)[-1].split(".")
    found = []
    for depth in range(len(inner)):
        above = ".".join(inner[:depth])
        for name, child in module.get_submodule(above).named_children():
            spoken = any(word.search(name) or word.search(type(child).__name__) for _, word in SPEAKS_OF)
            if name != inner[depth] and spoken:
                found.append(f"{above}.{name}".lstrip("."))
    return found


@contextmanager
def _shared(module: nn.Module, path: str, copies: Copies) -> Iterator[None]:
    part = module.get_submodule(path)
    whole: list[tuple[Any, Any]] = []

    def fewer(given: Any, named: Any) -> tuple[Any, Any] | None:
        whole.clear()
        if not _repeats((given, named), copies):
            return None
        whole.append((given, named))
        at = torch.tensor(copies.first)
        picked: tuple[Any, Any] = tree_map(lambda one: _taken(one, at), (given, named))
        return picked

    def more(output: Any) -> Any:
        if not whole:
            return None
        if any(len(one) != len(copies.first) for one in tree_leaves(output) if isinstance(one, Tensor)):
            given, named = whole[0]
            return part.forward(*given, **named)
        at = torch.tensor(copies.source)
        return tree_map(lambda one: _taken(one, at), output)

    with exchanging(module, path, fewer, more):
        yield


def _taken(one: Any, at: Tensor) -> Any:
    return one[at.to(one.device)] if isinstance(one, Tensor) else one


def _repeats(inputs: Any, copies: Copies) -> bool:
    """Return whether every tensor among the inputs says the same of the rows of one prompt."""
    leaves = tree_leaves(inputs)
    tensors = [one for one in leaves if isinstance(one, Tensor)]
    if not tensors or any(one is not None and not isinstance(one, Tensor | bool | str) for one in leaves):
        return False
    if any(one.ndim == 0 or len(one) != len(copies.source) for one in tensors):
        return False
    same = torch.tensor(copies.first)[torch.tensor(copies.source)]
    return all(torch.equal(one, one[same.to(one.device)]) for one in tensors)
