"""How much a neuron fires, the baseline that knows nothing of the concept's word."""

from dataclasses import dataclass

from torch import Tensor

from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need


@dataclass(frozen=True)
class Activation:
    """The activation on the original picture, `R_p(A)` over positions p.

    NAM's baseline AcT (Fang et al., NeurIPS 2024) and, in text, the one of Dai et al. 2022 (arXiv 2104.08696,
    section 4). A neuron that fires on every picture scores as high as one that fires on the concept.
    """

    positions: Evidence = "image"
    over_positions: OverPositions = "max"
    over_samples: OverSamples = "mean"

    def __post_init__(self) -> None:
        check_reductions(self.positions, self.over_positions, self.over_samples)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing beside the forward pass."""
        return frozenset()

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`."""
        return over_positions(evidence.original, evidence.token_types, self.positions, self.over_positions)
