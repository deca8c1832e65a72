"""What a sweep measured over its settings: over one as curves, over two as matrices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kedit.evaluation.statistics import Measured
from kedit.plots.drawing import Drawing, sheet
from kedit.plots.lines import Curve, draw_lines
from kedit.plots.marks import hatch, matrix, outline, scale_bar, share_axis, short_count, short_share
from kedit.plots.style import GRAY, INK, MEASURES, name, setting_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ANNOTATED = 12
"""Rows and columns up to which each cell carries its number."""
MOST_NAMED = 16
"""Values of a setting that are named."""
VALUES = {"null": "none", "true": "yes", "false": "no"}
"""How people write what a command calls otherwise."""


def draw_setting(
    values: Sequence[str], measures: Mapping[str, Sequence[Measured]], *, title: str, setting: str
) -> Drawing:
    """Draw measures of `MEASURES` over the values of one setting, evenly spaced."""
    places = range(len(values))

    def prepare(axes: "Axes") -> None:
        share_axis(axes, "y")
        axes.set_xticks(places, [VALUES.get(value, value) for value in values])
        axes.set_xlim(-0.4, len(values) - 0.6)
        for at in places:
            if all(figures[at].value is None for figures in measures.values()):
                axes.annotate("not\nmeasured", (at, 0.02), ha="center", va="bottom", size=7.5, color=GRAY)

    curves = {name(measure): Curve(places, figures, MEASURES[measure]) for measure, figures in measures.items()}
    return draw_lines({"": curves}, title=title, across=setting_name(setting), prepare=prepare, bars=True)


@dataclass(frozen=True, eq=False)
class Grid:
    """Two settings and, for each pair of their values, what was measured there."""

    names: tuple[str, str]
    """Of the settings: that of the rows and that of the columns."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    maps: Mapping[str, NDArray[np.float64]]
    """For each measure its values, `[row, column]`, NaN where there is none; of `neurons` counts, else shares."""
    undone: NDArray[np.bool_]
    """Where a job has no result, `[row, column]`."""
    doubtful: NDArray[np.bool_] | None = None
    """Where no edit did what it is for, `[row, column]`; None for nowhere."""

    @property
    def best(self) -> NDArray[np.bool_]:
        """Where the selectivity is highest among what is not doubtful, `[row, column]`."""
        selectivity = self.maps.get("selectivity", np.full(self.undone.shape, np.nan))
        if self.doubtful is not None:
            selectivity = np.where(self.doubtful, np.nan, selectivity)
        return selectivity == np.nanmax(selectivity, initial=-1.0)  # type: ignore[no-any-return]


def draw_thresholds(grid: Grid, *, title: str) -> Drawing:
    """Draw a matrix of each measure over two settings; where a job has no result, it is hatched.

    The region of the highest selectivity is outlined, unless it is everywhere; see `Grid.best`.

    Raises:
        ValueError: The maps do not have the shape of the grid, or none has a value.
    """
    shape = (len(grid.rows), len(grid.columns))
    for measure, cells in grid.maps.items():
        if cells.shape != shape:
            raise ValueError(f"the map of `{measure}` is {list(cells.shape)}, and the grid {list(shape)}")
    if not any(np.isfinite(cells).any() for cells in grid.maps.values()):
        raise ValueError("no cell of any map has a value, so there is nothing to draw")
    best = grid.best & (not grid.best.all())
    blank = any((np.isnan(cells) & ~grid.undone).any() for cells in grid.maps.values())
    notes = ["outlined: the highest selectivity"] * bool(best.any())
    notes += ["hatched: a job failed or has not run"] * bool(grid.undone.any()) + ["-: not measured"] * blank
    columns = min(len(grid.maps), 2)
    side = min(3.0, max(1.1, 0.24 * shape[0])) + 0.4
    with sheet(side * -(-len(grid.maps) // columns) + 0.5, title, ["; ".join(notes)] if notes else []) as drawing:
        every = drawing.panels(len(grid.maps), columns, sharex=True, sharey=True)
        for axes, (measure, cells) in zip(every, grid.maps.items(), strict=True):
            _draw_map(axes, cells, grid.undone, counted=measure == "neurons")
            hatch(axes, grid.undone)
            outline(axes, best, color=INK, cells=True)
            drawing.head(axes, "neurons edited" if measure == "neurons" else measure)
        _name_values(every[0], grid)
        drawing.up, drawing.across = map(setting_name, grid.names)
    return drawing


def _draw_map(axes: "Axes", cells: NDArray[np.float64], undone: NDArray[np.bool_], *, counted: bool) -> None:
    # Counts span decades, so that their shades are by the logarithm.
    shades = np.log1p(cells) if counted else cells
    highest = max(np.log1p(1), float(np.nanmax(shades, initial=0.0))) if counted else 1.0
    silent = max(cells.shape) > MOST_ANNOTATED
    text = short_count if counted else short_share
    hidden = undone | (silent & np.isfinite(cells))
    texts = [
        ["" if hide else text(value) for value, hide in zip(*row, strict=True)]
        for row in zip(cells.tolist(), hidden.tolist(), strict=True)
    ]
    colors, size = "Greys" if counted else "Blues", 7.5 if cells.shape[1] <= 8 else 6
    image = matrix(axes, shades, texts, colors=colors, highest=highest, size=size)
    axes.set_ylim(-0.5, cells.shape[0] - 0.5)
    if counted:
        counts = [count for count in (0, *(10**n for n in range(8))) if np.log1p(count) <= highest]
        scale_bar(axes, image, {float(np.log1p(count)): short_count(count) for count in counts})
    else:
        scale_bar(axes, image, {0: "0", 0.5: "0.5", 1: "1"})


def _name_values(axes: "Axes", grid: Grid) -> None:
    ticks = [range(0, len(side), -(-len(side) // MOST_NAMED)) for side in (grid.rows, grid.columns)]
    rows, columns = ([VALUES.get(value, value) for value in side] for side in (grid.rows, grid.columns))
    axes.set_yticks(ticks[0], [rows[tick] for tick in ticks[0]])
    axes.set_xticks(ticks[1], [columns[tick] for tick in ticks[1]])
    upright = max(map(len, grid.columns)) > 3 and len(ticks[1]) > 5
    for one in axes.figure.axes:
        one.tick_params(axis="x", labelrotation=90 if upright else 0)
