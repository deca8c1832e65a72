"""Tiny inpainting pipelines with random weights, built from their own configuration classes."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

WORDS = {word: place for place, word in enumerate(("<|startoftext|>", "<|endoftext|>", "a</w>", "b</w>", "a", "b"))}


def _seeded(build: Any, **sizes: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(**sizes).eval()


def tokenizer(length: int = 8) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=WORDS, merges=[], model_max_length=length)


def text_encoder(width: int = 16, length: int = 8) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPTextConfig(
        **sizes, vocab_size=len(WORDS), max_position_embeddings=length, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        projection_dim=8,
    )  # fmt: skip
    return _seeded(lambda: CLIPTextModel(config))


def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return _seeded(
        AutoencoderKL, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32,
    )  # fmt: skip


def unet(channels: int = 9, width: int = 16, size: int = 64) -> Any:
    from diffusers import UNet2DConditionModel

    return _seeded(
        UNet2DConditionModel, sample_size=size, in_channels=channels, out_channels=4, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, cross_attention_dim=width, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


def scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(steps_offset=1, clip_sample=False)


def safety_checker() -> Any:
    """Return a checker that withholds every picture."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    layers = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(
        text_config=layers | {"vocab_size": len(WORDS)}, vision_config=layers | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )  # fmt: skip
    checker = _seeded(lambda: StableDiffusionSafetyChecker(config))
    checker.concept_embeds_weights.data.fill_(-2.0)  # below every cosine, so each of its concepts is found
    return checker


def feature_extractor() -> Any:
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def stable_diffusion(*, checked: bool = False) -> Any:
    """Return a Stable Diffusion inpainting pipeline; a `checked` one withholds what it makes."""
    from diffusers import StableDiffusionInpaintPipeline

    return StableDiffusionInpaintPipeline(
        vae=autoencoder(), text_encoder=text_encoder(), tokenizer=tokenizer(), unet=unet(), scheduler=scheduler(),
        safety_checker=safety_checker() if checked else None, requires_safety_checker=checked,
        feature_extractor=feature_extractor() if checked else None,
    )  # fmt: skip


def text_to_image(width: int = 16, length: int = 8, *, size: int = 64, checked: bool = False) -> Any:
    """Return a Stable Diffusion that was not made for inpainting, which diffusers can inpaint with.

    It reads `length` states of a text, each `width` wide. Its pictures are twice as wide as `size`; a `checked` one
    withholds what it makes.
    """
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text_encoder(width, length), tokenizer=tokenizer(length),
        unet=unet(4, width, size), scheduler=scheduler(), safety_checker=safety_checker() if checked else None,
        requires_safety_checker=checked, feature_extractor=feature_extractor() if checked else None,
    )  # fmt: skip


def paint_by_example() -> Any:
    """Return a pipeline that takes an example and no prompt."""
    from diffusers import PaintByExamplePipeline
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    return PaintByExamplePipeline(
        vae=autoencoder(), image_encoder=_seeded(lambda: PaintByExampleImageEncoder(config, proj_size=16)),
        unet=unet(), scheduler=scheduler(), safety_checker=None, feature_extractor=feature_extractor(),
    )  # fmt: skip


def repaint() -> Any:
    """Return an unconditional pipeline, whose mask means the opposite."""
    from diffusers import RePaintPipeline, RePaintScheduler, UNet2DModel

    model = _seeded(
        UNet2DModel, sample_size=32, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return RePaintPipeline(unet=model, scheduler=RePaintScheduler())


@cache
def _built(name: str) -> Any:
    kinds = {"paint_by_example": paint_by_example, "repaint": repaint, "text_to_image": text_to_image}
    if name in kinds:
        return kinds[name]()
    return stable_diffusion(checked=name == "checked")


def saved(name: str, folder: Path) -> Path:
    """Save one of `stable_diffusion`, `checked`, `text_to_image`, `paint_by_example` and `repaint`."""
    _built(name).save_pretrained(folder)
    return folder
