"""Stages one and two, without the language model: each patch says, in the language model's own words, what is on it."""

from itertools import count, islice

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.training.scenes.loop import Losses
from experiments.training.scenes.tower import IGNORED, labels, pixel_values
from kedit.data.grammar import BACKGROUNDS, CATEGORIES, COLORS, NUMBERS
from kedit.data.scene import Scene, scene
from kedit.words import plural

SEEDS_PER_STEP = 1000
"""Scenes that a step may look through for pairs."""


class Eye(nn.Module):
    """The parts that see: pixels `[batch, 3, 64, 64]` to `[batch, patch, width]` of the language model."""

    def __init__(self, tower: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.tower, self.projector = tower, projector

    def forward(self, pixels: Tensor) -> Tensor:
        """Return what the language model reads in the place of each patch."""
        return self.projector(self.tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:])


class Codes:
    """What each patch shall look like to the language model: the sum of the embeddings of the words for it.

    A patch of an object is its colour and its noun; of an object that is there twice, "two", colour and plural. That is
    how the picture tells of pairs, which the language model cannot count. A patch of the ground is its colour.
    """

    def __init__(self, embeddings: Tensor, tokenizer: object) -> None:
        def code(word: str) -> Tensor:
            return embeddings[tokenizer(f" {word}", add_special_tokens=False).input_ids].float().sum(0)  # type: ignore[operator]

        colors = torch.stack([code(color) for color in COLORS])
        singular = torch.stack([code(noun) for noun in CATEGORIES])
        paired = torch.stack([code(plural(noun)) for noun in CATEGORIES]) + code(NUMBERS[2])
        self.things = torch.stack([singular, paired])[:, :, None] + colors
        """`[paired, category, color, width]`"""
        self.grounds = torch.stack([code(color) for color in BACKGROUNDS])

    def targets(self, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
        """Return the codes `[batch, patch, width]`, and which patches have one: not those barely touched."""
        truth = labels(scenes)
        pairs = torch.tensor([[category in one.paired for category in CATEGORIES] for one in scenes]).long()
        category, color = truth.category.clamp(0, len(CATEGORIES) - 1), truth.color.clamp(0, len(COLORS) - 1)
        things = self.things[pairs.gather(1, category), category, color]
        grounds = self.grounds[truth.background]
        is_thing = (truth.category != len(CATEGORIES))[..., None]
        return torch.where(is_thing, things, grounds), truth.category != IGNORED


def batch(first_seed: int, size: int, step: int, *, paired: bool) -> list[Scene]:
    """Return the scenes of a step; with `paired`, half of them hold a pair, which one in seven does by itself."""
    if not paired:
        start = first_seed + step * size
        return [scene(seed, colors="free") for seed in range(start, start + size)]
    seeds = count(first_seed + step * SEEDS_PER_STEP)
    some = [scene(seed, colors="free") for seed in islice(seeds, size // 2)]
    pairs = (shown for seed in seeds if (shown := scene(seed, colors="free")).paired)
    return some + list(islice(pairs, size - len(some)))


def losses(eye: Eye, codes: Codes, scenes: list[Scene]) -> Losses:
    """Return the squared distance to the codes as a share of their spread, for things and for the ground."""
    wanted, counted = codes.targets(scenes)
    seen = eye(pixel_values(scenes))
    away = functional.mse_loss(seen, wanted, reduction="none").mean(-1)
    ground = torch.isin(wanted[..., 0], codes.grounds[:, 0]) & counted
    spread = codes.things.flatten(0, 2).var(0).mean()
    return {"things": away[counted & ~ground].mean() / spread, "grounds": 0.3 * away[ground].mean() / spread}
