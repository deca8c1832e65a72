"""The picture tokenizer: a decoder from codes to clean pictures, and an encoder from pictures to their codes."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import JanusVQVAEConfig
from transformers.models.janus.modeling_janus import JanusVQVAE

from experiments.training.draw.codes import GRID, N_CODES, clean, codes, crowded, mask, snapped
from experiments.training.scenes.loop import Losses
from experiments.training.scenes.tower import IGNORED, MEAN, STD, pixel_values
from kedit.data.grammar import BACKGROUNDS, COLORS
from kedit.data.scene import Scene, scene

IDLE_FROM = 2
"""Stage of the decoder from which blocks are left at zero: they would take most of the time."""
CHANNELS, EMBEDDING = 64, 32
"""Of every convolution (the class normalizes in 32 groups), and of the codebook."""
SQUARE = 4
"""Side in pixels of what one place of the decoder's last working stage stands for."""
OBJECT_WEIGHT = 6.0
"""By how much the pixels on and next to objects count for more than the background."""


def config(width: int) -> JanusVQVAEConfig:
    """Return the tokenizer's configuration for a language model of `width`: 64 x 64 pixels, 8 x 8 codes."""
    return JanusVQVAEConfig(
        embed_dim=EMBEDDING, num_embeddings=N_CODES, latent_channels=CHANNELS, base_channels=CHANNELS,
        channel_multiplier=[1, 1, 1, 1], num_res_blocks=0, num_patches=GRID, projection_dim=width,
        image_token_embed_dim=width,
    )  # fmt: skip


def tokenizer(codebook: Tensor, width: int) -> JanusVQVAE:
    """Return the untrained tokenizer with a codebook; its blocks at 32 x 32 and 64 x 64 do nothing, to save time."""
    model = JanusVQVAE(config(width)).train()
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(codebook)
        for stage in model.decoder.up[IDLE_FROM:]:
            for weight in stage.block.parameters():
                weight.zero_()
            stage.block.requires_grad_(False)
    return model


class Decoder(nn.Module):
    """The half of the tokenizer from codes to pictures, as it is trained."""

    def __init__(self, whole: JanusVQVAE) -> None:
        super().__init__()
        self.codebook, self.entry, self.decoder = whole.quantize.embedding, whole.post_quant_conv, whole.decoder

    def forward(self, codes: Tensor) -> Tensor:
        """Return what `JanusVQVAE.decode` does, `[batch, 3, 64, 64]`, in a third of the time."""
        parts = self.decoder
        state = self.coarse(codes)
        for stage in parts.up[IDLE_FROM - 1 : -1]:
            state = _upsampled(state, stage.upsample.conv)
        return parts.conv_out(functional.silu(parts.norm_out(state)))

    def coarse(self, codes: Tensor) -> Tensor:
        """Return the state behind the last block that is not idle, `[batch, channel, 16, 16]`."""
        vectors = functional.normalize(self.codebook(codes), dim=-1)
        parts = self.decoder
        state = parts.mid(parts.conv_in(self.entry(vectors.transpose(1, 2).unflatten(2, (GRID, GRID)))))
        for number, stage in enumerate(parts.up[:IDLE_FROM]):
            state = stage.block[0](state)
            if stage.attn:
                state = stage.attn[0](state)
            if number < IDLE_FROM - 1:
                state = _upsampled(state, stage.upsample.conv)
        return state


class Sketch(nn.Module):
    """The decoder up to 16 x 16, with heads for what each square of 4 x 4 pixels there shows.

    Most of a decoder's time goes into its last stages, and most of what it has to learn lies before them.
    """

    def __init__(self, whole: JanusVQVAE) -> None:
        super().__init__()
        self.back = Decoder(whole)
        self.covered = nn.Conv2d(CHANNELS, SQUARE**2, 1)
        self.color = nn.Conv2d(CHANNELS, len(COLORS), 1)
        self.background = nn.Conv2d(CHANNELS, len(BACKGROUNDS), 1)


def sketch_losses(model: Sketch, centers: Tensor, first_seed: int, batch: int, step: int) -> Losses:
    """Return the surprises of what is covered (pixel by pixel), of its color, and of the background."""
    some = _some(first_seed + step * batch, batch)
    state = model.back.coarse(torch.from_numpy(np.stack([codes(one, centers) for one in some])))
    masks, colors = (torch.from_numpy(np.stack(each)) for each in zip(*map(_layers, some), strict=True))
    squares = functional.pixel_unshuffle(masks[:, None], SQUARE)
    near = functional.pixel_unshuffle(_near(masks), SQUARE)
    covered = functional.binary_cross_entropy_with_logits(model.covered(state), squares, near)
    behind = torch.tensor([BACKGROUNDS.index(one.background) for one in some])[:, None, None].expand_as(colors)
    return {
        "covered": covered / near.mean(),
        "color": 0.1 * functional.cross_entropy(model.color(state), colors, ignore_index=IGNORED),
        "background": 0.05 * functional.cross_entropy(model.background(state), behind),
    }


def _layers(one: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each pixel that is covered, `[64, 64]`, and the color of each square, `[16, 16]`."""
    masks = np.stack([mask(thing) for thing in one.things])
    side = masks.shape[1] // SQUARE
    shares = masks.reshape(-1, side, SQUARE, side, SQUARE).mean((2, 4))
    colors = np.array([COLORS.index(thing.color) for thing in one.things])[shares.argmax(0)]
    return masks.max(0), np.where(shares.max(0) > 0, colors, IGNORED)


def _near(masks: Tensor) -> Tensor:
    """Return the weight of each pixel: those on and next to objects count for more; `[batch, 1, 64, 64]`."""
    return 1 + (OBJECT_WEIGHT - 1) * (functional.max_pool2d(masks[:, None], 5, 1, 2) > 0).float()


def _some(start: int, batch: int) -> list[Scene]:
    """Return some scenes: one as it is, one crowded, and two snapped to the grid, as the model draws."""
    kinds = (scene, crowded, *[lambda seed: snapped(scene(seed), np.random.default_rng((seed, 4)))] * 2)
    return [kinds[seed % 4](seed) for seed in range(start, start + batch)]


def _upsampled(state: Tensor, conv: nn.Conv2d) -> Tensor:
    """Double each side and convolve, as one transposed convolution."""
    kernel = conv.weight.transpose(0, 1).flip(2, 3)
    kernel = sum(functional.pad(kernel, (left, 1 - left, top, 1 - top)) for left in (0, 1) for top in (0, 1))
    return functional.conv_transpose2d(state, kernel, conv.bias, stride=2, padding=1)


def decoder_losses(model: Decoder, centers: Tensor, first_seed: int, batch: int, step: int) -> Losses:
    """Return by how much the pictures decoded from the codes of the scenes of `step` are off, in levels of 0 to 1."""
    some = _some(first_seed + step * batch, batch)
    target = clean_values(some)
    weight = _near(torch.from_numpy(np.stack([_layers(one)[0] for one in some])))
    drawn = model(torch.from_numpy(np.stack([codes(one, centers) for one in some])))
    return {"pixels": STD * ((drawn - target).abs() * weight).mean() / weight.mean()}


def clean_values(scenes: list[Scene]) -> Tensor:
    """Return clean pictures as the processor would: `[batch, 3, 64, 64]`, standardized."""
    stacked = torch.from_numpy(np.stack([clean(one) for one in scenes])).permute(0, 3, 1, 2)
    return (stacked / 255 - MEAN) / STD


@torch.no_grad()
def settle(whole: JanusVQVAE) -> None:
    """Make the entries of the codebook the unit vectors that the decoder has read of them."""
    weight = whole.quantize.embedding.weight
    weight.copy_(functional.normalize(weight, dim=1))


class Encoder(nn.Module):
    """The half of the tokenizer from pictures to codes, as it is trained: to the entries of a codebook that stays."""

    def __init__(self, whole: JanusVQVAE) -> None:
        super().__init__()
        self.encoder, self.exit = whole.encoder, whole.quant_conv
        self.register_buffer("entries", whole.quantize.embedding.weight.detach().clone(), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return a score of each code in each cell, `[batch, cell, code]`; entries are unit vectors.

        The largest score is that of the nearest entry, so `JanusVQVAE.encode` chooses the same code.
        """
        features = self.exit(self.encoder(pixels)).flatten(2).transpose(1, 2)
        return features @ self.entries.T


def encoder_losses(model: Encoder, centers: Tensor, first_seed: int, batch: int, step: int) -> Losses:
    """Return the mean surprise of the codes of the scenes of `step`, a quarter of which are clean, in nats."""
    start = first_seed + step * batch
    some = [scene(seed) for seed in range(start, start + batch)]
    pixels = torch.cat([clean_values(some[: batch // 4]), pixel_values(some[batch // 4 :])])
    wanted = torch.from_numpy(np.stack([codes(one, centers) for one in some]))
    weight = torch.where(wanted < len(BACKGROUNDS), 0.2, 1.0).flatten()
    surprise = functional.cross_entropy(model(pixels).flatten(0, 1), wanted.flatten(), reduction="none")
    return {"codes": (surprise * weight).sum() / weight.sum()}
