"""A figure of pictures with what was painted out of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL.Image import Image

from kedit.inspection.canvas import GRAY, INK, VERMILLION, WIDTH, page, place, show, title_space, write
from kedit.samples import Mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 0.1
MARGIN = 0.15
NAME = 0.18
"""Inches for the line under each row."""


@dataclass(frozen=True, eq=False)
class PaintedRow:
    """One row of the figure: a picture, where it was painted over, and what came of it."""

    name: str
    """What to write under the row."""
    original: Image
    region: Mask
    """What was painted over, grown: `[height, width]` of the original."""
    painted: Image
    control: Image | None = None

    def __post_init__(self) -> None:
        size = (self.original.height, self.original.width)
        if self.region.shape != size:
            raise ValueError(f"`region` is {list(self.region.shape)}, the picture is {list(size)}; must be equal")


def draw_painted(rows: Sequence[PaintedRow], path: Path, *, title: str) -> None:
    """Draw pictures, their outlined regions and their counterfactuals, as a PNG at `path`.

    A fourth column has the control pictures, where there are any. Up to six rows fit a screen.
    """
    if not rows:
        raise ValueError("`rows` is empty, so there is nothing to draw; pass at least one picture")
    names = ["picture", "what is painted over", "counterfactual"]
    names += ["control"] if any(row.control is not None for row in rows) else []
    side = (WIDTH - 2 * MARGIN - (len(names) - 1) * GAP) / len(names)
    heights = [side * min(1.6, row.original.height / row.original.width) for row in rows]
    top = sum(heights) + (GAP + NAME) * len(rows)
    with page(path, top + 0.25 + title_space(title), title) as figure:
        for column, name in enumerate(names):
            write(figure, MARGIN + column * (side + GAP), top + 0.06, name, color=INK, size=9, va="bottom")
        bottom = top
        for row, height in zip(rows, heights, strict=True):
            bottom -= height
            axes = [place(figure, MARGIN + k * (side + GAP), bottom, side, height) for k in range(len(names))]
            for one, image in zip(axes, (row.original, row.original, row.painted, row.control), strict=False):
                if image is None:
                    one.set_axis_off()
                else:
                    show(one, image)
            _outline(axes[1], row.region)
            write(figure, MARGIN, bottom - 0.03, row.name, color=GRAY, size=8)
            bottom -= GAP + NAME


def _outline(axes: "Axes", region: Mask) -> None:
    """Draw the border of the region along the edges of its pixels."""
    from matplotlib.collections import LineCollection

    padded = np.pad(region, 1)
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    lines = [((x - 0.5, y - 0.5), (x + 0.5, y - 0.5)) for y, x in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    lines += [((x - 0.5, y - 0.5), (x - 0.5, y + 0.5)) for y, x in zip(rows, columns, strict=True)]
    for color, width in (("white", 2.4), (VERMILLION, 1.4)):
        axes.add_collection(LineCollection(lines, colors=color, linewidths=width, capstyle="projecting"))
