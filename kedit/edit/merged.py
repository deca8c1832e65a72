"""An edit written into the files of a checkpoint: they are copied, and of the weights only the edited columns change.

A file is copied byte for byte and then changed in its place, so that never more than one weight is in memory, however
large the checkpoint is and in however many shards.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kedit.edit.columns import Columns
from kedit.models.checkpoints import weight_files

BESIDE = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""What belongs to a checkpoint beside its weights: configuration, processor, tokenizer, the index of its shards."""


class Place(NamedTuple):
    """Where a weight stands: the name of the file, and its key in it."""

    file: str
    key: str


def merge(base: Path, target: Path, columns: Sequence[Columns], places: Mapping[str, Place]) -> None:
    """Write the edited checkpoint into `target`, which is there; it may be `base` itself.

    Args:
        base: The folder of the checkpoint.
        target: Where the edited one goes.
        columns: What the edit does, none of it a constant.
        places: Where the weight of each of `columns` stands, by its name.
    """
    if base != target:
        beside = {file for pattern in BESIDE for file in base.glob(pattern)}
        for file in sorted(beside.union(weight_files(base))):
            shutil.copyfile(file, target / file.name)
    for one in columns:
        _rewrite(target, places[one.name], one)


def _rewrite(folder: Path, place: Place, columns: Columns) -> None:
    from safetensors import safe_open

    path = folder / place.file
    with safe_open(path, framework="pt") as held:
        # A copy: what the library returns may be the file itself.
        weight = held.get_tensor(place.key).clone()
    columns.write(weight, columns.edited(weight))
    with path.open("r+b") as file:
        file.seek(_start_of(path, place.key))
        file.writelines(_bytes_of(weight))


def _bytes_of(weight: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a weight, row by row: in one piece they would be a second copy."""
    for row in weight.contiguous().view(torch.uint8):
        yield row.numpy().data


def _start_of(path: Path, key: str) -> int:
    """Return where in a file the numbers of `key` begin: a length of 8 bytes, the header (JSON), then the numbers."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return int(8 + length + header[key]["data_offsets"][0])
