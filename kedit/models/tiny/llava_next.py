"""LLaVA-NeXT and LLaVA-OneVision: the whole picture, then its tiles as one, without padding, with ends of lines."""

from typing import Any

from kedit.models.tiny.parts import chat_template, text_sizes, vision_sizes, without_videos
from kedit.models.tiny.tokens import byte_tokenizer

SIDE, PATCH = 16, 4
PINPOINTS = [[16, 32], [32, 16], [32, 32], [16, 48], [48, 16]]
"""The canvases, height and width in pixels, that a picture may be laid on to be cut into tiles."""


def llava_next() -> tuple[Any, Any]:
    """Return LLaVA-NeXT and its processor: 16 image tokens and those of the tiles, 3 gated layers of 24 neurons."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    tokenizer = byte_tokenizer(["<image>"])
    described = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision_sizes(SIDE, PATCH), projection_dim=16),
        text_config=LlamaConfig(**text_sizes(tokenizer)), image_grid_pinpoints=PINPOINTS, vision_feature_layer=-1,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PINPOINTS
    )
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=chat_template("<image>"),
    )  # fmt: skip
    return LlavaNextForConditionalGeneration(described), processor


def llava_onevision() -> tuple[Any, Any]:
    """Return LLaVA-OneVision and its processor, without videos: as LLaVA-NeXT, shrunk to two tiles' worth of tokens."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        LlavaOnevisionProcessor,
        Qwen2Config,
        SiglipVisionConfig,
    )

    tokenizer = byte_tokenizer(["<image>", "<video>"])
    described = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**vision_sizes(SIDE, PATCH), vision_use_head=False),
        text_config=Qwen2Config(**text_sizes(tokenizer)), image_grid_pinpoints=PINPOINTS, vision_feature_layer=-1,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_2",
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )  # fmt: skip
    images = LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=PINPOINTS)
    processor = without_videos(LlavaOnevisionProcessor)(
        images, tokenizer, None, num_image_tokens=(SIDE // PATCH) ** 2, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2", chat_template=chat_template(),
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(described), processor
