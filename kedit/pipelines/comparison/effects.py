"""What editing a method's neurons does to the captions of one concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from kedit.edit.operators import Operator, aim
from kedit.edit.plan import EditPlan
from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.evaluation.fluency import Guard, middle
from kedit.evaluation.measure import measure, overall, selectivity
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.scores import Scores, paired_scores, pooled
from kedit.evaluation.statistics import Measured
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet
from kedit.pipelines.outputs import cached_edited, cached_unedited
from kedit.pipelines.raw_outputs import RawOutputs
from kedit.results.cache import NO_CACHE, Cache
from kedit.samples import Pair, Progress, silent

NATS = frozenset({"logprob_drop"})
"""Those of `FIGURES` that are no shares."""
FIGURES = ("mention_drop", "retention", "selectivity", "logprob_drop", "substitutions")
"""What a table shows of an edit; retention is the weakest of the retention measures."""
SUPPRESSED = ("mention_drop", "logprob_drop", "substitutions")


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
    broken: str | None = None
    """What is wrong with the edited model's language, of which no figure is evidence then."""


@dataclass(frozen=True, eq=False)
class Trial:
    """The held-out samples of one concept, on which neurons are edited; equal sets are tried once."""

    model: MLLM
    evaluation_set: EvaluationSet
    plan: EditPlan
    pairs: Sequence[Pair]
    """What locating saw, for operators that need a reference."""
    similarity: Similarity
    cache: Cache = NO_CACHE
    progress: Progress = silent
    seed: int = 0
    tried: dict[tuple[NeuronSet, ...], Effect] = field(default_factory=dict)

    def effect(self, sets: Sequence[NeuronSet]) -> Effect:
        """Return what editing a set does, or the mean over several random ones."""
        key = tuple(sets)
        if key not in self.tried:
            edited = [self.edited(neurons) for neurons in sets]
            self.tried[key] = self._drawn(edited) if len(sets) > 1 else self._single(edited[0], len(sets[0]))
        return self.tried[key]

    def edited(self, neurons: NeuronSet) -> Outputs:
        """Return what the model says with `neurons` edited."""
        if not neurons:
            return self.before
        edit = self.plan.edit(neurons, self._operator, self.evaluation_set.concept.name)
        (said,) = cached_edited(self.model, self.evaluation_set, [edit], self._unedited, self.progress, self.cache)
        return said.outputs(self.evaluation_set)

    @cached_property
    def before(self) -> Outputs:
        """What the unedited model says."""
        return self._unedited.outputs(self.evaluation_set)

    @cached_property
    def _unedited(self) -> RawOutputs:
        return cached_unedited(self.model, self.evaluation_set, self.progress, self.cache)

    @cached_property
    def _operator(self) -> Operator:
        return self.plan.operator_for(self.model, self.pairs, progress=self.progress)

    def _single(self, after: Outputs, neurons: int) -> Effect:
        report = measure(
            self.evaluation_set,
            self.before,
            after,
            [],
            self.similarity,
            neurons=neurons,
            aim=aim(self._operator),
            seed=self.seed,
        )
        suppression = {name: report.suppression[name] for name in SUPPRESSED}
        figures = {**suppression, "retention": report.retention["overall"], "selectivity": report.selectivity}
        return Effect(figures, report.weakest, self._by_sample([after]), broken=report.fluency.why)

    def _drawn(self, edited: Sequence[Outputs]) -> Effect:
        """Return the mean over random sets; it is fluent if at least half of them are."""
        control = measure(self.evaluation_set, self.before, edited[0], edited, self.similarity, seed=self.seed).control
        weakest, retention = overall(self.evaluation_set, control.retention)
        fluency = middle([Guard()(self.before, one) for one in edited])
        suppression = {name: control.suppression[name] for name in SUPPRESSED}
        balance = selectivity(suppression["mention_drop"], retention, fluency)
        figures = {**suppression, "retention": retention, "selectivity": balance}
        return Effect(figures, weakest, self._by_sample(edited), control.by_seed, fluency.why)

    def _by_sample(self, edited: Sequence[Outputs]) -> Scores:
        """Return the means over `edited` of what the paired tests compare."""
        return pooled([paired_scores(self.evaluation_set, self.before, after) for after in edited])
