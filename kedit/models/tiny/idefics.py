"""Idefics 3 and SmolVLM: pictures are cut into tiles, and the whole comes last; patches are shuffled into channels."""

from typing import Any

from kedit.models.tiny.parts import chat_template, text_sizes, vision_sizes, without_videos
from kedit.models.tiny.tokens import byte_tokenizer

SIDE, PATCH, JOINED = 16, 4, 2
LONGEST = 32
"""The longest side of a picture that is cut into tiles; a square has four of them."""
N_TOKENS = (SIDE // PATCH // JOINED) ** 2
TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
MARKS = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]


def idefics3() -> tuple[Any, Any]:
    """Return Idefics 3 and its processor: 4 image tokens for each tile, 3 gated layers of 24 neurons."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        Idefics3VisionConfig,
        LlamaConfig,
    )

    tokenizer = byte_tokenizer([*MARKS, *TILES])
    described = Idefics3Config(
        vision_config=Idefics3VisionConfig(**vision_sizes(SIDE, PATCH)),
        text_config=LlamaConfig(**text_sizes(tokenizer)), scale_factor=JOINED,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = Idefics3ImageProcessorPil(size={"longest_edge": LONGEST}, max_image_size={"longest_edge": SIDE})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=N_TOKENS, chat_template=chat_template())
    return Idefics3ForConditionalGeneration(described), processor


def smolvlm() -> tuple[Any, Any]:
    """Return SmolVLM and its processor, without videos: 4 image tokens for each tile, 3 gated layers of 24 neurons."""
    from transformers import (
        LlamaConfig,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessorPil,
        SmolVLMProcessor,
        SmolVLMVisionConfig,
    )

    tokenizer = byte_tokenizer([*MARKS, *TILES, "<video>"])
    described = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**vision_sizes(SIDE, PATCH)),
        text_config=LlamaConfig(**text_sizes(tokenizer)), scale_factor=JOINED,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    images = SmolVLMImageProcessorPil(size={"longest_edge": LONGEST}, max_image_size={"longest_edge": SIDE})
    processor = without_videos(SmolVLMProcessor)(
        images, tokenizer, None, image_seq_len=N_TOKENS, chat_template=chat_template()
    )
    return SmolVLMForConditionalGeneration(described), processor
