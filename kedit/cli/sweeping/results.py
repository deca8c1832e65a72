"""What a table of runs reads from a report.json."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kedit.evaluation.statistics import Measured, two_places
from kedit.evaluation.verdict import has_evidence, value_at
from kedit.words import counted

FIGURES = {
    "mention_drop": ("suppression", "mention_drop"),
    "retention": ("retention", "overall"),
    "others": ("retention", "others"),
    "substitutions": ("suppression", "substitutions"),
    "selectivity": ("selectivity",),
    "control_mention_drop": ("control", "suppression", "mention_drop"),
    "control_retention": ("control", "retention", "overall"),
}
"""The measured values, and where report.json has them."""

NEEDED = ("mention_drop", "retention", "selectivity")
"""Those that every report of an edit has."""


@dataclass(frozen=True, eq=False)
class Result:
    """One finished run."""

    concept: str
    model: str
    locator: str
    operator: str
    positions: str | None
    neurons: int
    figures: Mapping[str, Measured]
    """Each of `FIGURES`; one that the report lacks says so."""
    weakest: str | None
    """The measure that `retention` is."""
    fluent: bool | None
    """What the fluency guard said; None where the report does not say."""
    broken: str | None
    """What the fluency guard found."""
    evidence: bool | None
    """The verdict on the edit: whether it did what it is for; None where the report does not say."""
    p: float | None
    """Of the comparison with the random control, two-sided."""
    phase: str | None = None
    """When the edit acts."""
    folder: str = ""
    """The run's, where it was read from one."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `path` holds.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no report of an edit; the message says what is wrong with it.
        """
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(f"there is no {path.name}") from error
        except ValueError as error:
            raise ValueError(f"{path.name} is no JSON ({error})") from error
        try:
            return cls.of(report)
        except ValueError as error:
            raise ValueError(f"{path.name} is no report of an edit: {error}") from error

    @classmethod
    def of(cls, report: Any) -> Self:
        """Return what `report`, the content of a report.json, says; a ValueError names what it lacks."""
        neurons = value_at(report, "neurons", "count")
        if not isinstance(neurons, int) or isinstance(neurons, bool):
            raise ValueError(f"`neurons.count` is a whole number, got {neurons!r:.40}")
        fluent = value_at(report, "fluency", "passed")
        return cls(
            concept=_word(report, "concept"),
            model=_word(report, "model"),
            locator=_word(report, "locator"),
            operator=_word(report, "operator"),
            positions=_optional(report, ("positions",)),
            neurons=neurons,
            figures={name: _figure(report, name) for name in FIGURES},
            weakest=_optional(report, ("weakest_retention",)),
            fluent=fluent if isinstance(fluent, bool) else None,
            broken=_optional(report, ("fluency", "why")),
            evidence=has_evidence(report),
            p=_number(value_at(report, "control", "beats_control", "p")),
            phase=_optional(report, ("phase",)),
        )

    @property
    def where(self) -> str | None:
        """The positions at which the edit acts, with the phase if it is not both, such as `image (decode)`."""
        if self.positions is None or self.phase in (None, "both"):
            return self.positions
        return f"{self.positions} ({self.phase})"

    @property
    def summary(self) -> str:
        """The run in a few words, such as `star: 14 neurons, drop 1.00, kept 0.98`."""
        drop, kept = (
            "n/a" if (value := self.figures[name].value) is None else two_places(value)
            for name in ("mention_drop", "retention")
        )
        count = counted(self.neurons, "neuron")
        doubt = f", no evidence{': broken language' * (self.fluent is False)}" * (self.evidence is False)
        return f"{self.concept}: {count}, drop {drop}, kept {kept}{doubt}"


def _word(report: Any, key: str) -> str:
    found = value_at(report, key)
    if not isinstance(found, str):
        raise ValueError(f"`{key}` is a word, got {found!r:.40}")
    return found


def _optional(report: Any, path: tuple[str, ...]) -> str | None:
    found = value_at(report, *path)
    return found if isinstance(found, str) else None


def _number(found: Any) -> float | None:
    if not isinstance(found, int | float) or isinstance(found, bool):
        return None
    try:
        return float(found) if math.isfinite(found) else None
    except OverflowError:
        return None


def _figure(report: Any, name: str) -> Measured:
    path = FIGURES[name]
    found, place = value_at(report, *path), ".".join(path)
    if not isinstance(found, Mapping) or "value" not in found:
        if name in NEEDED or found is not None:
            raise ValueError(f"`{place}` is a measured value with `value`, `low`, `high` and `n`, got {found!r:.40}")
        return Measured.missing("report.json does not have it")
    value, low, high, n = (_number(found.get(key)) for key in ("value", "low", "high", "n"))
    if value is None:
        if found["value"] is not None:
            raise ValueError(f"`{place}` has the value {found['value']!r:.40}, which is no finite number")
        return Measured.missing(str(found.get("why") or "no reason given"))
    return Measured(value, low, high, int(n or 0))
