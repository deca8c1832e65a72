"""Charts that put several methods, or several concepts, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedit.inspection.canvas import BLUE, GRAY, INK, VERMILLION, WIDTH, page, place, shade, title_space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.27
"""Inches for each row of a list."""
LABELS = 1.75
"""Inches for the names of rows."""

Figure = Mapping[str, Any]
"""A measured value: `{"value", "low", "high", "n"}`."""


def draw_ranking(
    rows: Mapping[str, Mapping[str, Figure]],
    path: Path,
    *,
    title: str,
    marked: str | None = None,
    faded: Sequence[str] = (),
) -> None:
    """Draw each row's measures as points with their intervals, one panel for each measure, as a PNG at `path`.

    Args:
        rows: For each row, top to bottom, its measures; shares are expected. A value of None is drawn as "n/a".
        path: The file to write.
        title: The finding.
        marked: The row that the others are compared with.
        faded: Rows that are drawn in gray, such as random controls.
    """
    if not rows:
        raise ValueError("`rows` is empty, so there is nothing to draw; pass at least one row")
    measures = list(next(iter(rows.values())))
    body = ROW * len(rows)
    with page(path, body + 0.95 + title_space(title), title) as figure:
        room = (WIDTH - LABELS - 0.15) / len(measures)
        for column, measure in enumerate(measures):
            axes = place(figure, LABELS + column * room, 0.55, room - 0.2, body)
            for y, (name, figures) in enumerate(rows.items()):
                color = VERMILLION if name == marked else GRAY if name in faded else BLUE
                _draw_point(axes, y, figures[measure], color)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_xlim(-0.04, 1.04)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_yticks(range(len(rows)), list(rows) if not column else [""] * len(rows))
            axes.tick_params(left=False)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="y", color="#E8E8E8", lw=0.6)
            axes.set_axisbelow(True)
            axes.set_title(measure, size=10, weight="bold", loc="left")
            axes.set_xlabel("share, with 95 % interval")
            if not column:
                for label in axes.get_yticklabels():
                    label.set_color(VERMILLION if label.get_text() == marked else INK)


def _draw_point(axes: "Axes", y: float, measured: Figure, color: str) -> None:
    value, low, high = (measured.get(key) for key in ("value", "low", "high"))
    if value is None:
        axes.annotate("n/a", (0, y), (2, 0), textcoords="offset points", va="center", size=7, color=GRAY)
        return
    if low is not None and high is not None:
        axes.plot([low, high], [y, y], color=color, lw=1.6, alpha=0.45, solid_capstyle="butt")
    axes.plot([value], [y], "o", color=color, ms=5)


def draw_grid(
    cells: Mapping[str, Mapping[str, float | None]],
    path: Path,
    *,
    title: str,
    rows: str = "",
    columns: str = "",
) -> None:
    """Draw shares as a grid of shaded cells with their numbers, as a PNG at `path`; None is left blank.

    `rows` and `columns` say what the names on each side are.
    """
    if not cells:
        raise ValueError("`cells` is empty, so there is nothing to draw; pass at least one row")
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    names = list(dict.fromkeys(name for row in cells.values() for name in row))
    values = np.array([[np.nan if row.get(name) is None else row[name] for name in names] for row in cells.values()])
    left, below = 0.35 + 0.085 * max(map(len, cells)), 0.35 + 0.075 * max(map(len, names))
    if columns:
        # Room for a label that is wider than few columns.
        left = max(left, 1.6)
    side = min(0.5, (WIDTH - left - 0.2) / len(names))
    height = min(side, 0.36) * len(cells)
    shades = LinearSegmentedColormap.from_list("shares", ["white", BLUE])
    with page(path, height + below + 0.3 + title_space(title), title) as figure:
        axes = place(figure, left, below + 0.15, side * len(names), height)
        shade(axes, values, _two_digits, colors=shades, dark=0.55, size=7.5)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(cells)), list(cells))
        axes.set_xlabel(columns)
        axes.set_ylabel(rows)


def _two_digits(value: float) -> str:
    """Return a share in short: 1 for all, .07 for little, nothing for none."""
    if value != value:
        return ""
    return "1" if value > 0.995 else "0" if value < 0.005 else f"{value:.2f}".lstrip("0")


def draw_histograms(
    counts: Mapping[str, Sequence[float]], path: Path, *, title: str, marked: str | None = None
) -> None:
    """Draw how many neurons each row has in each layer, one small panel for each row, as a PNG at `path`."""
    if not counts:
        raise ValueError("`counts` is empty, so there is nothing to draw; pass at least one row")
    from matplotlib.ticker import MaxNLocator

    highest = max((n for row in counts.values() for n in row), default=0) or 1
    with page(path, *_panels_page(len(counts), title)) as figure:
        for name, axes in zip(counts, _panels(figure, len(counts), title), strict=True):
            row = counts[name]
            color = VERMILLION if name == marked else BLUE
            axes.bar(range(len(row)), row, 0.8, color=color)
            axes.set_ylim(0, highest * 1.1)
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlim(-0.6, len(row) - 0.4)
            axes.set_title(name, size=8.5, loc="left", color=color if name == marked else INK)
        figure.supxlabel("layer (0 is next to the input)", size=9, y=0.01, va="bottom")


def draw_doses(
    doses: Mapping[str, Sequence[tuple[float, Figure, Figure]]],
    path: Path,
    *,
    title: str,
    measures: tuple[str, str],
    marked: str | None = None,
) -> None:
    """Draw two measures of each row by the number of neurons, one small panel for each row, as a PNG at `path`.

    `doses` holds for each row its number of neurons with the two measures, which are shares.
    """
    if not doses:
        raise ValueError("`doses` is empty, so there is nothing to draw; pass at least one row")
    ticks = sorted({n for row in doses.values() for n, *_ in row if n > 0})
    with page(path, *_panels_page(len(doses), title)) as figure:
        for name, axes in zip(doses, _panels(figure, len(doses), title), strict=True):
            for which, color in ((0, BLUE), (1, VERMILLION)):
                points = [(n, both[which]) for n, *both in doses[name] if n > 0]
                _draw_dose(axes, points, color, measures[which])
            axes.set_xscale("log")
            axes.set_xticks(ticks[:: -(-len(ticks) // 5)], [f"{n:g}" for n in ticks[:: -(-len(ticks) // 5)]])
            axes.minorticks_off()
            axes.set_xlim(ticks[0] * 0.8, ticks[-1] * 1.25)
            axes.set_ylim(-0.05, 1.05)
            axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.set_title(name, size=8.5, loc="left", weight="bold" if name == marked else "normal")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower right", ncols=2)
        figure.supxlabel("neurons edited", size=9, y=0.01, va="bottom")


def _draw_dose(axes: "Axes", points: Sequence[tuple[float, Figure]], color: str, label: str) -> None:
    known = [(n, one["value"]) for n, one in points if one["value"] is not None]
    axes.plot([n for n, _ in known], [value for _, value in known], "o-", color=color, ms=3.5, lw=1.4, label=label)
    spread = [(n, one["low"], one["high"]) for n, one in points if one["low"] is not None]
    below, above = [low for _, low, _ in spread], [high for *_, high in spread]
    axes.fill_between([n for n, *_ in spread], below, above, color=color, alpha=0.15, lw=0)


COLUMNS = 4
PANEL = 1.35
"""Inches of height for each row of small panels."""


def _panels_page(count: int, title: str) -> tuple[float, str]:
    return PANEL * -(-count // COLUMNS) + 0.35 + title_space(title), title


def _panels(figure: Any, count: int, title: str) -> list["Axes"]:
    top = float(figure.get_size_inches()[1]) - title_space(title)
    room = (WIDTH - 0.2) / COLUMNS
    return [
        place(
            figure, 0.2 + room * (n % COLUMNS) + 0.3, top - PANEL * (n // COLUMNS + 1) + 0.25, room - 0.45, PANEL - 0.55
        )
        for n in range(count)
    ]
