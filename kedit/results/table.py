"""A table said once: as Markdown, CSV, JSON, HTML, or in a terminal."""

import csv
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kedit import notebook
from kedit.evaluation.statistics import Measured
from kedit.notebook import Shown

Cell = str | int | float | bool | None | Measured
"""What stands in a cell; None is what there is nothing to say of."""
ENDS = ("low", "high", "n")
"""What a measured figure has beside its value, each in a column of its own where people do not read."""
WIDTH = 80
"""Columns of a terminal that does not say how many it has."""
BORDER = 3
"""Columns between two cells."""
LONGEST_UNBROKEN = 20
"""Columns up to which a text stays in one line."""


@dataclass(frozen=True, repr=False)
class Table(Shown):
    """Columns and rows; a measured figure keeps its interval wherever the table goes."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    notes: tuple[str, ...] = ()
    """Sentences under the table."""
    fine: bool = False
    """Whether measured figures below 0.05 have a third decimal place."""

    def __post_init__(self) -> None:
        for name in ("columns", "notes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "rows", tuple(map(tuple, self.rows)))
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {number} has {len(row)} cells, the table {len(self.columns)} columns")

    @property
    def texts(self) -> list[list[str]]:
        """The cells as people read them, `[row][column]`."""
        return [[show(cell, fine=self.fine) for cell in row] for row in self.rows]

    def markdown(self) -> str:
        """Return the table in Markdown; marks that would break a cell are escaped."""
        lines = [list(self.columns), ["---"] * len(self.columns), *self.texts]
        body = "\n".join("| " + " | ".join(map(_escape_markdown, line)) + " |" for line in lines)
        title = [f"**{self.title}**"] if self.title else []
        return "\n\n".join([*title, body, *self.notes])

    def csv(self) -> str:
        """Return the table as CSV, where a measured column has `_low`, `_high` and `_n` columns beside it."""
        columns, rows = self.flat()
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        return text.getvalue()

    def flat(self) -> tuple[list[str], list[list[Any]]]:
        """Return columns and rows in which a measured figure takes four cells."""
        wide = {name for row in self.rows for name, cell in self._named(row) if isinstance(cell, Measured)}
        columns = [one for name in self.columns for one in _columns_of(name, name in wide)]
        spread = [[_values(cell, name in wide) for name, cell in self._named(row)] for row in self.rows]
        return columns, [[one for values in row for one in values] for row in spread]

    def to_json(self) -> list[dict[str, Any]]:
        """Return a mapping for each row; a measured figure is `{"value", "low", "high", "n"}`."""
        return [
            {name: cell.to_json() if isinstance(cell, Measured) else cell for name, cell in self._named(row)}
            for row in self.rows
        ]

    def html(self) -> str:
        """Return the table as HTML; all text is escaped."""
        return notebook.table(self.columns, self.texts, self.title, self.notes)

    def _repr_html_(self) -> str:
        return self.html()

    def __str__(self) -> str:
        """The table as the terminal shows it, or one of 80 columns where there is none."""
        return self.text()

    def text(self, width: int | None = None) -> str:
        """Return the table as a terminal of so many columns shows it; by default that of this process, or one of 80.

        Nothing is cut off: where not all columns fit beside each other, the others follow below, each row again with
        its first cell.
        """
        from rich.console import Console

        console = Console(width=shutil.get_terminal_size((WIDTH, 24)).columns if width is None else width)
        lines = console.render_lines(self, pad=False)
        return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Yield what a rich console prints."""
        from rich.table import Table as Grid
        from rich.text import Text

        texts, title = self.texts, Text(self.title, overflow="fold") if self.title else None
        for shown in self._side_by_side(options.max_width):
            grid = Grid(title=title, title_justify="left")
            for number in shown:
                side = "right" if number else "left"
                grid.add_column(Text(self.columns[number]), justify=side, overflow="fold")  # type: ignore[arg-type]
            for row in texts:
                grid.add_row(*(Text(row[number]) for number in shown))
            yield grid
            title = None
        yield from (Text(note, overflow="fold") for note in self.notes)

    def _side_by_side(self, width: int) -> list[list[int]]:
        """Return which columns a terminal of `width` shows beside each other: the first one each time, then others."""
        needs = [max(map(_needed, (name, *cells))) for name, *cells in zip(self.columns, *self.texts, strict=True)]
        groups: list[list[int]] = []
        for number, need in enumerate(needs):
            taken = sum(needs[other] + BORDER for other in groups[-1]) if groups else width
            if groups and (len(groups[-1]) == 1 or taken + need + BORDER < width):
                groups[-1].append(number)
            else:
                groups.append([0, number] if number else [0])
        return groups

    def _named(self, row: Sequence[Cell]) -> Iterable[tuple[str, Cell]]:
        return zip(self.columns, row, strict=True)


def show(cell: Cell, *, fine: bool = False) -> str:
    """Return what people read: `0.95 [0.83, 0.99]` for a measured figure, or why there is none.

    With `fine`, a figure below 0.05 has a third decimal place: a cosine moves by thousandths.
    """
    if isinstance(cell, Measured):
        if cell.value is None:
            return f"n/a ({cell.why})"
        if not fine or not 0 < abs(cell.value) < 0.05:
            return str(cell)
        interval = "" if cell.low is None or cell.high is None else f" [{cell.low:.3f}, {cell.high:.3f}]"
        return f"{cell.value:.3f}{interval}"
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _needed(text: str) -> int:
    """Return how many columns a text needs: one of a few words is not broken, a long one between any two words."""
    from rich.cells import cell_len

    whole = cell_len(text)
    return whole if whole <= LONGEST_UNBROKEN else min(max(map(cell_len, text.split()), default=1), LONGEST_UNBROKEN)


def _columns_of(name: str, measured: bool) -> list[str]:
    return [name, *(f"{name}_{end}" for end in ENDS)] if measured else [name]


def _values(cell: Cell, measured: bool) -> list[Any]:
    if isinstance(cell, Measured):
        return [cell.value, *(getattr(cell, end) for end in ENDS)]
    return [cell, *[None] * len(ENDS)] if measured else [cell]


def _escape_markdown(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
