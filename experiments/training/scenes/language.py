"""The language model, what may read and write which part of its residual stream, and its processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from experiments.training.scenes.tower import CONFIG, MEAN, PATCH, STD
from kedit.data.grammar import CATEGORIES
from kedit.data.questions import vocabulary
from kedit.data.scene import SIZE

VISION, WORK = 64, 128
"""Widths of the two parts of the residual stream: raw picture features and everything else."""
LAYERS, NEURONS, BANK = 4, 512, 8
"""Layers, neurons a layer, and neurons of the first layer reserved for each category."""
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}answer :{% endif %}"
)
"""The format of a prompt: the picture, the question, and where the answer starts."""
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")


def processor() -> LlavaProcessor:
    """Return the word-level tokenizer and the CLIP image processor as one LLaVA processor."""
    words = {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", words["<bos>"])]
    )
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side="left", model_max_length=512,
    )  # fmt: skip
    pictures = CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, crop_size={"height": SIZE, "width": SIZE}, do_center_crop=False,
        image_mean=[MEAN] * 3, image_std=[STD] * 3,
    )  # fmt: skip
    return LlavaProcessor(
        pictures, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip


def llava(tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Return the untrained model: a stock LLaVA with a gated ReLU Llama."""
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=VISION + WORK, intermediate_size=NEURONS, num_hidden_layers=LAYERS,
        num_attention_heads=6, num_key_value_heads=6, hidden_act="relu", max_position_embeddings=256,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.05,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CONFIG, text_config=text, image_token_index=4, vision_feature_layer=-1,
        vision_feature_select_strategy="default", image_seq_length=(SIZE // PATCH) ** 2, pad_token_id=0,
        tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def blocks(model: LlavaForConditionalGeneration) -> nn.ModuleList:
    """Return the decoder blocks of the language model."""
    return model.model.language_model.layers


def bank(category: str) -> slice:
    """Return the neurons of the first layer that are reserved for `category`."""
    start = CATEGORIES.index(category) * BANK
    return slice(start, start + BANK)


def partition(model: LlavaForConditionalGeneration) -> None:
    """Let nothing but the first feed-forward layer read the picture features.

    The projector writes the vision dimensions only and every other weight leaves them alone, so attention
    cannot carry raw picture features to the caption: the neurons of the first layer have to translate them. The
    forbidden weights are zero and get no gradient; the architecture stays the stock one.
    """
    for weight, forbidden in _forbidden(model):
        allowed = torch.ones_like(weight)
        allowed[forbidden] = 0
        with torch.no_grad():
            weight.mul_(allowed)
        weight.register_hook(lambda gradient, allowed=allowed: gradient * allowed)


def _forbidden(model: LlavaForConditionalGeneration) -> Iterator[tuple[nn.Parameter, tuple[slice, ...]]]:
    vision, work, every = slice(0, VISION), slice(VISION, None), slice(None)
    projector = model.model.multi_modal_projector.linear_2
    yield projector.weight, (work,)
    yield projector.bias, (work,)
    yield model.model.language_model.embed_tokens.weight, (every, vision)
    yield model.lm_head.weight, (every, vision)
    for number, block in enumerate(blocks(model)):
        attention = block.self_attn
        readers = [attention.q_proj, attention.k_proj, attention.v_proj]
        if number > 0:
            readers += [block.mlp.gate_proj, block.mlp.up_proj]
        for reader in readers:
            yield reader.weight, (every, vision)
        for writer in (attention.o_proj, block.mlp.down_proj):
            yield writer.weight, (vision,)


@dataclass
class Watch:
    """What the feed-forward neurons did in one forward pass."""

    cost: list[Tensor]
    """For each layer, the mean over positions of what its neurons write, relative to the residual stream."""
    written: list[Tensor]
    """For each layer, what its neurons wrote: `[batch, pos, width]`."""
    residual: list[Tensor]
    """The residual stream before the final norm, `[batch, pos, width]`, once the pass is over."""


@contextmanager
def silenced(model: LlavaForConditionalGeneration, kept: list[Tensor]) -> Iterator[Watch]:
    """Multiply layer l's neurons by `kept[l]` (`[batch, 1, neuron]`) and watch what they write.

    Negative activations cost four times as much, which keeps most of them at zero or above.
    """
    watch, handles = Watch([], [], []), []
    norm = model.model.language_model.norm
    handles.append(norm.register_forward_pre_hook(lambda _, inputs: watch.residual.append(inputs[0])))
    for block, keep in zip(blocks(model), kept, strict=True):

        def rewrite(module: nn.Linear, inputs: tuple[Tensor], keep: Tensor = keep) -> tuple[Tensor]:
            activation = inputs[0]
            written = module.weight.norm(dim=0).to(activation.dtype)
            watch.cost.append(2.5 * (activation.abs() @ written) - 1.5 * (activation @ written))
            return (activation * keep.to(activation.dtype),)

        def read(_module: nn.Linear, _inputs: tuple[Tensor], output: Tensor) -> None:
            watch.written.append(output)

        handles.append(block.mlp.down_proj.register_forward_pre_hook(rewrite))
        handles.append(block.mlp.down_proj.register_forward_hook(read))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()
