"""How much the concept's logit would rise with a neuron's activation, whether it fires or not."""

from dataclasses import dataclass

from torch import Tensor

from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need


@dataclass(frozen=True)
class Gradient:
    """The gradient of the concept's logit, `R_p(dy/dA)` over positions p.

    NAM's baseline GraD (Fang et al., NeurIPS 2024). It ignores the activation, so it also finds neurons that are
    silent on the picture. `GradCAM` is the same times the activation.
    """

    positions: Evidence = "image"
    over_positions: OverPositions = "max"
    over_samples: OverSamples = "mean"
    absolute: bool = False
    """Whether a neuron that would lower the logit counts as much as one that would raise it."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, self.over_positions, self.over_samples)

    @property
    def needs(self) -> frozenset[Need]:
        """The gradient of the target."""
        return frozenset({"gradient"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`."""
        assert evidence.gradient is not None
        gradient = evidence.gradient.abs() if self.absolute else evidence.gradient
        return over_positions(gradient, evidence.token_types, self.positions, self.over_positions)
