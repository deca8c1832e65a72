"""The number whose cause is sought: the model's belief in the concept's word."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kedit.models.mllm import Mention

N_RIVALS = 10
"""How many other words a margin is over."""


@dataclass(frozen=True)
class Target:
    """Which output of the model stands for the concept.

    The caption up to the first mention is forced, and the word's token is read off the logits after it.
    """

    value: Literal["logit", "logprob", "prob", "margin"] = "logit"
    """`prob` saturates near 0 and 1; the gradient methods use `logit`. `margin` is the logit less the mean of the ten
    best other logits, see `margins`: it rises with what speaks for the word, not with what raises all words."""
    subtokens: Literal["first", "mean", "last"] = "first"
    """Which tokens of a word of several: `first` and `last` ask for that one alone, `mean` for all of them. What the
    report measures is the probability of the whole word, whatever is asked for here."""
    on_missing: Literal["skip", "force"] = "skip"
    """What to do where the caption does not name the concept: leave the sample out, or force the word."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("value", ("logit", "logprob", "prob", "margin")),
            ("subtokens", ("first", "mean", "last")),
            ("on_missing", ("skip", "force")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` is one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    def prefix(self, mention: Mention) -> tuple[int, ...]:
        """Return the tokens to force after the prompt."""
        return mention.prefix if self.subtokens == "first" else mention.prefix + mention.word[:-1]

    def token(self, mention: Mention) -> int:
        """Return the token of the word that the last position predicts."""
        return mention.word[0 if self.subtokens == "first" else -1]

    def n_last(self, mentions: Sequence[Mention]) -> int:
        """Return how many of the last positions' logits are read."""
        return max(len(mention.word) for mention in mentions) if self.subtokens == "mean" else 1

    def output(self, logits: Tensor, mentions: Sequence[Mention]) -> Tensor:
        """Return the target of each sample, `[batch]`, from the last logits `[batch, pos, vocab]`."""
        if self.value == "logprob":
            logits = logits.log_softmax(-1)
        elif self.value == "prob":
            logits = logits.softmax(-1)
        return torch.stack([self._one(row, mention) for row, mention in zip(logits, mentions, strict=True)])

    def _one(self, row: Tensor, mention: Mention) -> Tensor:
        if self.value == "margin":
            tokens = mention.word if self.subtokens == "mean" else (self.token(mention),)
            return margins(row[-len(tokens) :], torch.tensor(tokens, device=row.device)).mean()
        if self.subtokens == "first":
            return row[-1, mention.word[0]]
        if self.subtokens == "last":
            return row[-1, mention.word[-1]]
        n_tokens = len(mention.word)
        return row[-n_tokens:].gather(1, torch.tensor(mention.word, device=row.device)[:, None]).mean()


def margins(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return by how much each token's logit exceeds the mean of the ten best others': `[pos]`.

    A contrast with what the model would say instead. Unlike a probability it does not saturate, so that its gradient
    does not vanish where the model is sure.

    Args:
        logits: `[pos, vocab]`.
        tokens: `[pos]`.
    """
    own = logits.gather(-1, tokens[:, None])
    return own[:, 0] - logits.gather(-1, rivals(logits, tokens)).mean(-1)


def rivals(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the ten largest logits' tokens beside each of `tokens`: `[pos, 10]`, fewer of a small vocabulary."""
    others = logits.detach().scatter(-1, tokens[:, None], -torch.inf)
    return others.topk(min(N_RIVALS, logits.shape[-1] - 1), -1).indices
