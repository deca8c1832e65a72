"""Stage 2 of two-stage filtering: neurons that raise the logit of the concept's word."""

from dataclasses import dataclass

from torch import Tensor

from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need


@dataclass(frozen=True)
class GradCAM:
    """Activation times gradient of the concept's logit, `R_p(A * dy/dA)` over positions p.

    Sato and Takagi 2025, arXiv 2503.22941, g_c; per position, without the ReLU and the pooling of gradients
    of the original Grad-CAM. With `over_positions="sum"` it is the first-order effect of zeroing the neuron. At
    positions before the target the gradient of the last layer is exactly zero, so with `positions="image"`
    no neuron of the last layer can be found.
    """

    positions: Evidence = "image"
    over_positions: OverPositions = "max"
    over_samples: OverSamples = "mean"

    def __post_init__(self) -> None:
        check_reductions(self.positions, self.over_positions, self.over_samples)

    @property
    def needs(self) -> frozenset[Need]:
        """The gradient of the target."""
        return frozenset({"gradient"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`."""
        assert evidence.gradient is not None
        return over_positions(
            evidence.original * evidence.gradient, evidence.token_types, self.positions, self.over_positions
        )
