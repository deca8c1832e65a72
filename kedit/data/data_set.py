"""Annotated pictures that are opened one by one: what coco and folder have in common."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from kedit.data.masks import Outline, union
from kedit.data.pictures import SampleError, Size, Source, fitted, fitted_mask, read
from kedit.samples import Concept, Mask, Sample


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """What is annotated of one picture, which is not opened yet."""

    id: str
    source: Source
    size: Size | None = None
    """The annotated (width, height), where there is one."""
    upright: bool | None = None
    """Whether the annotation is of the picture as viewers show it; None if its size says so, see `read`."""
    references: tuple[str, ...] = ()
    objects: frozenset[str] = frozenset()
    """The names of the concepts in the picture."""
    outlines: Mapping[str, tuple[Outline, ...]] = field(default_factory=dict)
    """For each concept whose place is annotated, the outline of every instance."""
    crowds: frozenset[str] = frozenset()
    """The concepts of which a whole group is outlined at once, coarsely."""
    file_name: str | None = None
    """The name of its file as the annotation lists it, where it does."""

    def region(self, name: str, height: int, width: int) -> Mask:
        """Return the union of the outlines of `name`: `[height, width]`; SampleError if one of them is none."""
        try:
            return union(self.outlines[name], height, width)
        except ValueError as error:
            raise SampleError("bad_region", f"`{name}`: {error}") from error


class Regions(Mapping[str, Mask]):
    """The regions of a picture by the concept's name, each drawn whenever it is asked for.

    A mask is as large as its picture, and few are looked at: keeping the outlines takes a hundredth of that.

    Attributes:
        bad: For each concept with an outline that cannot be drawn, why.
    """

    def __init__(self, record: Record, annotated: tuple[int, int], shown: tuple[int, int]) -> None:
        """Draw every region once, at the `annotated` (height, width), to know that it can be; `shown` at the other.

        A region in which no pixel lies, as of an object smaller than one, is left out, and so is a bad one.
        """
        self._record, self._annotated, self._shown = record, annotated, shown
        self.bad: dict[str, str] = {}
        self._names = [name for name in sorted(record.outlines) if self._has_pixels(name)]

    def __getitem__(self, name: str) -> Mask:
        if name not in self._names:
            raise KeyError(name)
        return self._drawn(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _has_pixels(self, name: str) -> bool:
        try:
            return bool(self._drawn(name).any())
        except SampleError as error:
            self.bad[name] = str(error)
            return False

    def _drawn(self, name: str) -> Mask:
        return fitted_mask(self._record.region(name, *self._annotated), *self._shown)


@dataclass(frozen=True)
class Rules:
    """Which pictures of a concept are good ones to locate with and to evaluate on."""

    min_area: float = 0.0
    """The smallest share of the picture that the concept's region may take."""
    max_area: float = 1.0
    """The largest one; a picture that is all concept has no surroundings to paint it out with."""
    max_others: int | None = None
    """How many other concepts the picture may show; None for any number."""
    without: Collection[str] | None = None
    """Concepts that it must not show, because they usually come along."""
    crowds: bool = True
    """Whether the concept may be outlined as a group."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise ValueError(
                "`min_area` and `max_area` are shares of the picture, 0 <= min_area <= max_area <= 1; "
                f"got {self.min_area} and {self.max_area}"
            )
        if isinstance(self.without, str):
            raise TypeError(f"`without` is a list of concepts, got {self.without!r}; write [{self.without}]")
        object.__setattr__(self, "without", tuple(self.without or ()))
        if self.max_others is not None and self.max_others < 0:
            raise ValueError(f"`max_others` is a number of concepts, 0 or more, or null; got {self.max_others}")

    def broken_by(self, record: Record, concept: Concept) -> str | None:
        """Return the rule that the annotation of a picture breaks before any region is drawn, or None."""
        others = record.objects - {concept.name}
        if self.max_others is not None and len(others) > self.max_others:
            return "max_others"
        if not others.isdisjoint(self.without or ()):
            return "without"
        return None if self.crowds or concept.name not in record.crowds else "crowds"

    def broken_by_region(self, region: Mask) -> str | None:
        """Return the rule that the concept's region breaks, or None."""
        share = float(region.mean())
        return "min_area" if share < self.min_area else "max_area" if share > self.max_area else None


@dataclass(frozen=True, eq=False)
class AnnotatedDataSet:
    """An annotated set of pictures and the concepts they are annotated with."""

    records: tuple[Record, ...]
    concepts: tuple[Concept, ...]
    max_side: int | None = None
    """The longer side, in pixels, to which larger pictures are shrunk; None keeps them."""
    notes: tuple[str, ...] = ()
    """What is odd about the annotation, a sentence each, with how often."""

    def __post_init__(self) -> None:
        for what, names in (
            ("picture", [record.id for record in self.records]),
            ("concept", [concept.name for concept in self.concepts]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(
                    f"each {what} needs a name of its own; more than one is called `{twice[0]}`"
                    + (f", and so with {len(twice) - 1} other names" if twice[1:] else "")
                )

    @cached_property
    def counts(self) -> Counter[str]:
        """How many pictures show each concept, by its name."""
        return Counter(name for record in self.records for name in record.objects)

    def shuffled(self, seed: int) -> list[Record]:
        """Return all records in the order that `seed` gives, whatever order the annotation has."""
        if seed < 0:
            raise ValueError(f"the seed of a split is 0 or more, got {seed}")
        by_id = sorted(self.records, key=lambda record: record.id)
        return [by_id[place] for place in np.random.default_rng(seed).permutation(len(by_id))]

    def sample(self, record: Record) -> Sample:
        """Open a picture; SampleError says why it cannot be used. A region that cannot be drawn is left out."""
        for text in record.references:
            if not _is_utf8(text):
                raise SampleError("bad_text", f"the caption {text!r} is not UTF-8")
        picture = read(record.source, record.size, upright=record.upright)
        shrunk = fitted(picture, self.max_side)
        regions = Regions(record, (picture.height, picture.width), (shrunk.height, shrunk.width))
        return Sample(record.id, shrunk, record.references, record.objects, regions)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
