"""Which concept loses its word when another one's neurons are edited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.comparison.shelf import Shelf
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet
from kedit.samples import Concept, Progress, Sample


@dataclass(frozen=True)
class Matrix:
    """For each edited concept (row) the share of each concept's (column) pictures that lose its word."""

    drops: Mapping[str, Mapping[str, Measured]]
    neurons: Mapping[str, int]
    why: Mapping[str, str]
    """Why concepts that were asked for have no row."""

    @property
    def specificity(self) -> Measured:
        """The mean over concepts of the drop of the concept itself less the mean drop of the others.

        A difference (kedit's choice), since a ratio has no value where no other concept is hit; the interval is a
        bootstrap over concepts.
        """
        gaps = [own - others for own, others in self._own_and_others()]
        return bootstrap_mean(gaps) if gaps else Measured.missing("no edited concept has a drop of its own and others'")

    @property
    def own(self) -> Measured:
        """The mean of the diagonal."""
        return self._mean(0)

    @property
    def others(self) -> Measured:
        """The mean over concepts of what the other concepts lose."""
        return self._mean(1)

    def to_json(self) -> dict[str, Any]:
        """Return the matrix as plain data."""
        return {
            "drops": {row: {name: one.to_json() for name, one in cells.items()} for row, cells in self.drops.items()},
            "neurons": dict(self.neurons),
            "why": dict(self.why),
            "own": self.own.to_json(),
            "others": self.others.to_json(),
            "specificity": self.specificity.to_json(),
        }

    def _mean(self, which: int) -> Measured:
        values = [pair[which] for pair in self._own_and_others()]
        return bootstrap_mean(values) if values else Measured.missing("no edited concept has a drop of its own")

    def _own_and_others(self) -> list[tuple[float, float]]:
        found = []
        for row, cells in self.drops.items():
            own = cells[row].value if row in cells else None
            others = [one.value for name, one in cells.items() if name != row and one.value is not None]
            if own is not None and others:
                found.append((own, sum(others) / len(others)))
        return found


@dataclass(frozen=True, eq=False)
class Gallery:
    """Held-out pictures of every concept of the matrix, captioned together."""

    model: MLLM
    plan: EditPlan
    pictures: Mapping[Concept, Sequence[Sample]]
    shelf: Shelf
    progress: Progress

    def drops(self, neurons: NeuronSet, operator: Operator, seen: frozenset[str]) -> dict[str, Measured]:
        """Return for each concept the share of its pictures whose caption no longer names it.

        Only pictures whose unedited caption names it count, and none that locating has `seen`.
        """
        before = self._captions(None, operator)
        after = self._captions(neurons, operator) if neurons else before
        found = {}
        for concept, samples in self.pictures.items():
            kept = zip(samples, before[concept.name], after[concept.name], strict=True)
            lost = [
                float(not concept.mentioned_in(new))
                for sample, old, new in kept
                if sample.id not in seen and concept.mentioned_in(old)
            ]
            found[concept.name] = (
                bootstrap_mean(lost) if lost else Measured.missing("no unedited caption of its pictures names it")
            )
        return found

    def _captions(self, neurons: NeuronSet | None, operator: Operator) -> dict[str, list[str]]:
        def ask() -> dict[str, list[str]]:
            samples = [sample for several in self.pictures.values() for sample in several]
            told = iter(self.model.caption([sample.image for sample in samples], progress=self.progress))
            return {concept.name: [next(told).text for _ in several] for concept, several in self.pictures.items()}

        def edited() -> dict[str, list[str]]:
            assert neurons is not None
            with self.plan.edit(neurons, operator, "matrix").applied(self.model):
                return ask()

        what = {"neurons": neurons.to_json() if neurons else None}
        found: dict[str, list[str]] = self.shelf.made("gallery", edited if neurons else ask, **what)
        return found
