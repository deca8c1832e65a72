"""What editing a method's neurons does to the captions of one concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from experiments.comparison.shelf import Shelf
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan
from kedit.evaluation.exam import Exam, Transcript
from kedit.evaluation.fluency import Fluency, Guard
from kedit.evaluation.measure import measure, overall, selectivity
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.scores import named_targets
from kedit.evaluation.statistics import Measured
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet
from kedit.pipelines.outputs import edited, unedited
from kedit.pipelines.transcripts import Said
from kedit.samples import Counterfactual, Progress, mentioned

FIGURES = ("mention_drop", "retention", "selectivity", "logprob_drop", "substitutions")
"""What a table shows of an edit; retention is the weakest of the retention measures."""


@dataclass(frozen=True, eq=False)
class Effect:
    """What an edit did; of random neurons, each sample's mean over the seeds."""

    figures: Mapping[str, Measured]
    """One for each of `FIGURES`."""
    weakest: str | None
    """The retention measure that `retention` is."""
    by_sample: Mapping[str, Sequence[float]]
    """`mention_drop` of each target sample that named the concept; `kept`, the share of the other objects that are
    still named, of each sample that named any."""
    by_seed: tuple[float, ...] = ()
    """The mention_drop of each random set."""


@dataclass(frozen=True, eq=False)
class Trial:
    """The held-out samples of one concept, on which neurons are edited; equal sets are tried once."""

    model: MLLM
    exam: Exam
    plan: EditPlan
    pairs: Sequence[Counterfactual]
    """What locating saw, for operators that need a reference."""
    similarity: Similarity
    shelf: Shelf
    progress: Progress
    seed: int = 0
    tried: dict[tuple[NeuronSet, ...], Effect] = field(default_factory=dict)

    def effect(self, sets: Sequence[NeuronSet]) -> Effect:
        """Return what editing a set does, or the mean over several random ones."""
        key = tuple(sets)
        if key not in self.tried:
            told = [self.told(one) for one in sets]
            self.tried[key] = self._drawn(told) if len(told) > 1 else self._single(told[0], len(sets[0]))
        return self.tried[key]

    def told(self, neurons: NeuronSet) -> Transcript:
        """Return what the model says with `neurons` edited."""
        if not neurons:
            return self.before

        def ask() -> dict[str, Any]:
            edit = self.plan.edit(neurons, self._operator, self.exam.concept.name)
            (said,) = edited(self.model, self.exam, [edit], self._unedited, self.progress)
            return said.to_json()

        return Said.of(self.shelf.made("edited", ask, neurons=neurons.to_json())).transcript(self.exam)

    @cached_property
    def before(self) -> Transcript:
        """What the unedited model says."""
        return self._unedited.transcript(self.exam)

    @cached_property
    def _unedited(self) -> Said:
        return Said.of(self.shelf.made("unedited", lambda: unedited(self.model, self.exam, self.progress).to_json()))

    @cached_property
    def _operator(self) -> Operator:
        return self.plan.operator_for(self.model, self.pairs, progress=self.progress)

    def _single(self, after: Transcript, neurons: int) -> Effect:
        report = measure(self.exam, self.before, after, [], self.similarity, neurons=neurons, seed=self.seed)
        figures = {
            **{name: report.suppression[name] for name in FIGURES if name in report.suppression},
            "retention": report.retention["overall"],
            "selectivity": report.selectivity,
        }
        return Effect(figures, report.weakest, self._by_sample([after]))

    def _drawn(self, told: Sequence[Transcript]) -> Effect:
        """Return the mean over random sets; it is fluent if at least half of them are."""
        report = measure(self.exam, self.before, told[0], told, self.similarity, seed=self.seed)
        suppression, (weakest, retained) = report.control.suppression, overall(report.control.retention)
        fluent = sorted((Guard()(self.before, one) for one in told), key=_broken)[(len(told) - 1) // 2]
        figures = {
            **{name: suppression[name] for name in FIGURES if name in suppression},
            "retention": retained,
            "selectivity": selectivity(suppression["mention_drop"], retained, fluent),
        }
        return Effect(figures, weakest, self._by_sample(told), report.control.by_seed)

    def _by_sample(self, told: Sequence[Transcript]) -> dict[str, list[float]]:
        """Return the means over `told` of what the paired tests compare."""
        dropped = [
            sum(not self.exam.concept.mentioned_in(after.target[i]) for after in told) / len(told)
            for i in named_targets(self.exam, self.before)
        ]
        return {"mention_drop": dropped, "kept": objects_kept(self.exam, self.before, told)}


def objects_kept(exam: Exam, before: Transcript, told: Sequence[Transcript]) -> list[float]:
    """Return for each sample the share of the other objects, rightly named before, that are named still.

    The mean over `told`; samples of which no other object was named are left out.
    """
    kept = []
    for group, samples in (("target", exam.target), ("near", exam.near), ("far", exam.far)):
        for number, sample in enumerate(samples):
            known = mentioned(exam.others, getattr(before, group)[number]) & sample.objects
            if known:
                still = [known & mentioned(exam.others, getattr(after, group)[number]) for after in told]
                kept.append(sum(map(len, still)) / len(known) / len(told))
    return kept


def _broken(fluency: Fluency) -> bool:
    return not fluency.passed
