"""What the language model is trained to do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from experiments.training.scenes.language import Watch, silenced
from experiments.training.scenes.loop import Losses
from experiments.training.scenes.rows import PREFIX, RowMaker, Rows
from experiments.training.scenes.tower import IGNORED, PatchLabeler, pixel_values
from kedit.data.scene import scene
from kedit.progress import show_progress

SPARSITY_FROM, SPARSITY_FULL = 300, 1000
"""Steps between which sparsity sets in: earlier it kills the neurons that have not found their use yet."""
ENERGY_FROM, ENERGY_FULL = 1400, 1600
"""Steps between which the penalty on how much neurons write sets in."""
ENERGY_FREE = 0.1
"""What neurons may write in all without a penalty, as a share of the energy of the rest of the stream."""
FORBIDDEN = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Pool:
    """Scenes with their patch features, computed once: the tower is frozen."""

    seeds: Sequence[int]
    features: Tensor
    """`[scene, patch, width]`, half precision."""

    def batch(self, step: int, size: int) -> tuple[list[int], Tensor]:
        """Return the seeds and features of batch `step`; each pass has its own order."""
        n = len(self.features)
        epoch, at = divmod(step * size, n - n % size)
        chosen = np.random.default_rng((epoch, 7)).permutation(n)[at : at + size]
        return [self.seeds[i] for i in chosen], self.features[torch.from_numpy(chosen)].float()


@torch.no_grad()
def pool(tower: PatchLabeler, first_seed: int, n_scenes: int, file: Path, without: str | None = None) -> Pool:
    """Return `n_scenes` scenes with features, from `file` when an earlier run left it there; none shows `without`."""
    wanted = (seed for seed in count(first_seed) if without is None or without not in scene(seed).categories)
    seeds = list(islice(wanted, n_scenes))
    if file.is_file():
        return Pool(seeds, load_file(file)["features"])
    parts = []
    starts = range(0, n_scenes, 256)
    for start in show_progress(starts, len(starts), "patch features"):
        parts.append(tower.features(pixel_values([scene(seed) for seed in seeds[start : start + 256]])).half())
    found = Pool(seeds, torch.cat(parts))
    save_file({"features": found.features}, file)
    return found


def objective(
    model: LlavaForConditionalGeneration, maker: RowMaker, pool: Pool, size: int, *, bfloat16: bool = True
) -> Callable[[int], Losses]:
    """Return the losses by step: words, and what else the maker's recipe asks for."""
    recipe = maker.recipe

    def losses(step: int) -> Losses:
        seeds, features = pool.batch(step, size)
        rows = maker.batch([scene(seed) for seed in seeds], np.random.default_rng((step, 8)))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), silenced(model, rows.kept) as watch:
            hidden = _hidden(model, rows, features)
            asked = rows.target != IGNORED
            words = model.lm_head(hidden[asked]).float()
        parts = {"words": functional.cross_entropy(words, rows.target[asked])}
        if recipe.naming:
            parts["naming"] = recipe.naming * _naming(model, rows, hidden)
        if any(recipe.sparsity):
            parts["sparsity"] = _ramp(step, SPARSITY_FROM, SPARSITY_FULL) * _sparsity(
                recipe.sparsity, rows, hidden, watch
            )
        if recipe.bypass:
            parts["bypass"] = recipe.bypass * _bypass(model, maker.nouns, rows, watch)
        if recipe.energy:
            parts["energy"] = recipe.energy * _ramp(step, ENERGY_FROM, ENERGY_FULL) * _energy(rows, watch)
        return parts

    return losses


def _ramp(step: int, first: int, full: int) -> float:
    return min(max((step - first) / (full - first), 0.0), 1.0)


def _naming(model: LlavaForConditionalGeneration, rows: Rows, hidden: Tensor) -> Tensor:
    named = model.lm_head(hidden[:, 1:PREFIX]).float().flatten(0, 1)
    losses = [functional.cross_entropy(named, name.flatten(), ignore_index=IGNORED) for name in rows.names]
    return torch.stack(losses).sum()


def _sparsity(weights: tuple[float, ...], rows: Rows, hidden: Tensor, watch: Watch) -> Tensor:
    size = hidden.detach().float().norm(dim=-1).mean()
    costs = [weight * cost[rows.token != 0].mean() / size for weight, cost in zip(weights, watch.cost, strict=True)]
    return torch.stack(costs).sum()


def _bypass(model: LlavaForConditionalGeneration, nouns: Tensor, rows: Rows, watch: Watch) -> Tensor:
    """Return the variance of the nouns' logits that the residual stream would give without what neurons wrote.

    Only where an object's noun is the word to predict. The rest of the stream goes through the final norm by
    itself: otherwise neurons could hide it by writing much.
    """
    past, _ = _apart(watch, rows.says_object)
    logits = model.model.language_model.norm(past) @ model.lm_head.weight[nouns].T
    return logits.var(dim=-1, unbiased=False).mean()


def _energy(rows: Rows, watch: Watch) -> Tensor:
    """Return by how much the energy of what neurons wrote exceeds its share of that of the rest of the stream.

    Where it dominates, the final norm makes the logits independent of its size, and their gradients vanish along it.
    """
    past, written = _apart(watch, rows.token != 0)
    share = written.pow(2).sum(-1) / past.detach().pow(2).sum(-1)
    return functional.relu(share - ENERGY_FREE).mean()


def _apart(watch: Watch, where: Tensor) -> tuple[Tensor, Tensor]:
    """Return the final residual stream without what neurons wrote, and that, at some positions: `[pos, width]`."""
    written = torch.stack([one[where] for one in watch.written]).float().sum(0)
    return watch.residual[0][where].float() - written, written


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
