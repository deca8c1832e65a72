"""An edit as the columns that it changes: a file of kilobytes, put into a model's weights and taken out again.

The file holds each column as it was and as it is, and the digests of all weights before and after, so that what is
put on or taken off is the model that it was made of, to the bit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kedit.arguments import require
from kedit.edit.columns import Columns, check_plain, write_columns
from kedit.edit.edit import module_of
from kedit.internals.weights import is_conv1d
from kedit.models.identity import weights_digest

FILE = "delta.safetensors"
PARTS = ("indices", "before", "after")
"""What the file holds of each weight: which columns `[k]`, and what they were and are, `[d_model, k]`."""


class Delta(NamedTuple):
    """The columns that an edit changes, and the digests of all weights without them and with them."""

    columns: dict[str, dict[str, Tensor]]
    """`PARTS` by the path of the module."""
    base: str
    edited: str


@torch.no_grad()
def write_delta(columns: Sequence[Columns], module: nn.Module, folder: Path) -> None:
    """Write the columns that an edit changes into `folder`.

    The weights are changed for as long as it takes to hash them, and are then what they were.
    """
    from safetensors.torch import save_file

    base, tensors = weights_digest(module), dict[str, Tensor]()
    for one in columns:
        check_plain(one, module)
        weight = module.get_parameter(one.name)
        parts = (one.indices, one.of(weight), one.edited(weight))
        tensors |= {f"{one.path}.{part}": value.cpu().contiguous() for part, value in zip(PARTS, parts, strict=True)}
    delta = Delta(_by_path(tensors), base, "")
    try:
        _put(delta, module, "after")
        edited = weights_digest(module)
    finally:
        _put(delta, module, "before")
    save_file(tensors, folder / FILE, metadata={"base": base, "edited": edited})


def read_delta(folder: str | Path) -> Delta:
    """Return what `write_delta` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is another file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f'there is no `{FILE}` in `{folder}`: `kedit.export(..., to="delta")` makes one')
    try:
        with safe_open(path, framework="pt") as held:
            about = held.metadata() or {}
            tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118 - it is no mapping
        return Delta(_by_path(tensors), about["base"], about["edited"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"`{path}` is no delta of kedit: {error}") from error


def apply_delta(model: Any, folder: str | Path) -> None:
    """Write a delta's columns into the weights of the model that it was made of; `revert_delta` takes them out.

    Args:
        model: The model, or its module; its weights are changed in place.
        folder: What `kedit.export(..., to="delta")` made.

    Raises:
        FileNotFoundError: There is no delta.
        ValueError: The weights are not those that it was made of, to the bit, in this type of number.
    """
    _swap(model, folder, "after")


def revert_delta(model: Any, folder: str | Path) -> None:
    """Take a delta out again: the weights are what they were before `apply_delta`, to the bit.

    Raises:
        FileNotFoundError: There is no delta.
        ValueError: The weights are not those with the delta in them.
    """
    _swap(model, folder, "before")


def _swap(model: Any, folder: str | Path, part: Literal["before", "after"]) -> None:
    require(folder, (str, Path), "folder", "a folder with a delta")
    module, delta = module_of(model), read_delta(folder)
    has, wanted, left = weights_digest(module), delta.base, delta.edited
    if part == "before":
        wanted, left = left, wanted
    if has == left:
        state = "in the weights already" if part == "after" else "not in the weights"
        raise ValueError(f"the delta in `{folder}` is {state}: nothing was changed")
    if has != wanted:
        raise ValueError(
            f"the weights (digest {has[:12]}) are not those that the delta in `{folder}` is for ({wanted[:12]}): it is "
            "another model, or loaded as another `dtype`; nothing was changed"
        )
    _put(delta, module, part)


@torch.no_grad()
def _put(delta: Delta, module: nn.Module, part: Literal["before", "after"]) -> None:
    for path, parts in delta.columns.items():
        linear, weight = module.get_submodule(path), module.get_parameter(f"{path}.weight")
        write_columns(weight, parts["indices"], parts[part], transposed=is_conv1d(linear))


def _by_path(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    columns: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        path, _, part = name.rpartition(".")
        if part not in PARTS:
            raise KeyError(name)
        columns.setdefault(path, {})[part] = value
    return columns
