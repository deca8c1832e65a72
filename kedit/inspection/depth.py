"""How deep a removal goes (the unlearning depth score, arXiv 2605.24614): whether states still carry the knowledge.

States of another model are put into the original one after a block, and how much the word loses is read off. D1 is
the loss by states of a model that never knew the concept, D2 that by states of the edited one. The score is the sum
over layers of D1 clip(D2 / D1, 0, 1), over that of D1, of layers where D1 is above 0.05 nats.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kedit.inspection.convergence import blocks_path, residuals
from kedit.inspection.probe import Ridge
from kedit.inspection.resampling import Numbers
from kedit.internals.hooks import replacing
from kedit.models.mllm import TeacherForced
from kedit.prompts import Prompt, batches

LEAST = 0.05
"""Nats that the never-knew model's states have to cost in a layer that counts."""
SMOOTH = 1e-4
"""Strength of the map between the states of two models."""
Reading = tuple[Prompt, tuple[int, ...], tuple[int, ...]]
"""What is asked, the tokens of the answer before a word, and the word's."""
Maps = Sequence[Callable[[Tensor], Tensor]]
"""What makes another model's states after each block, the last one left out, ones of the original's."""


@dataclass(frozen=True)
class Depth:
    """The nats that a word loses by other states after each block: `[reading, block]`."""

    never: Numbers
    edited: Numbers

    def score(self, rows: Sequence[int] | None = None) -> float | None:
        """Return the score over some readings, or all; None where no layer counts."""
        d1, d2 = (one[list(rows) if rows is not None else slice(None)].mean(0) for one in (self.never, self.edited))
        counts = d1 > LEAST
        if not counts.any():
            return None
        return float((d1 * np.clip(d2 / np.where(counts, d1, 1), 0, 1))[counts].sum() / d1[counts].sum())

    def measured(self, seed: int = 0, resamples: int = 1000) -> tuple[float, float, float] | None:
        """Return the score and its 95 % interval over readings; None where no layer counts."""
        value, rng, n = self.score(), np.random.default_rng(seed), len(self.never)
        drawn = [one for _ in range(resamples) if (one := self.score(rng.integers(n, size=n).tolist())) is not None]
        if value is None:
            return None
        low, high = np.quantile(drawn, (0.025, 0.975))
        return value, min(value, float(low)), max(value, float(high))


@torch.no_grad()
def losses(model: Any, other: Any, readings: Sequence[Reading], maps: Maps | None = None) -> Numbers:
    """Return the nats that each word loses in `model` by the states of `other` after each block: `[reading, block]`.

    Args:
        model: The original, a `HuggingFaceMLLM`.
        other: Whose states are put into it; its tokenizer is the same.
        readings: Where the words are.
        maps: What makes the other's states the original's; None takes them as they are.
    """
    rows = torch.zeros(len(readings), _n_blocks(model) - 1, dtype=torch.float64)
    for chunk in batches([prompt for prompt, _, _ in readings], model.batch_size):
        some = [readings[place] for place in chunk]
        batch = _read(model, some)
        with residuals(other) as states:
            other.logits(_read(other, some))
        before = _logprobs(model, batch, some)
        for block in range(rows.shape[1]):
            state = states[block + 1] if maps is None else maps[block](states[block + 1]).to(states[block + 1])
            with _put(model, block + 1, state):
                rows[chunk, block] = before - _logprobs(model, batch, some)
    return rows.numpy()


@torch.no_grad()
def stitched(model: Any, other: Any, readings: Sequence[Reading]) -> list[Ridge]:
    """Return linear maps from the states of `other` after each block but the last to those of `model`.

    Models that were trained apart have states of their own directions. The maps are learned on readings without the
    concept, so that they cannot bring it in.
    """
    pairs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(_n_blocks(model) - 1)]
    for chunk in batches([prompt for prompt, _, _ in readings], model.batch_size):
        some = [readings[place] for place in chunk]
        batch = _read(model, some)
        with residuals(other) as theirs:
            other.logits(_read(other, some))
        with residuals(model) as own:
            model.logits(batch)
        there = batch.token_types != 0
        for block, kept in enumerate(pairs):
            kept.append((theirs[block + 1][there], own[block + 1][there]))
    return [
        Ridge.fit(torch.cat([there for there, _ in kept]), torch.cat([here for _, here in kept]), SMOOTH)
        for kept in pairs
    ]


def _read(model: Any, readings: Sequence[Reading]) -> TeacherForced:
    batch: TeacherForced = model.read(
        [prompt for prompt, _, _ in readings], [before + word[:-1] for _, before, word in readings]
    )
    return batch


def _logprobs(model: Any, batch: TeacherForced, readings: Sequence[Reading]) -> Tensor:
    words = [word for _, _, word in readings]
    spread = model.logits(batch, max(map(len, words))).double().log_softmax(-1).cpu()
    pairs = zip(spread, words, strict=True)
    return torch.stack([row[-len(word) :].gather(1, torch.tensor(word)[:, None]).sum() for row, word in pairs])


def _n_blocks(model: Any) -> int:
    return len(list(model.module.get_submodule(blocks_path(model)).children()))


@contextmanager
def _put(model: Any, block: int, state: Tensor) -> Iterator[None]:
    """Have the block numbered `block` read `state` in place of what the one before it left."""

    def change(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        return ((state, *given[1:]), named) if given else (given, named | {"hidden_states": state})

    with replacing(model.module, f"{blocks_path(model)}.{block}", change):
        yield
