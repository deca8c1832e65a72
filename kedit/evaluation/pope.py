"""POPE (Li et al. 2023): what a model answers when it is asked whether a thing is in a picture."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kedit.evaluation.report import Figures, as_json
from kedit.evaluation.statistics import Measured, Values, bootstrap_mean, bootstrap_ratio
from kedit.samples import ALONE, TARGET, Concept, Question

NO_CONTROL = "no random control was run"
NO_LOG_ODDS = "the model has no token for yes, or none for no"
NO_WORDS = frozenset({"No", "not", "no"})

Sections = Mapping[str, Figures]
Counted = dict[str, Values]
"""Numbers of each picture, `[picture]`, by what is counted."""


def says_yes(answer: str) -> bool:
    """Return whether an answer means yes, by the original's rule.

    Of the text before the first full stop, without commas: "No", "not" or "no" between blanks means no, and all else
    means yes, the empty answer, "NO" and "none" too.
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return NO_WORDS.isdisjoint(words)


@dataclass(frozen=True)
class Answers:
    """What a model said to each question."""

    texts: tuple[str, ...]
    log_odds: tuple[float, ...] | None = None
    """Of yes against no as the first word, in nats; None where the model has no such words."""

    def parsed(self, parse: str) -> list[bool] | None:
        """Return whether each answer is yes, by its `text` or by its `log_odds`; None where they are not known."""
        if parse == "text":
            return [says_yes(text) for text in self.texts]
        return None if self.log_odds is None else [odds > 0 for odds in self.log_odds]


PARSES = ("text", "log_odds")
"""How an answer is read: the original's rule, and whether yes is likelier than no."""


@dataclass(frozen=True)
class PopeReport:
    """POPE by the way of reading the answers and by section, under each condition.

    The sections: `target`, whether the concept is said to be there; for each kind of questions, such as `popular`,
    those about all else, and with `all_` those about everything, as published figures are; `kept`, after the edit, of
    the answers that were right before.
    """

    questions: Mapping[str, int]
    """How many there are, by kind."""
    before: Mapping[str, Sections]
    after: Mapping[str, Sections]
    control: Mapping[str, Sections]
    """The mean over the seeds."""

    def to_json(self) -> dict[str, object]:
        """Return the "pope" part of report.json."""
        conditions = {"before": self.before, "after": self.after, "control": self.control}
        return {"questions": dict(self.questions)} | {
            condition: {
                parse: {section: as_json(figures) for section, figures in sections.items()}
                for parse, sections in by_parse.items()
            }
            for condition, by_parse in conditions.items()
        }


def measure_pope(
    concept: Concept,
    questions: Sequence[Question],
    before: Answers,
    after: Answers,
    controls: Sequence[Answers],
    *,
    seed: int = 0,
) -> PopeReport:
    """Return what an edit of `concept` did to the answers, each figure with pictures as its samples.

    Args:
        concept: A question is about it if its text names it.
        questions: As `kedit.data.pope` makes them: about pictures, whose answer is yes or no, and without one.
        before: What the unedited model said.
        after: What the edited one said.
        controls: What it said with random neurons edited, for each seed.
        seed: Of the bootstrap.
    """
    asked = _Asked.of(concept, questions)
    by_condition: dict[str, dict[str, Sections]] = {"before": {}, "after": {}, "control": {}}
    for parse in PARSES:
        was = before.parsed(parse)
        for name, some in (("before", [before]), ("after", [after]), ("control", controls)):
            runs = [yes for one in some if (yes := one.parsed(parse)) is not None]
            why = NO_LOG_ODDS if some else NO_CONTROL
            sections = asked.sections(runs, None if name == "before" else was, why, seed)
            if parse == "log_odds" and runs:
                sections["target"] = {**sections["target"], **asked.mean_log_odds(some, seed)}
            by_condition[name][parse] = sections
    return PopeReport(asked.counts, *by_condition.values())


@dataclass(frozen=True)
class _Asked:
    """The questions, sorted by what they tell."""

    questions: Sequence[Question]
    about: frozenset[int]
    """The places of those about the concept."""
    shows: frozenset[str]
    """The ids of the pictures that show it."""

    @classmethod
    def of(cls, concept: Concept, questions: Sequence[Question]) -> "_Asked":
        about = frozenset(place for place, one in enumerate(questions) if concept.mentioned_in(one.text))
        shown = frozenset(one.sample.id for one in questions if one.sample is not None and one.sample.shows(concept))
        return cls(questions, about, shown)

    @property
    def counts(self) -> dict[str, int]:
        kinds = [one.kind for one in self.questions]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    def places(self, keep: Callable[[int, Question], bool]) -> list[int]:
        return [place for place, one in enumerate(self.questions) if keep(place, one)]

    def sections(
        self, runs: Sequence[Sequence[bool]], was: Sequence[bool] | None, why: str, seed: int
    ) -> dict[str, Figures]:
        """Return the figures of each section: means over the `runs`, beside what `was` answered unless it is None."""
        sections: dict[str, Figures] = {"target": self._target(runs, was, why, seed)}
        for kind in (one for one in self.counts if one not in (TARGET, ALONE)):
            whole = [place for place, one in enumerate(self.questions) if one.kind == kind]
            others = [place for place in whole if place not in self.about]
            sections[kind] = self._figures(others, runs, why, seed)
            sections[f"all_{kind}"] = self._figures(whole, runs, why, seed)
        if was is not None:
            sections["kept"] = self._kept(runs, was, why, seed)
        return sections

    def mean_log_odds(self, answers: Sequence[Answers], seed: int) -> Figures:
        """Return the mean log-odds, in nats, of the concept being there, on pictures with and without it."""
        odds = np.mean([one.log_odds or () for one in answers], axis=0)
        return {
            f"log_odds_{which}": bootstrap_mean(
                [float(odds[place]) for place in self._of_target(answer)], shares=False, seed=seed
            )
            for which, answer in (("present", "yes"), ("absent", "no"))
        }

    def _of_target(self, answer: str) -> list[int]:
        return self.places(lambda _, one: one.kind == TARGET and one.answer == answer)

    def _target(
        self, runs: Sequence[Sequence[bool]], was: Sequence[bool] | None, why: str, seed: int
    ) -> dict[str, Measured]:
        present, absent = self._of_target("yes"), self._of_target("no")
        figures = {
            "present_yes": self._share(present, runs, lambda place, yes: yes, why, seed),
            "absent_yes": self._share(absent, runs, lambda place, yes: yes, why, seed),
        }
        if was is not None:
            named = [place for place in present if was[place]]
            figures["denied"] = self._share(named, runs, lambda place, yes: not yes, why, seed)
        return figures

    def _kept(self, runs: Sequence[Sequence[bool]], was: Sequence[bool], why: str, seed: int) -> dict[str, Measured]:
        """Return, of other things asked about, the share of right answers that are right still, by the picture.

        Without a picture nothing is right: the share of answers that are as they were.
        """
        once = {(one.sample.id, one.text): place for place, one in enumerate(self.questions) if one.sample is not None}
        right = [
            place for place in sorted(once.values()) if place not in self.about and was[place] == self._is_yes(place)
        ]
        same = [place for place in right if self._picture(place) in self.shows]
        alone = self.places(lambda place, one: one.kind == ALONE and place not in self.about)
        stays: Callable[[int, bool], bool] = lambda place, yes: yes == was[place]  # noqa: E731
        parts = {"same_picture": same, "other_picture": [place for place in right if place not in set(same)]}
        return {name: self._share(some, runs, stays, why, seed) for name, some in (parts | {"alone": alone}).items()}

    def _figures(
        self, places: Sequence[int], runs: Sequence[Sequence[bool]], why: str, seed: int
    ) -> dict[str, Measured]:
        """Return accuracy, precision, recall, F1 and the share of yes; all are ratios of sums over pictures."""
        n = self._counted(places, runs, {
            "right": lambda place, yes: yes == self._is_yes(place),
            "hits": lambda place, yes: yes and self._is_yes(place),
            "yes": lambda place, yes: yes,
            "there": lambda place, yes: self._is_yes(place),
            "all": lambda place, yes: True,
        })  # fmt: skip

        def ratio(top: NDArray[Any], bottom: NDArray[Any]) -> Measured:
            return bootstrap_ratio(top.tolist(), bottom.tolist(), seed=seed)

        figures = {
            "accuracy": ratio(n["right"], n["all"]),
            "precision": ratio(n["hits"], n["yes"]),
            "recall": ratio(n["hits"], n["there"]),
            "f1": ratio(2 * n["hits"], n["yes"] + n["there"]),
            "yes_rate": ratio(n["yes"], n["all"]),
        }
        return figures if runs else dict.fromkeys(figures, Measured.missing(why))

    def _share(
        self,
        places: Sequence[int],
        runs: Sequence[Sequence[bool]],
        counts: Callable[[int, bool], bool],
        why: str,
        seed: int,
    ) -> Measured:
        if not runs:
            return Measured.missing(why)
        n = self._counted(places, runs, {"counted": counts, "all": lambda place, yes: True})
        return bootstrap_ratio(n["counted"].tolist(), n["all"].tolist(), seed=seed)

    def _counted(
        self,
        places: Iterable[int],
        runs: Sequence[Sequence[bool]],
        counts: Mapping[str, Callable[[int, bool], bool]],
    ) -> Counted:
        """Return how many answers of each picture count, in the mean over the runs."""
        pictures: dict[str, dict[str, float]] = {}
        for place in places:
            sums = pictures.setdefault(self._picture(place), dict.fromkeys(counts, 0.0))
            for name, counted in counts.items():
                sums[name] += sum(counted(place, yes[place]) for yes in runs) / max(len(runs), 1)
        return {name: np.asarray([sums[name] for sums in pictures.values()]) for name in counts}

    def _is_yes(self, place: int) -> bool:
        return self.questions[place].answer == "yes"

    def _picture(self, place: int) -> str:
        """Return the id of the picture asked about; without one, each question is a sample of its own."""
        sample = self.questions[place].sample
        return f"question {place}" if sample is None else sample.id
