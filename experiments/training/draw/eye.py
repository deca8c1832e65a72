"""The eye: Janus's vision tower and aligner learn to write what those of a shipped captioning model write."""

from typing import Any

import torch
from torch import Tensor, nn

from experiments.training.draw.tokenizer import clean_values
from experiments.training.scenes.loop import Losses
from experiments.training.scenes.tower import pixel_values
from kedit.data.scene import scene

CLEAN_SHARE = 0.25
"""Share of the pictures without noise, texture and tint, which is how the model draws."""


class Eye(nn.Module):
    """The vision tower with the aligner."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.tower, self.aligner = inner.vision_model, inner.aligner

    def forward(self, pixels: Tensor) -> Tensor:
        """Return what the language model reads of pictures: `[batch, patch, width]`."""
        written: Tensor = self.aligner(self.tower(pixels).last_hidden_state)
        return written


@torch.no_grad()
def taught(captioner: Any, pixels: Tensor) -> Tensor:
    """Return what the language model of the captioning model reads of pictures: `[batch, patch, width]`."""
    seen = captioner.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    written: Tensor = captioner.model.multi_modal_projector(seen)
    return written


def losses(eye: Eye, captioner: Any, first_seed: int, batch: int, step: int) -> Losses:
    """Return the share of the variance of what the captioning model's eye writes that this one does not."""
    start = first_seed + step * batch
    some = [scene(seed, colors="free") for seed in range(start, start + batch)]
    n_clean = int(batch * CLEAN_SHARE)
    pixels = torch.cat([clean_values(some[:n_clean]), pixel_values(some[n_clean:])])
    wanted = taught(captioner, pixels)
    return {"unexplained": (eye(pixels) - wanted).square().mean() / wanted.var()}
