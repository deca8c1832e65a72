"""Curves: over numbers of any kind, and from layer to layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kedit.evaluation.statistics import Measured, paired_difference
from kedit.inspection.convergence import Streams
from kedit.plots.drawing import Drawing, sheet
from kedit.plots.marks import lines, share_axis
from kedit.plots.style import BROWN, GRAY, INDIGO, INK, SKY, WINE, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Curve(NamedTuple):
    """Figures over the numbers of an axis."""

    x: Sequence[float]
    values: Sequence[Measured]
    look: Look


def exact(values: Sequence[float]) -> list[Measured]:
    """Return numbers as figures without an interval."""
    return [Measured(value, None, None, 0) for value in values]


def draw_lines(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    title: str,
    across: str,
    up: str = "share, with 95 % interval",
    prepare: Callable[["Axes"], object] = lambda axes: share_axis(axes, "y"),
    columns: int = 1,
    bars: bool = False,
    height: float = 2.8,
) -> Drawing:
    """Draw curves with their 95 % intervals, in panels that share their axes.

    Args:
        panels: For each panel its curves by name; a curve of one name looks the same in every panel.
        title: The finding.
        across: What is on the x axes.
        up: What is on the y axes.
        prepare: Sets the scales and limits of the axes of a panel; by default those of shares.
        columns: Panels side by side.
        bars: Whether intervals are bars, side by side, not bands.
        height: Inches of a row of panels.

    Raises:
        ValueError: No curve has a value.
    """
    every = [(label, curve) for curves in panels.values() for label, curve in curves.items()]
    if not any(one.value is not None for _, curve in every for one in curve.values):
        raise ValueError("no measure has a value, so there is nothing to draw")
    with sheet(height * -(-len(panels) // columns) + 0.25, title) as drawing:
        places = drawing.panels(len(panels), columns, sharex=True, sharey=True)
        for axes, (heading, curves) in zip(places, panels.items(), strict=True):
            every_look = [curve.look for curve in curves.values() if curve.look.mark]
            for place, curve in reversed(list(enumerate(curves.values()))):
                # Of equal figures, those behind show around those before.
                at = every_look.index(curve.look) - (len(every_look) - 1) / 2 if bars and curve.look.mark else 0
                lines(axes, *curve, bars=bars, size=4 + 0.8 * min(place, 3), aside=3 * at)
            prepare(axes)
            axes.grid(axis="y")
            drawing.head(axes, heading)
        drawing.across = across
        drawing.up = up
        drawing.looks = {label: curve.look for label, curve in every}
    return drawing


MODALITIES = {
    "image": Look(WINE), "text": Look(INK, "s"), "special": Look(SKY, "v"), "video": Look(BROWN, "^"),
    "audio": Look(INDIGO, "D"),
}  # fmt: skip
DASHES = ("-", ":")
"""Of the located neurons' change, and of random ones'."""


def draw_streams(plain: Streams, zeroed: Mapping[str, Streams], *, title: str) -> Drawing:
    """Draw the cosines of the modalities by depth, a column for each measure, and below what zeroing neurons changes.

    Lines are means over the pictures, in bands of their 95 % intervals.

    Args:
        plain: Of the unedited model.
        zeroed: By what was zeroed, at most two: the located neurons, then random ones.
        title: The finding.
    """
    if len(zeroed) > len(DASHES):
        raise ValueError(f"the chart has line styles for {len(DASHES)} edits, got {len(zeroed)}")
    before, edits = _columns(plain), [_columns(one) for one in zeroed.values()]
    rows = 2 if zeroed else 1
    with sheet(2.4 * rows + 0.2, title) as drawing:
        every = drawing.panels(rows * len(before), len(before), 0, sharex=True, sharey="row")
        for upper, lower, (heading, lines_of) in zip(
            every, every[len(before) :] or every, before.items(), strict=False
        ):
            for modality, values in lines_of.items():
                _follow(upper, values, np.zeros_like(values), MODALITIES[modality])
                for dash, edit in zip(DASHES, edits, strict=False):
                    _follow(lower, edit[heading][modality], values, MODALITIES[modality]._replace(line=dash))
            drawing.head(upper, heading)
        every[0].set_ylabel("cosine, unedited")
        if zeroed:
            every[len(before)].set_ylabel("change of the cosine")
        drawing.across = "blocks passed"
        present = dict.fromkeys(modality for lines_of in before.values() for modality in lines_of)
        drawing.looks = {f"{modality} tokens": MODALITIES[modality] for modality in present} | {
            what: Look(GRAY, "", dash) for dash, what in zip(DASHES, zeroed, strict=False)
        }
    return drawing


def _columns(one: Streams) -> dict[str, Mapping[str, NDArray[np.float64]]]:
    telomeres = {} if one.telomeres is None else {"special": one.telomeres}
    columns = {
        "to the last token": one.convergence,
        "to the mean of the text": one.probing,
        "special to text tokens": telomeres,
    }
    return {heading: curves for heading, curves in columns.items() if curves}


def _follow(axes: "Axes", values: NDArray[np.float64], before: NDArray[np.float64], look: Look) -> None:
    """Draw by how much `values` differ from those before, `[sample, depth]`: means over the samples by depth."""
    there = np.isfinite(values).all(1) & np.isfinite(before).all(1)
    curve = [paired_difference(*columns) for columns in zip(values[there].T, before[there].T, strict=True)]
    lines(axes, range(len(curve)), curve, look)
    axes.set_xticks(range(0, len(curve), -(-len(curve) // 9)))
    axes.grid(axis="y")
