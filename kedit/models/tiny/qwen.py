"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen2-Audio: pictures of any size, videos and sounds."""

from typing import Any

from kedit.models.frames import assembled
from kedit.models.tiny.tokens import byte_tokenizer

PATCH, MERGE = 4, 2
SIZE = {"shortest_edge": 16**2, "longest_edge": 48**2}
"""The least and the largest number of pixels of a picture; one token covers 8 x 8."""
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The part of the published template that prompts of one turn use."""
TURNS = ("<|im_start|>", "<|im_end|>")
VISION = (*TURNS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
AUDIO = (*TURNS, "<|audio_bos|>", "<|audio_eos|>", "<|AUDIO|>")


def qwen2_vl() -> tuple[Any, Any]:
    """Return the model and its processor: a token for 8 x 8 pixels and 2 frames, 3 gated layers of 24 neurons."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    tokenizer = byte_tokenizer(VISION)
    vision = {
        "depth": 2, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2, "patch_size": PATCH,
        "spatial_merge_size": MERGE, "temporal_patch_size": 2,
    }  # fmt: skip
    described = Qwen2VLConfig(text_config=_language(tokenizer), vision_config=vision, **_tokens(tokenizer))
    return Qwen2VLForConditionalGeneration(described), _processor(Qwen2VLProcessor, tokenizer)


def qwen2_5_vl() -> tuple[Any, Any]:
    """Return the model and its processor; its vision tower looks through windows, its time is in seconds."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    tokenizer = byte_tokenizer(VISION)
    vision = {
        "depth": 2, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 20, "num_heads": 2,
        "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2, "window_size": 16,
        "fullatt_block_indexes": [1], "tokens_per_second": 4,
    }  # fmt: skip
    described = Qwen2_5_VLConfig(text_config=_language(tokenizer), vision_config=vision, **_tokens(tokenizer))
    return Qwen2_5_VLForConditionalGeneration(described), _processor(Qwen2_5_VLProcessor, tokenizer)


def qwen3_vl() -> tuple[Any, Any]:
    """Return the model and its processor; what its vision tower sees early is also added to the first layer."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

    tokenizer = byte_tokenizer(VISION)
    vision = {
        "depth": 2, "hidden_size": 16, "out_hidden_size": 16, "intermediate_size": 20, "num_heads": 2,
        "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    language = _language(tokenizer) | {"head_dim": 8}
    described = Qwen3VLConfig(text_config=language, vision_config=vision, **_tokens(tokenizer))
    return Qwen3VLForConditionalGeneration(described), _processor(Qwen3VLProcessor, tokenizer)


def qwen2_audio() -> tuple[Any, Any]:
    """Return the model and its processor: 25 tokens for a second of at most 2, 3 gated layers of 24 neurons."""
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    tokenizer = byte_tokenizer(AUDIO)
    heard = {
        "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 20, "num_mel_bins": 16,
        "max_source_positions": 100,
    }  # fmt: skip
    language = _language(tokenizer) | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    described = Qwen2AudioConfig(
        audio_config=heard, text_config=language | {"model_type": "qwen2"},
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    sounds = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    return Qwen2AudioForConditionalGeneration(described), Qwen2AudioProcessor(sounds, tokenizer)


def _language(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
        # Of the four rotary frequencies, one turns with time, the others with row and column.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    }  # fmt: skip


def _tokens(tokenizer: Any) -> dict[str, Any]:
    names = {
        "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>",
    }  # fmt: skip
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _processor(kind: Any, tokenizer: Any) -> Any:
    from transformers import Qwen2VLImageProcessorPil

    sizes: dict[str, Any] = {"size": SIZE, "patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    video = sizes | {"size": SIZE | {"longest_edge": 8 * 48**2}}
    return assembled(kind, Qwen2VLImageProcessorPil(**sizes), tokenizer, video, {"chat_template": CHAT})
