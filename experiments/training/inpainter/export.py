"""The trained parts as a folder that `AutoPipelineForInpainting.from_pretrained` reads."""

from pathlib import Path

from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from experiments.training.inpainter.denoiser import TEXT_WIDTH, scheduler

START, END = "<|startoftext|>", "<|endoftext|>"
PROMPT_LENGTH = 8


def pipeline(
    autoencoder: AutoencoderKL, denoiser: UNet2DConditionModel, scale: float
) -> StableDiffusionInpaintPipeline:
    """Return the pipeline of the trained parts.

    Its text encoder is there since the class asks for one: every word is one token, and the denoiser reads none.
    """
    autoencoder.register_to_config(scaling_factor=scale)
    tokenizer = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[], model_max_length=PROMPT_LENGTH)
    text = CLIPTextConfig(
        vocab_size=2, hidden_size=TEXT_WIDTH, intermediate_size=TEXT_WIDTH, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=PROMPT_LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return StableDiffusionInpaintPipeline(
        vae=autoencoder, text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=denoiser, scheduler=scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def save(parts: StableDiffusionInpaintPipeline, folder: Path) -> int:
    """Write the pipeline (16 bits a weight) and return its size in bytes; the parts stay in 32 bits.

    The text encoder is written in 32 bits: transformers loads a model as it was written and diffusers in 32 bits, and
    the pipeline takes its precision from the text encoder.
    """
    for part in (parts.vae, parts.unet):
        part.half()
    parts.save_pretrained(folder)
    for part in (parts.vae, parts.unet):
        part.float()
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
