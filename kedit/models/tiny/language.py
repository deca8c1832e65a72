"""Language models without pictures: decoders, mixtures of experts, an encoder-decoder and a masked one."""

from typing import Any

from kedit.models.tiny.tokens import byte_tokenizer

MASK = "[MASK]"
WIDTH, FF, LAYERS, HEADS, POSITIONS = 16, 24, 3, 2, 256
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
}
GATED: dict[str, Any] = {**SIZES, "intermediate_size": FF, "num_key_value_heads": 1}
"""The sizes of Llama and its kin: heads of 8, one of them for keys and values."""
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "output_router_logits": False}
ANSWERS: dict[str, Any] = {"decoder_start_token_id": 0}
SPECIALS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def gpt2() -> tuple[Any, Any]:
    """Return the model and its tokenizer: weights stored `[in, out]`, a position learned for each column."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = byte_tokenizer()
    described = GPT2Config(
        n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=FF, n_positions=POSITIONS, vocab_size=len(tokenizer),
        **SPECIALS,
    )  # fmt: skip
    return GPT2LMHeadModel(described), tokenizer


def opt() -> tuple[Any, Any]:
    """Return the model and its tokenizer: feed-forward layers that see batch and positions as one axis."""
    from transformers import OPTConfig, OPTForCausalLM

    tokenizer = byte_tokenizer()
    described = OPTConfig(
        **SIZES, ffn_dim=FF, word_embed_proj_dim=WIDTH, vocab_size=len(tokenizer), **SPECIALS
    )  # fmt: skip
    return OPTForCausalLM(described), tokenizer


def llama() -> tuple[Any, Any]:
    """Return the model and its tokenizer: gated layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    return LlamaForCausalLM(LlamaConfig(**GATED, vocab_size=len(tokenizer), **SPECIALS)), tokenizer


def qwen3() -> tuple[Any, Any]:
    """Return the model and its tokenizer: norms on queries and keys."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_tokenizer()
    return Qwen3ForCausalLM(Qwen3Config(**GATED, head_dim=8, vocab_size=len(tokenizer), **SPECIALS)), tokenizer


def qwen3_moe() -> tuple[Any, Any]:
    """Return the model and its tokenizer: 4 fused experts of 12 neurons in each layer, 2 of them for a token."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    tokenizer = byte_tokenizer()
    described = Qwen3MoeConfig(
        **GATED, **EXPERTS, num_experts=4, moe_intermediate_size=12, norm_topk_prob=True,
        vocab_size=len(tokenizer), **SPECIALS,
    )  # fmt: skip
    return Qwen3MoeForCausalLM(described), tokenizer


def mixtral() -> tuple[Any, Any]:
    """Return the model and its tokenizer: 4 fused experts of 24 neurons in each layer, 2 of them for a token."""
    from transformers import MixtralConfig, MixtralForCausalLM

    tokenizer = byte_tokenizer()
    described = MixtralConfig(**GATED, **EXPERTS, num_local_experts=4, vocab_size=len(tokenizer), **SPECIALS)
    return MixtralForCausalLM(described), tokenizer


def gpt_oss() -> tuple[Any, Any]:
    """Return the model and its tokenizer: 4 experts stored `[in, out]` with biases, a window in every other layer."""
    from transformers import GptOssConfig, GptOssForCausalLM

    tokenizer = byte_tokenizer()
    described = GptOssConfig(
        **GATED | {"max_position_embeddings": 131072}, **EXPERTS, head_dim=8, num_local_experts=4,
        vocab_size=len(tokenizer), **SPECIALS,
    )  # fmt: skip
    return GptOssForCausalLM(described), tokenizer


def gemma2() -> tuple[Any, Any]:
    """Return the model and its tokenizer: norms around each part, logits between -30 and 30."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = byte_tokenizer()
    described = Gemma2Config(
        **GATED, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=30.0, vocab_size=len(tokenizer),
        **SPECIALS,
    )  # fmt: skip
    return Gemma2ForCausalLM(described), tokenizer


def phi3() -> tuple[Any, Any]:
    """Return the model and its tokenizer: one map for the gate and what it gates."""
    from transformers import Phi3Config, Phi3ForCausalLM

    tokenizer = byte_tokenizer()
    return Phi3ForCausalLM(Phi3Config(**GATED, vocab_size=len(tokenizer), **SPECIALS)), tokenizer


def gpt_neox() -> tuple[Any, Any]:
    """Return the model and its tokenizer: attention and feed-forward layer side by side."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = byte_tokenizer()
    described = GPTNeoXConfig(**SIZES, intermediate_size=FF, vocab_size=len(tokenizer), **SPECIALS)
    return GPTNeoXForCausalLM(described), tokenizer


def falcon() -> tuple[Any, Any]:
    """Return the model and its tokenizer: linear maps of its own class, 4 times as many neurons as the width."""
    from transformers import FalconConfig, FalconForCausalLM

    tokenizer = byte_tokenizer()
    return FalconForCausalLM(FalconConfig(**SIZES, vocab_size=len(tokenizer), **SPECIALS)), tokenizer


def t5() -> tuple[Any, Any]:
    """Return the model and its tokenizer: an encoder and a decoder of 2 gated layers each."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = byte_tokenizer()
    described = T5Config(
        d_model=WIDTH, d_kv=8, d_ff=FF, num_layers=2, num_heads=HEADS, feed_forward_proj="gated-gelu",
        vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=2, **ANSWERS,
    )  # fmt: skip
    return T5ForConditionalGeneration(described), tokenizer


def bert() -> tuple[Any, Any]:
    """Return the model and its tokenizer: it completes `[MASK]` and writes nothing."""
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = byte_tokenizer([MASK], mask_token=MASK)
    described = BertConfig(**SIZES, intermediate_size=FF, vocab_size=len(tokenizer), pad_token_id=0)
    return BertForMaskedLM(described), tokenizer
