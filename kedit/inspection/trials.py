"""The jobs of a sweep as points on a chart, and how each locator looks there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kedit.inspection.canvas import BLUE, INK, VERMILLION

Figure = Mapping[str, Any]
"""A measured value: `{"value", "low", "high", "n"}`."""
Look = tuple[str, str]
"""A color and a mark."""

LOOKS: tuple[Look, ...] = (
    *((BLUE, "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#8B6914", "X")),
    *(("#7F4F24", "<"), ("#4B0082", ">"), ("#A0A000", "p"), ("#404040", "h"), ("#00A0A0", "*"), ("#C06060", "8")),
)
"""Of locators; the one that the others are compared with is a vermillion circle, random ones are of ink."""


@dataclass(frozen=True)
class Trial:
    """One job of a sweep as a point: what edited neurons did, and what random ones did in their place."""

    number: int
    panel: str
    """What it competes in, such as the concept."""
    locator: str
    label: str
    """What tells it from the others, such as its thresholds."""
    neurons: int
    drop: Figure
    """Mention_drop; a share."""
    kept: Figure
    """Retention; a share."""
    control_drop: Figure
    control_kept: Figure
    on_front: bool = False
    """Whether it is in the Pareto set of its panel."""
    fluent: bool = True
    """Whether the language passed its guard."""

    @property
    def place(self) -> tuple[float, float] | None:
        """Retention and mention_drop; None where either could not be measured."""
        return both(self.kept, self.drop)


def both(kept: Figure, drop: Figure) -> tuple[float, float] | None:
    """Return the values of both; None where either has none."""
    return None if kept["value"] is None or drop["value"] is None else (kept["value"], drop["value"])


def looks_of(locators: Sequence[str], marked: str) -> dict[str, Look]:
    """Return a color and a mark for each locator, `marked` first and those that draw at random last."""
    names = sorted(set(locators) - {marked})
    drawn = [name for name in names if name.startswith("random")]
    rest = [name for name in names if name not in drawn]
    found: dict[str, Look] = {marked: (VERMILLION, "o")} if marked in locators else {}
    found |= {name: LOOKS[number % len(LOOKS)] for number, name in enumerate(rest)}
    return found | {name: (INK, "x" if number else "+") for number, name in enumerate(drawn)}
