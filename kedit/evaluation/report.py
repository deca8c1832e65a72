"""What `measure` found, and what it says about it in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit import notebook
from kedit.evaluation.fluency import Fluency
from kedit.evaluation.statistics import Measured
from kedit.evaluation.verdict import Aim, Comparison, Judged, Verdict, judge
from kedit.words import counted

Figures = Mapping[str, Measured]
JUDGED_BY: Mapping[Aim, str] = {"less": "mention_drop", "more": "logodds_drop"}
"""The suppression measure that an edit is judged by: one that is to make a word likelier, by a drop below zero, since
all captions that are judged named the concept before."""
_DOES: Mapping[Aim, str] = {"less": "suppresses", "more": "strengthens"}


@dataclass(frozen=True)
class Control:
    """The same operator on layer-matched random neurons: each sample's mean over the seeds."""

    seeds: int
    suppression: Figures
    retention: Figures
    by_seed: tuple[float, ...]
    """Mention_drop of each seed; empty where no caption named the concept."""
    comparison: Comparison
    """Of what the edit is judged by."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any], aim: Aim) -> "Control":
        """Return what `to_json` wrote."""
        beats = content["beats_control"]
        comparison = Comparison(beats[JUDGED_BY[aim]], Measured.from_json(beats["difference"]), beats["p"])
        suppression, retention = (from_json(content[part]) for part in ("suppression", "retention"))
        return cls(content["seeds"], suppression, retention, tuple(content["by_seed"]), comparison)

    def to_json(self, aim: Aim, *, evidence: bool) -> dict[str, object]:
        """Return the "control" part of report.json; a control is beaten only where there is `evidence`."""
        return {
            "seeds": self.seeds,
            "suppression": as_json(self.suppression),
            "retention": as_json(self.retention),
            "by_seed": list(self.by_seed),
            "beats_control": {
                JUDGED_BY[aim]: evidence,
                "difference": self.comparison.difference.to_json(),
                "p": self.comparison.p,
            },
        }


@dataclass(frozen=True, repr=False)
class EditReport(Judged):
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
    aim: Aim = "less"

    @property
    def judgement(self) -> Verdict:
        """Whether the edit does what it is for, and how one knows."""
        measure, comparison = JUDGED_BY[self.aim], self.control.comparison
        figure, control = self.suppression[measure], self.control.suppression[measure]
        does = f"the edit {_DOES[self.aim]} `{self.concept}`"
        p = "" if comparison.p is None else f", p = {comparison.p:.2g}"
        seeds = counted(self.control.seeds, "seed")
        n = comparison.difference.n
        behind = f"{figure} against {control} (difference {comparison.difference}{p}, n = {n}, {seeds})"
        beside = f"the located neuron set does not beat the layer-matched random control on {measure}, {behind}"
        if comparison.beats:
            kept = str(self.retention["overall"]) + (f" at its weakest ({self.weakest})" if self.weakest else "")
            beside = f"{measure} {behind}; retention {kept}"
        return judge(
            f"T{does[1:]} beyond its layer-matched random control",
            f"No evidence that {does}",
            nothing=self._nothing,
            neurons=self.neurons,
            fluency=self.fluency,
            seeds=self.control.seeds,
            comparison=comparison,
            change=f"its {measure} of {figure}",
            beside=beside,
        )

    def __str__(self) -> str:
        return self.verdict

    def _repr_html_(self) -> str:
        """Every measure beside the control's, as they are called in report.json."""
        parts = {
            "suppression": (self.suppression, self.control.suppression),
            "retention": (self.retention, self.control.retention),
        }
        rows = [
            (part, name, as_text(one), as_text(control[name]) if name in control else "-", str(one.n))
            for part, (figures, control) in parts.items()
            for name, one in figures.items()
        ]
        columns = ("", "measure", "edit", f"random control, {counted(self.control.seeds, 'seed')}", "n")
        return notebook.table(columns, rows, notes=[self.verdict])

    @classmethod
    def from_json(cls, content: Mapping[str, Any], concept: str, neurons: int | None) -> "EditReport":
        """Return what `to_json` wrote, of an edit of `concept` in so many neurons."""
        aim: Aim = content.get("aim", "less")
        return cls(
            concept=concept,
            suppression=from_json(content["suppression"]),
            retention=from_json(content["retention"]),
            weakest=content["weakest_retention"],
            selectivity=Measured.from_json(content["selectivity"]),
            fluency=Fluency.from_json(content["fluency"]),
            control=Control.from_json(content["control"], aim),
            encoder=content["encoder"],
            neurons=neurons,
            aim=aim,
        )

    def to_json(self) -> dict[str, object]:
        """Return the parts of report.json that evaluation knows; the recipe adds concept, model, neurons and cost."""
        return {
            "suppression": as_json(self.suppression),
            "retention": as_json(self.retention),
            "weakest_retention": self.weakest,
            "selectivity": self.selectivity.to_json(),
            "fluency": self.fluency.to_json(),
            "control": self.control.to_json(self.aim, evidence=self.has_evidence),
            "encoder": self.encoder,
            "aim": self.aim,
            "evidence": self.has_evidence,
            "verdict": self.verdict,
        }

    @property
    def _nothing(self) -> str | None:
        """Why there was nothing to judge, if so."""
        if self.suppression["mention_drop"].value is None:
            return "no target caption named it before the edit, so there was nothing to suppress (n = 0)"
        figure = self.suppression[JUDGED_BY[self.aim]]
        return None if figure.value is not None else f"{JUDGED_BY[self.aim]} was not measured, {figure.why}"


def as_text(figure: Measured) -> str:
    """Return a figure for people, or why there is none."""
    return str(figure.why) if figure.value is None else str(figure)


def as_json(figures: Figures) -> dict[str, object]:
    """Return each figure as JSON, in order."""
    return {name: figure.to_json() for name, figure in figures.items()}


def from_json(content: Mapping[str, Any]) -> Figures:
    """Return the figures that `as_json` wrote."""
    return {name: Measured.from_json(figure) for name, figure in content.items()}
