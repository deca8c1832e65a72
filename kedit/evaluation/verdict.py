"""Whether an edit did what it is for: the one place that decides, and all that a report says of it comes from here."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kedit.evaluation.fluency import Fluency
from kedit.evaluation.statistics import Measured
from kedit.notebook import Shown

Aim = Literal["less", "more"]
"""What an edit is for: that the concept is said less, or that it is more likely to be said."""


@dataclass(frozen=True)
class Comparison:
    """Whether the edit does more than its random control, and how sure that is."""

    beats: bool
    difference: Measured
    """Of the edit less the control's mean over seeds, paired by sample."""
    p: float | None
    """Two-sided, of the paired sign-flip test; None where there is nothing to compare."""


@dataclass(frozen=True)
class Verdict:
    """Whether there is evidence that an edit did what it is for, and the sentence that says so."""

    evidence: bool
    sentence: str

    @property
    def title(self) -> str:
        """The sentence without its figures."""
        return self.sentence.partition(": ")[0]


class Judged(Shown, ABC):
    """A report that decides whether there is evidence; what else it says of that follows from `judgement`."""

    @property
    @abstractmethod
    def judgement(self) -> Verdict:
        """Whether the edit does what it is for, and how one knows."""

    @property
    def has_evidence(self) -> bool:
        """Whether the edit does what it is for beyond its random control, of a model that still works."""
        return self.judgement.evidence

    @property
    def verdict(self) -> str:
        """One sentence: what the edit does beyond its random control, or why there is no evidence."""
        return self.judgement.sentence


def judge(
    claim: str,
    doubt: str,
    *,
    nothing: str | None,
    neurons: int | None,
    fluency: Fluency,
    seeds: int,
    comparison: Comparison,
    change: str,
    beside: str,
) -> Verdict:
    """Return whether there is evidence that an edit did what it is for.

    Args:
        claim: What the sentence says before its figures if there is.
        doubt: The same if there is none.
        nothing: Why nothing could have come of any edit; None if something could.
        neurons: How many were edited; None if nobody said.
        fluency: Whether the edited model still speaks.
        seeds: Of the random control.
        comparison: Of the edit with it.
        change: What changed under the edit, a noun with its figures.
        beside: How that compares with the control, in figures.
    """
    why = nothing
    if why is None and neurons == 0:
        why = "no neuron was located, so nothing was edited (0 neurons)"
    if why is None and not fluency.passed:
        why = f"{change} comes with broken language, {fluency.why}"
    if why is None and not seeds:
        why = f"{change} has nothing to be compared with, since no random control was run beside it"
    if why is not None:
        return Verdict(False, f"{doubt}: {why}.")
    return Verdict(comparison.beats, f"{claim if comparison.beats else doubt}: {beside}.")


def has_evidence(report: Mapping[str, Any]) -> bool | None:
    """Return what the content of a report.json says, whichever version wrote it; None where it does not say.

    Before 0.6 a report said whether the control was beaten and, apart from it, whether the language was broken.
    """
    if isinstance(found := report.get("evidence"), bool):
        return found
    beats = value_at(report, "control", "beats_control", "mention_drop")
    return beats and value_at(report, "fluency", "passed") is not False if isinstance(beats, bool) else None


def value_at(report: Any, *path: str) -> Any:
    """Return what stands in nested mappings under one key after the other; None where one is not there."""
    for key in path:
        report = report.get(key) if isinstance(report, Mapping) else None
    return report
