"""How many questions a model answers right before an edit, after it, and with random neurons edited instead."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from kedit.evaluation.measure import compare
from kedit.evaluation.report import Comparison, Figures, as_json
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.samples import Question

Match = Literal["contains", "exact"]
"""When an answer is right: it has the words of one of the right answers somewhere in it, or no other words."""
ALL = "all"
"""The name of the figure over all kinds of questions."""


def right(question: Question, said: str, match: Match = "contains") -> bool:
    """Return whether `said` answers `question`; case and punctuation do not count, and words count only whole.

    `contains` is MINER's rule (Huang et al. 2024) but for whole words: with it, an answer that lists everything is
    right.
    """
    check_match(match)
    told = _words(said)
    for answer in (question.answer, *question.others):
        words = _words(answer)
        starts = range(len(told) - len(words) + 1) if match == "contains" else [0] if len(told) == len(words) else []
        if words and any(told[start : start + len(words)] == words for start in starts):
            return True
        # An answer may be a mark that is no word.
        if not words and said.strip() == answer.strip():
            return True
    return False


def check_match(match: str) -> None:
    """Raise a ValueError unless `match` says when an answer is right."""
    if match not in get_args(Match):
        raise ValueError(f"`match` is {' or '.join(get_args(Match))}, got {match!r}")


@dataclass(frozen=True)
class TaskReport:
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
    neurons: int

    @property
    def verdict(self) -> str:
        """One sentence: the edit costs more right answers than random neurons do, or why there is no evidence."""
        was, now, control = (one[ALL] for one in (self.before, self.after, self.control))
        if not was.value:
            return f"No evidence: the unedited model answers none of {was.n} questions right."
        if not self.neurons:
            return "No evidence: no neuron was located, so nothing was edited (0 neurons)."
        told = f"the share of right answers goes from {was} to {now} (n = {was.n}) with {self.neurons} neurons edited"
        if not self.by_seed:
            return f"No evidence: {told}, but no random control was run beside it."
        n_seeds, difference, p = len(self.by_seed), self.comparison.difference, self.comparison.p
        beside = f"with as many random ones in the same layers to {control} ({n_seeds} seed{'s' * (n_seeds > 1)})"
        sure = f"of the answers right before, {self.lost} are lost, {difference} more than at random" + (
            "" if p is None else f", p = {p:.2g}"
        )
        if not self.comparison.beats:
            return f"No evidence that these neurons matter more than others: {told}, {beside}; {sure}."
        return f"The located neurons matter more than random ones: {told}, {beside}; {sure}."

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
                    "lost": self.comparison.beats,
                    "difference": self.comparison.difference.to_json(),
                    "p": self.comparison.p,
                },
            },
            "verdict": self.verdict,
        }


def judged(
    questions: Sequence[Question],
    before: Sequence[str],
    after: Sequence[str],
    controls: Sequence[Sequence[str]],
    *,
    neurons: int,
    match: Match = "contains",
    seed: int = 0,
) -> TaskReport:
    """Return what an edit did to the answers.

    Args:
        questions: What was asked.
        before: What the unedited model said to each.
        after: What the edited one said.
        controls: What it said with random neurons edited instead, for each seed.
        neurons: How many neurons the edit acts on.
        match: When an answer is right.
        seed: Of the bootstrap and of the permutation test.
    """
    _check_answers(
        questions, {"before": before, "after": after, **{f"control {n}": one for n, one in enumerate(controls)}}
    )

    def marks(said: Sequence[str]) -> list[float]:
        return [float(right(question, one, match)) for question, one in zip(questions, said, strict=True)]

    was, now, others = marks(before), marks(after), [marks(one) for one in controls]
    known = [place for place, mark in enumerate(was) if mark]
    lost, lost_by_seed = [1 - now[place] for place in known], [[1 - one[place] for place in known] for one in others]
    pooled = [sum(one) / len(others) for one in zip(*others, strict=True)]
    return TaskReport(
        before=_by_kind(questions, was, seed),
        after=_by_kind(questions, now, seed),
        control=_by_kind(questions, pooled, seed),
        by_seed=tuple(sum(one) / len(one) for one in others),
        lost=bootstrap_mean(lost, seed=seed) if lost else Measured.missing("no answer was right before the edit"),
        comparison=compare(lost, lost_by_seed if lost else [], seed=seed),
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


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
