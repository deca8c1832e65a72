"""Charts that set several selections side by side: in which layers each of them has its neurons."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kedit.inspection.canvas import BLUE, GRAY, INK, WIDTH, page, place, title_space, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOM = 1.25
"""Inches that one panel takes from the height."""
MOST_COUNTED = 16
"""Layers up to which each bar carries its count."""


def draw_layer_histograms(
    sets: Mapping[str, Mapping[int, int]],
    widths: Mapping[int, int],
    path: Path,
    *,
    title: str | None = None,
    columns: int = 3,
) -> None:
    """Draw for each set which share of its neurons each layer holds, as a PNG at `path`.

    All panels share their axes, so that they compare; sets of different sizes do too, since bars are shares of
    the set. The count stands on the bar.

    Args:
        sets: For each name, such as a method or a modality, the number of neurons by layer; a missing layer has none.
        widths: The number of neurons of each layer of the model; all layers are shown.
        path: The file to write.
        title: The finding; by default in how many of the sets each layer is the fullest.
        columns: Panels beside each other.
    """
    _check(sets, widths)
    layers = sorted(widths)
    shares = {
        name: [counts.get(layer, 0) / max(1, sum(counts.values())) for layer in layers] for name, counts in sets.items()
    }
    highest = max([0.05, *(max(values) for values in shares.values())])
    title = title or _finding(sets)
    columns = min(columns, len(sets))
    rows = -(-len(sets) // columns)
    with page(path, rows * ROOM + 0.55 + title_space(title), title) as figure:
        room = (WIDTH - 0.85) / columns
        for number, (name, counts) in enumerate(sets.items()):
            row, column = divmod(number, columns)
            bottom = 0.6 + (rows - 1 - row) * ROOM
            axes = place(figure, 0.8 + column * room, bottom, room - 0.2, ROOM - 0.42)
            _draw_bars(axes, shares[name], [counts.get(layer, 0) for layer in layers], highest)
            axes.set_title(f"{name} ({sum(counts.values()):,})", size=9, loc="left", pad=3)
            lowest = number + columns >= len(sets)
            axes.set_xticks(range(0, len(layers), -(-len(layers) // 12)))
            axes.set_xticklabels([str(layers[tick]) for tick in axes.get_xticks().astype(int)] if lowest else [])
            axes.tick_params(labelleft=column == 0)
            if lowest:
                axes.set_xlabel("layer (0 is next to the input)")
        middle = 0.6 + (rows * ROOM - 0.42) / 2
        write(figure, 0.1, middle, "share of the set", size=9, rotation=90, va="center")


def _check(sets: Mapping[str, Mapping[int, int]], widths: Mapping[int, int]) -> None:
    if not sets:
        raise ValueError("`sets` is empty, so there is nothing to draw; pass at least one set's neurons by layer")
    for name, counts in sets.items():
        for layer, count in counts.items():
            if not 0 <= count <= widths.get(layer, -1):
                raise ValueError(
                    f"set `{name}` has {count} neurons in layer {layer}, and the model has "
                    f"{widths.get(layer, 'no layer of that number and 0')} there; pass the `widths` of its site"
                )


def _finding(sets: Mapping[str, Mapping[int, int]]) -> str:
    filled = [counts for counts in sets.values() if sum(counts.values())]
    if not filled:
        return f"None of {len(sets)} sets has a neuron"
    fullest = [max(counts, key=lambda layer: (counts[layer], -layer)) for counts in filled]
    layer = max(set(fullest), key=lambda one: (fullest.count(one), -one))
    return f"Layer {layer} holds the most neurons in {fullest.count(layer)} of {len(sets)} sets"


def _draw_bars(axes: "Axes", shares: list[float], counts: list[int], highest: float) -> None:
    axes.bar(np.arange(len(shares)), shares, 0.75, color=BLUE)
    axes.set_xlim(-0.6, len(shares) - 0.4)
    axes.set_ylim(0, highest * 1.25)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.locator_params(axis="y", nbins=3)
    if len(counts) > MOST_COUNTED:
        return
    for layer, (share, count) in enumerate(zip(shares, counts, strict=True)):
        color = INK if count else GRAY
        axes.annotate(
            str(count),
            (layer, share),
            (0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            size=7,
            color=color,
        )
