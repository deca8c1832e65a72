"""Stage 1 of two-stage filtering: neurons that change when the concept is painted out."""

from dataclasses import dataclass

from torch import Tensor

from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need


@dataclass(frozen=True)
class ActivationDifference:
    """How much more a neuron fires when the concept is in the picture.

    For each sample `R_p(A_original - A_counterfactual)` over positions p, then the mean over samples (Sato and
    Takagi 2025, arXiv 2503.22941, the candidate set C^k; the reductions are not given there and are options
    here). A high score also goes to neurons that respond to the color or texture of the region: stage 2 is there to
    tell them from the concept.
    """

    positions: Evidence = "image"
    over_positions: OverPositions = "max"
    over_samples: OverSamples = "mean"
    signed: bool = True
    """Whether a neuron must fire more with the concept; otherwise any change counts."""
    control: bool = False
    """Whether to subtract what painting out another region of equal area changes, the concept left in."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, self.over_positions, self.over_samples)

    @property
    def needs(self) -> frozenset[Need]:
        """The activations on the counterfactual and, to subtract it, on the control picture."""
        return frozenset({"counterfactual", "control"} if self.control else {"counterfactual"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`."""
        assert evidence.counterfactual is not None
        changed = self._changed(evidence, evidence.counterfactual)
        if self.control:
            assert evidence.control is not None
            changed = changed - self._changed(evidence, evidence.control)
        return changed

    def _changed(self, evidence: LayerEvidence, other: Tensor) -> Tensor:
        difference = evidence.original - other
        if not self.signed:
            difference = difference.abs()
        return over_positions(difference, evidence.kinds, self.positions, self.over_positions)
