"""What `measure` found, and what it says about it in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.evaluation.fluency import Fluency
from kedit.evaluation.statistics import Measured

Figures = Mapping[str, Measured]


@dataclass(frozen=True)
class Comparison:
    """Whether the edit suppresses more than its random control, and how sure that is."""

    beats: bool
    difference: Measured
    """Mention_drop of the edit less the control's mean over seeds, paired by sample."""
    p: float | None
    """Two-sided, of the paired sign-flip test; None where there is nothing to compare."""


@dataclass(frozen=True)
class Control:
    """The same operator on layer-matched random neurons: each sample's mean over the seeds."""

    seeds: int
    suppression: Figures
    retention: Figures
    by_seed: tuple[float, ...]
    """Mention_drop of each seed; empty where no caption named the concept."""
    comparison: Comparison

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Control":
        """Return what `to_json` wrote."""
        beats = told["beats_control"]
        comparison = Comparison(beats["mention_drop"], Measured.from_json(beats["difference"]), beats["p"])
        suppression, retention = (from_json(told[part]) for part in ("suppression", "retention"))
        return cls(told["seeds"], suppression, retention, tuple(told["by_seed"]), comparison)

    def to_json(self) -> dict[str, object]:
        """Return the "control" part of report.json."""
        return {
            "seeds": self.seeds,
            "suppression": as_json(self.suppression),
            "retention": as_json(self.retention),
            "by_seed": list(self.by_seed),
            "beats_control": {
                "mention_drop": self.comparison.beats,
                "difference": self.comparison.difference.to_json(),
                "p": self.comparison.p,
            },
        }


@dataclass(frozen=True)
class EditReport:
    """What an edit did to what the model says: the target suppressed, the rest retained, and how sure that is."""

    concept: str
    suppression: Figures
    retention: Figures
    weakest: str | None
    """The retention measure that `retention["overall"]` is."""
    selectivity: Measured
    fluency: Fluency
    control: Control
    encoder: str | None
    """What made the embeddings of BERTScore."""
    neurons: int | None = None
    """How many neurons were edited, if it was said."""

    @property
    def has_evidence(self) -> bool:
        """Whether the edit suppresses the concept beyond its random control without breaking the language."""
        return self._why_no_evidence() is None

    @property
    def verdict(self) -> str:
        """One sentence: the edit suppresses the concept beyond its random control, or why there is no evidence."""
        drop, why_not = self.suppression["mention_drop"], self._why_no_evidence()
        if why_not is not None:
            return f"No evidence that the edit suppresses `{self.concept}`: {why_not}."
        kept = str(self.retention["overall"]) + (f" at its weakest ({self.weakest})" if self.weakest else "")
        return (
            f"The edit suppresses `{self.concept}` beyond its layer-matched random control: mention_drop {drop} "
            f"against {self.control.suppression['mention_drop']} ({self._figures_behind()}); retention {kept}."
        )

    @classmethod
    def from_json(cls, told: Mapping[str, Any], concept: str, neurons: int | None) -> "EditReport":
        """Return what `to_json` wrote, of an edit of `concept` in so many neurons."""
        return cls(
            concept=concept,
            suppression=from_json(told["suppression"]),
            retention=from_json(told["retention"]),
            weakest=told["weakest_retention"],
            selectivity=Measured.from_json(told["selectivity"]),
            fluency=Fluency.from_json(told["fluency"]),
            control=Control.from_json(told["control"]),
            encoder=told["encoder"],
            neurons=neurons,
        )

    def to_json(self) -> dict[str, object]:
        """Return the parts of report.json that evaluation knows; the recipe adds concept, model, neurons and cost."""
        return {
            "suppression": as_json(self.suppression),
            "retention": as_json(self.retention),
            "weakest_retention": self.weakest,
            "selectivity": self.selectivity.to_json(),
            "fluency": self.fluency.to_json(),
            "control": self.control.to_json(),
            "encoder": self.encoder,
            "verdict": self.verdict,
        }

    def _why_no_evidence(self) -> str | None:
        drop, control = self.suppression["mention_drop"], self.control
        if drop.value is None:
            return "no target caption named it before the edit, so there was nothing to suppress (n = 0)"
        if self.neurons == 0:
            return "no neuron was located, so nothing was edited (0 neurons)"
        if not control.seeds:
            return f"mention_drop is {drop}, but no random control was run beside it"
        if not control.comparison.beats:
            return (
                f"the located neuron set does not beat the layer-matched random control on mention_drop, {drop} "
                f"against {control.suppression['mention_drop']} ({self._figures_behind()})"
            )
        if not self.fluency.passed:
            return f"its mention_drop of {drop} comes with broken language, {self.fluency.why}"
        return None

    def _figures_behind(self) -> str:
        comparison, seeds = self.control.comparison, self.control.seeds
        p = "" if comparison.p is None else f", p = {comparison.p:.2g}"
        plural = "seed" if seeds == 1 else "seeds"
        return f"difference {comparison.difference}{p}, n = {comparison.difference.n}, {seeds} {plural}"


def as_json(figures: Figures) -> dict[str, object]:
    """Return each figure as JSON, in order."""
    return {name: figure.to_json() for name, figure in figures.items()}


def from_json(told: Mapping[str, Any]) -> Figures:
    """Return the figures that `as_json` wrote."""
    return {name: Measured.from_json(figure) for name, figure in told.items()}
