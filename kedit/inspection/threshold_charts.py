"""Charts over what a sweep varied: heat maps over two settings, lines over one, and doses of neurons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kedit.inspection.canvas import BLUE, GRAY, INK, VERMILLION, WIDTH, page, place, shade, title_space, write
from kedit.inspection.trials import Figure, Look, Trial, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Page

MOST_ANNOTATED = 12
"""Rows and columns up to which each cell carries its number."""
CELL = 0.24
"""Inches of a row of cells."""


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


def draw_thresholds(grid: Grid, path: Path, *, title: str) -> None:
    """Draw a heat map of each measure over two settings as a PNG at `path`; where a job has no result, it is hatched.

    Raises:
        ValueError: The maps do not have the shape of the grid, or none has a value.
    """
    shape = (len(grid.rows), len(grid.columns))
    for name, cells in grid.maps.items():
        if cells.shape != shape:
            raise ValueError(f"the map of `{name}` is {list(cells.shape)}, and the grid {list(shape)}")
    if not any(np.isfinite(cells).any() for cells in grid.maps.values()):
        raise ValueError("no cell of any map has a value, so there is nothing to draw")
    side = min(3.0, max(1.1, CELL * shape[0]))
    rows = -(-len(grid.maps) // 2)
    below = 0.35 + 0.075 * max(map(len, grid.columns))
    best = _best(grid.maps.get("selectivity"))
    with page(path, rows * (side + 0.4) + below + 0.3 + title_space(title), title) as figure:
        for number, (name, cells) in enumerate(grid.maps.items()):
            row, column = divmod(number, 2)
            bottom = below + 0.25 + (rows - 1 - row) * (side + 0.4)
            axes = place(figure, 0.95 + column * 3.6, bottom, 2.75, side)
            _draw_map(axes, name, cells, grid.undone, best)
            axes.set_title(name, size=10, weight="bold", loc="left", pad=4)
            _name_sides(axes, grid, first=not column, lowest=number + 2 >= len(grid.maps))
            _draw_scale(figure, axes, place(figure, 0.95 + column * 3.6 + 2.82, bottom, 0.08, side), name)
        write(figure, 0.15, 0.2, _notes(grid, best), size=7.5, color=GRAY)


def _best(selectivity: NDArray[np.float64] | None) -> list[tuple[int, int]]:
    if selectivity is None or not np.isfinite(selectivity).any():
        return []
    return [(int(row), int(column)) for row, column in np.argwhere(selectivity == np.nanmax(selectivity))]


def _notes(grid: Grid, best: Sequence[tuple[int, int]]) -> str:
    notes = ["framed: the highest selectivity"] if best else []
    notes += ["hatched: a job failed or has not run"] if grid.undone.any() else []
    blank = any((np.isnan(cells) & ~grid.undone).any() for cells in grid.maps.values())
    return "; ".join(notes + ["-: not measured"] * blank)


def _draw_scale(figure: "Page", axes: "Axes", beside: "Axes", name: str) -> None:
    bar = figure.colorbar(axes.images[0], cax=beside)
    bar.outline.set_visible(False)
    if name == "neurons":
        highest = float(np.expm1(bar.mappable.get_clim()[1]))
        counts = [0, *(10**power for power in range(8) if 10**power <= highest)]
        bar.set_ticks([float(np.log1p(count)) for count in counts], labels=[_count(count) for count in counts])
    else:
        bar.set_ticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    beside.tick_params(length=0, labelsize=7)


def _draw_map(
    axes: "Axes",
    name: str,
    cells: NDArray[np.float64],
    undone: NDArray[np.bool_],
    best: Sequence[tuple[int, int]],
) -> None:
    counted, size = name == "neurons", 7.5 if cells.shape[1] <= 8 else 6
    # Counts span decades, so that their shades are by the logarithm.
    shades = np.log1p(cells) if counted else cells
    highest = max(np.log1p(1), float(np.nanmax(shades, initial=0.0))) if counted else 1.0

    def text(value: float) -> str:
        if np.isnan(value) or max(cells.shape) > MOST_ANNOTATED:
            return ""
        return _count(np.expm1(value)) if counted else _share(value)

    shade(axes, shades, text, colors="Greys" if counted else "Blues", highest=highest, dark=0.55 * highest, size=size)
    for row, column in np.argwhere(np.isnan(cells) & ~undone):
        axes.text(column, row, "-", ha="center", va="center", size=size, color=GRAY)
    for row, column in np.argwhere(undone):
        _frame(axes, int(row), int(column), hatch="////", lw=0, edgecolor="#B0B0B0", zorder=1.5)
    for row, column in best:
        _frame(axes, row, column, lw=1.6, edgecolor=VERMILLION, zorder=4)
    axes.set_xlim(-0.5, cells.shape[1] - 0.5)
    axes.set_ylim(-0.5, cells.shape[0] - 0.5)


def _frame(axes: "Axes", row: int, column: int, **look: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, clip_on=False, **look))


def _name_sides(axes: "Axes", grid: Grid, *, first: bool, lowest: bool) -> None:
    steps = [-(-len(side) // 16) for side in (grid.rows, grid.columns)]
    ticks = [range(0, len(side), step) for side, step in zip((grid.rows, grid.columns), steps, strict=True)]
    axes.set_yticks(ticks[0], [grid.rows[tick] for tick in ticks[0]] if first else [])
    axes.set_xticks(ticks[1], [grid.columns[tick] for tick in ticks[1]] if lowest else [])
    if max(map(len, grid.columns)) > 3 and len(ticks[1]) > 5:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_ylabel(grid.names[0] if first else "")
    axes.set_xlabel(grid.names[1] if lowest else "")


def _share(value: float) -> str:
    return "1" if value > 0.995 else "0" if value < 0.005 else f"{value:.2f}".lstrip("0")


def _count(value: float) -> str:
    return f"{value:.0f}" if value < 999.5 else f"{value / 1000:.2g}k"


def draw_threshold_lines(
    values: Sequence[str], measures: Mapping[str, Sequence[Figure]], path: Path, *, title: str, name: str
) -> None:
    """Draw each measure, a share, over the values of one setting, evenly spaced, as a PNG at `path`.

    Raises:
        ValueError: No measure has a value anywhere.
    """
    if not any(one["value"] is not None for figures in measures.values() for one in figures):
        raise ValueError("no measure has a value, so there is nothing to draw")
    with page(path, 3.6 + title_space(title), title) as figure:
        axes, places = place(figure, 0.7, 0.9, WIDTH - 0.95, 2.6), range(len(values))
        for (label, figures), color in zip(measures.items(), (BLUE, VERMILLION, INK), strict=False):
            middle, low, high = (
                np.array([np.nan if one[key] is None else one[key] for one in figures], float)
                for key in ("value", "low", "high")
            )
            axes.plot(places, middle, "o-", color=color, ms=4, label=label)
            axes.fill_between(places, low, high, color=color, alpha=0.12, lw=0)
        for at in places:
            if all(figures[at]["value"] is None for figures in measures.values()):
                axes.annotate("n/a", (at, 0), (0, 4), textcoords="offset points", ha="center", size=7.5, color=GRAY)
        axes.set_xticks(places, values)
        axes.set_xlim(-0.4, len(values) - 0.6)
        _share_axis(axes)
        axes.set_xlabel(name)
        axes.set_ylabel("share, with 95 % interval")
        figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=3)


def draw_dose(trials: Sequence[Trial], path: Path, *, title: str, marked: str = "two_stage") -> None:
    """Draw mention_drop and retention by the number of edited neurons, beside random ones, as a PNG at `path`.

    The axis is logarithmic where the numbers span more than a decade; 0 is shown. Lines join the means of a locator's
    trials in one panel, such as a concept.

    Raises:
        ValueError: No trial has a value for either.
    """
    if not any(one.drop["value"] is not None or one.kept["value"] is not None for one in trials):
        raise ValueError("no trial has a mention_drop or a retention, so there is nothing to draw")
    looks = looks_of([one.locator for one in trials], marked)
    below = 0.2 * -(-(len(looks) + 1) // 5) + 0.6
    with page(path, 2.7 + below + 0.35 + title_space(title), title) as figure:
        for column, name in enumerate(("mention_drop", "retention")):
            axes = place(figure, 0.6 + column * 3.8, below, 3.35, 2.7)
            controls = [(one.neurons, one.control_kept if column else one.control_drop) for one in trials]
            _draw_doses(axes, controls, (GRAY, "o"), "random control", joined=False)
            for locator, look in looks.items():
                own = [one for one in trials if one.locator == locator]
                for number, panel in enumerate(dict.fromkeys(one.panel for one in own)):
                    doses = [(one.neurons, one.kept if column else one.drop) for one in own if one.panel == panel]
                    _draw_doses(axes, doses, look, "_" if number else locator)
            _count_axis(axes, [one.neurons for one in trials])
            _share_axis(axes)
            axes.tick_params(labelleft=not column)
            axes.set_title(name, size=10, weight="bold", loc="left")
            axes.set_xlabel("neurons edited")
        axes.figure.axes[0].set_ylabel("share, with 95 % interval")
        figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=5)


def _draw_doses(
    axes: "Axes", doses: Sequence[tuple[int, Figure]], look: Look, label: str, *, joined: bool = True
) -> None:
    color, mark = look
    known = {(n, one["value"], one["low"], one["high"]) for n, one in doses if one["value"] is not None}
    for n, value, low, high in sorted(known, key=lambda dose: dose[:2]):
        if low is not None:
            axes.plot([n, n], [low, high], color=color, lw=0.6, alpha=0.3, zorder=1)
        axes.plot(n, value, mark, color=color, ms=3.5, alpha=0.7, mec=color if mark in "+x" else "none", zorder=3)
    counts = sorted({n for n, *_ in known}) if joined else []
    means = [float(np.mean([value for n, value, *_ in known if n == count])) for count in counts]
    axes.plot(counts, means, mark, color=color, ls="-" if joined else "", lw=1.2, ms=3.5, mew=0.5, label=label)


def _share_axis(axes: "Axes") -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.grid(axis="y", color="#EEEEEE", lw=0.6)
    axes.set_axisbelow(True)


def _count_axis(axes: "Axes", counts: Sequence[int]) -> None:
    least, most = min((n for n in counts if n), default=1), max(counts)
    if most <= 10 * least:
        axes.set_xlim(-0.04 * most, 1.05 * most or 1)
        return
    if 0 in counts:
        axes.set_xscale("symlog", linthresh=least, linscale=0.4)
    else:
        axes.set_xscale("log")
    decades = [10**power for power in range(8) if least <= 10**power <= most]
    ticks = [0] * (0 in counts) + (decades if len(decades) > 1 else sorted({least, *decades, most}))
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-0.3 * least if 0 in counts else 0.8 * least, 1.3 * most)
