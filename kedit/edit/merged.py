"""An edit written into the files of a checkpoint: they are copied, and of the weights only the edited columns change.

A file is copied byte for byte and then changed in its place, so that never more than one weight is in memory, however
large the checkpoint is and in however many shards.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from kedit.edit.columns import Columns
from kedit.models.checkpoints import weight_files

BESIDE = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""What belongs to a checkpoint beside its weights: configuration, processor, tokenizer, the index of its shards."""

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The types of number by their names in files."""


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
    """Change the columns of one weight where it stands: a length of 8 bytes, the header (JSON), then the numbers."""
    with (folder / place.file).open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[place.key]
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        numbers = bytearray(end - start)
        file.seek(start)
        file.readinto(numbers)
        # A view: what is written to the weight is written to the numbers.
        weight = torch.frombuffer(numbers, dtype=TYPES[entry["dtype"]]).view(entry["shape"])
        columns.write(weight, columns.edited(weight))
        file.seek(start)
        file.write(numbers)
