"""What the sections of a page are made of; the template has a macro for each kind of part."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from kedit.page.texts import Piece

MOST_ROWS = 1000
"""Rows of one table on a page."""


@dataclass(frozen=True)
class Interval:
    """A measured figure."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    why: str = ""
    """Why there is no value."""

    @classmethod
    def of(cls, given: Mapping[str, Any] | float | None) -> "Interval":
        """Return what a report says of a figure: a mapping with its interval, or a bare number."""
        if not isinstance(given, Mapping):
            return cls(given)
        return cls(given.get("value"), given.get("low"), given.get("high"), given.get("n"), given.get("why") or "")

    @property
    def text(self) -> str:
        """The figure for people."""
        if self.value is None:
            return f"not measured: {self.why}" if self.why else "-"
        ends = "" if self.low is None or self.high is None else f" [{_short(self.low)},\u00a0{_short(self.high)}]"
        return _short(self.value) + ends

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1, so that it can be drawn on that scale."""
        known = [one for one in (self.value, self.low, self.high) if one is not None]
        return bool(known) and all(0 <= one <= 1 for one in known)


@dataclass(frozen=True)
class Link:
    """A text that leads to another file."""

    text: str
    href: str


Cell = str | int | float | bool | None | Interval | Link


@dataclass(frozen=True)
class Part:
    """A part of a section."""

    kind: ClassVar[str]
    """The macro of the template that shows it."""

    def limited(self, share: float) -> Self:
        """Return the part with that share of what takes room; most take none."""
        return self


@dataclass(frozen=True)
class Note(Part):
    """A sentence."""

    kind = "note"
    text: str


@dataclass(frozen=True)
class Facts(Part):
    """Names and what they stand for."""

    kind = "facts"
    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True)
class Grid(Part):
    """A table that the reader can sort."""

    kind = "grid"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    """Whether it is opened by a click."""
    file: str = ""
    """Which file has all rows."""
    total: int = 0
    """How many rows there are, where some were left out."""

    def limited(self, share: float) -> Self:
        """Return the table with that share of the rows, if it is long."""
        return replace(self, rows=self.rows[: math.ceil(MOST_ROWS * max(share, 0.02))], total=len(self.rows))


@dataclass(frozen=True)
class Effects(Part):
    """Figures of the edit beside those of the random control, drawn between 0 and 1 where they are shares."""

    kind = "effects"
    caption: str
    rows: Sequence[tuple[str, Interval, Interval | None]]
    seeds: int = 0
    folded: bool = False


@dataclass(frozen=True)
class CaptionRow:
    """What the model said of a picture before and after the edit."""

    id: str
    group: str
    before: list[Piece]
    after: list[Piece]
    picture: str = ""


@dataclass(frozen=True)
class Captions(Part):
    """Captions before and after, beside their pictures."""

    kind = "captions"
    rows: Sequence[CaptionRow]
    left_out: int = 0

    def limited(self, share: float) -> Self:
        """Return that share of the rows."""
        kept = math.ceil(len(self.rows) * share)
        return replace(self, rows=self.rows[:kept], left_out=len(self.rows) - kept)


@dataclass(frozen=True)
class Score:
    """What a stage gives a neuron."""

    stage: str
    value: float | None
    rank: int | None = None
    """Its place among all neurons that the stage looked at; 1 is the highest score."""
    among: int = 0


@dataclass(frozen=True)
class NeuronCard:
    """All that is known of one neuron."""

    place: int
    """Its place among the located ones; 1 is the best by the last stage."""
    name: str
    layer: int
    index: int
    scores: Sequence[Score]
    words: Sequence[str]
    opposite: Sequence[str]
    fires: str = ""
    """On which side of zero it fires."""
    pictures: Sequence[Mapping[str, Any]] = ()
    facts: Sequence[tuple[str, str]] = ()
    """What `kedit inspect` measured of it alone."""


@dataclass(frozen=True)
class Cards(Part):
    """The located neurons, which the reader can search and sort."""

    kind = "cards"
    cards: Sequence[NeuronCard]
    stages: Sequence[str]
    total: int = 0
    """How many neurons were located."""
    bare: int = 0
    """How many cards lost their pictures, for room."""

    def limited(self, share: float) -> Self:
        """Return the cards with pictures for that share of them."""
        kept = math.ceil(len(self.cards) * share)
        cards = [card if place < kept else replace(card, pictures=()) for place, card in enumerate(self.cards)]
        return replace(self, cards=cards, bare=sum(bool(card.pictures) for card in self.cards[kept:]))


@dataclass(frozen=True)
class Figure:
    """A figure of the run."""

    name: str
    file: str
    uri: str | None
    """None where a browser cannot show it inside a page."""


@dataclass(frozen=True)
class Figures(Part):
    """The figures of the run."""

    kind = "figures"
    figures: Sequence[Figure]
    left_out: Sequence[str] = ()

    def limited(self, share: float) -> Self:
        """Return that share of the figures."""
        kept = math.ceil(len(self.figures) * share)
        return replace(self, figures=self.figures[:kept], left_out=[one.file for one in self.figures[kept:]])


@dataclass(frozen=True)
class Section:
    """A heading and what is under it."""

    id: str
    """Its place in the page's address."""
    title: str
    parts: Sequence[Part]

    def limited(self, share: float) -> "Section":
        """Return the section with that share of what takes room."""
        return replace(self, parts=[part.limited(share) for part in self.parts])


def _short(value: float) -> str:
    """Return a number with two decimal places, a small one with three digits."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"
