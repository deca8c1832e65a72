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
from kedit.sites import embedding_path, language_paths
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
def looked_at_once(module: nn.Module, paths: Sequence[str], copies: Copies) -> Iterator[None]:
    """Let the parts at `paths` run on one row of each prompt, and hand what they make of it to all of its rows.

    Done only in calls whose every input tensor has a row for each row of the batch, equal for the same prompt, and
    whose output has a row for each row of its input: elsewhere nothing is shared.
    """
    with ExitStack() as attached:
        for path in paths if copies.any else ():
            attached.enter_context(_shared(module, path, copies))
        yield


def outside(module: nn.Module) -> tuple[str, ...]:
    """Return the paths of what stands beside the language model and is named for vision, sound or what joins them."""
    language = [*language_paths(module), embedding_path(module) or ""]
    inner = language[0].split(".")
    found = []
    for depth in range(len(inner)):
        above = ".".join(inner[:depth])
        for name, child in module.get_submodule(above).named_children():
            path = f"{above}.{name}".lstrip(".")
            spoken = any(word.search(name) or word.search(type(child).__name__) for _, word in SPEAKS_OF)
            if spoken and not any(f"{one}.".startswith(f"{path}.") for one in language):
                found.append(path)
    return tuple(found)


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
    """Return whether every tensor among the inputs says the same of the rows of one prompt, and nothing else counts."""
    leaves, n_rows = tree_leaves(inputs), len(copies.source)
    tensors = [one for one in leaves if isinstance(one, Tensor)]
    plain = [one for one in leaves if one is not None and not isinstance(one, Tensor)]
    if not tensors or any(one.ndim == 0 or len(one) != n_rows for one in tensors):
        return False
    # A number that is the number of rows may well mean it.
    if any(not isinstance(one, bool | int | float | str) or one == n_rows for one in plain):
        return False
    same = torch.tensor(copies.first)[torch.tensor(copies.source)]
    return all(torch.equal(one, one[same.to(one.device)]) for one in tensors)
