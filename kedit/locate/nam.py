"""Neuron attribution for multimodal models (NAM), from the paper's equations: its code is not public."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kedit.internals.unembedding import FinalNorm
from kedit.locate.contribution import check_norm
from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need


@dataclass(frozen=True, eq=False)
class NAM:
    """The direct contribution to a word that is the neuron's strongest, or the activation where that stands out more.

    Fang et al., NeurIPS 2024. For T-neurons s = `A * (U_c . w)`, zero unless c is the word of the whole vocabulary that
    the neuron contributes most to (equation 7); with a `region`, for I-neurons, s = `A * (w . R)` (section 3.1). The
    final score of a sample is `max(softmax(s), softmax(A))`, each over all layers and neurons (equation 4): the
    activation stands for what later layers make of the neuron. The paper leaves out the final norm.

    Where activations are much larger than contributions, which depends on the model's scale alone, the activation
    decides. With a `weight` the final score is kedit's own, `max(s / max s, weight * A / max A)`, which has no scale.
    """

    positions: Evidence = "target"
    over_positions: OverPositions = "mean"
    over_samples: OverSamples = "mean"
    norm: FinalNorm = "none"
    """What of the final norm a word's direction is weighed with; a `region` is taken as it is."""
    weight: float | None = None
    """What the activation counts as a share of the highest, 0 for nothing; None for the paper's softmax maximum."""
    region: Tensor | None = None
    """R, `[d_model]`: how much each entry of the last hidden state matters for a region of a generated picture."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, self.over_positions, self.over_samples)
        check_norm(self.norm)
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise ValueError(f"`weight` is a finite number, 0 or more, or None for the paper's way, got {self.weight}")
        if self.region is not None and self.region.ndim != 1:
            raise ValueError(f"`region` is a vector of the residual stream, got shape {tuple(self.region.shape)}")

    @property
    def needs(self) -> frozenset[Need]:
        """What the neurons write, in words."""
        return frozenset({"unembedding"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the direct contribution and the activation of one layer, `[batch, 2, neuron]`."""
        direct = self._to_word(evidence) if self.region is None else _to_region(evidence, self.region)
        channels = [
            over_positions(values, evidence.token_types, self.positions, self.over_positions)
            for values in (direct, evidence.original)
        ]
        return torch.stack(channels, dim=1)

    def across_layers(self, scores: Tensor) -> Tensor:
        """Return the final score, `[batch, layer, neuron]`, of both channels, `[batch, 2, layer, neuron]`."""
        direct, active = scores.unbind(1)
        if self.weight is None:
            return softmax_maximum(direct, active)
        return torch.maximum(_of_highest(direct), self.weight * _of_highest(active))

    def _to_word(self, evidence: LayerEvidence) -> Tensor:
        assert evidence.readout is not None
        assert evidence.target is not None
        written = evidence.readout.onto(evidence.target, self.norm)
        return maximum_semantic(evidence.original, written, evidence.readout.strongest(self.norm), evidence.target)


def maximum_semantic(active: Tensor, written: Tensor, strongest: Tensor, target: Tensor) -> Tensor:
    """Return what each neuron adds to the word where that is its strongest, else zero: `[batch, pos, neuron]`.

    Equation 7 of the paper.

    Args:
        active: The activations, `[batch, pos, neuron]`.
        written: What each neuron adds to each sample's word for an activation of 1, `[batch, neuron]`.
        strongest: The tokens that each neuron raises and lowers most, `[2, neuron]`.
        target: The token of each sample's word, `[batch]`.
    """
    raises, lowers = (strongest[:, None] == target.to(strongest.device)[:, None]).to(active.device)
    counts = torch.where(active > 0, raises[:, None], lowers[:, None])
    return (active * written[:, None]).where(counts, 0.0)


def softmax_maximum(direct: Tensor, active: Tensor) -> Tensor:
    """Return `max(softmax(direct), softmax(active))`, each over all layers and neurons of a sample, 64-bit.

    Equation 4 of the paper. Scores that are not a number count for nothing and stay so.

    Args:
        direct: The direct contributions, `[batch, layer, neuron]`.
        active: The activations, of the same shape.
    """
    return torch.maximum(_softmax(direct), _softmax(active))


def _softmax(scores: Tensor) -> Tensor:
    missing = scores.isnan()
    shares = scores.double().masked_fill(missing, -torch.inf).flatten(1).softmax(1)
    return shares.view_as(scores).masked_fill(missing, torch.nan)


def _of_highest(scores: Tensor) -> Tensor:
    """Return each sample's scores as shares of its highest, `[batch, layer, neuron]`; zero if none is positive."""
    highest = scores.nan_to_num(nan=-torch.inf).amax((1, 2), keepdim=True)
    # Times zero, not zero: what is not a number stays so.
    return torch.where(highest > 0, scores / highest, scores * 0)


def _to_region(evidence: LayerEvidence, region: Tensor) -> Tensor:
    """Return how much each neuron moves the residual stream towards `region`: `[batch, pos, neuron]`."""
    assert evidence.readout is not None
    values = evidence.readout.values
    if len(region) != values.shape[1]:
        raise ValueError(f"`region` has {len(region)} entries, the model's residual stream {values.shape[1]}")
    return evidence.original * (values @ region.to(values))
