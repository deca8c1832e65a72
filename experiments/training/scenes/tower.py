"""The vision tower: a small CLIP encoder that learns what is on each patch."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from experiments.training.scenes.loop import Losses
from kedit.data.grammar import BACKGROUNDS, CATEGORIES, COLORS
from kedit.data.scene import SIZE, Scene, scene

PATCH = 8
MEAN, STD = 0.5, 0.25
CONFIG = CLIPVisionConfig(
    image_size=SIZE, patch_size=PATCH, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
    num_attention_heads=4, projection_dim=128, attn_implementation="eager",
)  # fmt: skip
IGNORED = -100


class PatchLabeler(nn.Module):
    """The tower with linear heads for the category, color and background on each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(CONFIG)
        width = CONFIG.hidden_size
        self.category = nn.Linear(width, len(CATEGORIES) + 1)
        self.color = nn.Linear(width, len(COLORS) + 1)
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def features(self, pixels: Tensor) -> Tensor:
        """Return the patch features that the projector reads: `[batch, patch, width]`."""
        return self.tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]


@dataclass(frozen=True)
class Labels:
    """What is on each patch: category, color and background, `[batch, patch]`."""

    category: Tensor
    color: Tensor
    background: Tensor


def pixel_values(scenes: list[Scene]) -> Tensor:
    """Return the pictures as the processor would: `[batch, 3, 64, 64]`, standardized."""
    stacked = torch.from_numpy(np.stack([s.pixels() for s in scenes])).permute(0, 3, 1, 2)
    return ((stacked.float() / 255) - MEAN) / STD


def labels(scenes: list[Scene]) -> Labels:
    """Label each patch with the object that covers at least a tenth of it; less than that is ignored."""
    side = SIZE // PATCH
    category = np.full((len(scenes), side * side), len(CATEGORIES))
    color = np.full_like(category, len(COLORS))
    for row, one in enumerate(scenes):
        for thing in one.things:
            region = one.region(thing.category).reshape(side, PATCH, side, PATCH)
            near = np.zeros((SIZE, SIZE), bool)
            near[thing.y - thing.radius : thing.y + thing.radius, thing.x - thing.radius : thing.x + thing.radius] = (
                True
            )
            share = (region & near.reshape(region.shape)).mean((1, 3)).ravel()
            category[row, share >= 0.1] = CATEGORIES.index(thing.category)
            color[row, share >= 0.1] = COLORS.index(thing.color)
            faint = (share > 0) & (share < 0.1)
            category[row, faint] = color[row, faint] = IGNORED
    background = np.array([BACKGROUNDS.index(s.background) for s in scenes])[:, None].repeat(side * side, 1)
    return Labels(*(torch.from_numpy(a).long() for a in (category, color, background)))


class SceneBatches(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor, Tensor]]):
    """Batches of fresh scenes by step number."""

    def __init__(self, size: int, first_seed: int) -> None:
        self.size, self.first_seed = size, first_seed

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        start = self.first_seed + step * self.size
        batch = [scene(seed, colors="free") for seed in range(start, start + self.size)]
        truth = labels(batch)
        return pixel_values(batch), truth.category, truth.color, truth.background


def losses(model: PatchLabeler, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Losses:
    """Return the cross-entropies of the three heads."""
    pixels, category, color, background = batch
    with torch.autocast("cpu", torch.bfloat16):
        features = model.features(pixels)
    features = features.float()
    return {
        "category": functional.cross_entropy(model.category(features).flatten(0, 1), category.flatten()),
        "color": functional.cross_entropy(model.color(features).flatten(0, 1), color.flatten()),
        "background": 0.1 * functional.cross_entropy(model.background(features).flatten(0, 1), background.flatten()),
    }
