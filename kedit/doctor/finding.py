"""What a check finds: a status, the measured number with its bound, and a sentence where something is amiss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from kedit import notebook
from kedit.notebook import Shown

Status = Literal["SUPPORTED", "DEGRADED", "ERROR", "SILENTLY_WRONG", "NOT_APPLICABLE"]
"""SUPPORTED: measured, and as it has to be. DEGRADED: works in part, or could not be measured here. ERROR: fails and
says so. SILENTLY_WRONG: would give wrong numbers without a word. NOT_APPLICABLE: the model has no such thing."""
UNSOUND: frozenset[Status] = frozenset({"ERROR", "SILENTLY_WRONG"})
Relation = Literal["<=", ">", ">="]
"""How the measured number has to stand to its bound."""


class NotApplicableError(LookupError):
    """The model has nothing that the check could look at; the message says what is missing."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    status: Status
    why: str = ""
    """One sentence; empty where the status is SUPPORTED."""
    value: float | None = None
    """The measured number; None where nothing could be measured. Infinity stands for numbers that are not finite."""
    bound: float | None = None
    relation: Relation = "<="
    what: str = ""
    """What was measured, with its unit."""

    @property
    def measured(self) -> str:
        """The number and its bound, as in `0.002 > 0.0001`; a dash where there is none."""
        if self.value is None or self.bound is None:
            return "-"
        held = {"<=": self.value <= self.bound, ">": self.value > self.bound, ">=": self.value >= self.bound}
        opposite = {"<=": ">", ">": "<=", ">=": "<"}
        sign = self.relation if held[self.relation] else opposite[self.relation]
        return f"{_short(self.value)} {sign} {_short(self.bound)}"

    @property
    def summary(self) -> str:
        """What was measured, and the sentence."""
        return ": ".join(part for part in (self.what, self.why) if part)

    def to_json(self) -> dict[str, object]:
        """Return the finding as plain data; a number that is not finite becomes None, and `why` says so."""
        finite = self.value is not None and math.isfinite(self.value)
        return {
            "status": self.status,
            "value": self.value if finite else None,
            "bound": self.bound,
            "relation": self.relation,
            "what": self.what,
            "why": self.why,
        }


def at_most(value: float, bound: float, what: str, otherwise: str, *, status: Status = "SILENTLY_WRONG") -> Finding:
    """Return SUPPORTED where `value` is no larger than `bound`, else `status` for the reason `otherwise`."""
    if value <= bound:
        return Finding("SUPPORTED", "", value, bound, "<=", what)
    return Finding(status, _with_finiteness(value, otherwise), value, bound, "<=", what)


def above(value: float, bound: float, what: str, otherwise: str, *, status: Status = "SILENTLY_WRONG") -> Finding:
    """Return SUPPORTED where `value` is finite and larger than `bound`, else `status` for the reason `otherwise`."""
    if math.isfinite(value) and value > bound:
        return Finding("SUPPORTED", "", value, bound, ">", what)
    return Finding(status, _with_finiteness(value, otherwise), value, bound, ">", what)


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """What all checks found on one model; as text, a table of one line for each."""

    model: str
    findings: Mapping[str, Finding]

    @property
    def sound(self) -> bool:
        """Whether no check found an ERROR or SILENTLY_WRONG."""
        return not self.unsound

    @property
    def unsound(self) -> tuple[str, ...]:
        """The names of the checks that found an ERROR or SILENTLY_WRONG."""
        return tuple(name for name, one in self.findings.items() if one.status in UNSOUND)

    def __str__(self) -> str:
        rows = self._rows
        widths = [max((len(row[place]) for row in rows), default=0) for place in range(3)]
        lines = ["  ".join([*map(str.ljust, row, widths), row[3]]).rstrip() for row in rows]
        return "\n".join([*lines, *self._left_out])

    def _repr_html_(self) -> str:
        return notebook.table(("status", "check", "measured", "what"), self._rows, self.model, self._left_out)

    @property
    def _rows(self) -> list[tuple[str, str, str, str]]:
        """What is said of each check that the model has something for."""
        said = [(name, one) for name, one in self.findings.items() if one.status != "NOT_APPLICABLE"]
        return [(one.status, name, one.measured, one.summary) for name, one in said]

    @property
    def _left_out(self) -> list[str]:
        """A line with the other checks, if there are any."""
        others = [f"{name} ({one.why})" for name, one in self.findings.items() if one.status == "NOT_APPLICABLE"]
        return [f"not applicable: {', '.join(others)}"] if others else []

    def to_json(self) -> dict[str, object]:
        """Return the diagnosis as plain data."""
        return {
            "model": self.model,
            "sound": self.sound,
            "checks": {name: one.to_json() for name, one in self.findings.items()},
        }


def first_line(error: BaseException) -> str:
    """Return the name of an error and the first line of what it says."""
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _short(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e9 else f"{value:.2g}"


def _with_finiteness(value: float, why: str) -> str:
    return why if math.isfinite(value) else f"{why} (numbers that are not finite were among them)"
