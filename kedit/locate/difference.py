"""Stage 1 of two-stage filtering: neurons that change when the concept is painted out."""

from dataclasses import dataclass

from torch import Tensor

from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need


@dataclass(frozen=True)
class ActivationDifference:
    """How much more strongly a neuron fires when the concept is in the picture.

    For each sample `R_p(|A_original| - |A_counterfactual|)` over positions p, then the mean over samples. Sato and
    Takagi 2025 (arXiv 2503.22941) take the difference of the activations, `R_p(A_original - A_counterfactual)`, for
    their candidate set C^k; sign, threshold and reductions are not given there and are options here. Where no
    activation is below zero, both are the same. A gated neuron may fire below zero: with the signs of what it reads
    and of what it writes turned round it is the same neuron, and has the same score here.

    A high score also goes to neurons that respond to the color or texture of the region: stage 2 is there to
    tell them from the concept.
    """

    positions: Evidence = "image"
    over_positions: OverPositions = "max"
    over_samples: OverSamples = "mean"
    signed: bool = False
    """Whether the activation itself must rise with the concept, and not its size. With `over_positions="abs_max"` any
    change counts."""
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
        original = evidence.original
        difference = original - other if self.signed else original.abs() - other.abs()
        return over_positions(difference, evidence.token_types, self.positions, self.over_positions)
