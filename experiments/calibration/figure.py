"""False discoveries against the rate that was asked for, and what is found for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.calibration.rates import Rate, told
from kedit.evaluation.statistics import Measured
from kedit.inspection.canvas import BLUE, GRAY, VERMILLION, page, place, title_space

WIDE, HIGH = 3.1, 2.7
COLORS = (BLUE, VERMILLION)


def draw(rates: Sequence[Rate], path: Path) -> None:
    """Draw both, with intervals over models: on or below the diagonal the promise is kept."""
    title = told(rates)
    height = title_space(title) + HIGH + 0.75
    with page(path, height, title) as figure:
        left = place(figure, 0.65, 0.5, WIDE, HIGH)
        right = place(figure, 0.65 + WIDE + 0.85, 0.5, WIDE, HIGH)
        highest = max(one.q for one in rates)
        left.plot([0, highest], [0, highest], color=GRAY, linewidth=1, linestyle="--", zorder=1)
        left.text(highest, highest, "as asked for ", color=GRAY, ha="right", va="bottom", size=8)
        for number, stage in enumerate(dict.fromkeys(one.stage for one in rates)):
            mine = [one for one in rates if one.stage == stage]
            look = {"color": COLORS[number % len(COLORS)], "label": stage}
            _line(left, mine, [one.false_share for one in mine], look)
            _line(right, mine, [one.power for one in mine], look)
        right.set_ylim(0, 1.02)
        # Of few models, the intervals of the lowest rates are wider than the page.
        left.set_ylim(0, 1.3 * highest)
        for axes, label in ((left, "false among the found"), (right, "found among the true")):
            axes.set_xlim(0, highest * 1.04)
            axes.set_xlabel("rate of false discoveries asked for, q")
            axes.set_ylabel(label)
        right.legend(loc="lower right")


def _line(axes: Any, rates: Sequence[Rate], figures: Sequence[Measured], look: dict[str, Any]) -> None:
    """Draw one stage's values over the rates, each with its interval."""
    across = [one.q for one in rates]
    values = [one.value or 0.0 for one in figures]
    lows = [value - (one.low if one.low is not None else value) for one, value in zip(figures, values, strict=True)]
    highs = [(one.high if one.high is not None else value) - value for one, value in zip(figures, values, strict=True)]
    axes.errorbar(across, values, yerr=[lows, highs], marker="o", markersize=4, capsize=2.5, linewidth=1.5, **look)
