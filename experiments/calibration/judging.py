"""What editing a set of neurons does, on samples whose unedited captions are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from experiments.app import build
from experiments.steps import transcript
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan
from kedit.evaluation.exam import Exam, Transcript
from kedit.evaluation.measure import measure
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.report import EditReport
from kedit.models.encoder import OwnLayers
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronSet
from kedit.samples import silent


@dataclass(frozen=True, eq=False)
class Judge:
    """A model, an operator, and what the model said to some samples before any edit."""

    model: MLLM
    exam: Exam
    plan: EditPlan
    operator: Operator
    named: Sequence[Generated]
    before: Transcript
    similarity: Similarity
    seed: int

    @classmethod
    def of(cls, model: MLLM, exam: Exam, plan: EditPlan, operator: Operator, cfg: DictConfig) -> "Judge":
        """Caption the samples unedited."""
        encoder: Any = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else OwnLayers(model)
        named = model.caption([sample.image for sample in exam.target])
        before = transcript(model, exam, named, silent, target=named)
        return cls(model, exam, plan, operator, named, before, Similarity(encoder), cfg.seed)

    def report(self, neurons: NeuronSet) -> EditReport:
        """Return what the edit does, without a random control."""
        with self.plan.edit(neurons, self.operator, self.exam.concept.name).applied(self.model):
            after = transcript(self.model, self.exam, self.named, silent)
        return measure(self.exam, self.before, after, [], self.similarity, neurons=len(neurons), seed=self.seed)

    def value(self, neurons: NeuronSet) -> float:
        """Return the selectivity; below all others where the edited model is not fluent."""
        found = self.report(neurons).selectivity.value
        return -1.0 if found is None else found
