"""The share of false discoveries at each rate, in words, numbers and lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.plots import Curve, Drawing, Look, draw_lines, exact
from kedit.plots.style import EDITED, INK, SERIES, name


class Counted(Protocol):
    """What was counted on one model."""

    false_share: float
    power: float
    anything: bool


@dataclass(frozen=True)
class Rate:
    """One stage at one rate, over models."""

    stage: str
    q: float
    false_share: Measured
    power: Measured
    anything: Measured

    @property
    def kept(self) -> bool:
        """Whether the promise is kept as far as can be told: the interval does not lie above the rate."""
        return (self.false_share.low or 0.0) <= self.q


def rate_of(stage: str, q: float, counted: Sequence[Counted], seed: int) -> Rate:
    """Return the means over models with their intervals."""
    columns = ([one.false_share for one in counted], [one.power for one in counted], [one.anything for one in counted])
    return Rate(stage, q, *(bootstrap_mean([float(value) for value in values], seed=seed) for values in columns))


def rows(rates: Sequence[Rate]) -> list[list[str]]:
    """Return the cells of each rate."""
    return [[one.stage, f"{one.q:g}", *map(three_places, (one.false_share, one.power, one.anything))] for one in rates]


def three_places(figure: Measured) -> str:
    """Return a figure with its interval; rates of a hundredth need three places."""
    if figure.value is None or figure.low is None or figure.high is None:
        return str(figure)
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def plain(rates: Sequence[Rate], about: str) -> dict[str, Any]:
    """Return everything as data for JSON."""
    return {
        "about": about,
        "rates": [
            {
                "stage": one.stage,
                "q": one.q,
                "false_discoveries": one.false_share.to_json(),
                "power": one.power.to_json(),
                "any_under_the_null": one.anything.to_json(),
                "kept": one.kept,
            }
            for one in rates
        ],
    }


def told(rates: Sequence[Rate]) -> str:
    """Return whether the promise is kept, in a sentence."""
    broken = [f"{one.stage} at {one.q:g} ({three_places(one.false_share)})" for one in rates if not one.kept]
    if broken:
        return f"More false discoveries than asked for: {', '.join(broken)}"
    return f"No stage makes more false discoveries than asked for, as far as {rates[0].false_share.n} models can tell"


def drawn(rates: Sequence[Rate]) -> Drawing:
    """Return false discoveries and power over the rate that was asked for: below the diagonal the promise is kept."""
    stages = list(dict.fromkeys(one.stage for one in rates))
    looks = dict(zip(stages, (Look(EDITED), *SERIES), strict=False))
    panels: dict[str, dict[str, Curve]] = {"false among the found": {}, "found among the true": {}}
    highest = max(one.q for one in rates)
    panels["false among the found"]["as asked for"] = Curve([0, highest], exact([0, highest]), Look(INK, "", "--"))
    for stage in stages:
        mine = [one for one in rates if one.stage == stage]
        across = [one.q for one in mine]
        panels["false among the found"][name(stage)] = Curve(across, [one.false_share for one in mine], looks[stage])
        panels["found among the true"][name(stage)] = Curve(across, [one.power for one in mine], looks[stage])
    across_text = "rate of false discoveries asked for, q"
    return draw_lines(
        panels, title=told(rates), across=across_text, up="share, with 95 % interval", columns=2, bars=True
    )
