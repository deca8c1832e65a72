"""The builder of all planted models: a wiring of eyes, words and attention becomes a LLaVA, and neurons go into it.

Queries and keys of the last layer are zero, so that its attention gives each position the mean over all up to it. The
other layers' attention is silent, so until then nothing but the own patch or word, and the neurons, decide a position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kedit.models.huggingface import HuggingFaceMLLM
from kedit.neurons import NeuronId, NeuronSet

WORDS = (
    *("<pad>", "<bos>", "<eos>", "<unk>", "<image>", "star", "house", "picture", "a", "of", ":"),
    *("describe", "the", "what", "is", "this", "?"),
)
PATCH, SIDE = 8, 4
"""Pixels along a patch, and patches along a picture."""
CONST = 0
"""The dimension of the residual stream that is the same at every position."""
Roles = Mapping[str, Sequence[NeuronId]]
"""Which neurons do what."""
WHOLE = slice(None)
COLORS = ((0, WHOLE), (1, WHOLE), (2, WHOLE))


@dataclass(frozen=True)
class Eye:
    """A dimension of the stream: `gain` times the positive part of a weighted sum of patch features, plus `bias`."""

    dimension: int
    weights: Mapping[int, float]
    gain: float
    bias: float = 0.0


@dataclass(frozen=True)
class Wiring:
    """All that is written into a model but its neurons."""

    d_model: int
    n_layers: int
    d_ff: int
    level: float
    """What every position has in `CONST`."""
    eyes: Sequence[Eye]
    embedded: Mapping[str, int]
    """The dimension in which a word has a 1."""
    moved: Mapping[int, tuple[int, int]]
    """For rows of the last layer's values, the dimension that is averaged and the one where the mean goes."""
    head: Mapping[str, Mapping[int, float]]
    """How much a word's logit counts a dimension."""
    channels: Sequence[tuple[int, slice]] = COLORS
    """The color and the columns of a patch behind each pair of features, x and -x; pairs left over are constant."""


@dataclass(frozen=True)
class Plant:
    """A neuron: it fires with `up * CONST` times the positive part of `reads`, behind the norm, and adds `writes`."""

    role: str
    layer: int
    reads: Mapping[int, float]
    writes: Mapping[int, float]
    up: float

    def write(self, mlps: Sequence[Any], index: int) -> None:
        """Write the neuron and nothing else at `index` of its layer."""
        mlp = mlps[self.layer]
        mlp.gate_proj.weight[index] = 0.0
        mlp.down_proj.weight[:, index] = 0.0
        mlp.up_proj.weight[index, CONST] = self.up
        for source, gain in self.reads.items():
            mlp.gate_proj.weight[index, source] = gain
        for target, strength in self.writes.items():
            mlp.down_proj.weight[target, index] = strength


def build(
    name: str,
    wiring: Wiring,
    write_neurons: Callable[[Sequence[Any]], Roles],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> tuple[HuggingFaceMLLM, dict[str, NeuronSet]]:
    """Return the model of a wiring, and the neurons that `write_neurons` wrote into its layers' blocks, by role."""
    module = _untrained(wiring)
    multimodal = module.model
    with torch.no_grad():
        _write_tower(multimodal.vision_tower, wiring.channels)
        _write_projector(multimodal.multi_modal_projector, wiring)
        _write_language(module, wiring)
        roles = write_neurons([layer.mlp for layer in multimodal.language_model.layers])
    module.requires_grad_(False)
    model = HuggingFaceMLLM(
        module, _processor(), name, "describe the picture :", batch_size=batch_size, max_new_tokens=max_new_tokens
    )
    return model, {role: NeuronSet(tuple(neurons)) for role, neurons in roles.items()}


def _processor() -> Any:
    """Return the processor: one token for each of `WORDS`, pictures as they are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    core.add_special_tokens(list(WORDS[:5]))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        padding_side="left", model_max_length=128,
    )  # fmt: skip
    size = {"height": SIDE * PATCH, "width": SIDE * PATCH}
    pictures = CLIPImageProcessorPil(
        size=size, crop_size=size, do_center_crop=False, image_mean=[0.0] * 3, image_std=[1.0] * 3
    )
    return LlavaProcessor(
        pictures, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    )  # fmt: skip


def _untrained(wiring: Wiring) -> Any:
    """Return a LLaVA with random weights whose language model has the wiring's sizes and ReLU gates."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        image_size=SIDE * PATCH, patch_size=PATCH, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, projection_dim=8,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=wiring.d_model, intermediate_size=wiring.d_ff,
        num_hidden_layers=wiring.n_layers, num_attention_heads=1, hidden_act="relu", max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1,
        projector_hidden_act="relu", image_seq_length=SIDE**2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def _clear(module: nn.Module) -> None:
    """Set all weights to zero and those of norms to one."""
    for name, weight in module.named_parameters():
        weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


def _write_tower(tower: Any, channels: Sequence[tuple[int, slice]]) -> None:
    """Make each patch feature a standardized mean color: (x, -x, y, -y, ...)."""
    _clear(tower)
    embeddings = tower.embeddings
    kernel, place = embeddings.patch_embedding.weight, embeddings.position_embedding.weight
    for pair, (color, columns) in enumerate(channels):
        seen = kernel[2 * pair, color, :, columns]
        kernel[2 * pair, color, :, columns] = 1 / seen.numel()
        kernel[2 * pair + 1, color, :, columns] = -1 / seen.numel()
    rest = 2 * len(channels)
    place[:, rest::2], place[:, rest + 1 :: 2] = 0.25, -0.25


def _write_projector(projector: Any, wiring: Wiring) -> None:
    _clear(projector)
    for eye in wiring.eyes:
        for feature, weight in eye.weights.items():
            projector.linear_1.weight[eye.dimension, feature] = weight
        projector.linear_1.bias[eye.dimension] = eye.bias
        projector.linear_2.weight[eye.dimension, eye.dimension] = eye.gain
    projector.linear_2.bias[CONST] = wiring.level


def _write_language(module: Any, wiring: Wiring) -> None:
    language = module.model.language_model
    _clear(language)
    _clear(module.lm_head)
    language.embed_tokens.weight[:, CONST] = wiring.level
    for word, dimension in wiring.embedded.items():
        language.embed_tokens.weight[WORDS.index(word), dimension] = 1.0
    for word, counted in wiring.head.items():
        for dimension, weight in counted.items():
            module.lm_head.weight[WORDS.index(word), dimension] = weight
    attention = language.layers[-1].self_attn
    for row, (source, target) in wiring.moved.items():
        attention.v_proj.weight[row, source] = 1.0
        attention.o_proj.weight[target, row] = 1.0
