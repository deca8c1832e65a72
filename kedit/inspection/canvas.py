"""The page that figures are drawn on: one look, one palette, and equal bytes for equal input."""

import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

DPI = 150
WIDTH = 8.0
"""Inches, so that a figure is 1200 pixels wide."""

# Okabe and Ito's palette, which stays apart under every common color blindness.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
SKY = "#B5D9EE"
GRAY = "#8C8C8C"
INK = "#222222"

LOOK: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.bbox": "standard",
    # A caption may contain a dollar sign, which is not a formula.
    "text.parse_math": False,
}


@contextmanager
def page(path: Path, height: float, title: str) -> Iterator["Figure"]:
    """Yield an empty figure of `WIDTH` x `height` inches; leaving the block saves it as a PNG at `path`.

    The title is wrapped; `title_space` says what it takes from the height. Nothing global is touched for
    longer than the block lasts, and nothing is saved when the block fails.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK), warnings.catch_warnings():
        # A caption in a script that the font lacks shows boxes, which is no reason to lose the figure.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        write(figure, 0.15, height - 0.12, wrapped_title(title), size=12, weight="bold", linespacing=1.25)
        yield figure
        # The version of matplotlib would otherwise be written into the file.
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def wrapped_title(title: str) -> str:
    """Return `title` in lines that fit the page."""
    return textwrap.fill(title, 72)


def title_space(title: str) -> float:
    """Return the inches that `title` takes at the top of a page."""
    return 0.22 + 0.21 * (wrapped_title(title).count("\n") + 1)


def place(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Return new axes with their frame at the given inches from the lower left corner of the page."""
    across, up = (float(side) for side in figure.get_size_inches())
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def write(figure: "Figure", x: float, y: float, text: str, **look: Any) -> None:
    """Write `text` with its left edge at `x` and its top at `y` inches from the lower left corner."""
    figure.text(x, y, text, **{"transform": figure.dpi_scale_trans, "va": "top", **look})


def show(axes: "Axes", image: Image) -> None:
    """Draw a picture without a frame; one of 64 pixels shows its pixels, not a blur."""
    axes.imshow(np.asarray(image.convert("RGB")), interpolation="nearest", aspect="equal")
    axes.set_axis_off()


def shade(
    axes: "Axes",
    cells: NDArray[np.float64],
    text: Callable[[float], str],
    *,
    colors: Any = "Blues",
    highest: float = 1.0,
    dark: float = 0.6,
    size: float = 8,
) -> "AxesImage":
    """Draw `cells`, `[row, column]`, darker from 0 to `highest`, each with its `text`, and no frame.

    Above `dark` the text is white.
    """
    image = axes.imshow(cells, cmap=colors, vmin=0, vmax=highest, aspect="auto")
    for (row, column), value in np.ndenumerate(cells):
        color = "white" if value > dark else INK
        axes.text(column, row, text(value), ha="center", va="center", size=size, color=color)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image
