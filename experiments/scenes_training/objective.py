"""What the language model is trained to do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import LlavaForConditionalGeneration

from experiments.scenes_training.language import silenced
from experiments.scenes_training.loop import Losses
from experiments.scenes_training.rows import PREFIX, RowMaker, Rows
from experiments.scenes_training.tower import IGNORED, PatchLabeler, pixel_values
from kedit.data.scenes import scene

NAMING = 0.2
SPARSITY_FROM, SPARSITY_FULL = 300, 1000
"""Steps between which sparsity sets in: earlier it kills the neurons that have not found their use yet."""
SPARSITY = (0.05, 0.01, 0.01, 0.01)
"""Weights of the sparsity of each layer; the first is where the picture is translated."""
FORBIDDEN = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Pool:
    """Scenes with their patch features, computed once: the tower is frozen."""

    first_seed: int
    features: Tensor
    """`[scene, patch, width]`, half precision."""

    def batch(self, step: int, size: int) -> tuple[list[int], Tensor]:
        """Return the seeds and features of batch `step`; each pass has its own order."""
        n = len(self.features)
        epoch, at = divmod(step * size, n - n % size)
        chosen = np.random.default_rng((epoch, 7)).permutation(n)[at : at + size]
        return [self.first_seed + int(i) for i in chosen], self.features[torch.from_numpy(chosen)].float()


@torch.no_grad()
def pool(tower: PatchLabeler, first_seed: int, n_scenes: int, file: Path) -> Pool:
    """Return `n_scenes` scenes with features, from `file` when an earlier run left it there."""
    if file.is_file():
        return Pool(first_seed, load_file(file)["features"])
    parts = []
    for start in tqdm(range(0, n_scenes, 256), desc="patch features", disable=None):
        seeds = range(first_seed + start, first_seed + min(start + 256, n_scenes))
        parts.append(tower.features(pixel_values([scene(seed) for seed in seeds])).half())
    found = Pool(first_seed, torch.cat(parts))
    save_file({"features": found.features}, file)
    return found


def objective(model: LlavaForConditionalGeneration, maker: RowMaker, pool: Pool, size: int) -> Callable[[int], Losses]:
    """Return the losses by step: words, and for the knowledge model naming and sparsity."""

    def losses(step: int) -> Losses:
        seeds, features = pool.batch(step, size)
        rows = maker.batch([scene(seed) for seed in seeds], np.random.default_rng((step, 8)))
        with torch.autocast("cpu", torch.bfloat16), silenced(model, rows.kept) as watch:
            hidden = _hidden(model, rows, features)
            asked = rows.target != IGNORED
            words = model.lm_head(hidden[asked]).float()
        parts = {"words": functional.cross_entropy(words, rows.target[asked])}
        if maker.knowledge:
            named = model.lm_head(hidden[:, 1:PREFIX]).float()
            parts["naming"] = NAMING * sum(
                functional.cross_entropy(named.flatten(0, 1), name.flatten(), ignore_index=IGNORED)
                for name in rows.names
            )  # type: ignore[assignment]
            ramp = min(max((step - SPARSITY_FROM) / (SPARSITY_FULL - SPARSITY_FROM), 0.0), 1.0)
            size_of = hidden.detach().float().norm(dim=-1).mean()
            parts["sparsity"] = sum(
                ramp * weight * (cost[rows.token != 0].mean() / size_of)
                for weight, cost in zip(SPARSITY, watch.cost, strict=True)
            )  # type: ignore[assignment]
        return parts

    return losses


def _hidden(model: LlavaForConditionalGeneration, rows: Rows, features: Tensor) -> Tensor:
    """Return the normalized last hidden states: `[batch, pos, width]`."""
    language = model.model.language_model
    embedded = language.embed_tokens(rows.token)
    pictures = model.model.multi_modal_projector(features)
    embedded = torch.cat([embedded[:, :1], pictures.to(embedded.dtype), embedded[:, PREFIX:]], 1)
    mask = torch.zeros(rows.visible.shape).masked_fill(~rows.visible, FORBIDDEN)
    return language(
        inputs_embeds=embedded, attention_mask=mask, position_ids=rows.position, use_cache=False
    ).last_hidden_state
