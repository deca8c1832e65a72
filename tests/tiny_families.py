"""More tiny models with random weights: with experts, an encoder, a Q-Former, or pictures of any size."""

from typing import Any

import tiny
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Blip2Config,
    Blip2ForConditionalGeneration,
    FalconConfig,
    FalconForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers import Blip2QFormerConfig as QFormerConfig
from transformers import Blip2VisionConfig as VisionConfig
from transformers import InstructBlipQFormerConfig as ReadingQFormerConfig
from transformers import InstructBlipVisionConfig as ReadingVisionConfig

N_EXPERTS, N_ROUTED = 4, 2
MOE_SIZES = {**tiny.SIZES, "num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": N_ROUTED}
T5_SIZES = {
    "vocab_size": tiny.VOCAB, "d_model": tiny.WIDTH, "d_kv": 8, "d_ff": tiny.NEURONS, "num_layers": tiny.LAYERS,
    "num_heads": 2, "pad_token_id": tiny.PAD, "eos_token_id": tiny.EOS,
    "decoder_start_token_id": tiny.PAD, "initializer_factor": 3.0, "dropout_rate": 0.0,
}  # fmt: skip
TOWER = {
    "hidden_size": tiny.WIDTH, "intermediate_size": tiny.NEURONS, "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": 2, "initializer_range": 0.3,
}  # fmt: skip


def mixtral() -> Any:
    return tiny.seeded(lambda: MixtralForCausalLM(MixtralConfig(**MOE_SIZES, num_local_experts=N_EXPERTS)))


def qwen3_moe() -> Any:
    sizes = {"num_experts": N_EXPERTS, "moe_intermediate_size": tiny.NEURONS, "norm_topk_prob": True}
    return tiny.seeded(lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**MOE_SIZES, **sizes)))


def qwen2_moe() -> Any:
    """Return a model with a shared expert beside the others, of another width."""
    sizes = {"num_experts": N_EXPERTS, "moe_intermediate_size": tiny.NEURONS, "shared_expert_intermediate_size": 12}
    return tiny.seeded(lambda: Qwen2MoeForCausalLM(Qwen2MoeConfig(**MOE_SIZES, **sizes)))


def gpt_oss() -> Any:
    """Return a model whose experts store their weights the other way round, gate and up interleaved."""
    return tiny.seeded(lambda: GptOssForCausalLM(GptOssConfig(**MOE_SIZES, num_local_experts=N_EXPERTS)))


def bert() -> Any:
    return tiny.seeded(lambda: BertForMaskedLM(BertConfig(**tiny.SIZES)))


def gptj() -> Any:
    sizes = {"n_embd": tiny.WIDTH, "n_layer": tiny.LAYERS, "n_head": 2, "n_inner": tiny.NEURONS, "rotary_dim": 4}
    return tiny.seeded(lambda: GPTJForCausalLM(GPTJConfig(**sizes, vocab_size=tiny.VOCAB, initializer_range=0.3)))


def falcon() -> Any:
    sizes = {key: value for key, value in tiny.SIZES.items() if key != "intermediate_size"}
    return tiny.seeded(lambda: FalconForCausalLM(FalconConfig(**sizes, ffn_hidden_size=tiny.NEURONS)))


def t5(gated: bool = False) -> Any:
    kind = "gated-gelu" if gated else "relu"
    return tiny.seeded(lambda: T5ForConditionalGeneration(T5Config(**T5_SIZES, feed_forward_proj=kind)))


def blip2_t5() -> Any:
    config = Blip2Config(
        vision_config=VisionConfig(**TOWER, image_size=8, patch_size=4),
        qformer_config=QFormerConfig(**TOWER, vocab_size=20, encoder_hidden_size=tiny.WIDTH),
        text_config=T5Config(**T5_SIZES), num_query_tokens=tiny.N_IMAGE, image_token_index=tiny.IMAGE_TOKEN,
        initializer_range=0.3,
    )  # fmt: skip
    return tiny.seeded(lambda: Blip2ForConditionalGeneration(config))


def instructblip() -> Any:
    """Return a model whose Q-Former reads the instruction, too, through feed-forward blocks of its own."""
    config = InstructBlipConfig(
        vision_config=ReadingVisionConfig(**TOWER, image_size=8, patch_size=4),
        qformer_config=ReadingQFormerConfig(**TOWER, vocab_size=20, encoder_hidden_size=tiny.WIDTH),
        text_config=OPTConfig(**tiny.OPT_SIZES), num_query_tokens=tiny.N_IMAGE, image_token_index=tiny.IMAGE_TOKEN,
        initializer_range=0.3,
    )  # fmt: skip
    return tiny.seeded(lambda: InstructBlipForConditionalGeneration(config))


def qwen2_5_vl() -> Any:
    """Return a model of pictures of any size, whose vision tower has fewer neurons than its residual stream."""
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 12, "num_heads": 2, "patch_size": 4, "out_hidden_size": 16,
        "window_size": 16, "fullatt_block_indexes": [1], "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    text = {**tiny.SIZES, "num_key_value_heads": 1, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=tiny.IMAGE_TOKEN, video_token_id=7,
        vision_start_token_id=8, vision_end_token_id=9, pad_token_id=tiny.PAD,
    )  # fmt: skip
    return tiny.seeded(lambda: Qwen2_5_VLForConditionalGeneration(config))


def qwen_prompt(*rows: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Return a left-padded prompt with one random picture of 4 x 4 patches, 4 tokens, for each row."""
    inputs = tiny.prompt(*rows, seed=seed)
    n_patches = 4 * tiny.N_IMAGE
    inputs["pixel_values"] = torch.randn(
        len(rows) * n_patches, 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(seed)
    )
    inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(rows))
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == tiny.IMAGE_TOKEN).int()
    return inputs


def qwen3_vl_moe() -> Any:
    """Return a model that sees, and whose language model has experts."""
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 12, "num_heads": 2, "patch_size": 4, "out_hidden_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "mrope_interleaved": True}
    text = {**MOE_SIZES, "num_experts": N_EXPERTS, "moe_intermediate_size": tiny.NEURONS, "rope_scaling": rope}
    text["mlp_only_layers"] = []
    config = Qwen3VLMoeConfig(
        text_config=text, vision_config=vision, image_token_id=tiny.IMAGE_TOKEN, video_token_id=7,
        vision_start_token_id=8, vision_end_token_id=9,
    )  # fmt: skip
    return tiny.seeded(lambda: Qwen3VLMoeForConditionalGeneration(config))
