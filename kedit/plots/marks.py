"""What figures are made of: bars, intervals, matrices, lines, points, strips, pictures, maps and tags on axes."""

from collections.abc import Mapping, Sequence
from itertools import product
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
    from matplotlib.text import Annotation

Numbers = NDArray[np.float64]
Point = tuple[float, float]
BACKDROP = 0.25
"""The gray behind a map, from 0 (black) to 1; its color bar shows its colors over the same."""


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
    axes.plot(one.value, y, **look.line2d() | {"ls": "", "ms": 5.5}, clip_on=False, zorder=3)


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
    """Draw the bar of colors that tells what the shades of a matrix are."""
    bar = axes.figure.colorbar(image, ax=axes, label=label, pad=0.02, aspect=25)
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(length=0, labelsize=8)
    bar.ax.spines[:].set_visible(False)


def lines(
    axes: "Axes", x: Sequence[float], values: Sequence[Measured], look: Look, *, bars: bool = False, size: float = 4
) -> None:
    """Draw figures over `x` as a line with a band of their 95 % intervals, or with a bar for each."""
    known = [(at, one) for at, one in zip(x, values, strict=True) if one.value is not None]
    middle = np.array([one.value for _, one in known], dtype=np.float64)
    axes.plot([at for at, _ in known], middle, **look.line2d() | {"ms": size}, lw=1.5, zorder=3, clip_on=not bars)
    spread = [(at, one.low, one.high) for at, one in known if one.low is not None and one.high is not None]
    across, low, high = ([one[which] for one in spread] for which in range(3))
    if bars:
        axes.vlines(across, low, high, color=look.color, lw=1.2)
    else:
        axes.fill_between(across, low, high, color=look.color, alpha=0.13, lw=0)


def points(axes: "Axes", x: Numbers, y: Numbers, color: str, size: float) -> None:
    """Draw many points, which may lie on each other."""
    axes.scatter(x, y, size, color=color, lw=0.5, edgecolors="white", zorder=2)


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
    if not dashed:
        drawn.set_path_effects([Stroke(linewidth=3.2, foreground="white"), Normal()])


def hatch(axes: "Axes", cells: Mask) -> None:
    """Hatch some cells of a matrix."""
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(cells):
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", lw=0, zorder=1.5))


def tag(figure: "Figure", axes: "Axes", labels: Mapping[Point, str]) -> list["Artist"]:
    """Write a label near each point, off the other points and labels, with a line to it, and return what is drawn."""
    figure.draw_without_rendering()  # the panels find their places
    places = axes.transData.transform(list(labels)) if labels else np.empty((0, 2))
    drawn: list[Annotation] = []
    ways = product((6, 16, 26, 38, 52), ((1, 1), (-1, 1), (-1, -1), (1, -1), (0, 1), (0, -1)))
    offsets = [(far * x, far * y) for far, (x, y) in ways]
    for point, text in labels.items():
        for x, y in offsets:
            side: dict[str, Any] = {
                "ha": ("center", "left", "right")[int(np.sign(x))],
                "va": "bottom" if y > 0 else "top",
            }
            ground = {"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5}
            written = axes.annotate(text, point, (x, y), textcoords="offset points", size=8, bbox=ground, **side)
            written.set_in_layout(False)
            box = written.get_window_extent().padded(2)
            inside = figure.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1 and box.y1 < axes.bbox.y1 + 15
            covered = any(box.overlaps(other.get_window_extent()) for other in drawn)
            if inside and not covered and not box.count_contains(places):
                drawn.append(written)
                break
            written.remove()
    return [*drawn, *(_lead(axes, one) for one in drawn if abs(one.xyann[1]) > 6)]


def _lead(axes: "Axes", label: "Annotation") -> "Annotation":
    """Draw a line from a label to its point."""
    line = {"arrowstyle": "-", "color": GRAY, "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
    drawn = axes.annotate("", label.xy, label.xyann, textcoords="offset points", arrowprops=line)
    drawn.set_in_layout(False)
    return drawn


def share_axis(axes: "Axes", side: Literal["x", "y"], values: Sequence[Measured] = (), *, zoom: bool = False) -> None:
    """Let an axis run over shares, from 0 to 1, or as far as `values` go.

    With `zoom`, it begins at one half or at 0.8 where all of them are above, so that differences near 1 are seen.
    """
    ends = [end for one in values for end in (one.value, one.low, one.high) if end is not None]
    low, high = min([0.0, *ends]), max([1.0, *ends])
    if zoom and ends and high == 1:
        low = next((start for start in (0.8, 0.5) if min(ends) >= start), low)
    margin = 0.03 * (high - low)
    (axes.set_xlim if side == "x" else axes.set_ylim)(low - margin, high + margin)
    if (low, high) == (0, 1) or low in (0.5, 0.8):
        ticks = [low, (low + high) / 2, high] if low else [0, 0.25, 0.5, 0.75, 1]
        (axes.set_xticks if side == "x" else axes.set_yticks)(ticks, [f"{tick:.3g}" for tick in ticks])


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
    decades = [10**power for power in range(8) if least <= 10**power <= most]
    ticks = own[:: -(-len(own) // room)] if len(own) <= 2 * room or len(decades) < 2 else decades
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
