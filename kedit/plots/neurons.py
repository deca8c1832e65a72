"""Neurons one by one, and pictures one by one: scores in two stages, words, and what sets do on each picture."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.plots.drawing import Drawing, sheet
from kedit.plots.marks import points, strips, tag
from kedit.plots.style import BASELINE, CONCEPT, CONTROL, EARLIER, EDITED, GRAY, INK, KEPT, name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]
MOST_TAGGED = 8
"""Located neurons that carry their layer and index, the best ones."""
DECADES = 4
"""Of scores below the highest that an axis shows by their logarithm; it is linear from there to 0."""


def draw_scores(
    scores: Mapping[str, NeuronScores], stages: Mapping[str, NeuronSet], *, title: str | None = None
) -> Drawing:
    """Draw each neuron at its scores in the first and the last stage, the located ones named by layer and index.

    A dashed line is the threshold of a stage: the lowest score that it let pass. Axes are logarithmic but near 0.
    Neurons with a score that is not finite are left out.

    Args:
        scores: Of at least two stages, in order.
        stages: What was left after each of them; the last are the located neurons.
        title: The finding; by default how many neurons pass both.
    """
    if len(scores) < 2:
        raise ValueError(f"the figure sets two stages against each other, got {len(scores)}")
    (one, *_, other), (earlier, *_, located) = list(scores), list(stages.values())
    first, second = (scores[stage].values.double().numpy() for stage in (one, other))
    if first.shape != second.shape:
        raise ValueError(f"the scores of both stages must have one shape, got {first.shape} and {second.shape}")
    drawn = np.isfinite(first) & np.isfinite(second)
    passed, chosen = (drawn & _mask(neurons, first.shape) for neurons in (earlier, located))
    groups = {
        f"located ({chosen.sum():,})": (chosen, EDITED, 40),
        f"passed {name(one)} ({passed.sum():,})": (passed & ~chosen, EARLIER, 24),
        f"all others ({(drawn & ~passed & ~chosen).sum():,})": (drawn & ~passed & ~chosen, CONTROL, 10),
    }
    title = title or f"{chosen.sum():,} of {drawn.sum():,} neurons pass both `{one}` and `{other}`"
    best = sorted(map(NeuronId, *map(np.ndarray.tolist, np.nonzero(chosen))), key=lambda at: -second[at])[:MOST_TAGGED]
    labels = {(float(first[at]), float(second[at])): _label(at.layer, at.index) for at in best}
    with sheet(4.3, title, [_reading(best[0].layer, best[0].index)] if best else ()) as drawing:
        (axes,) = drawing.panels(1)
        for mask, color, size in reversed(groups.values()):
            points(axes, first[mask], second[mask], color, size)
        _thresholds(axes, first[passed], second[chosen])
        _log_axis(axes, "x", first[drawn])
        _log_axis(axes, "y", second[drawn])
        drawing.across, drawing.up = f"score of {name(one)}", f"score of {name(other)}"
        looks = {label: {"color": color, "marker": "o", "ls": ""} for label, (_, color, _) in groups.items()}
        drawing.looks = looks | {"threshold of a stage": {"color": INK, "lw": 0.8, "ls": "--"}}
        drawing.late.append(lambda: tag(drawing.figure, axes, labels))
    return drawing


def _label(layer: int, index: int) -> str:
    """Return the name of a neuron, which is no number as 0.45 would be."""
    return f"L{layer}.{index}"


def _reading(layer: int, index: int) -> str:
    return f"{_label(layer, index)} is neuron {index} of layer {layer}"


def _thresholds(axes: "Axes", passed: Numbers, chosen: Numbers) -> None:
    """Draw the lowest score that each stage let pass."""
    for values, draw in ((passed, axes.axvline), (chosen, axes.axhline)):
        if values.size:
            draw(float(values.min()), color=INK, lw=0.8, ls="--", zorder=1)


def _mask(neurons: NeuronSet, shape: Sequence[int]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for layer, index in neurons:
        mask[layer, index] = True
    return mask


def _log_axis(axes: "Axes", side: Literal["x", "y"], values: Numbers) -> None:
    """Let an axis be logarithmic down to some decades below the largest value, and linear from there to 0."""
    low, high = float(values.min(initial=0.0)), float(np.abs(values).max(initial=0.0)) or 1.0
    powers = (10.0 ** (np.floor(np.log10(high)) - np.arange(DECADES))).tolist()
    # Of two signs, every second one: there is no room for more.
    shown = powers[::2] if low < -powers[-1] else powers
    ticks = [*(-power for power in shown if -power > low), 0.0, *shown]
    scale, mark, limit = (getattr(axes, f"set_{side}{what}") for what in ("scale", "ticks", "lim"))
    scale("symlog", linthresh=powers[-1], linscale=0.5)
    mark(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    limit(1.6 * low - 0.4 * powers[-1], 1.8 * high)


def draw_responses(responses: Mapping[str, Mapping[str, Numbers]], *, title: str, scale: str) -> Drawing:
    """Draw what sets of neurons do on each picture of several kinds, a panel for each set.

    Args:
        responses: For each set, for each kind of picture, one number for each picture; the first kind has the concept.
        title: The finding.
        scale: What the numbers are.
    """
    if not responses:
        raise ValueError("`responses` is empty, so there is nothing to draw; pass at least one set")
    with sheet(2.9, title) as drawing:
        every = drawing.panels(len(responses), len(responses), 1, sharey=True)
        for axes, (heading, kinds) in zip(every, responses.items(), strict=True):
            strips(axes, kinds, (CONCEPT, KEPT, BASELINE)[: len(kinds)])
            drawing.head(axes, heading)
            axes.grid(axis="y")
        drawing.up = scale
    return drawing


MOST_WORDS = 16
"""Neurons whose words a figure shows."""


class NeuronWords(Protocol):
    """A neuron, how strongly it fires, and what it says."""

    @property
    def layer(self) -> int:
        """Its layer."""

    @property
    def index(self) -> int:
        """Its place in the layer."""

    @property
    def peak(self) -> float | None:
        """Its strongest activation, with its sign; None where nothing is known."""

    @property
    def words(self) -> tuple[str, ...]:
        """What it raises when it fires."""

    @property
    def opposite(self) -> tuple[str, ...]:
        """What it raises with an activation of the other sign."""


def draw_words(rows: Sequence[NeuronWords], *, concept: str, title: str | None = None) -> Drawing:
    """Draw how strongly neurons fire, above zero or below, and beside it what they say in either direction.

    The first rows are shown. What a neuron says when it fires is black, what it says with the other sign gray.
    """
    if not rows:
        raise ValueError("`rows` is empty, so there is nothing to draw; pass at least one neuron")
    shown, peaks = rows[:MOST_WORDS], [row.peak for row in rows if row.peak is not None]
    fire = f"{sum(peak < 0 for peak in peaks)} of {len(peaks)} neurons of `{concept}` fire below zero in its pictures"
    title = title or (fire if peaks else f"What neurons of `{concept}` say")
    example = _reading(rows[0].layer, rows[0].index)
    notes = [f"black: words that it raises when it fires so; gray: with the other sign; {example}"]
    notes += [f"the first {len(shown)} of {len(rows)} neurons"] * (len(shown) < len(rows))
    with sheet(0.3 * len(shown) + 0.7, title, notes) as drawing:
        bars, beside = drawing.panels(2, 2, 0, sharey=True, width_ratios=[1, 2])
        for place, row in enumerate(shown):
            bars.barh(place, row.peak or 0, color=EDITED, height=0.6)
            for height, words, color in ((-0.22, row.words, INK), (0.22, row.opposite, GRAY)):
                beside.text(0, place + height, _short(words), va="center", size=7, color=color, parse_math=False)
        bars.set_yticks(range(len(shown)), [_label(row.layer, row.index) for row in shown])
        bars.set_ylim(len(shown) - 0.5, -0.5)
        bars.axvline(0, color=INK, lw=0.8)
        bars.set_xlabel("strongest activation, mean over pictures")
        beside.set_axis_off()
    return drawing


def _short(words: Sequence[str], letters: int = 70) -> str:
    """Return as many of the words as fit."""
    kept = [word for number, word in enumerate(words) if len(", ".join(words[: number + 1])) <= letters]
    return ", ".join(kept)
