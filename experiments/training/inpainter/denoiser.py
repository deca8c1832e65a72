"""The denoiser: from noise, the hole and the latents around it to the latents of the picture without the thing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from experiments.training.inpainter.autoencoder import DOWN, LATENTS
from experiments.training.inpainter.examples import examples
from experiments.training.scenes.loop import Losses
from kedit.data.scene import SIZE
from kedit.progress import show_progress

TEXT_WIDTH = 32
"""Width of the prompt's embedding, which no block of the denoiser reads: there is one task."""
TRAINED_TIMES = 1000
OUTSIDE = 0.1
"""Weight of a latent outside the hole, where the finished picture shows the original anyway."""


@dataclass(frozen=True)
class Pool:
    """Examples as latents, computed once: the autoencoder is frozen."""

    masked: Tensor
    """The pictures with a hole: `[example, 4, 16, 16]`, half precision, as are the others."""
    holes: Tensor
    """1 inside: `[example, 1, 16, 16]`, each the first of the pixels that it stands for, as the pipeline has it."""
    targets: Tensor
    """The pictures without the thing: `[example, 4, 16, 16]`."""

    @property
    def scale(self) -> float:
        """What the latents are multiplied with to have a standard deviation of 1."""
        return float(1 / self.targets.float().std())

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return masked pictures, holes and targets of batch `step`; each pass has its own order."""
        n = len(self.holes)
        epoch, at = divmod(step * size, n - n % size)
        chosen = torch.from_numpy(np.random.default_rng((epoch, 7)).permutation(n)[at : at + size])
        return self.masked[chosen].float(), self.holes[chosen].float(), self.targets[chosen].float()


@torch.no_grad()
def pool(encoder: AutoencoderKL, first_seed: int, n_examples: int, file: Path) -> Pool:
    """Return `n_examples` examples as latents, from `file` when an earlier run left it there."""
    if not file.is_file():
        parts = []
        starts = range(0, n_examples, 64)
        for start in show_progress(starts, len(starts), "latents"):
            some = examples(range(first_seed + start, first_seed + min(start + 64, n_examples)))
            noise = torch.Generator().manual_seed(start)
            masked, targets = (
                encoder.encode(pictures).latent_dist.sample(generator=noise).half()
                for pictures in (some.masked, some.targets)
            )
            parts.append((masked, functional.interpolate(some.holes, scale_factor=1 / DOWN).half(), targets))
        columns = zip(("masked", "holes", "targets"), zip(*parts, strict=True), strict=True)
        save_file({name: torch.cat(several).contiguous() for name, several in columns}, file)
    return Pool(**load_file(file))


def denoiser() -> UNet2DConditionModel:
    """Return the untrained network: convolutions alone, from a side of 16 down to 4."""
    return UNet2DConditionModel(
        sample_size=SIZE // DOWN, in_channels=2 * LATENTS + 1, out_channels=LATENTS, block_out_channels=(48, 96, 128),
        down_block_types=("DownBlock2D",) * 3, mid_block_type="UNetMidBlock2D", up_block_types=("UpBlock2D",) * 3,
        layers_per_block=1, norm_num_groups=8, cross_attention_dim=TEXT_WIDTH, attention_head_dim=8,
    )  # fmt: skip


def scheduler() -> DDIMScheduler:
    """Return the noise schedule: it ends in noise alone, which sampling starts from (Lin et al. 2024).

    The network predicts the finished latents, not the noise in them: around a hole they are nearly determined, and
    from noise alone no noise can be told.
    """
    return DDIMScheduler(
        num_train_timesteps=TRAINED_TIMES, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type="sample", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
        steps_offset=1,
    )  # fmt: skip


def losses(model: UNet2DConditionModel, noising: DDIMScheduler, pool: Pool, size: int, step: int) -> Losses:
    """Return the squared error of the finished latents of batch `step`, mostly inside the holes."""
    masked, holes, targets = pool.batch(step, size)
    masked, targets = masked * pool.scale, targets * pool.scale
    random = torch.Generator().manual_seed(step)
    times = torch.randint(0, TRAINED_TIMES, (len(targets),), generator=random)
    noisy = noising.add_noise(targets, torch.randn(targets.shape, generator=random), times)
    text = torch.zeros(len(targets), 1, TEXT_WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(torch.cat([noisy, holes, masked], 1), times, encoder_hidden_states=text).sample
    weight = functional.max_pool2d(holes, 3, 1, 1) * (1 - OUTSIDE) + OUTSIDE
    return {"latents": ((found.float() - targets).square() * weight).sum() / (weight.sum() * LATENTS)}
