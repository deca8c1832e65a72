"""BLIP-2 and InstructBLIP: a Q-Former writes what it reads in a picture into a few tokens."""

from typing import Any

from kedit.models.tiny.parts import NEURONS, WIDTH, text_sizes, vision_sizes
from kedit.models.tiny.tokens import byte_tokenizer

SIDE, PATCH, QUERIES = 32, 8, 4


def blip2() -> tuple[Any, Any]:
    """Return BLIP-2 with OPT and its processor: 4 image tokens, 3 layers of 24 neurons."""
    tokenizer = byte_tokenizer(["<image>"])
    return _blip2(_opt(tokenizer), tokenizer)


def blip2_t5() -> tuple[Any, Any]:
    """Return BLIP-2 with T5 and its processor: 4 image tokens, 3 layers of 24 neurons on both sides."""
    from transformers import T5Config

    tokenizer = byte_tokenizer(["<image>"])
    marks: dict[str, Any] = {"decoder_start_token_id": tokenizer.pad_token_id}
    text = T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=NEURONS, num_layers=3, num_heads=2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **marks,
    )  # fmt: skip
    return _blip2(text, tokenizer)


def instructblip() -> tuple[Any, Any]:
    """Return InstructBLIP with Llama and its processor: 4 image tokens that depend on the question, 3 gated layers."""
    from transformers import (
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        InstructBlipQFormerConfig,
        InstructBlipVisionConfig,
        LlamaConfig,
    )

    tokenizer, question_tokenizer = byte_tokenizer(["<image>"]), byte_tokenizer()
    described = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(**vision_sizes(SIDE, PATCH)),
        qformer_config=InstructBlipQFormerConfig(**_qformer(len(question_tokenizer))),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        num_query_tokens=QUERIES, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = InstructBlipProcessor(_image_processor(), tokenizer, question_tokenizer, num_query_tokens=QUERIES)
    return InstructBlipForConditionalGeneration(described), processor


def _blip2(text: Any, tokenizer: Any) -> tuple[Any, Any]:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor
    from transformers import Blip2QFormerConfig as QFormerConfig
    from transformers import Blip2VisionConfig as VisionConfig

    described = Blip2Config(
        vision_config=VisionConfig(**vision_sizes(SIDE, PATCH)),
        qformer_config=QFormerConfig(**_qformer(30)), text_config=text,
        num_query_tokens=QUERIES, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = Blip2Processor(_image_processor(), tokenizer, num_query_tokens=QUERIES)
    return Blip2ForConditionalGeneration(described), processor


def _opt(tokenizer: Any) -> Any:
    from transformers import OPTConfig

    sizes = text_sizes(tokenizer)
    del sizes["intermediate_size"], sizes["num_key_value_heads"]
    return OPTConfig(**sizes, ffn_dim=NEURONS, word_embed_proj_dim=WIDTH)


def _qformer(n_words: int) -> dict[str, Any]:
    return {
        "vocab_size": n_words, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2, "encoder_hidden_size": 16, "max_position_embeddings": 512,
    }  # fmt: skip


def _image_processor() -> Any:
    from transformers import BlipImageProcessorPil

    return BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
