"""What tests of neurons found, stage by stage."""

from collections.abc import Mapping
from dataclasses import dataclass

from kedit.locate.fdr.null_distribution import NullDistribution
from kedit.neurons import NeuronScores, NeuronSet


@dataclass(frozen=True, eq=False)
class Tested:
    """One stage's test: on which samples, against what, and what passed."""

    null: NullDistribution
    tested: int
    """How many neurons have a p-value."""
    fewest: int
    """How many of them must have the smallest p-value there could be, so that any can pass."""
    kept: NeuronSet
    lowest: Mapping[int, float]
    """The threshold that this implies: of each layer, the lowest score that was kept."""

    def to_json(self) -> dict[str, object]:
        """Return the test as plain data."""
        return {
            "against": list(self.null.words) or "control pictures",
            "draws": len(self.null.words) or len(self.null.samples),
            "samples": list(self.null.samples),
            "smallest_p": self.null.smallest,
            "tested": self.tested,
            "fewest": self.fewest,
            "kept": len(self.kept),
            "thresholds": {str(layer): value for layer, value in self.lowest.items()},
        }


@dataclass(frozen=True, eq=False)
class FDRResult:
    """The neurons that passed, the scores, and the p-values behind them."""

    q: float
    seed: int
    scores: dict[str, NeuronScores]
    pvalues: dict[str, NeuronScores]
    """For each stage `[layer, neuron]`, low where a neuron is surprising; `save_scores` writes them."""
    tests: dict[str, Tested]
    forwards: int
    """Passes of one sample that the tests took beside the scores."""
    backwards: int
    seconds: float

    @property
    def stages(self) -> dict[str, NeuronSet]:
        """What passed each stage."""
        return {name: test.kept for name, test in self.tests.items()}

    @property
    def neurons(self) -> NeuronSet:
        """What passed the last stage."""
        return list(self.stages.values())[-1]

    def to_json(self) -> dict[str, object]:
        """Return q, the seed of the halves, each stage's test and the passes; no seconds, so that runs compare."""
        tests = {name: test.to_json() for name, test in self.tests.items()}
        passes = {"forwards": self.forwards, "backwards": self.backwards}
        return {"q": self.q, "seed": self.seed, "stages": tests, "passes": passes}
