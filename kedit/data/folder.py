"""Your own pictures: a folder with a list of them, one line each, or a table that `datasets` saved."""

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from kedit.data.annotated import AnnotatedPictures
from kedit.data.data_set import AnnotatedDataSet, Record, Rules
from kedit.data.jsonlines import Line, captions_of, concepts_of, lines
from kedit.data.masks import BOXES, Box, Outline, outline
from kedit.data.pictures import MaskFile, Source, shown
from kedit.data.places import Places
from kedit.paths import lying_at

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder(AnnotatedPictures):
    """Pictures listed in a file of JSON lines, each with its captions, and its objects with their places.

    A line has `image` (or `file_name`, as Hugging Face's imagefolder calls it), a path from the folder; `caption` or
    `captions`; and `objects`: names, or objects with a `name` and at most one of `mask` (a picture that is not
    black inside), `box` (x, y, width, height) and `polygon` (x, y, x, y, ... or a list of such), in pixels of
    the picture as viewers show it. `id` is optional. A folder saved by `datasets.Dataset.save_to_disk` has columns
    of the same names.
    """

    folder: str
    index: str = "pictures.jsonl"
    """The list, in the folder."""
    concepts_file: str = "concepts.jsonl"
    """Lines with a `name` and optional `words`, `category` and phrases `unless`; the file may be missing."""
    questions_file: str | None = None
    """A file of lines with a `question`, an `answer` and, for tasks, an `image`, `video` or `audio`; those without
    test what an edit leaves of the text knowledge. See `kedit.data.question_file.read_question_file`."""
    min_area: float = 0.0
    """A concept's pictures are drawn if its region takes at least this share of them,"""
    max_area: float = 1.0
    """and at most this one;"""
    max_others: int | None = None
    """if they show at most so many other concepts (None: any number);"""
    without: Collection[str] | None = None
    """and if they show none of these."""
    boxes: str = "xywh"
    """The form of a `box`: x, y, width, height in pixels, or another one of `kedit.data.masks.BOXES`."""
    max_side: int | None = 1024
    """Pictures with a longer side are shrunk to it, with their regions; None keeps them."""
    max_frames: int = 16
    """The most frames of a video that are kept, evenly spread."""

    def __post_init__(self) -> None:
        if self.max_frames < 1:
            raise ValueError(f"`max_frames` is a number of frames, 1 or more, got {self.max_frames}")
        if self.boxes not in BOXES:
            raise ValueError(f"`boxes` is one of {', '.join(BOXES)}; got {self.boxes!r}")
        _ = self.rules

    @cached_property
    def data_set(self) -> AnnotatedDataSet:
        """The listed pictures, none of them opened.

        Raises:
            FileNotFoundError: There is no such list.
            ValueError: A line of it cannot be understood, or two have the same picture.
        """
        folder = Path(self.folder)
        if any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
            records = tuple(_saved(folder, self.boxes))
        elif (folder / self.index).is_file():
            records = tuple(_listed(folder, folder / self.index, self.boxes))
        else:
            raise FileNotFoundError(
                f"no list of pictures `{shown(folder / self.index)}`; write one JSON object per line, such as "
                '{"image": "1.jpg", "caption": "a dog", "objects": [{"name": "dog", "box": [10, 20, 64, 48]}]}; '
                "`kedit folder check` knows the exports of other tools"
            )
        described = folder / self.concepts_file
        names = frozenset().union(*(record.objects for record in records))
        notes = Places(records).oddities()
        for note in notes:
            logger.warning(note)
        return AnnotatedDataSet(
            records, concepts_of(described if described.is_file() else None, names), self.max_side, notes
        )

    @property
    def rules(self) -> Rules:
        """Which of a concept's pictures may be drawn."""
        return Rules(self.min_area, self.max_area, self.max_others, self.without)


def _listed(folder: Path, index: Path, boxes: str) -> Iterator[Record]:
    """Yield the records of the list; a ValueError if a picture is listed twice, in whatever spelling of its path."""
    places: dict[str, tuple[str, str]] = {}
    for line in lines(index):
        name = line.text("file_name" if "image" not in line.content and "file_name" in line.content else "image")
        earlier, place = places.setdefault(_spelt(folder / name).casefold(), (name, line.place))
        if place != line.place and _spelt(_picture(folder, earlier)) == _spelt(_picture(folder, name)):
            raise ValueError(f"{line.place}: `{shown(name)}` is also in {place}; list each picture once")
        yield replace(_record(line, folder, shown(name), partial(_picture, folder, name), boxes), file_name=name)


def _saved(folder: Path, boxes: str) -> Iterator[Record]:
    """Yield the records of a table that `datasets` saved; its pictures stay in the mapped file."""
    import datasets

    table = datasets.load_from_disk(str(folder))
    if isinstance(table, datasets.DatasetDict):
        raise ValueError(f"`{shown(folder)}` holds the parts {', '.join(table)}; give the folder of one of them")
    column = next((name for name in ("image", "file_name") if name in table.column_names), None)
    if column is None:
        raise ValueError(f"`{shown(folder)}` has no column `image`; its columns: {', '.join(table.column_names)}")
    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    for number, row in enumerate(table.remove_columns(column)):
        line = Line(f"`{shown(folder)}`, row {number}", row)
        yield _record(line, folder, str(number), partial(_cell, table, number, column, folder), boxes)


def _picture(folder: Path, name: str) -> Path:
    return lying_at(folder / name, folder / name.replace("\\", "/"))


def _spelt(path: Path) -> str:
    """Return a path as it is usually spelt; links are not followed, which may lead to one copy of equal pictures."""
    return os.path.normpath(str(path).replace("\\", "/"))


def _cell(table: Any, number: int, column: str, folder: Path) -> Path | IO[bytes]:
    """Return where the picture of a row lies: its bytes, or the file that it names."""
    cell = table[number][column]
    if isinstance(cell, str):
        return folder / cell
    return BytesIO(cell["bytes"]) if cell["bytes"] is not None else folder / cell["path"]


def _record(line: Line, folder: Path, name: str, source: Source, boxes: str) -> Record:
    outlines: dict[str, tuple[Outline, ...]] = {}
    objects = set()
    listed = line.content.get("objects") or []
    if not isinstance(listed, list):
        raise ValueError(f"{line.place}: `objects` is a list, got {listed!r}")
    for one in listed:
        thing = Line(line.place, one if isinstance(one, Mapping) else {"name": one})
        objects.add(thing.name)
        if (drawn_as := _outline(thing, folder, boxes)) is not None:
            outlines[thing.name] = (*outlines.get(thing.name, ()), drawn_as)
    given = line.content.get("id")
    return Record(
        id=name if given is None else shown(given),
        source=source,
        references=captions_of(line),
        objects=frozenset(objects),
        outlines=outlines,
    )


def _outline(thing: Line, folder: Path, boxes: str) -> Outline | None:
    """Return where an object is, if the line says so; a ValueError if it says it in no way that is known."""
    found = {key: thing.content[key] for key in ("mask", "box", "polygon") if thing.content.get(key) is not None}
    if len(found) > 1:
        raise ValueError(f"{thing.place}: `{thing.name}` has {' and '.join(found)}; give one of them")
    if "mask" in found:
        return MaskFile(_picture(folder, thing.text("mask")))
    if "box" in found:
        box = found["box"]
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, int | float) for side in box):
            raise ValueError(f"{thing.place}: `box` is [x, y, width, height] in pixels, got {box!r}")
        a, b, c, d = box
        return Box(a, b, c, d, boxes)
    if "polygon" in found:
        corners = found["polygon"]
        nested = isinstance(corners, list) and corners and isinstance(corners[0], list)
        return outline(corners if nested else [corners])
    return None
