"""What figures are made of: bars, intervals, matrices, lines, points, strips, pictures, maps and tags on axes."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from kedit.evaluation.statistics import Measured
from kedit.plots.style import CONCEPT, EDITED, GRAY, INK, PALE, Look
from kedit.samples import Mask

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Numbers = NDArray[np.float64]
Point = tuple[float, float]
BACKDROP = 0.25
"""The gray behind a map, from 0 (black) to 1; its color bar shows its colors over the same."""
FAR = 8.0
"""Points of type from which on a line joins a label to what it names."""
FARS = (7.0, 14.0, 20.0, 30.0, 42.0, 56.0, 72.0)
"""Points of type between a label and what it names: the nearest only where nothing else is named near by."""
CROWD = 20.0
"""Points of type between two places that are near each other."""
EDGE = 8
"""Pixels between a label and the edge of the page."""


def bars(axes: "Axes", heights: Numbers, color: str, *, width: float = 0.75, texts: Sequence[str] = ()) -> None:
    """Draw upright bars at 0, 1, ..., each with its text above it."""
    axes.bar(np.arange(len(heights)), heights, width, color=color)
    small = len(heights) > 20  # and a single column of a paper has no room for two letters side by side
    for at, (height, text) in enumerate(zip(heights, texts, strict=False)):
        axes.annotate(
            text, (at, max(height, axes.get_ylim()[0])), (0, 2), textcoords="offset points", ha="center", va="bottom",
            size=6 if small else 8, rotation=90 if small and len(text) > 1 else 0,
            color=GRAY if text == "0" else INK,
        )  # fmt: skip


def intervals(
    axes: "Axes", rows: Sequence[Sequence[tuple[Measured, Look]]], names: Sequence[str], *, numbers: bool = False
) -> None:
    """Draw rows of figures as points with their 95 % intervals, the first row at the top.

    What was not measured says so. With `numbers`, the others stand beside the row as text too.
    """
    for row, several in enumerate(rows):
        if len({one for one, _ in several}) == 1 and several[0][0].value is None:
            several = several[:1]  # what is said of all is said once
        apart = min(0.28, 0.8 / len(several))
        for number, (one, look) in enumerate(several):
            y = row + apart * (number - (len(several) - 1) / 2)
            _interval(axes, y, one, look)
            if numbers and one.value is not None:
                color = look.color if look.color == EDITED else GRAY
                place: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
                axes.annotate(str(one), (1, y), (9, 0), va="center", size=7.5, color=color, **place)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", left=False)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    for row in range(1, len(rows)):
        axes.axhline(row - 0.5, color=PALE, lw=0.6, zorder=0)


def _interval(axes: "Axes", y: float, one: Measured, look: Look) -> None:
    if one.value is None:
        text = "not measured" if len(str(one.why)) > 40 else f"not measured: {one.why}"
        axes.annotate(text, (0.02, y), xycoords=axes.get_yaxis_transform(), va="center", size=7, color=GRAY)
        return
    if one.low is not None and one.high is not None:
        axes.plot([one.low, one.high], [y, y], color=look.color, lw=2, solid_capstyle="butt", clip_on=False)
    axes.plot(one.value, y, **look.interval() | {"ls": ""}, clip_on=False, zorder=3)


def matrix(
    axes: "Axes",
    cells: Numbers,
    texts: Sequence[Sequence[str]],
    *,
    colors: str = "Blues",
    highest: float = 1.0,
    size: float = 8,
) -> "AxesImage":
    """Draw `cells`, `[row, column]`, darker from 0 to `highest`, each with its text; NaN is white."""
    image = axes.imshow(cells, cmap=colors, vmin=0, vmax=highest, aspect="auto")
    for (row, column), value in np.ndenumerate(cells):
        color = "white" if value > 0.55 * highest else INK if value == value else GRAY
        axes.text(column, row, texts[row][column], ha="center", va="center", size=size, color=color)
    axes.set_xticks(np.arange(0.5, cells.shape[1] - 1), minor=True)
    axes.set_yticks(np.arange(0.5, cells.shape[0] - 1), minor=True)
    axes.grid(which="minor", color="white", lw=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image


def scale_bar(axes: "Axes", image: "AxesImage", ticks: Mapping[float, str], label: str = "") -> None:
    """Draw the bar of colors that tells what the shades of a matrix are; it goes where its panel goes."""
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0, 0.025, 1)), label=label)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(length=0, labelsize=8)
    bar.ax.spines[:].set_visible(False)


def lines(
    axes: "Axes",
    x: Sequence[float],
    values: Sequence[Measured],
    look: Look,
    *,
    bars: bool = False,
    size: float = 4,
    aside: float = 0,
) -> None:
    """Draw figures over `x` as a line with a band of their 95 % intervals, or with a bar for each.

    The line has a gap where nothing was measured. All is drawn so many points of type `aside`, at the same `x`.
    """
    from matplotlib.transforms import ScaledTranslation

    known = [
        (at, (one.low, one.high))
        for at, one in zip(x, values, strict=True)
        if one.low is not None and one.high is not None
    ]
    middle = [math.nan if one.value is None else one.value for one in values]
    drawn = axes.plot(x, middle, **look.line2d() | {"ms": size}, lw=1.5, zorder=3, clip_on=not bars)
    if bars:
        for at, ends in known:
            drawn += axes.plot([at, at], ends, color=look.color, lw=1.2, clip_on=False)
    else:
        low, high = np.array([ends for _, ends in known], dtype=np.float64).reshape(-1, 2).T
        axes.fill_between([at for at, _ in known], low, high, color=look.color, alpha=0.13, lw=0)
    # Moved when the limits of the axes know the data, which are not.
    for line in drawn if aside else ():
        line.set_transform(axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans))


def points(axes: "Axes", x: Numbers, y: Numbers, color: str, size: float) -> None:
    """Draw many points, which may lie on each other: small ones run together, large ones have a rim."""
    axes.scatter(x, y, size, color=color, lw=0.5 * (size > 12), edgecolors="white", zorder=2)


def strips(axes: "Axes", groups: Mapping[str, Numbers], colors: Sequence[str]) -> None:
    """Draw each group of numbers as a strip of points with its mean, side by side."""
    for column, (values, color) in enumerate(zip(groups.values(), colors, strict=True)):
        # Spread by rank order, so that equal input gives equal points.
        across = column + 0.5 * (np.modf(np.arange(len(values)) * 0.618)[0] - 0.5)
        axes.plot(across, values, "o", color=color, ms=3.5, alpha=0.7, mec="none")
        axes.plot([column - 0.32, column + 0.32], [values.mean()] * 2, color=INK, lw=1.5)
    axes.set_xticks(range(len(groups)), [f"{name}\n(n = {len(values)})" for name, values in groups.items()])
    axes.set_xlim(-0.5, len(groups) - 0.5)


def picture(axes: "Axes", image: Image) -> None:
    """Draw a picture without a frame; one of 64 pixels shows its pixels, not a blur."""
    axes.imshow(np.asarray(image.convert("RGB")), interpolation="nearest", aspect="equal")
    axes.set_axis_off()


def heat(axes: "Axes", image: Image, values: Numbers, hottest: float) -> "AxesImage":
    """Draw `values`, `[height, width]`, over the picture in dim gray."""
    gray = np.asarray(image.convert("L"), dtype=np.float64) / 255
    # Dimmed, so that a bright picture does not pass for heat.
    axes.imshow(BACKDROP + 0.35 * (gray - gray.mean()), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    drawn = axes.imshow(values, cmap="viridis", vmin=0, vmax=hottest, alpha=0.75, interpolation="nearest")
    axes.set_axis_off()
    return drawn


def outline(axes: "Axes", region: Mask, *, color: str = CONCEPT, dashed: bool = False, cells: bool = False) -> None:
    """Draw the border of `region`, `[row, column]`: smoothly, or along the edges of `cells`."""
    from matplotlib.patheffects import Normal, Stroke

    if not region.any():
        return
    steps = 24 if cells else 1
    fine = np.kron(np.pad(region, 1), np.ones((steps, steps)))
    y, x = ((np.arange(size) + 0.5) / steps - 1.5 for size in fine.shape)
    limits = axes.axis()
    style = {"linewidths": 0.9, "linestyles": "dashed"} if dashed else {"linewidths": 2.0}
    drawn = axes.contour(x, y, fine, [0.5], colors=color, zorder=4, **style)
    axes.axis(limits)
    drawn.set_clip_on(not cells)  # those at the edge of a matrix are outlined on all sides
    drawn.set_in_layout(False)
    if not dashed:
        drawn.set_path_effects([Stroke(linewidth=3.2, foreground="white"), Normal()])


def hatch(axes: "Axes", cells: Mask) -> None:
    """Hatch some cells of a matrix."""
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(cells):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", lw=0, zorder=1.5))


def tag(figure: "Figure", axes: "Axes", labels: Mapping[Point, str]) -> list["Artist"]:
    """Write a label near each point, off all that is drawn, with a line to it from afar, and return what is drawn."""
    figure.draw_without_rendering()  # the panels find their places
    places = axes.transData.transform(list(labels)) if labels else np.empty((0, 2))
    drawn: list[Artist] = []
    taken, drawings = list[Numbers](), _drawn_at(axes)
    for point, place, text in zip(labels, places, labels.values(), strict=True):
        ground = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5}
        style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "size": 8}
        written = axes.annotate(text, point, (0, 0), bbox=ground, zorder=6, **style)
        written.set_in_layout(False)
        sides = np.array(written.get_window_extent().size)
        room = np.array([[EDGE, axes.bbox.y0], [figure.bbox.x1 - EDGE, axes.bbox.y1 + 30]])
        others = places[np.abs(places - place).max(-1) > 1]
        crowded = len(others) < len(places) - 1 or (np.hypot(*(others - place).T) < CROWD * figure.dpi / 72).any()
        boxes = _around(place, sides, figure.dpi / 72, FARS[int(crowded) :])
        costs = [_cost(box, place, others, taken, drawings, room) for box in boxes]
        best = int(np.argmin(costs))
        if not np.isfinite(costs[best]):
            written.remove()
            continue
        taken.append(box := boxes[best])
        written.set_position(tuple((box.mean(0) - place) * 72 / figure.dpi))
        drawn.append(written)
        way = (np.clip(place, *box) - place) * 72 / figure.dpi
        if np.hypot(*way) > FAR:
            drawn.append(_lead(axes, point, way))
    return drawn


def _around(place: Numbers, sides: Numbers, unit: float, fars: Sequence[float]) -> list[Numbers]:
    """Return boxes of a size around a place, so far from it: `[lower left or upper right, x or y]`, in pixels."""
    angles = np.deg2rad([45, 135, 315, 225, 0, 180, 90, 270, 20, 160, 340, 200, 70, 110, 290, 250])
    rays = np.stack([np.cos(angles), np.sin(angles)], 1)
    centers = [place + ray * (far * unit + sides / 2) for far in fars for ray in rays]
    return [np.array([center - sides / 2, center + sides / 2]) for center in centers]


def _drawn_at(axes: "Axes") -> Numbers:
    """Return where points and lines are drawn, `[number, x or y]`, in pixels."""
    from matplotlib.collections import PathCollection

    lines = [one.get_transform().transform_path(one.get_path()).interpolated(60).vertices for one in axes.lines]
    spots = [axes.transData.transform(one.get_offsets()) for one in axes.collections if isinstance(one, PathCollection)]
    return np.concatenate([np.empty((0, 2)), *lines, *spots])


def _cost(
    box: Numbers, place: Numbers, others: Numbers, taken: Sequence[Numbers], drawings: Numbers, room: Numbers
) -> float:
    """Return how bad a box is for a label of `place`: infinitely on other labels and points, less so far away."""
    low, high = box[0] - 2, box[1] + 2
    outside = (box[0] < room[0]).any() or (box[1] > room[1]).any()
    if (
        outside
        or _within(others, low, high).any()
        or any((low < up).all() and (high > down).all() for down, up in taken)
    ):
        return float("inf")
    nearest = np.clip(place, *box)
    far, way = float(np.hypot(*(nearest - place))), place + np.linspace(0, 1, 20)[:, None] * (nearest - place)
    crossed = sum(bool(_within(way, down, up).any()) for down, up in taken)
    crossed += bool((np.abs(way[:, None] - others[None]).max(-1) < 5).any())
    # A label without a line is read as that of the nearest point.
    crossed += bool((np.hypot(*(np.clip(others, *box) - others).T) < 1.5 * far).any())
    return far + 6 * min(8, int(_within(drawings, low, high).sum())) + 60 * crossed


def _within(points: Numbers, low: Numbers, high: Numbers) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.all((points > low) & (points < high), axis=-1)
    return inside


def _lead(axes: "Axes", point: Point, end: Numbers) -> "Artist":
    """Draw a line from a point to its label, which begins so many points of type away."""
    line = {"arrowstyle": "-", "color": GRAY, "lw": 0.6, "shrinkA": 1, "shrinkB": 3}
    drawn = axes.annotate("", point, tuple(end), textcoords="offset points", arrowprops=line)
    drawn.set_in_layout(False)
    return drawn


def share_axis(
    axes: "Axes", side: Literal["x", "y"], values: Sequence[Measured] = (), *, zoom: bool = False, brief: bool = False
) -> float:
    """Let an axis run over shares, from 0 to 1, or as far as `values` go, and return where it begins.

    With `zoom`, it begins at one half or at 0.8 where all of them are above, so that differences near 1 are seen. A
    `brief` axis names every second tick.
    """
    ends = [end for one in values for end in (one.value, one.low, one.high) if end is not None]
    low, high = min([0.0, *ends]), max([1.0, *ends])
    if zoom and ends and high == 1:
        low = next((start for start in (0.8, 0.5) if min(ends) >= start), low)
    margin = 0.03 * (high - low)
    (axes.set_xlim if side == "x" else axes.set_ylim)(low - margin, high + margin)
    if (low, high) == (0, 1) or low in (0.5, 0.8):
        ticks = [low, (low + high) / 2, high] if low else [0, 0.25, 0.5, 0.75, 1]
        names = ["" if brief and tick in (0.25, 0.75) and not low else f"{tick:.3g}" for tick in ticks]
        (axes.set_xticks if side == "x" else axes.set_yticks)(ticks, names)
    return low


def count_axis(axes: "Axes", counts: Sequence[float], room: int = 5) -> None:
    """Let the x axis run over numbers of neurons with whole ticks: by their logarithm where they span a decade."""
    from matplotlib.ticker import MaxNLocator

    least, most = min((n for n in counts if n), default=1), max([1, *counts])
    if most <= 10 * least:
        axes.set_xlim(-0.05 * most, 1.05 * most)
        axes.xaxis.set_major_locator(MaxNLocator(room, integer=True))
        return
    if 0 in counts:
        axes.set_xscale("symlog", linthresh=least, linscale=0.4)
    else:
        axes.set_xscale("log")
    own = sorted({round(n) for n in counts if n})
    round_ones = [one * 10**power for power in range(8) for one in (1, 2, 5) if least <= one * 10**power <= most]
    decades = [one for one in round_ones if str(one)[0] == "1"]
    ticks = own if len(own) <= room else round_ones if len(round_ones) <= room or len(decades) < 2 else decades
    ticks = [0] * (0 in counts) + ticks
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(-0.3 * least if 0 in counts else 0.75 * least, 1.35 * most)


def short_share(value: float) -> str:
    """Return a share in short: 1 for all, .07 for little, a dash for none."""
    if value != value:
        return "-"
    return "1" if value > 0.995 else "0" if value < 0.005 else f"{value:.2f}".lstrip("0")


def short_count(value: float) -> str:
    """Return a number of neurons in short: 12k for twelve thousand."""
    return "-" if value != value else f"{value:.0f}" if value < 999.5 else f"{value / 1000:.2g}k"
