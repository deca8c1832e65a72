"""How many questions a model answers right before an edit, after it, and with random neurons edited instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kedit import notebook
from kedit.evaluation.answers import Match, right
from kedit.evaluation.fluency import Fluency, Guard, Speech
from kedit.evaluation.measure import compare
from kedit.evaluation.report import Figures, as_json, as_text
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.evaluation.verdict import Comparison, Judged, Verdict, judge
from kedit.samples import Question
from kedit.words import counted

ALL = "all"
"""The name of the figure over all kinds of questions."""
GUARD = Guard(length_ratio=(0.0, float("inf")))
"""What still counts as an answer: one of any length, since "no" may answer what "a red star" did."""


@dataclass(frozen=True, repr=False)
class TaskReport(Judged):
    """What an edit did to the share of right answers, by the kind of question, and how sure that is."""

    before: Figures
    after: Figures
    control: Figures
    """With the same operator on layer-matched random neurons: each question's mean over the seeds."""
    by_seed: tuple[float, ...]
    """The share of right answers over all kinds, for each seed."""
    lost: Measured
    """Of the questions answered right before, the share answered wrong after."""
    comparison: Comparison
    """Of `lost` with the same of the controls."""
    fluency: Fluency
    """Of the edited model's answers."""
    neurons: int

    @property
    def judgement(self) -> Verdict:
        """Whether the located neurons matter, and how one knows."""
        was, now, control = (one[ALL] for one in (self.before, self.after, self.control))
        n_seeds, difference, p = len(self.by_seed), self.comparison.difference, self.comparison.p
        goes = f"goes from {was} to {now} (n = {was.n}) with {self.neurons} neurons edited"
        beside = f"with as many random ones in the same layers to {control} ({counted(n_seeds, 'seed')})"
        sure = "" if p is None else f", p = {p:.2g}"
        return judge(
            "The located neurons matter more than random ones",
            "No evidence that these neurons matter more than others",
            nothing=None if was.value else f"the unedited model answers none of {was.n} questions right",
            neurons=self.neurons,
            fluency=self.fluency,
            seeds=n_seeds,
            comparison=self.comparison,
            change=f"the share of right answers, which {goes},",
            beside=f"the share of right answers {goes}, {beside}; of the answers right before, {self.lost} are lost, "
            f"{difference} more than at random{sure}",
        )

    def __str__(self) -> str:
        return self.verdict

    def _repr_html_(self) -> str:
        """The share of right answers by the kind of question: before, after, and with random neurons edited."""
        every = (self.before, self.after, self.control)
        rows = [(kind, *(as_text(one[kind]) for one in every), str(was.n)) for kind, was in self.before.items()]
        columns = ("", "unedited", "edited", f"random control, {counted(len(self.by_seed), 'seed')}", "n")
        return notebook.table(columns, rows, "right answers", [self.verdict])

    def to_json(self) -> dict[str, object]:
        """Return the parts of report.json that evaluation knows."""
        return {
            "score": {"before": as_json(self.before), "after": as_json(self.after)},
            "lost": self.lost.to_json(),
            "control": {
                "seeds": len(self.by_seed),
                "score": as_json(self.control),
                "by_seed": list(self.by_seed),
                "beats_control": {
                    "lost": self.has_evidence,
                    "difference": self.comparison.difference.to_json(),
                    "p": self.comparison.p,
                },
            },
            "fluency": self.fluency.to_json(),
            "evidence": self.has_evidence,
            "verdict": self.verdict,
        }


def judged(
    questions: Sequence[Question],
    before: Speech | Sequence[str],
    after: Speech | Sequence[str],
    controls: Sequence[Sequence[str]],
    *,
    neurons: int,
    match: Match = "contains",
    seed: int = 0,
) -> TaskReport:
    """Return what an edit did to the answers.

    Args:
        questions: What was asked.
        before: What the unedited model said to each; as `Speech` with what tells whether it is language.
        after: What the edited one said.
        controls: What it said with random neurons edited instead, for each seed.
        neurons: How many neurons the edit acts on.
        match: When an answer is right.
        seed: Of the bootstrap and of the permutation test.
    """
    spoken, edited = (one if isinstance(one, Speech) else Speech(one) for one in (before, after))
    numbered = {f"control {n}": one for n, one in enumerate(controls)}
    _check_answers(questions, {"before": spoken.texts, "after": edited.texts, **numbered})

    def marks(said: Sequence[str]) -> list[float]:
        return [float(right(question, one, match)) for question, one in zip(questions, said, strict=True)]

    was, now, others = marks(spoken.texts), marks(edited.texts), [marks(one) for one in controls]
    known = [place for place, mark in enumerate(was) if mark]
    nothing = "no answer was right before the edit"
    lost, lost_by_seed = [1 - now[place] for place in known], [[1 - one[place] for place in known] for one in others]
    pooled = [sum(one) / len(others) for one in zip(*others, strict=True)]
    return TaskReport(
        before=_by_kind(questions, was, seed),
        after=_by_kind(questions, now, seed),
        control=_by_kind(questions, pooled, seed),
        by_seed=tuple(sum(one) / len(one) for one in others),
        lost=bootstrap_mean(lost, seed=seed) if lost else Measured.missing(nothing),
        comparison=compare(lost, lost_by_seed, nothing=nothing, seed=seed),
        fluency=GUARD.judge({"answers": (spoken, edited)}, what="answers", where=""),
        neurons=neurons,
    )


def _check_answers(questions: Sequence[Question], answers: Mapping[str, Sequence[str]]) -> None:
    """Raise a ValueError unless there is a question, and an answer to each under every name."""
    if not questions:
        raise ValueError("there is no question to judge an edit on")
    for name, said in answers.items():
        if len(said) != len(questions):
            raise ValueError(f"`{name}` has {len(said)} answers, {len(questions)} questions were asked")


def _by_kind(questions: Sequence[Question], marks: Sequence[float], seed: int) -> dict[str, Measured]:
    """Return the share of right answers of each kind of question and over all."""
    kinds = dict.fromkeys(one.kind for one in questions)
    if not marks:
        return dict.fromkeys((*kinds, ALL), Measured.missing("no random control was run"))
    found: Mapping[str, list[float]] = {
        kind: [mark for one, mark in zip(questions, marks, strict=True) if one.kind == kind] for kind in kinds
    }
    return {kind: bootstrap_mean(some, seed=seed) for kind, some in found.items()} | {
        ALL: bootstrap_mean(marks, seed=seed)
    }
