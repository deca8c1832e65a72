"""The model: a tiny Janus whose language model and eye start as those of a shipped captioning model."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
    JanusVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from experiments.training.draw import tokenizer as pictures
from experiments.training.draw.codes import GRID
from experiments.training.scenes.language import LAYERS, NEURONS, SPECIAL, VISION, WORK
from experiments.training.scenes.tower import CONFIG, MEAN, PATCH, STD
from kedit.data.questions import vocabulary
from kedit.data.scene import SIZE

WIDTH = VISION + WORK
ADDED = ("<boi>", "<eoi>")
"""The marks around a picture, which the vocabulary of the captioning models lacks."""
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}answer :{% endif %}"
)
"""The format of a prompt: the picture or none, what is asked or is to be drawn, and where the answer starts."""
GUIDANCE = 1.5


def processor() -> JanusProcessor:
    """Return the word-level tokenizer of the captioning models with a few more words, and Janus's image processor."""
    words = {word: i for i, word in enumerate((*SPECIAL, *vocabulary(), *ADDED))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", words["<bos>"])]
    )
    core.add_special_tokens([*SPECIAL, *ADDED])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
        padding_side="left", model_max_length=512,
    )  # fmt: skip
    images = JanusImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, image_mean=[MEAN] * 3, image_std=[STD] * 3, min_size=PATCH
    )
    return JanusProcessor(images, tokenizer, chat_template=CHAT, num_image_tokens=GRID * GRID)


def janus(words: PreTrainedTokenizerFast) -> JanusForConditionalGeneration:
    """Return the untrained model: a stock Janus with a gated ReLU Llama, as wide and deep as the captioning models'."""
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=NEURONS, num_hidden_layers=LAYERS,
        num_attention_heads=6, num_key_value_heads=6, hidden_act="relu", max_position_embeddings=256,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.05,
    )  # fmt: skip
    eye = JanusVisionConfig(
        hidden_size=CONFIG.hidden_size, num_hidden_layers=CONFIG.num_hidden_layers,
        num_attention_heads=CONFIG.num_attention_heads, image_size=SIZE, patch_size=PATCH, hidden_act="quick_gelu",
        mlp_ratio=CONFIG.intermediate_size / CONFIG.hidden_size, projection_dim=WIDTH, num_image_tokens=GRID * GRID,
    )  # fmt: skip
    config = JanusConfig(
        text_config=text, vision_config=eye, vq_config=pictures.config(WIDTH), tie_word_embeddings=False,
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = JanusForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0, guidance_scale=GUIDANCE,
        generation_kwargs={"boi_token_id": words.convert_tokens_to_ids("<boi>")},
    )  # fmt: skip
    return model


@torch.no_grad()
def take_over(model: JanusForConditionalGeneration, captioner: Any, pixels: Tensor) -> None:
    """Start as a captioning LLaVA of the picture world: its language model, head, projector, and roughly its eye.

    CLIP has a class token and a normalization before its first block, and Janus has neither. The mean scale of the
    normalization on `pixels`, `[n, 3, 64, 64]`, goes into the embeddings; the rest has to be learned.
    """
    known = captioner.model.language_model.state_dict()
    embedding = known.pop("embed_tokens.weight")
    model.model.language_model.load_state_dict(known, strict=False)
    model.model.language_model.embed_tokens.weight[: len(embedding)] = embedding
    model.lm_head.weight[: len(embedding)] = captioner.lm_head.weight
    projector = captioner.model.multi_modal_projector
    model.model.aligner.fc1.load_state_dict(projector.linear_1.state_dict())
    model.model.aligner.hidden_layers[0].load_state_dict(projector.linear_2.state_dict())
    eye, old = model.model.vision_model, captioner.model.vision_tower
    for block, other in zip(eye.encoder.layers, old.encoder.layers, strict=True):
        state = {name.replace("out_proj", "projection_layer"): value for name, value in other.state_dict().items()}
        block.load_state_dict(state)
    norm, patches = old.pre_layrnorm, old.embeddings.patch_embedding.weight
    places = old.embeddings.position_embedding.weight[1:]
    scale = norm.weight / old.embeddings(pixels)[:, 1:].std(-1).mean()
    eye.embeddings.patch_embedding.weight.copy_((patches - patches.mean(0)) * scale[:, None, None, None])
    eye.embeddings.patch_embedding.bias.copy_(norm.bias)
    eye.embeddings.position_embedding.weight.copy_((places - places.mean(1, keepdim=True)) * scale)


@torch.no_grad()
def start_codes(model: JanusForConditionalGeneration, codebook: Tensor) -> None:
    """Let codes that are alike start alike: what is read of them, and the rows of the head that score them.

    Args:
        model: It is changed.
        codebook: Unit vectors, `[code, embedding]`.
    """
    inner, width = model.model, codebook.shape[1]
    spread = inner.language_model.embed_tokens.weight.std()
    inner.generation_embeddings.weight.copy_(codebook * width**0.5)
    inner.generation_aligner.fc1.weight.normal_(0, width**-0.5)
    inner.generation_aligner.hidden_layers[0].weight.normal_(0, 1.5 * spread * WIDTH**-0.5)
    inner.generation_head.proj_out.weight.normal_(0, WIDTH**-0.5)
    inner.generation_head.vision_head.weight.copy_(0.1 * codebook @ torch.randn(width, WIDTH))
