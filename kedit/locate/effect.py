"""What a neuron does for the concept's word against the words in its place, and that less the damage it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kedit.internals.hooks import before
from kedit.internals.unembedding import Unembedding
from kedit.locate.reduction import over_positions
from kedit.locate.scorer import LayerEvidence, Need
from kedit.locate.target import rivals

Path = Literal["direct", "answer", "all", "larger"]


@dataclass(frozen=True)
class Effect:
    """The contrastive effect of a neuron on the margin m of the word: its logit less the mean of its ten best rivals'.

    - `direct`: what the neuron itself adds where the word is predicted, past all later layers,
      `A(p*) * v . [gamma * (u_word - mean of u_rival)] / sigma`; gamma is the final norm's scale, and sigma the length
      (root mean square) of the residual stream that it divides by there.
    - `answer`: activation x gradient there, `A(p*) * dm/dA(p*)`; what later layers make of it is counted.
    - `all`: the same summed over all positions, the first-order effect of zeroing the neuron.
    - `larger`: the larger of `direct` and `all`. A word that is written where it is predicted is seen by the first,
      also where the last layers' answer is saturated; one that depends on the picture's positions by the second.

    Each is a mean over samples; `larger` compares the means. It wants `target.value=margin` where gradients count.
    """

    path: Path = "larger"

    def __post_init__(self) -> None:
        if self.path not in get_args(Path):
            raise ValueError(f"`path` is one of {', '.join(get_args(Path))}, got {self.path!r}")

    @property
    def over_samples(self) -> Literal["mean"]:
        """Samples count alike."""
        return "mean"

    @property
    def needs(self) -> frozenset[Need]:
        """A gradient, and the direction of the answer with what the neurons write."""
        direct = self.path in ("direct", "larger")
        return frozenset({"gradient", "answer", "unembedding"} if direct else {"gradient"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return each path's scores of one layer: `[batch, path, neuron]`."""
        paths = ("direct", "all") if self.path == "larger" else (self.path,)
        return torch.stack([_along(path, evidence) for path in paths], dim=1)

    def across_samples(self, means: Tensor) -> Tensor:
        """Return the scores, `[layer, neuron]`: the larger of the paths' means, `[path, layer, neuron]`."""
        return means.amax(0)


@dataclass(frozen=True)
class Selective:
    """The contrastive effect less `weight` times the damage: neurons of the concept that little else needs.

    `S = C - weight * D` with C as in `Effect` and D as in `kedit.locate.damage.Damage`, both in logits. It needs what
    two-stage filtering reads, and one backward more. By the authors of kedit, not from a paper.
    """

    path: Path = "larger"
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
        """Return each path's effects and the damage of one layer: `[batch, path + 1, neuron]`."""
        assert evidence.damage is not None
        effects = Effect(self.path).score(evidence)
        return torch.cat([effects, evidence.damage[:, None].to(effects.device)], dim=1)

    def across_samples(self, means: Tensor) -> Tensor:
        """Return the scores, `[layer, neuron]`, from the means over samples, `[path + 1, layer, neuron]`."""
        return Effect(self.path).across_samples(means[:-1]) - self.weight * means[-1]


def _along(path: str, evidence: LayerEvidence) -> Tensor:
    """Return the effect of one path: `[batch, neuron]`."""
    if path == "direct":
        assert evidence.readout is not None
        assert evidence.answer is not None
        values = evidence.readout.values
        return evidence.original[:, -1] * (evidence.answer.to(values.device) @ values.T)
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


def answer_directions(unembedding: Unembedding, stream: Tensor | None, logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the direction of the last residual stream that raises each token against its rivals: `[batch, d_model]`.

    Args:
        unembedding: Of the model.
        stream: What the final norm read, the answer's position last: `[batch, pos, d_model]`, or None without a norm.
        logits: At the answer's position, `[batch, vocab]`.
        tokens: The word's token, `[batch]`.
    """
    others = rivals(logits, tokens.to(logits.device))
    against = unembedding.directions(others.flatten()).reshape(*others.shape, -1).mean(1)
    directions: Tensor = unembedding.ending.factor * (unembedding.directions(tokens) - against)
    if stream is None:
        return directions
    last = stream.reshape(len(tokens), -1, stream.shape[-1])[:, -1].float().to(directions.device)
    if unembedding.centered:
        last = last - last.mean(-1, keepdim=True)
    sigma: Tensor = last.pow(2).mean(-1, keepdim=True).sqrt()
    return directions / sigma
