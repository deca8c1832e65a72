"""What a neuron does for the concept's word against the words in its place, and that less the damage it does."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kedit.internals.hooks import before
from kedit.internals.unembedding import Unembedding
from kedit.locate.reduction import over_positions
from kedit.locate.scorer import Answer, LayerEvidence, Need
from kedit.locate.target import margins, rivals

logger = logging.getLogger(__name__)

EffectPath = Literal["auto", "direct", "answer", "all"]
AT_ANSWER = 0.5
"""The share of the word's margin that neurons must write at the answer for `auto` to look there."""


@dataclass(frozen=True)
class Effect:
    """The contrastive effect of a neuron on the margin m of the word: its logit less the mean of its ten best rivals'.

    - `direct`: what the neuron itself adds where the word is predicted, past all later layers,
      `A(p*) * v . [gamma * (u_word - mean of u_rival)] / sigma`; gamma is the final norm's scale, and sigma the length
      (root mean square) of the residual stream that it divides by there.
    - `answer`: activation x gradient there, `A(p*) * dm/dA(p*)`; what later layers make of it is counted.
    - `all`: the same summed over all positions, the first-order effect of zeroing the neuron.
    - `auto`: `direct` if the neurons that speak for the word write at least half of its margin where it is predicted
      (the sum of their direct effects above zero is at least m / 2), else `all`. Knowledge may act at the answer, or
      be made at the picture's positions and copied from there by attention: then no neuron at the answer has much to
      take away. The gradient over all positions finds it, but in a pretrained language model it also finds neurons of
      the first layers that everything needs.

    Each is a mean over samples, by which `auto` decides too. Gradients are those of `target.value`: set it to `margin`.
    """

    path: EffectPath = "auto"

    def __post_init__(self) -> None:
        if self.path not in get_args(EffectPath):
            raise ValueError(f"`path` is one of {', '.join(get_args(EffectPath))}, got {self.path!r}")

    @property
    def over_samples(self) -> Literal["mean"]:
        """Samples count alike."""
        return "mean"

    @property
    def needs(self) -> frozenset[Need]:
        """A gradient, and the direction of the answer with what the neurons write."""
        direct = self.path in ("direct", "auto")
        return frozenset({"gradient", "answer", "unembedding"} if direct else {"gradient"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the effects of one layer: `[batch, 1, neuron]`; of both paths and the margin, 3, with `auto`."""
        if self.path != "auto":
            return _along(self.path, evidence)[:, None]
        assert evidence.answer is not None
        direct, everywhere = _along("direct", evidence), _along("all", evidence)
        margin = evidence.answer.margin.to(direct.device)[:, None].expand_as(direct)
        return torch.stack([direct, everywhere, margin], dim=1)

    def across_samples(self, means: Tensor) -> Tensor:
        """Return the scores, `[layer, neuron]`, from the means over samples of what `score` gives."""
        if self.path != "auto":
            return means[0]
        direct, _, margin = means.unbind()
        written, lead = direct.clamp(min=0).nansum(), margin.nanmean()
        at_answer = bool(written >= AT_ANSWER * lead)
        logger.info(
            "neurons write %.2f of the word's margin of %.2f at the answer: effects are %s",
            written, lead, "direct, there" if at_answer else "gradients, at all positions",
        )  # fmt: skip
        return means[0] if at_answer else means[1]


@dataclass(frozen=True)
class Selective:
    """The contrastive effect less `weight` times the damage: neurons of the concept that little else needs.

    `S = C - weight * D` with C as in `Effect` and D as in `kedit.locate.damage.Damage`, both in logits. It needs what
    two-stage filtering reads, and one backward more. By the authors of kedit, not from a paper.
    """

    path: EffectPath = "auto"
    weight: float = 3.0

    def __post_init__(self) -> None:
        Effect(self.path)
        if not isinstance(self.weight, int | float) or not 0 <= self.weight < float("inf"):
            raise ValueError(f"`weight` is what the damage counts, 0 or more, got {self.weight!r}")

    @property
    def over_samples(self) -> Literal["mean"]:
        """Samples count alike."""
        return "mean"

    @property
    def needs(self) -> frozenset[Need]:
        """What the effect needs, and the damage."""
        return Effect(self.path).needs | {"damage"}

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return what the effect does of one layer, and the damage last: `[batch, n, neuron]`."""
        assert evidence.damage is not None
        effects = Effect(self.path).score(evidence)
        return torch.cat([effects, evidence.damage[:, None].to(effects.device)], dim=1)

    def across_samples(self, means: Tensor) -> Tensor:
        """Return the scores, `[layer, neuron]`, from the means over samples, `[n, layer, neuron]`."""
        return Effect(self.path).across_samples(means[:-1]) - self.weight * means[-1]


def _along(path: str, evidence: LayerEvidence) -> Tensor:
    """Return the effect of one path: `[batch, neuron]`."""
    if path == "direct":
        assert evidence.readout is not None
        assert evidence.answer is not None
        values = evidence.readout.values
        return evidence.original[:, -1] * (evidence.answer.direction.to(values.device) @ values.T)
    assert evidence.gradient is not None
    positions: Literal["target", "all"] = "target" if path == "answer" else "all"
    return over_positions(evidence.original * evidence.gradient, evidence.kinds, positions, "sum")


@contextmanager
def last_stream(module: nn.Module, unembedding: Unembedding | None) -> Iterator[list[Tensor]]:
    """Collect what the final norm reads in each forward: `[batch, pos, d_model]`. Nothing without an unembedding."""
    streams: list[Tensor] = []
    norm = None if unembedding is None else unembedding.norm
    path = next((name for name, one in module.named_modules() if one is norm), None)
    if path is None:
        yield streams
        return

    def see(inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        streams.append((inputs[0] if inputs else named["hidden_states"]).detach())

    with before(module, path, see, this_thread_only=True):
        yield streams


def answer_of(unembedding: Unembedding, stream: Tensor | None, logits: Tensor, tokens: Tensor) -> Answer:
    """Return how each token stands against its rivals.

    Args:
        unembedding: Of the model.
        stream: What the final norm read, the answer's position last: `[batch, pos, d_model]`, or None without a norm.
        logits: At the answer's position, `[batch, vocab]`.
        tokens: The word's token, `[batch]`.
    """
    tokens = tokens.to(logits.device)
    margin, others = margins(logits, tokens), rivals(logits, tokens)
    against = unembedding.directions(others.flatten()).reshape(*others.shape, -1).mean(1)
    direction: Tensor = unembedding.ending.factor * (unembedding.directions(tokens) - against)
    if stream is None:
        return Answer(direction, margin)
    last = stream.reshape(len(tokens), -1, stream.shape[-1])[:, -1].float().to(direction.device)
    if unembedding.centered:
        last = last - last.mean(-1, keepdim=True)
    sigma: Tensor = last.pow(2).mean(-1, keepdim=True).sqrt()
    return Answer(direction / sigma, margin)
