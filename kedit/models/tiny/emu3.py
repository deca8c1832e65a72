"""Emu3: pictures are words of its own vocabulary, written row by row with a word for the end of a row."""

from typing import Any

from kedit.models.tiny.parts import chat_template, text_sizes
from kedit.models.tiny.tokens import byte_tokenizer

N_CODES = 16
"""The words that a picture may be written in."""
DRAWN = 32
"""How many pixels wide and high a drawn picture is."""


def emu3() -> tuple[Any, Any]:
    """Return Emu3 and its processor: an image token for each 8 x 8 pixels, 3 gated layers of 24 neurons.

    It draws pictures of 4 x 4 codes.
    """
    from transformers import (
        Emu3Config,
        Emu3ForConditionalGeneration,
        Emu3ImageProcessor,
        Emu3Processor,
        Emu3TextConfig,
        Emu3VQVAEConfig,
    )

    named = {
        "image_token": "<image>", "boi_token": "<|image start|>", "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>", "eof_token": "<|extra_201|>",
    }  # fmt: skip
    codes = [f"<|visual token {number:06d}|>" for number in range(N_CODES)]
    tokenizer = byte_tokenizer([*named.values(), "<|extra_200|>", *codes], **named)
    codec = Emu3VQVAEConfig(
        codebook_size=N_CODES, embed_dim=4, latent_channels=4, base_channels=32, channel_multiplier=[1, 1, 1, 1],
        num_res_blocks=1, attn_resolutions=[], hidden_size=32,
    )  # fmt: skip
    described = Emu3Config(
        vq_config=codec,
        text_config=Emu3TextConfig(**text_sizes(tokenizer), attention_dropout=0.0),
        vocabulary_map=tokenizer.get_vocab(),
    )
    images = Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=40 * 40)
    processor = Emu3Processor(images, tokenizer, chat_template=chat_template())
    processor.image_area = DRAWN**2
    return Emu3ForConditionalGeneration(described), processor
