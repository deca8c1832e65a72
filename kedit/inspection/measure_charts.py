"""Charts of measures: with intervals beside a random control, by sample, and as a table of overlaps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kedit.inspection.canvas import BLUE, GRAY, INK, SKY, VERMILLION, WIDTH, page, place, shade, title_space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figure = Mapping[str, Any]
"""A measured figure: `{"value", "low", "high", "n"}`."""
LINE = 0.27
"""Inches of one measure."""


def draw_measures(measures: Mapping[str, tuple[Figure, Figure | None]], path: Path, *, title: str) -> None:
    """Draw each measure of the located neurons and of random ones as dots with their intervals, as a PNG at `path`.

    What has no value is left out; a measure of which neither has one is not drawn.

    Raises:
        ValueError: No measure has a value.
    """
    drawn = {
        name: [(one, color) for one, color in ((pair[0], BLUE), (pair[1], GRAY)) if one and one["value"] is not None]
        for name, pair in measures.items()
    }
    drawn = {name: dots for name, dots in drawn.items() if dots}
    if not drawn:
        raise ValueError("none of the measures has a value, so there is nothing to draw")
    body = LINE * len(drawn) + 0.1
    with page(path, body + 0.95 + title_space(title), title) as figure:
        axes = place(figure, 3.85, 0.7, WIDTH - 4.05, body)
        for row, dots in enumerate(drawn.values()):
            for shift, (one, color) in zip((-0.12, 0.12), dots, strict=False):
                _draw_dot(axes, row + (shift if len(dots) > 1 else 0), one, color)
        for color, label in ((BLUE, "located"), (GRAY, "random, layer-matched")):
            axes.plot([], [], "o", color=color, ms=5, label=label)
        labels = [f"{name} (n = {dots[0][0]['n']})" for name, dots in drawn.items()]
        axes.set_yticks(range(len(drawn)), labels)
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(min(0.0, axes.get_xlim()[0]), max(1.0, axes.get_xlim()[1]))
        axes.tick_params(left=False)
        axes.grid(axis="y", color=SKY, lw=0.5)
        axes.set_axisbelow(True)
        axes.set_xlabel("value, with 95 % interval")
        figure.legend(*axes.get_legend_handles_labels(), loc="lower left", ncols=1)


def _draw_dot(axes: "Axes", y: float, one: Figure, color: str) -> None:
    if one["low"] is not None:
        axes.plot([one["low"], one["high"]], [y, y], color=color, lw=2, solid_capstyle="butt")
    axes.plot([one["value"]], [y], "o", color=color, ms=5, mec="white", mew=0.6, clip_on=False, zorder=3)


def draw_matrix(
    table: NDArray[np.float64], names: Sequence[str], path: Path, *, title: str, what: str = "overlap"
) -> None:
    """Draw a square table of shares, such as the overlap of each two sets, as a PNG at `path`.

    Args:
        table: `[name, name]`, in [0, 1].
        names: What the rows and columns are.
        path: The file to write.
        title: The finding.
        what: What the entries are, for the color bar.
    """
    n = len(names)
    if table.shape != (n, n) or not n:
        raise ValueError(f"a table of {n} names is [{n}, {n}] and not empty, got {list(table.shape)}")
    side = min(6.0, 0.9 + 0.5 * n)
    with page(path, side + 1.35 + title_space(title), title) as figure:
        axes = place(figure, 1.4, 1.15, side, side)
        colors = shade(axes, table, "{:.2g}".format)
        axes.set_xticks(range(n), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), names)
        figure.colorbar(colors, cax=place(figure, 1.4 + side + 0.25, 1.15, 0.14, side), label=what)


def draw_responses(
    responses: Mapping[str, Mapping[str, NDArray[np.float64]]], path: Path, *, title: str, scale: str
) -> None:
    """Draw what sets of neurons do on each picture of several kinds, a panel for each set, as a PNG at `path`.

    Args:
        responses: For each set, for each kind of picture, one number for each picture.
        path: The file to write.
        title: The finding.
        scale: What the numbers are.
    """
    if not responses:
        raise ValueError("`responses` is empty, so there is nothing to draw; pass at least one set")
    with page(path, 3.3 + title_space(title), title) as figure:
        room = (WIDTH - 0.7) / len(responses)
        every = np.concatenate([values for kinds in responses.values() for values in kinds.values()])
        margin = 0.06 * (float(np.ptp(every)) or 1.0)
        for number, (name, kinds) in enumerate(responses.items()):
            axes = place(figure, 0.75 + number * room, 0.55, room - 0.35, 2.4)
            for column, (values, color) in enumerate(zip(kinds.values(), (VERMILLION, BLUE, GRAY), strict=False)):
                # Spread by rank order of the pictures, so that equal input gives equal dots.
                across = column + 0.5 * (np.modf(np.arange(len(values)) * 0.618)[0] - 0.5)
                axes.plot(across, values, "o", color=color, ms=3.5, alpha=0.6, mec="none")
                axes.plot([column - 0.32, column + 0.32], [values.mean()] * 2, color=INK, lw=1.5)
            axes.set_xticks(range(len(kinds)), [f"{kind}\n(n = {len(values)})" for kind, values in kinds.items()])
            axes.set_xlim(-0.5, len(kinds) - 0.5)
            axes.set_ylim(every.min() - margin, every.max() + margin)
            axes.tick_params(labelleft=number == 0)
            axes.set_title(name, size=9, loc="left")
            if number == 0:
                axes.set_ylabel(scale)
