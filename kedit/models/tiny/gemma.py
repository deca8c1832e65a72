"""PaliGemma and Gemma 3: SigLIP's patches in front of a Gemma that reads a picture in both directions."""

from typing import Any

from kedit.models.tiny.parts import chat_template, text_sizes, vision_sizes
from kedit.models.tiny.tokens import byte_tokenizer

SIDE, PATCH = 32, 8
N_POOLED = 4


def paligemma() -> tuple[Any, Any]:
    """Return PaliGemma and its processor: 16 image tokens, 3 gated layers of 24 neurons."""
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
    )

    tokenizer = byte_tokenizer(["<image>"])
    images: Any = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    images.image_seq_length = (SIDE // PATCH) ** 2
    processor = PaliGemmaProcessor(images, tokenizer)  # which adds a thousand words for places and shapes
    vision = vision_sizes(SIDE, PATCH) | {"projection_dim": 16, "vision_use_head": False}
    described = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**vision),
        text_config=GemmaConfig(**text_sizes(tokenizer, head_dim=8)), projection_dim=16, hidden_size=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    )  # fmt: skip
    return PaliGemmaForConditionalGeneration(described), processor


def gemma3() -> tuple[Any, Any]:
    """Return Gemma 3 and its processor: 4 image tokens, each the mean of 4 patches, 3 gated layers of 24 neurons."""
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = byte_tokenizer([*named.values()], **named)
    described = Gemma3Config(
        vision_config=SiglipVisionConfig(**vision_sizes(SIDE, PATCH), vision_use_head=False),
        text_config=Gemma3TextConfig(**text_sizes(tokenizer, head_dim=8, query_pre_attn_scalar=8)),
        mm_tokens_per_image=N_POOLED, image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id, eoi_token_index=tokenizer.eoi_token_id,
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    template = chat_template("<start_of_image>")
    return (
        Gemma3ForConditionalGeneration(described),
        Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=N_POOLED),
    )
