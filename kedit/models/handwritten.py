"""What models with weights written by hand share: a tiny LLaVA, its words and its eyes."""

from typing import Any

from torch import nn

WORDS = (
    *("<pad>", "<bos>", "<eos>", "<unk>", "<image>", "star", "house", "picture", "a", "of", ":"),
    *("describe", "the", "what", "is", "this", "?"),
)
PATCH, SIDE = 8, 4


def processor() -> Any:
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


def untrained(d_model: int, n_layers: int, d_ff: int) -> Any:
    """Return a LLaVA with random weights whose language model has the given sizes and ReLU gates."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        image_size=SIDE * PATCH, patch_size=PATCH, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, projection_dim=8,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=d_model, intermediate_size=d_ff, num_hidden_layers=n_layers,
        num_attention_heads=1, hidden_act="relu", max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
        pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision, text_config=text, image_token_index=4, vision_feature_layer=-1,
        projector_hidden_act="relu", image_seq_length=SIDE**2, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def write_tower(tower: nn.Module) -> None:
    """Make each patch feature the standardized colors of the patch: (r, -r, g, -g, b, -b, c, -c)."""
    for name, weight in tower.named_parameters():
        weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    embeddings: Any = tower.embeddings
    for color in range(3):
        embeddings.patch_embedding.weight[2 * color, color] = 1 / PATCH**2
        embeddings.patch_embedding.weight[2 * color + 1, color] = -1 / PATCH**2
    embeddings.position_embedding.weight[:, 6] = 0.25
    embeddings.position_embedding.weight[:, 7] = -0.25
