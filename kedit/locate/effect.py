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
"""The share of the word's margin that neurons must write at the answer, for the concept, for `auto` to look there."""


@dataclass(frozen=True)
class Effect:
    """The contrastive effect of a neuron on the margin m of the word: its logit less the mean of its ten best rivals'.

    - `direct`: what the neuron itself adds where the word is predicted, past all later layers,
      `A(p*) * v . [gamma * (u_word - mean of u_rival)] / sigma`; gamma is the final norm's scale, and sigma the length
      (root mean square) of the residual stream that it divides by there.
    - `answer`: activation x gradient there, `A(p*) * dm/dA(p*)`; what later layers make of it is counted.
    - `all`: the change from the counterfactual's activations A', times the gradient, over all positions,
      `sum over p of (A(p) - A'(p)) * dm/dA(p)`: attribution patching (Nanda 2023), the first-order effect of giving
      the neuron the activations that it has without the concept.
    - `auto`: `direct` if what neurons write where the word is predicted, beyond what they write there without the
      concept, is at least half of the word's margin (the sum over neurons of the direct effect less that with the
      counterfactual's activations, where it is above zero, is at least m / 2), else `all`. Knowledge may act at the
      answer, or be made at the picture's positions and copied from there by attention: then no neuron at the answer
      has much to take away. The gradient over all positions finds it, but in a pretrained language model it also
      finds neurons of the first layers that everything needs. (The counterfactual takes out neurons that write the
      word whatever the picture shows, and those that only add noise.)

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
        """A gradient; what the neurons write and the answer's direction; without the concept as well to decide."""
        needs: dict[EffectPath, frozenset[Need]] = {
            "direct": frozenset({"answer", "unembedding"}),
            "all": frozenset({"counterfactual"}),
            "auto": frozenset({"answer", "unembedding", "counterfactual"}),
        }
        return needs.get(self.path, frozenset()) | {"gradient"}

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the effects of one layer: `[batch, 1, neuron]`.

        With `auto`, 4: of both paths, of the direct one what is there for the concept, and the margin.
        """
        if self.path != "auto":
            return _along(self.path, evidence)[:, None]
        assert evidence.answer is not None
        assert evidence.counterfactual is not None
        written, everywhere = _written(evidence), _along("all", evidence)
        direct = evidence.original[:, -1] * written
        gained = direct - evidence.counterfactual[:, -1] * written
        margin = evidence.answer.margin.to(direct.device)[:, None].expand_as(direct)
        return torch.stack([direct, everywhere, gained, margin], dim=1)

    def across_samples(self, means: Tensor) -> Tensor:
        """Return the scores, `[layer, neuron]`, from the means over samples of what `score` gives."""
        if self.path != "auto":
            return means[0]
        direct, everywhere, gained, margin = means.unbind()
        written, lead = gained.clamp(min=0).nansum(), margin.nanmean()
        at_answer = bool(written >= AT_ANSWER * lead)
        logger.info(
            "for the concept, neurons write %.2f of the word's margin of %.2f at the answer: effects are %s",
            written, lead, "direct, there" if at_answer else "gradients, at all positions",
        )  # fmt: skip
        return direct if at_answer else everywhere


@dataclass(frozen=True)
class Selective:
    """The contrastive effect less `weight` times the damage: neurons of the concept that little else needs.

    `S = C - weight * D` with C as in `Effect` and D as in `kedit.locate.damage.Damage`, both in logits. It needs what
    two-stage filtering reads, and one backward more; texts of several lengths, which cannot be compared at every
    position, need `path` direct or answer. By the authors of kedit, not from a paper.
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
        return evidence.original[:, -1] * _written(evidence)
    assert evidence.gradient is not None
    if path == "answer":
        return over_positions(evidence.original * evidence.gradient, evidence.token_types, "target", "sum")
    assert evidence.counterfactual is not None
    change = evidence.original - evidence.counterfactual
    return over_positions(change * evidence.gradient, evidence.token_types, "all", "sum")


def _written(evidence: LayerEvidence) -> Tensor:
    """Return what an activation of 1 at the answer adds to the word's margin: `[batch, neuron]`."""
    assert evidence.readout is not None
    assert evidence.answer is not None
    values = evidence.readout.values
    return evidence.answer.direction.to(values.device) @ values.T


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
