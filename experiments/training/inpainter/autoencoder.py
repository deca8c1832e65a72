"""The autoencoder: pictures to latents of a quarter of their side, and back."""

import torch
from diffusers import AutoencoderKL

from experiments.training.inpainter.examples import examples
from experiments.training.scenes.loop import Losses
from kedit.data.scene import SIZE

LATENTS, DOWN = 4, 4
"""Channels of the latents, and how many pixels one of them stands for."""
KL = 3e-5
"""Weight of the divergence: just enough to keep the latents near a unit Gaussian."""


def autoencoder() -> AutoencoderKL:
    """Return the untrained autoencoder."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 48), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=LATENTS, layers_per_block=1, norm_num_groups=8,
        sample_size=SIZE, mid_block_add_attention=False,
    )  # fmt: skip


def losses(model: AutoencoderKL, first_seed: int, batch: int, step: int) -> Losses:
    """Return the losses of the `batch` pictures of `step`: half with a hole, half without a thing."""
    start = first_seed + step * (batch // 2)
    some = examples(range(start, start + batch // 2))
    pictures = torch.cat([some.masked, some.targets])
    noise = torch.Generator().manual_seed(step)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = model.encode(pictures).latent_dist
        decoded = model.decode(posterior.sample(generator=noise)).sample
    error = (decoded.float() - pictures).square().mean()
    return {"pixels": error, "kl": KL * posterior.kl().mean() / posterior.mean[0].numel()}
