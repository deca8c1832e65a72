"""In which layers located neurons are."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kedit.plots.drawing import Drawing, sheet
from kedit.plots.marks import bars
from kedit.plots.style import BASELINE, CONTROL, EARLIER, EDITED, name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Counts = Mapping[int, float]
"""Neurons by layer, or their mean over sets; a missing layer has none."""
MOST_COUNTED = 16, 40
"""Layers up to which each bar carries its count: of a small panel, and of one alone."""


def draw_layers(
    sets: Mapping[str, Counts],
    widths: Mapping[int, int],
    *,
    title: str | None = None,
    candidates: Counts | None = None,
    marked: str | None = None,
    faded: Sequence[str] = (),
    earlier: Sequence[str] = (),
) -> Drawing:
    """Draw for each set which share of its neurons each layer holds, a panel for each.

    Bars are shares, so that sets of different sizes compare; the count stands on the bar.

    Args:
        sets: For each name, such as a method or a modality, its neurons by layer.
        widths: The number of neurons of each layer of the model; all of them are shown.
        title: The finding; by default how many neurons the only set has, or which layer is the fullest in most sets.
        candidates: What an earlier stage had kept, drawn behind.
        marked: The set that the others are compared with; by default all of them are drawn as located.
        faded: The sets that are drawn at random.
        earlier: The sets that an earlier stage had kept.
    """
    if not sets:
        raise ValueError("`sets` is empty, so there is nothing to draw; pass at least one set's neurons by layer")
    _check({**sets, "candidates": candidates or {}}, widths)
    columns, alone = min(len(sets), 4 if len(sets) > 3 else 3), len(sets) == 1
    with sheet(
        2.7 if alone else (1.4 if len(sets) > columns else 2.0) * -(-len(sets) // columns) + 0.25,
        title or _finding(sets, widths),
    ) as drawing:
        every = drawing.panels(len(sets), columns, sharex=True, sharey=True)
        for axes, (which, counts) in zip(every, sets.items(), strict=True):
            if candidates is not None:
                bars(axes, _shares(candidates, widths), EARLIER)
            texts = [_count(counts.get(layer, 0)) for layer in widths] if len(widths) <= MOST_COUNTED[alone] else ()
            color = CONTROL if which in faded else EARLIER if which in earlier else BASELINE
            color = EDITED if which == marked or (marked is None and color == BASELINE) else color
            bars(axes, _shares(counts, widths), color, width=0.5 if candidates else 0.75, texts=texts)
            drawing.head(axes, "" if alone else f"{name(which)} ({sum(counts.values()):,.4g})")
        highest = max(float(_shares(counts, widths).max()) for counts in (*sets.values(), candidates or {}))
        _scale(every, list(widths), highest or 1, alone=alone)
        each = f"; {widths[next(iter(widths))]:,} neurons each" if len(set(widths.values())) == 1 else ""
        drawing.across = f"layer (0 is next to the input{each})"
        drawing.up = "share of the set"
        if candidates is not None:
            looks = {f"candidates of the earlier stage ({sum(candidates.values()):,})": EARLIER, "located": EDITED}
            drawing.looks = {label: {"color": color, "lw": 7} for label, color in looks.items()}
    return drawing


def _scale(every: "Sequence[Axes]", layers: Sequence[int], highest: float, *, alone: bool) -> None:
    """Let the axes run over the layers and up to the highest share, with room for a count above it."""
    most = 24 if alone else 12 if len(layers) <= 10 else 6  # numbers of two digits take twice the room
    ticks = range(0, len(layers), -(-len(layers) // most))
    every[0].set_xticks(ticks, [str(layers[tick]) for tick in ticks])
    room = 1.2 if alone else 1.3
    every[0].set(xlim=(-0.6, len(layers) - 0.4), ylim=(0, room * highest))
    every[0].yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f} %")
    every[0].locator_params(axis="y", nbins=6 if alone else 3)
    if room * highest > 1:
        # The room is no share: there is none above the whole.
        every[0].set_yticks((0, 0.25, 0.5, 0.75, 1) if alone else (0, 0.5, 1))
        for axes in every:
            axes.spines["left"].set_bounds(0, 1)


def _count(mean: float) -> str:
    return f"{mean:.1f}".removesuffix(".0") if mean < 9.95 else f"{mean:.0f}"


def _shares(counts: Counts, widths: Mapping[int, int]) -> NDArray[np.float64]:
    return np.array([counts.get(layer, 0) for layer in widths]) / (sum(counts.values()) or 1)


def _check(sets: Mapping[str, Counts], widths: Mapping[int, int]) -> None:
    for which, counts in sets.items():
        for layer, count in counts.items():
            if not 0 <= count <= widths.get(layer, -1):
                raise ValueError(
                    f"`{which}` has {count:g} neurons in layer {layer}, and the model has "
                    f"{widths.get(layer, 'no layer of that number and 0')} there; pass the `widths` of its site"
                )


def _finding(sets: Mapping[str, Counts], widths: Mapping[int, int]) -> str:
    fullest = [max(own, key=lambda layer: (own[layer], -layer)) for own in sets.values() if sum(own.values())]
    if len(sets) == 1:
        (own,), neurons = sets.values(), sum(widths.values())
        if not fullest:
            return f"No neuron of {neurons:,} was located"
        total = sum(own.values())
        located = f"{total:,} of {neurons:,} neurons located ({100 * total / neurons:.3g} %)"
        return f"{located}; {100 * own[fullest[0]] / total:.0f} % of them in layer {fullest[0]}"
    if not fullest:
        return f"None of {len(sets)} sets has a neuron"
    layer = max(set(fullest), key=lambda one: (fullest.count(one), -one))
    return f"Layer {layer} holds the most neurons in {fullest.count(layer)} of {len(sets)} sets"
