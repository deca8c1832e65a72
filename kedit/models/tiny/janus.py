"""Janus: it reads pictures through SigLIP and draws them as codes of a picture codec."""

from typing import Any

from kedit.models.tiny.parts import chat_template, text_sizes, vision_sizes
from kedit.models.tiny.tokens import byte_tokenizer

SIDE, PATCH = 32, 8


def janus() -> tuple[Any, Any]:
    """Return Janus and its processor: 16 image tokens, 3 gated layers of 24 neurons.

    It draws pictures of 4 x 4 codes, 8 x 8 pixels.
    """
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusImageProcessorPil,
        JanusProcessor,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )

    named = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = byte_tokenizer([*named.values()], **named)
    n_tokens = (SIDE // PATCH) ** 2
    sizes = vision_sizes(SIDE, PATCH)
    del sizes["intermediate_size"]
    codec = JanusVQVAEConfig(
        embed_dim=4, num_embeddings=16, latent_channels=32, base_channels=32, channel_multiplier=[1, 1],
        num_res_blocks=1, projection_dim=16, image_token_embed_dim=16,
    )  # fmt: skip
    described = JanusConfig(
        vision_config=JanusVisionConfig(**sizes, mlp_ratio=1.25, projection_dim=16, num_image_tokens=n_tokens),
        text_config=LlamaConfig(**text_sizes(tokenizer)), vq_config=codec, image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    images = JanusImageProcessorPil(size={"height": SIDE, "width": SIDE}, min_size=4)
    template = chat_template("<image_placeholder>")
    processor = JanusProcessor(images, tokenizer, chat_template=template, num_image_tokens=n_tokens)
    return JanusForConditionalGeneration(described), processor
