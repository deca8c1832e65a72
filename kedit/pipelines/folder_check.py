"""What a folder of own pictures holds, what cannot be used and why, and the run that fits it."""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from kedit import __version__, notebook
from kedit.arguments import require
from kedit.data import drawing
from kedit.data.annotated import AnnotatedPictures
from kedit.data.coco import Coco, layout_of
from kedit.data.data_set import Record, Regions
from kedit.data.folder import Folder
from kedit.data.masks import Box, Outline, Polygons
from kedit.data.pictures import MaskFile, SampleError, shown
from kedit.data.places import may_be_turned
from kedit.data.videos import ENDINGS
from kedit.notebook import Shown
from kedit.pipelines.preparation import Counts
from kedit.results.table import Table
from kedit.samples import Concept, Progress, Sample, silent
from kedit.words import counted

COLUMNS = ("object", "kind", "pictures", "with a region", "without it", "words")
NO_PLACE = (
    "no picture has the place of an object (a `box`, a `polygon` or a `mask`), which locating needs to paint it out; "
    "`segment=clipseg segment.path=...` looks for it where there is none"
)
MOST_ROWS = 100
"""The objects that a table shows; LVIS has 1,203."""


@dataclass(frozen=True)
class ObjectRow:
    """An annotated object, and how many of the pictures that can be used show it."""

    name: str
    kind: str | None
    """Its category; retention is near inside it and far outside."""
    pictures: int
    """Pictures that show it,"""
    regions: int
    """those of them in which its region can be drawn and keeps the rules,"""
    without: int
    """and those that neither show nor name it."""
    words: tuple[str, ...]
    """What counts as a mention of it."""


@dataclass(frozen=True, eq=False, repr=False)
class FolderCheck(Shown):
    """What a folder holds; prints itself in a terminal and in a notebook."""

    folder: str
    pictures: int
    """How many are listed."""
    objects: tuple[ObjectRow, ...]
    """The most frequent first."""
    regions: Mapping[str, int]
    """How many objects are placed by a box, by polygons, by a mask, and by none."""
    unusable: Mapping[str, tuple[int, str]]
    """How many pictures cannot be used, and the first of them with what is wrong, by the reason."""
    warnings: tuple[str, ...]
    """What is odd, a sentence each."""
    counts: Counts | None
    """How many pictures a run of the most frequent object takes; None if no run is possible."""
    command: str | None
    """The command line of that run,"""
    why: str
    """or why there is none."""

    @property
    def usable(self) -> int:
        """How many pictures can be used."""
        return self.pictures - sum(count for count, _ in self.unusable.values())

    def table(self) -> Table:
        """Return a row for each object, with all else in the lines below."""
        rows = [
            (row.name, row.kind or "-", row.pictures, row.regions, row.without, ", ".join(row.words))
            for row in self.objects[:MOST_ROWS]
        ]
        title = f"{shown(self.folder)}: {self.usable} of {self.pictures} pictures can be used"
        return Table(COLUMNS, tuple(rows), title, tuple(self._notes()))

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain data."""
        parts = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("objects", "counts")}
        parts["unusable"] = {reason: {"count": n, "first": first} for reason, (n, first) in self.unusable.items()}
        parts |= {"regions": dict(self.regions), "objects": [vars(row) for row in self.objects]}
        return {"kedit": __version__, **parts, "counts": None if self.counts is None else vars(self.counts)}

    def __str__(self) -> str:
        return str(self.table()) + (f"\n\nA run that fits:\n{self.command}" if self.command else "")

    def _repr_html_(self) -> str:
        line = f"<p>A run that fits:</p>{notebook.element('pre', self.command)}" if self.command else ""
        return self.table().html() + line

    def _notes(self) -> Iterator[str]:
        if (hidden := len(self.objects) - MOST_ROWS) > 0:
            yield f"{hidden} rarer objects are not shown."
        yield "Regions: " + ", ".join(f"{count} {kind}" for kind, count in self.regions.items() if count) + "."
        for reason, (count, first) in self.unusable.items():
            yield f"{count} cannot be used ({reason}), the first {first}"
        yield from (f"Warning: {warning}" for warning in self.warnings)
        if self.why:
            yield f"No run is possible: {self.why}"


def check_folder(
    folder: str | Path | AnnotatedPictures, *, seed: int = 0, counts: Counts | None = None, progress: Progress = silent
) -> FolderCheck:
    """Open every picture of a folder and say what is in it, what cannot be used, and which run fits.

    Example:
        print(kedit.check_folder("/data/mine"))

    Args:
        folder: A folder with a list `pictures.jsonl`, or an export in COCO's format as Roboflow, CVAT or Label Studio
            leave it; or a `Folder` or `Coco` with options of its own.
        seed: Of the pictures that a run would draw.
        counts: How many pictures a run would like to take.
        progress: Shows the pictures go by.

    Raises:
        FileNotFoundError: There is no list, nor an annotation.
        ValueError: It cannot be understood.
    """
    require(folder, (str, Path, AnnotatedPictures), "folder", "a folder, or a `Folder` or `Coco`")
    data = folder if isinstance(folder, AnnotatedPictures) else opened(Path(folder))
    data_set = data.data_set
    gathered = _Gathered(data)
    for record in progress(data_set.records, len(data_set.records), "pictures"):
        gathered.look(record)
    objects = sorted(map(gathered.row, data_set.concepts), key=gathered.rank)
    fitting, why = _fitting(data, objects, counts or Counts(), seed) if gathered.outlined else (None, NO_PLACE)
    # What is found by trying comes last, what the whole annotation says first.
    warnings = (*data_set.notes, *gathered.warnings(), *_unlisted(data_set.records))
    command = None if fitting is None else run_of(data, objects[0].name, fitting, counts or Counts())
    unusable = {reason: (len(every), every[0]) for reason, every in gathered.unusable.items()}
    return FolderCheck(
        data.folder, len(data_set.records), tuple(objects), gathered.regions, unusable, warnings, fitting, command, why
    )


def export_layout(folder: Path) -> dict[str, Any] | None:
    """Return where the files of an export of another tool lie in `folder`, as `Coco` takes it; None of a list."""
    return None if (folder / "pictures.jsonl").is_file() else layout_of(folder)


def opened(folder: Path) -> AnnotatedPictures:
    """Return the data set in a folder: an export that is known by where its files lie, or else a list."""
    layout = export_layout(folder)
    return Folder(str(folder)) if layout is None else Coco(str(folder), **layout)


@dataclass(eq=False)
class _Gathered:
    """What the pictures hold, while they are opened one by one."""

    data: AnnotatedPictures
    outlined: Counter[str] = field(default_factory=Counter)
    """How many pictures have a place of each concept, whether it can be used or not."""
    shows: Counter[str] = field(default_factory=Counter)
    placed: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    """How many pictures show or name each concept."""
    usable: int = 0
    regions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("boxes", "polygons", "masks", "without"), 0))
    unusable: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    spoiled: list[str] = field(default_factory=list)
    lying: list[str] = field(default_factory=list)
    first: dict[bytes, str] = field(default_factory=dict)
    """The first picture with each content."""
    twins: list[tuple[str, str]] = field(default_factory=list)
    """Pictures with the content of an earlier one, and that one."""

    def look(self, record: Record) -> None:
        """Open a picture and count what it holds."""
        self.outlined.update(record.outlines.keys())
        for outlines in record.outlines.values():
            for outline in outlines:
                self.regions[_kind(outline)] += 1
        self.regions["without"] += len(record.objects - record.outlines.keys())
        try:
            sample = self.data.data_set.sample(record)
        except SampleError as error:
            self.unusable[error.reason].append(f"`{shown(record.id)}`: {error}")
            return
        self.usable += 1
        self._count(record, sample)
        if may_be_turned(record):
            self.lying.append(shown(record.id))
        content = sha256(repr(sample.image.size).encode() + sample.image.tobytes()).digest()
        if (earlier := self.first.setdefault(content, record.id)) != record.id:
            self.twins.append((shown(record.id), shown(earlier)))

    def _count(self, record: Record, sample: Sample) -> None:
        assert isinstance(sample.regions, Regions)
        self.spoiled += [f"`{shown(record.id)}`: {why}" for why in list(sample.regions.bad.values())[:1]]
        for concept in self.data.concepts:
            name = concept.name
            is_shown = name in record.objects
            self.shows[name] += is_shown
            self.named[name] += is_shown or any(map(concept.mentioned_in, record.references))
            if name in sample.regions and self.data.rules.broken_by(record, concept) is None:
                self.placed[name] += self.data.rules.broken_by_region(sample.regions[name]) is None

    def row(self, concept: Concept) -> ObjectRow:
        """Return what was counted of a concept."""
        name = concept.name
        return ObjectRow(
            name, concept.category, self.shows[name], self.placed[name], self.usable - self.named[name], concept.words
        )

    def rank(self, row: ObjectRow) -> tuple[int, int, int, str]:
        """Return what sorts the objects: the one to run with first."""
        return -row.regions, -self.outlined[row.name], -row.pictures, row.name

    def warnings(self) -> Iterator[str]:
        """Yield what is odd about the pictures."""
        if self.spoiled:
            yield drawing.spoiled(self.spoiled)
        if self.lying:
            yield drawing.lying(self.lying)
        if self.twins:
            twin, earlier = self.twins[0]
            yield (
                f"{counted(len(self.twins), 'copy')} of another picture, the first `{twin}` of `{earlier}`: one "
                "may be located with and the other evaluated on"
            )


def _kind(outline: Outline) -> str:
    return "boxes" if isinstance(outline, Box) else "polygons" if isinstance(outline, Polygons) else "masks"


def _fitting(
    data: AnnotatedPictures, objects: Sequence[ObjectRow], counts: Counts, seed: int
) -> tuple[Counts | None, str]:
    """Return how many pictures a run of the first of `objects` takes, or why it cannot run."""
    concept = next(one for one in data.concepts if one.name == objects[0].name)
    asked = drawing.Asked(counts.locate, counts.target, counts.retention)
    try:
        parts = drawing.split(data.data_set, concept, data.rules, asked, seed=seed, strict=False)
    except (ValueError, LookupError) as error:
        return None, str(error)
    # So many near and as many far: what a strict run can be asked for.
    without = [n for part in (parts.near, parts.far) if (n := len(part))]
    retention = min(without, default=0)
    return replace(counts, locate=len(parts.locate), target=len(parts.target), retention=retention), ""


def run_of(data: AnnotatedPictures, concept: str, counts: Counts, usual: Counts) -> str:
    """Return the command line of a run with `counts`, of which those that are `usual` need not be said."""
    group = "coco2017" if isinstance(data, Coco) else "folder"
    given = [one for one in fields(data) if one.name == "folder" or getattr(data, one.name) != one.default]  # type: ignore[arg-type]
    words = [f"data={group}", *(f"data.{one.name}={_value(getattr(data, one.name))}" for one in given)]
    words += [f"concept={_value(concept)}", "inpaint=mean"]
    asked = [(name, getattr(counts, name)) for name in ("locate", "target", "retention")]
    words += [f"evaluate.{name}={number}" for name, number in asked if number < getattr(usual, name)]
    return "kedit run " + " ".join(map(shlex.quote, words))


def _value(value: object) -> str:
    """Return a value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{','.join(map(_value, value))}]"
    text = str(value)
    if isinstance(value, int | float) or re.fullmatch(r"[A-Za-z_./-][\w./@+-]*( [\w./@+-]+)*", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _unlisted(records: Sequence[Record]) -> Iterator[str]:
    """Yield how many pictures lie beside the listed ones and are in no list."""
    listed = {place for record in records if isinstance(place := record.source(), Path)}
    outlines = (one for record in records for some in record.outlines.values() for one in some)
    listed |= {one.path for one in outlines if isinstance(one, MaskFile)}
    there = [
        path
        for folder in sorted({place.parent for place in listed if place.is_file()})
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".")
    ]
    if rest := [path for path in there if path not in listed]:
        yield f"{len(rest)} pictures beside the listed ones are in no list, the first `{shown(rest[0])}`"
