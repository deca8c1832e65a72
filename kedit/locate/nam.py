"""Neuron attribution for multimodal models (NAM), reconstructed: the paper's code is not public."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kedit.internals.unembedding import FinalNorm
from kedit.locate.contribution import check_norm
from kedit.locate.readout import Readout
from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need


@dataclass(frozen=True, eq=False)
class NAM:
    """The direct contribution to the word, or the activation where that is more remarkable; reconstructed.

    Fang et al., NeurIPS 2024. For T-neurons s = `A * (U_c . v)`, zero unless c is the word of the `vocabulary` that
    the neuron contributes most to ("maximum semantic"); with a `region`, for I-neurons, s = `A * (v . R)`. The
    final score of a sample is `max(s / max s, weight * A / max A)`, each maximum over all layers ("weighted
    maximum", which is to catch indirect contributions). The paper gives neither the filter nor the weights nor the
    normalization: those are kedit's choice.
    """

    positions: Evidence = "target"
    over_positions: OverPositions = "mean"
    over_samples: OverSamples = "mean"
    vocabulary: Sequence[str] | None = None
    """The words among which the concept's must be the strongest; None for all that the samples are annotated with."""
    weight: float = 0.5
    """What the normalized activation counts; 0 leaves the direct contribution alone."""
    norm: FinalNorm = "none"
    """What of the final norm a word's direction is weighed with; a `region` is taken as it is."""
    region: Tensor | None = None
    """R, `[d_model]`: the direction of the residual stream that a region of a generated picture is attributed to."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, self.over_positions, self.over_samples)
        check_norm(self.norm)
        if self.vocabulary is not None and (isinstance(self.vocabulary, str) or not self.vocabulary):
            raise ValueError(f"`vocabulary` is a list of words, or None for the annotated, got {self.vocabulary!r}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"`weight` is a finite number, 0 or more, got {self.weight}")
        if self.region is not None and self.region.ndim != 1:
            raise ValueError(f"`region` is a vector of the residual stream, got shape {tuple(self.region.shape)}")

    @property
    def needs(self) -> frozenset[Need]:
        """What the neurons write, in words."""
        return frozenset({"unembedding"})

    @property
    def needs_all(self) -> str | None:
        """Why a part of the samples does not do, if it does not."""
        settled = self.vocabulary is not None or self.region is not None
        return None if settled else "its words are those that all of them are annotated with; give `vocabulary`"

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the direct contribution and the activation of one layer, `[batch, 2, neuron]`."""
        assert evidence.readout is not None
        direct = self._filtered(evidence) if self.region is None else self._towards(self.region, evidence)
        channels = (direct, evidence.original)
        return torch.stack(
            [over_positions(one, evidence.kinds, self.positions, self.over_positions) for one in channels], dim=1
        )

    def across_layers(self, scores: Tensor) -> Tensor:
        """Return the weighted maximum, `[batch, layer, neuron]`, of both channels, `[batch, 2, layer, neuron]`."""
        direct, active = scores.unbind(1)
        return torch.maximum(_of_highest(direct), self.weight * _of_highest(active))

    def _filtered(self, evidence: LayerEvidence) -> Tensor:
        """Return what each neuron adds to the concept's word where that is its strongest: `[batch, pos, neuron]`."""
        assert evidence.readout is not None
        assert evidence.target is not None
        written = evidence.readout.onto(evidence.target, self.norm)
        tokens = torch.tensor(self._tokens(evidence.readout))
        others = evidence.readout.onto(tokens, self.norm)[None]
        # Not the word itself, which two products of different shapes may round differently: [batch, word, 1].
        itself = (tokens == evidence.target[:, None])[..., None].to(others.device)
        highest = others.masked_fill(itself, -torch.inf).amax(1)
        lowest = others.masked_fill(itself, torch.inf).amin(1)
        active = evidence.original
        # The strongest word of a positive activation is the highest product, of a negative one the lowest.
        strongest = torch.where(active > 0, (written >= highest)[:, None], (written <= lowest)[:, None])
        return (active * written[:, None]).where(strongest, 0.0)

    def _tokens(self, readout: Readout) -> tuple[int, ...]:
        if self.vocabulary is None:
            return readout.vocabulary
        tokens = readout.spell(tuple(self.vocabulary))
        if not tokens:
            raise ValueError(f"the model cannot spell a word of `vocabulary`: {', '.join(self.vocabulary)}")
        return tokens

    def _towards(self, region: Tensor, evidence: LayerEvidence) -> Tensor:
        assert evidence.readout is not None
        values = evidence.readout.values
        if len(region) != values.shape[1]:
            raise ValueError(f"`region` has {len(region)} entries, the model's residual stream {values.shape[1]}")
        return evidence.original * (values @ region.to(values))


def _of_highest(scores: Tensor) -> Tensor:
    """Return each sample's scores as shares of its highest, `[batch, layer, neuron]`; zero if none is positive."""
    highest = scores.nan_to_num(nan=-torch.inf).amax((1, 2), keepdim=True)
    # Times zero, not zero: what is not a number stays so.
    return torch.where(highest > 0, scores / highest, scores * 0)
