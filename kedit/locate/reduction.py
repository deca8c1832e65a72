"""From a score for each sample and position to one for each neuron."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from kedit.models.mllm import of_token_type

Evidence = Literal["all", "image", "text", "image_end", "target"]
"""The positions that may count: valid ones, image tokens, text tokens, of these the one behind each picture, or the one
that predicts the word."""
OverPositions = Literal["max", "sum", "mean", "abs_max"]


@dataclass(frozen=True)
class Vote:
    """The share of the samples that vote for a neuron; neurons with equal votes are ranked by their mean score.

    A sample votes for the neurons above the `quantile` of its own scores or, with `of_max`, for those of at least
    that share of its highest score (Dai et al. 2022, the coarse set of a prompt).
    """

    quantile: float = 0.99
    of_max: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"`quantile` lies between 0 and 1, got {self.quantile}")
        if self.of_max is not None and not 0 < self.of_max <= 1:
            raise ValueError(f"`of_max` is a share of the maximum, above 0 and at most 1, got {self.of_max}")

    def __call__(self, scores: Tensor) -> Tensor:
        """Return one for each neuron that a sample votes for, else zero: `[batch, layer, neuron]`."""
        if self.of_max is not None:
            peak = scores.nan_to_num(-torch.inf).amax((1, 2), keepdim=True)
            chosen = (scores >= self.of_max * peak) & (peak > 0)
        else:
            # Row by row: torch's quantile takes 16 million values at most, a batch of a 7B model is a third of it.
            bars = torch.stack([row.nanquantile(self.quantile) for row in scores])
            chosen = scores > bars[:, None, None]
        return chosen.double().masked_fill(scores.isnan(), torch.nan)


OverSamples = Literal["mean", "max", "vote"] | Vote
"""How the samples' scores become one; "vote" is `Vote()`."""


def check_reductions(positions: Evidence, over_positions: OverPositions, over_samples: OverSamples) -> None:
    """Raise a ValueError that names the first option with an unknown value, and the known ones."""
    for name, value, known in (
        ("positions", positions, get_args(Evidence)),
        ("over_positions", over_positions, get_args(OverPositions)),
    ):
        if value not in known:
            raise ValueError(f"`{name}` is one of {', '.join(known)}, got {value!r}")
    check_over_samples(over_samples)


def check_over_samples(over_samples: OverSamples) -> None:
    """Raise a ValueError unless `over_samples` is a name that is known or a `Vote`."""
    if not isinstance(over_samples, Vote) and over_samples not in ("mean", "max", "vote"):
        raise ValueError(f"`over_samples` is one of mean, max, vote, got {over_samples!r}")


def that_count(token_types: Tensor, positions: Evidence) -> Tensor:
    """Return which of the positions may count, `[batch, pos]`, from what each holds."""
    if positions == "target":
        last = torch.zeros_like(token_types, dtype=torch.bool)
        last[:, -1] = True
        return last
    found = of_token_type(token_types, positions)
    if positions in ("image", "image_end") and not bool(found.any()):
        raise ValueError(
            f"`positions={positions}` counts image tokens, and the prompts hold none; models whose layers look at the "
            "picture from outside the sequence have none: use `positions=text`, `all` or `target`"
        )
    return found


def over_positions(values: Tensor, token_types: Tensor, positions: Evidence, how: OverPositions) -> Tensor:
    """Reduce `[batch, pos, neuron]` to `[batch, neuron]` over the positions that count.

    A sample without any such position scores zero.
    """
    # A model on several devices has its positions on the first and these values on their own layer's.
    allowed = that_count(token_types, positions).to(values.device)
    mask = allowed[..., None]
    if how in ("sum", "mean"):
        total = values.masked_fill(~mask, 0).sum(1)
        return total if how == "sum" else total / mask.sum(1).clamp(min=1)
    signed = values.abs() if how == "abs_max" else values
    peak = signed.masked_fill(~mask, -torch.inf).amax(1)
    return peak.masked_fill(~allowed.any(1, keepdim=True), 0)


class RunningReduction:
    """A reduction over samples that takes them in one batch after the other, in memory for one sample's scores.

    Sums are 64-bit floats: the order of the samples and the size of the batches move a score by 1e-15 of it or so.
    """

    def __init__(self, how: OverSamples) -> None:
        check_over_samples(how)
        self.how: OverSamples = Vote() if how == "vote" else how
        self.n = 0
        self._total = torch.tensor(-torch.inf if how == "max" else 0.0, dtype=torch.float64)
        """The highest scores, the sum of the votes or, without a vote, of the scores."""
        self._plain = torch.zeros((), dtype=torch.float64)
        """The sum of the scores, where there is a vote."""

    def add(self, scores: Tensor) -> None:
        """Take in a batch of scores: `[batch, ..., layer, neuron]`."""
        self.n += len(scores)
        if self.how == "max":
            self._total = torch.maximum(self._total, scores.amax(0).double())
            return
        summed = scores.sum(0, dtype=torch.float64)
        if isinstance(self.how, Vote):
            self._plain = self._plain + summed
            summed = self.how(scores).sum(0)
        self._total = self._total + summed

    def result(self) -> Tensor:
        """Return the scores over all samples, 64-bit: `[..., layer, neuron]`."""
        assert self.n, "no scores were added"
        return self._total if self.how == "max" else self._total / self.n

    def ties(self) -> Tensor | None:
        """Return what ranks neurons of equal votes; None where there was no vote."""
        return self._plain / self.n if isinstance(self.how, Vote) else None
