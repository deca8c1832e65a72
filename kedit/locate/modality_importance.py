"""MINER's importance of a neuron to a modality, as the stage of a locator (Huang et al. 2024, arXiv 2410.04819)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from kedit.locate import importance as figures
from kedit.locate.importance import METRICS, AttentionMode, Metric, Modality, Norm
from kedit.locate.reduction import OverSamples
from kedit.locate.scorer import LayerEvidence, Need

WEIGHTS = (0.0, 0.25, 0.25, 0.5, 0.0)
"""The reference's default weights of `METRICS`."""


@dataclass(frozen=True)
class Importances:
    """The importance of every neuron to several modalities: channels for a locator that joins them itself.

    `X_m = sum over metrics q of w_q ISM[q, m]`, the figures of `kedit.locate.importance` scaled for each sample.
    """

    modalities: Sequence[Modality]
    weights: Sequence[float] = WEIGHTS
    attn_mode: AttentionMode = "faithful"
    norm: Norm = "layer"
    faithful: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "modalities", tuple(self.modalities))
        object.__setattr__(self, "weights", _checked(self.weights))
        for name, value, known in (
            ("attn_mode", self.attn_mode, get_args(AttentionMode)),
            ("norm", self.norm, get_args(Norm)),
            *(("modality", modality, get_args(Modality)) for modality in self.modalities),
        ):
            if value not in known:
                raise ValueError(f"`{name}` is one of {', '.join(known)}, got {value!r}")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The figures that have a weight."""
        return tuple(metric for metric, weight in zip(METRICS, self.weights, strict=True) if weight)

    @property
    def needs(self) -> frozenset[Need]:
        """The queries and keys, if a figure made of them has a weight."""
        return frozenset({"attention"} if {"attn_k", "attn_q"} & set(self.metrics) else ())

    @property
    def over_samples(self) -> OverSamples:
        """The mean; `across_samples` leaves out the samples without the modality."""
        return "mean"

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return each figure and last whether the sample has the modality: `[batch, metric + 1, modality, neuron]`."""
        assert evidence.modalities is not None and evidence.prompt is not None
        token_types, prompt = (one.to(evidence.original.device) for one in (evidence.modalities, evidence.prompt))
        scores = self._attention(evidence, prompt)
        channels = []
        for modality in self.modalities:
            where = figures.positions_of(modality, token_types, prompt)
            made = figures.importance(evidence.original, where, scores, self.metrics, self.attn_mode)
            present = where.any(1)[:, None, None].expand_as(made[:, :1])
            channels.append(torch.cat([made, present.to(made)], 1))
        return torch.stack(channels, 2)

    def across_layers(self, scores: Tensor) -> Tensor:
        """Return the importance and whether there is any: `[batch, 2, modality, layer, neuron]`."""
        made, present = scores[:, :-1], scores[:, -1:]
        weights = [weight for weight in self.weights if weight]
        joined = figures.weighted(figures.scaled(made, self.norm).transpose(0, 1), weights)
        return torch.cat([joined[:, None], present], 1)

    def across_samples(self, means: Tensor) -> Tensor:
        """Return the importance over samples, `[modality, layer, neuron]`; zero for a modality that none has."""
        return figures.over_samples(means[0], means[1], faithful=self.faithful)

    def _attention(self, evidence: LayerEvidence, prompt: Tensor) -> Tensor | None:
        if "attention" not in self.needs:
            return None
        if evidence.attention is None:
            raise LookupError(
                f"the attention of layer {evidence.layer} does not go through transformers' attention functions, so "
                f"that its queries and keys cannot be seen; give `attn_k` and `attn_q` no weight, got {self.weights}"
            )
        return figures.attention_scores(evidence.attention, prompt, self.attn_mode).to(prompt.device)


@dataclass(frozen=True)
class ModalityImportance:
    """MINER's importance of each neuron to one modality: a stage of any locator.

    Only the prompt is read. No target is involved, so that alone it finds what the model uses for pictures, say, not
    what it knows of a concept.
    """

    modality: Modality = "image"
    weights: Sequence[float] = WEIGHTS
    """Of the figures prob, mean, max, attn_k and attn_q."""
    attn_mode: AttentionMode = "faithful"
    norm: Norm = "layer"
    faithful: bool = False
    """Whether samples without the modality count as zero, as in the reference."""

    any_scope: ClassVar[bool] = False
    """It tells the positions of the prompt apart, which the language model alone sees."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", self._all.weights)

    @property
    def needs(self) -> frozenset[Need]:
        """The queries and keys, if a figure made of them has a weight."""
        return self._all.needs

    @property
    def over_samples(self) -> OverSamples:
        """The mean."""
        return "mean"

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the figures of one layer; see `Importances.score`."""
        return self._all.score(evidence)

    def across_layers(self, scores: Tensor) -> Tensor:
        """Return the importance and whether there is any; see `Importances.across_layers`."""
        return self._all.across_layers(scores)

    def across_samples(self, means: Tensor) -> Tensor:
        """Return the importance over samples, `[layer, neuron]`; a ValueError if none has the modality."""
        if not bool((means[1].nan_to_num(0.0) > 0).any()):
            raise ValueError(f"no sample's prompt has `{self.modality}` tokens; `modality` is to be one that it has")
        return self._all.across_samples(means)[0]

    @property
    def _all(self) -> Importances:
        return Importances((self.modality,), self.weights, self.attn_mode, self.norm, self.faithful)


def _checked(weights: Sequence[float]) -> tuple[float, ...]:
    found = tuple(float(one) for one in weights)
    if len(found) != len(METRICS) or not all(math.isfinite(one) and one >= 0 for one in found) or not any(found):
        raise ValueError(
            f"`weights` are {len(METRICS)} numbers of 0 or more, not all 0, for {', '.join(METRICS)}; "
            f"got {', '.join(map(str, weights)) or 'none'}"
        )
    return found
