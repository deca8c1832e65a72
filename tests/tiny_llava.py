"""Small LLaVAs with random weights, and one that spells words in pieces, for laws that hold for every model."""

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import TeacherForced
from kedit.models.planted.builder import PATCH, SIDE
from kedit.prompts import Prompt

SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[IMG]")
PIECES = (
    *("a", "the", "picture", "of", "and", "on", "red", "blue", "sky", "star", "stars", "star##fish", "house"),
    *("un", "##ico", "##rn", "##s", "##fish", "describe", "this", ".", ",", ":", "?"),
)
N_LAYERS, D_FF = 3, 12


def wordpiece() -> PreTrainedTokenizerFast:
    """Return a tokenizer that spells "unicorn" as `un ##ico ##rn` and "starfish" as `star ##fish`."""
    vocabulary = {piece: number for number, piece in enumerate((*SPECIALS, *PIECES))}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    core.add_special_tokens(list(SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        eos_token="[SEP]", padding_side="left", model_max_length=128,
    )  # fmt: skip


def byte_level() -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes in which " star" is one token and every other word is spelled out."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("s", "t"), ("st", "a"), ("sta", "r"), ("Ġ", "star")]
    vocabulary = {piece: number for number, piece in enumerate([*letters, *("".join(pair) for pair in merges)])}
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<pad>", "<image>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", padding_side="left", model_max_length=128)


def processor(tokenizer: PreTrainedTokenizerFast, image_token: str) -> Any:
    """Return a processor for pictures of the planted model's size."""
    size = {"height": SIDE * PATCH, "width": SIDE * PATCH}
    pictures = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False)
    return LlavaProcessor(
        pictures, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", image_token=image_token,
        num_additional_image_tokens=1,
    )  # fmt: skip


def tiny_llava(seed: int = 0, batch_size: int = 4) -> HuggingFaceMLLM:
    """Return a LLaVA of 3 gated layers with random weights, not frozen, and a tokenizer of word pieces."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        image_size=SIDE * PATCH, patch_size=PATCH, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(SPECIALS) + len(PIECES), hidden_size=16, intermediate_size=D_FF, num_hidden_layers=N_LAYERS,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    described = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1,
        image_seq_length=SIDE**2, pad_token_id=0,
    )  # fmt: skip
    module = LlavaForConditionalGeneration(described)
    torch.nn.init.normal_(module.model.multi_modal_projector.linear_2.weight, std=0.5)
    torch.nn.init.normal_(module.model.multi_modal_projector.linear_1.weight, std=0.5)
    with torch.no_grad():
        # A logit of zero is never the highest: the model says no special token, as a trained one would not.
        module.lm_head.weight[: len(SPECIALS)] = 0
    return HuggingFaceMLLM(
        module, processor(wordpiece(), "[IMG]"), "tiny", "describe this picture :", batch_size, max_new_tokens=6
    )


class OneMore(HuggingFaceMLLM):
    """Reads a red corner as one more word, as models of dynamic resolution read pictures at different lengths."""

    def read(self, prompts: Sequence[Prompt], prefixes: Sequence[tuple[int, ...]]) -> TeacherForced:
        """Return the batch, with a word before the caption if the first picture starts red."""
        first = prompts[0].image
        red = first is not None and first.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
        return super().read(prompts, [((5,) if red else ()) + prefix for prefix in prefixes])
