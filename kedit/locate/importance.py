"""How much a neuron matters to one kind of token, as MINER measures it: five figures for each layer and sample.

Huang et al. 2024, arXiv 2410.04819, equations 2 and 3, which leave some symbols undefined: their code settles those
(huang-kc/MINER at 4051a61, "the reference" below). No target, no gradient and no counterfactual is involved.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from kedit.models.attention import Attention
from kedit.models.mllm import MODALITIES

Metric = Literal["prob", "mean", "max", "attn_k", "attn_q"]
"""The share of a modality's tokens at which a neuron is positive, its mean and maximum over them, and its sum over
them weighed by what the tokens send (`attn_k`) or receive (`attn_q`) in attention among themselves."""
Modality = Literal["text", "special", "special_text", "image", "video", "audio", "prompt"]
"""Kinds of prompt tokens; `special_text` is text or special, `prompt` is all of them."""
Split = Literal["prompt", "special_text_as_one", "special_text_separate"]
AttentionMode = Literal["faithful", "plain"]
"""`faithful`: the attention of all prompt tokens to all, later ones included, and then a softmax of the
probabilities, as the reference takes; that is nearly flat, and both figures are close to `mean`. `plain`: the
probabilities of the model's own, masked attention, scaled to sum to one."""
Norm = Literal["layer", "global", "none"]
"""Among which neurons a figure is scaled to 0..1: those of the layer, of all layers, or not at all."""

METRICS: tuple[Metric, ...] = get_args(Metric)
SPLITS: dict[Split, tuple[Modality, ...]] = {
    "prompt": ("prompt",),
    "special_text_as_one": ("special_text", "image", "video", "audio"),
    "special_text_separate": ("text", "special", "image", "video", "audio"),
}
_PARTS: dict[str, tuple[str, ...]] = {"special_text": ("text", "special"), "prompt": MODALITIES[1:]}


def positions_of(modality: Modality, modalities: Tensor, prompt: Tensor) -> Tensor:
    """Return where the prompt holds `modality`: `[batch, pos]`.

    Args:
        modality: The kind of token.
        modalities: `[batch, pos]`, indices into `kedit.models.mllm.MODALITIES`.
        prompt: `[batch, pos]`, true at positions of the prompt.
    """
    indices = [MODALITIES.index(part) for part in _PARTS.get(modality, (modality,))]
    return prompt & torch.isin(modalities, torch.tensor(indices, device=modalities.device))


def attention_scores(attention: Attention, prompt: Tensor, mode: AttentionMode) -> Tensor:
    """Return the mean over heads of the attention among the prompt's tokens: `[batch, query, key]`.

    Padding and forced words are no keys. With `faithful` there is no causal mask (the reference forms the softmax of
    all products of queries and keys anew); with `plain` a query sees what the model shows it.
    """
    each = range(len(prompt))
    # One sample after the other: all heads of a long prompt are large.
    return torch.cat([_scores(attention.rows(slice(n, n + 1)), prompt[n : n + 1], mode) for n in each])


def _scores(attention: Attention, prompt: Tensor, mode: AttentionMode) -> Tensor:
    seen = prompt[:, None, None, :].to(attention.query.device)
    if mode == "plain":
        seen = seen & attention.allowed()
    probabilities = attention.logits().masked_fill(~seen, -torch.inf).softmax(-1)
    # A query that sees no key at all, such as padding, attends to nothing.
    return probabilities.nan_to_num(0.0).mean(1)


def token_weights(scores: Tensor, where: Tensor, mode: AttentionMode) -> tuple[Tensor, Tensor]:
    """Return how much each token of a modality counts in `attn_k` and in `attn_q`: each `[batch, pos]`.

    With the attention S among the tokens of the modality alone, the reference sums the rows of softmax(S, dim 0)^T A
    and of softmax(S, dim 1) A. Both are weighted sums of the activations A: by the row sums of the first softmax and by
    the column sums of the second. With `plain` the columns and rows of S are divided by their sums instead.

    Args:
        scores: The attention, `[batch, query, key]`.
        where: The tokens of the modality, `[batch, pos]`.
        mode: See `AttentionMode`.
    """
    inside = where[:, :, None] & where[:, None, :]
    if mode == "faithful":
        among = scores.masked_fill(~inside, -torch.inf)
        columns, rows = (among.softmax(axis).nan_to_num(0.0) for axis in (1, 2))
    else:
        among = scores.masked_fill(~inside, 0.0)
        columns, rows = ((among / among.sum(axis, keepdim=True)).nan_to_num(0.0) for axis in (1, 2))
    return columns.sum(2), rows.sum(1)


def importance(
    activations: Tensor,
    where: Tensor,
    scores: Tensor | None = None,
    metrics: Sequence[Metric] = METRICS,
    mode: AttentionMode = "faithful",
) -> Tensor:
    """Return the figures of one layer for one modality, not yet scaled: `[batch, metric, neuron]`.

    A sample without the modality has zeros.

    Args:
        activations: `[batch, pos, neuron]`.
        where: The tokens of the modality, `[batch, pos]`.
        scores: What `attention_scores` gave; needed for `attn_k` and `attn_q` only.
        metrics: Which figures, in this order.
        mode: See `AttentionMode`.
    """
    n_tokens = where.sum(1, keepdim=True).clamp(min=1)
    # Zero elsewhere, since what a model computes at its padding may be no number at all.
    inside = activations.masked_fill(~where[..., None], 0.0)
    weights: dict[str, Tensor] = {"mean": where / n_tokens}
    if scores is not None:
        weights["attn_k"], weights["attn_q"] = token_weights(scores, where, mode)
    figures = []
    for metric in metrics:
        if metric == "prob":
            figures.append((inside > 0).sum(1) / n_tokens)
        elif metric == "max":
            peak = activations.masked_fill(~where[..., None], -torch.inf).amax(1)
            figures.append(peak.masked_fill(~where.any(1, keepdim=True), 0.0))
        elif metric in weights:
            figures.append(torch.einsum("bp,bpn->bn", weights[metric].to(inside), inside))
        else:
            raise ValueError(f"the metric `{metric}` needs the attention scores of the layer, got none")
    return torch.stack(figures, 1)


def scaled(figures: Tensor, norm: Norm = "layer") -> Tensor:
    """Return `figures`, `[..., layer, neuron]`, scaled to 0..1 as `norm` says; NaN stays NaN.

    Figures that are all equal become zero: the reference divides zero by zero there, and its check that no figure is
    above one then ends the run.
    """
    if norm == "none":
        return figures
    among = (-1,) if norm == "layer" else (-2, -1)
    missing = figures.isnan()
    low = figures.masked_fill(missing, torch.inf).amin(among, keepdim=True)
    span = figures.masked_fill(missing, -torch.inf).amax(among, keepdim=True) - low
    return (figures - low) / torch.where(span > 0, span, torch.ones_like(span))


def weighted(figures: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted sum over the first axis, the metrics: `[..., layer, neuron]`."""
    factors = torch.tensor(weights, dtype=figures.dtype, device=figures.device)
    return (figures * factors.view(-1, *[1] * (figures.ndim - 1))).sum(0)


def over_samples(mean: Tensor, present: Tensor, *, faithful: bool = False) -> Tensor:
    """Return the importance over samples: `[..., modality, layer, neuron]`.

    The reference divides by the number of all samples (`faithful`), so that a modality which half of them have counts
    half as much; by default those without it are left out.

    Args:
        mean: The mean over all samples, zero for those without the modality.
        present: The share of the samples that have each modality, in a shape that fits `mean`.
        faithful: Whether to do as the reference does.
    """
    return mean if faithful else mean / torch.where(present > 0, present, torch.ones_like(present))


def over_sets(sets: Iterable[Tensor]) -> Tensor:
    """Return the mean over data sets of `[..., modality, layer, neuron]`, of each modality over those that have it."""
    each = list(sets)
    counts = torch.stack([_has_modality(one) for one in each]).sum(0)
    return torch.stack(each).sum(0) / counts.clamp(min=1)[:, None, None]


def _has_modality(one: Tensor) -> Tensor:
    """Return which modalities are anything but zero: `[modality]`."""
    anything = (one.nan_to_num(0.0) != 0).movedim(-3, 0)
    return anything.flatten(1).any(1)
