"""Charts of what changes from layer to layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kedit.inspection.canvas import BLUE, GRAY, INK, VERMILLION, WIDTH, page, place, title_space
from kedit.inspection.convergence import Streams

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"image": VERMILLION, "text": BLUE, "special": GRAY, "video": "#009E73", "audio": "#CC79A7"}
STYLES = ("-", "--", ":")
NEAR = 0.07
"""Names at the ends of lines are written at least so far apart, as a share of the height."""


def draw_streams(conditions: Mapping[str, Streams], path: Path, *, title: str) -> None:
    """Draw the cosines of the modalities by depth, one panel for each measure, as a PNG at `path`.

    Args:
        conditions: For each condition, such as with and without an edit, what was measured under it; at most three.
        path: The file to write.
        title: The finding.
    """
    if not 1 <= len(conditions) <= len(STYLES):
        raise ValueError(f"the chart has line styles for 1 to {len(STYLES)} conditions, got {len(conditions)}")
    panels = {
        "to the last token": {name: one.convergence for name, one in conditions.items()},
        "to the mean of the text": {name: one.probing for name, one in conditions.items()},
        "special to text tokens": {
            name: {} if one.telomeres is None else {"special": one.telomeres} for name, one in conditions.items()
        },
    }
    shown = {name: panel for name, panel in panels.items() if any(panel.values())}
    lowest = min(float(np.nanmean(v, 0).min()) for p in shown.values() for lines in p.values() for v in lines.values())
    with page(path, 3.65 + title_space(title), title) as figure:
        room = (WIDTH - 0.75) / len(shown)
        for number, (name, panel) in enumerate(shown.items()):
            axes = place(figure, 0.75 + number * room, 0.95, room - 0.6, 2.4)
            ends: dict[str, float] = {}
            for style, lines in zip(STYLES, panel.values(), strict=False):
                for modality, values in lines.items():
                    curve: NDArray[np.float64] = np.nanmean(values, 0)
                    axes.plot(curve, style, color=COLORS.get(modality, INK), lw=1.6)
                    ends.setdefault(modality, float(curve[-1]))
            axes.set_ylim(min(0.0, lowest) - 0.02, 1.05)
            axes.set_xlim(-0.15, len(curve) - 0.85)
            _name_ends(axes, ends, len(curve) - 0.8)
            axes.set_xticks(range(0, len(curve), -(-len(curve) // 9)))
            axes.set_title(name, size=9, loc="left")
            axes.set_xlabel("blocks passed")
            axes.tick_params(labelleft=number == 0)
            if number == 0:
                axes.set_ylabel("cosine")
        for style, condition in zip(STYLES, conditions, strict=False):
            axes.plot([], [], style, color=INK, lw=1.6, label=condition)
        figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=3)


def _name_ends(axes: "Axes", ends: Mapping[str, float], x: float) -> None:
    """Write each line's name at its end, pushed up where two would collide."""
    low, high = axes.get_ylim()
    free = low
    for name, y in sorted(ends.items(), key=lambda end: end[1]):
        y = max(y, free)
        axes.annotate(name, (x, y), va="center", size=8, color=COLORS.get(name, INK), annotation_clip=False)
        free = y + NEAR * (high - low)
