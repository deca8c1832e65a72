"""InternVL: tiles of a picture, then the whole; patches are shuffled into channels."""

from typing import Any

from kedit.models.tiny.parts import chat_template, text_sizes, vision_sizes, without_videos
from kedit.models.tiny.tokens import byte_tokenizer

SIDE, PATCH = 16, 4
MOST_TILES = 4


def internvl() -> tuple[Any, Any]:
    """Return InternVL and its processor, without videos: 4 image tokens for each tile, 3 gated layers of 24 neurons."""
    from transformers import (
        GotOcr2ImageProcessorPil,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVisionConfig,
        Qwen2Config,
    )

    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tokenizer = byte_tokenizer([*named.values()], **named)
    n_tokens = (SIDE // PATCH // 2) ** 2
    described = InternVLConfig(
        vision_config=InternVLVisionConfig(**vision_sizes(SIDE, PATCH)),
        text_config=Qwen2Config(**text_sizes(tokenizer)), image_token_id=tokenizer.context_image_token_id,
        image_seq_length=n_tokens, downsample_ratio=0.5,
    )  # fmt: skip
    images = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=MOST_TILES
    )
    processor = without_videos(InternVLProcessor)(
        images, tokenizer, None, image_seq_length=n_tokens, chat_template=chat_template("<IMG_CONTEXT>")
    )
    return InternVLForConditionalGeneration(described), processor
