"""Llama 3.2 Vision: its language model looks at pictures from some of its layers, and holds none in its sequence."""

from typing import Any

from kedit.models.tiny.parts import chat_template, text_sizes
from kedit.models.tiny.tokens import byte_tokenizer

SIDE, PATCH = 16, 8
LOOKING = [1]
"""The layers that look at the picture."""


def mllama() -> tuple[Any, Any]:
    """Return Llama 3.2 Vision and its processor: no image tokens, 3 gated layers of 24 neurons."""
    from transformers import (
        MllamaConfig,
        MllamaForConditionalGeneration,
        MllamaImageProcessorPil,
        MllamaProcessor,
    )
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

    tokenizer = byte_tokenizer(["<|image|>", "<|python_tag|>"])
    vision = MllamaVisionConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
        num_global_layers=1, attention_heads=2, vision_output_dim=32, intermediate_layers_indices=[0],
    )  # fmt: skip
    text = MllamaTextConfig(**text_sizes(tokenizer), cross_attention_layers=LOOKING)
    described = MllamaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<|image|>")
    )
    images = MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=4)
    template = chat_template("<|image|>")
    return MllamaForConditionalGeneration(described), MllamaProcessor(images, tokenizer, chat_template=template)
