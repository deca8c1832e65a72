"""What the language model is trained to do: to draw a caption, and to say what a picture shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from experiments.training.draw.eye import CLEAN_SHARE
from experiments.training.draw.rows import CELLS, Drawn, RawOutputs, RowMaker
from experiments.training.draw.tokenizer import clean_values
from experiments.training.scenes.loop import Losses, Schedule
from experiments.training.scenes.tower import IGNORED, pixel_values
from kedit.data.scene import Scene

SAY_EVERY = 5
"""Of so many steps one is of saying and the rest are of drawing."""
SAID_SHARE = 0.5
"""Rows of a step of saying, as a share of those of a step of drawing."""


Sight = Callable[[Tensor], Tensor]
"""What the language model reads of pictures: `[n, 3, 64, 64]` to `[n, patch, width]`."""


class Language(nn.Module):
    """What learns to draw and to say: all of the model but its eye and its picture tokenizer."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        inner = whole.model
        self.language, self.lm_head = inner.language_model, whole.lm_head
        self.e, self.a, self.h = inner.generation_embeddings, inner.generation_aligner, inner.generation_head


@dataclass(frozen=True)
class Steady(Schedule):
    """A schedule that stays at its peak and falls to zero along a line over the last part."""

    falls_from: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate at `step`."""
        left = (self.steps - step) / max(self.steps - self.falls_from, 1)
        return self.peak * min((step + 1) / self.warmup, left, 1.0)


def objective(
    model: Any, maker: RowMaker, scenes: Sequence[Scene], table: NDArray[np.int64], batch: int, sight: Sight
) -> Callable[[int], Losses]:
    """Return the losses by step: the mean surprise of codes, or of words."""

    def losses(step: int) -> Losses:
        rng = np.random.default_rng((step, 9))
        chosen = rng.integers(len(scenes), size=batch)
        some = [scenes[index] for index in chosen]
        if step % SAY_EVERY == SAY_EVERY - 1:
            some = some[: int(batch * SAID_SHARE)]
            rows = maker.said(some, rng)
            n_clean = int(len(some) * CLEAN_SHARE)
            clean = [clean_values(some[:n_clean])] if n_clean else []
            pixels = torch.cat([*clean, pixel_values(some[n_clean:])])
            return {"words": surprise_of_words(model, rows, sight(pixels))}
        return {"codes": surprise_of_codes(model, maker.drawn(some, table, rng))}

    return losses


def surprise_of_codes(model: Any, rows: Drawn) -> Tensor:
    """Return the mean cross-entropy of the codes, in nats."""
    inner = model.model
    batch = len(rows.token)
    embedded = inner.language_model.embed_tokens(rows.token)
    embedded = functional.pad(embedded, (0, 0, 0, CELLS - 1))
    columns = rows.end[:, None] + torch.arange(CELLS)
    row = torch.arange(batch)[:, None]
    read = model.prepare_embeddings_for_image_generation(rows.codes[:, :-1])
    embedded = embedded.index_put((row, columns[:, :-1]), read)
    hidden = inner.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    scores = inner.generation_head(hidden[row, columns - 1])
    return functional.cross_entropy(scores.flatten(0, 1), rows.codes.flatten())


def surprise_of_words(model: Any, rows: RawOutputs, seen: Tensor) -> Tensor:
    """Return the mean cross-entropy of the words that are said, in nats; a row without image tokens sees nothing."""
    shown = rows.token == model.config.image_token_id
    embedded = model.model.language_model.embed_tokens(rows.token)
    embedded = embedded.masked_scatter(shown[..., None], seen[shown.any(1)])
    hidden = model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    asked = rows.target != IGNORED
    return functional.cross_entropy(model.lm_head(hidden[asked]), rows.target[asked])
