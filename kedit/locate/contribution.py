"""What a neuron itself adds to the logit of the concept's word: activation times unembedding."""

from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from kedit.internals.unembedding import FinalNorm
from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need


@dataclass(frozen=True)
class Contribution:
    """The direct contribution to the word c at the position that predicts it: `A * (U_c . v)`, without a backward.

    Pan et al. 2024 (arXiv 2311.07470), `pan_multimodal`; the same product is NAM's baseline AcU (Fang et al., NeurIPS
    2024), `nam_acu`. What later layers make of the neuron is left out: at the last layer the score is the
    activation times the gradient but for the final norm's division, before it only one path of many. The scores
    therefore lean to late layers.

    The reference code of Pan et al. reads the activation function's output (`site: act`), which in a gated block
    lacks a factor of what the neuron writes, and multiplies in half precision; `site: mid` takes all of it. Both
    leave out the final norm (`norm: none`); `norm: gamma` folds its scale in, which can reorder the neurons.
    """

    positions: Evidence = "target"
    over_positions: OverPositions = "max"
    over_samples: OverSamples = "mean"
    norm: FinalNorm = "none"
    """What of the final norm the word's direction is weighed with."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, self.over_positions, self.over_samples)
        check_norm(self.norm)

    @property
    def needs(self) -> frozenset[Need]:
        """What the neurons write, in words."""
        return frozenset({"unembedding"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`."""
        assert evidence.readout is not None
        assert evidence.target is not None
        written = evidence.readout.onto(evidence.target, self.norm)
        return over_positions(
            evidence.original * written[:, None], evidence.token_types, self.positions, self.over_positions
        )


def check_norm(norm: FinalNorm) -> None:
    """Raise a ValueError unless `norm` is a name that is known."""
    if norm not in get_args(FinalNorm):
        raise ValueError(f"`norm` is one of {', '.join(get_args(FinalNorm))}, got {norm!r}")
