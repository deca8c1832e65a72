"""What editing sets of neurons does, on samples whose unedited captions are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from kedit.cli.configuration import build
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.measure import measure
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.report import EditReport
from kedit.models.encoder import OwnLayers
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet
from kedit.pipelines.outputs import edited, unedited
from kedit.pipelines.raw_outputs import RawOutputs
from kedit.progress import show_progress


@dataclass(frozen=True, eq=False)
class Judge:
    """A model, an operator, and what the model said to some samples before any edit."""

    model: MLLM
    evaluation_set: EvaluationSet
    plan: EditPlan
    operator: Operator
    before: RawOutputs
    similarity: Similarity
    seed: int

    @classmethod
    def of(
        cls, model: MLLM, evaluation_set: EvaluationSet, plan: EditPlan, operator: Operator, cfg: DictConfig
    ) -> "Judge":
        """Ask the unedited model."""
        encoder: Any = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else OwnLayers(model)
        return cls(
            model,
            evaluation_set,
            plan,
            operator,
            unedited(model, evaluation_set, show_progress),
            Similarity(encoder),
            cfg.seed,
        )

    def reports(self, sets: Sequence[NeuronSet]) -> dict[NeuronSet, EditReport]:
        """Return what each edit does, without a random control; equal sets are judged once."""
        unique = list(dict.fromkeys(sets))
        edits = [self.plan.edit(one, self.operator, self.evaluation_set.concept.name) for one in unique]
        before = self.before.outputs(self.evaluation_set)
        texts = [
            one.outputs(self.evaluation_set)
            for one in edited(self.model, self.evaluation_set, edits, self.before, show_progress)
        ]
        return {
            one: measure(self.evaluation_set, before, after, [], self.similarity, neurons=len(one), seed=self.seed)
            for one, after in show_progress(zip(unique, texts, strict=True), len(unique), "measured")
        }


def value(report: EditReport) -> float:
    """Return the selectivity; below all others where the edited model is not fluent."""
    found = report.selectivity.value
    return -1.0 if found is None else found
