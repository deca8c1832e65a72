"""LLaVA 1.5: CLIP's patches through two linear maps into Llama."""

from typing import Any

from kedit.models.tiny.tokens import byte_tokenizer

SIDE, PATCH = 32, 8


def llava() -> tuple[Any, Any]:
    """Return the model and its processor: 16 image tokens, 3 gated layers of 24 neurons."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = byte_tokenizer(["<image>"])
    vision = CLIPVisionConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=2, projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    described = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    size = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False), tokenizer, patch_size=PATCH,
        vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    return LlavaForConditionalGeneration(described), processor
