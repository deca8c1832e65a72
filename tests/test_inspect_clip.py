"""CLIPScore with a tiny CLIP model that is built here and read from a folder."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from kedit.models.clip_score import ClipScore
from tests import tiny

WORDS = ("<pad>", "<start>", "<end>", "<unk>", "star", "house", "red")
PICTURES = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "gray")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unk>",
        model_max_length=8,
    )  # fmt: skip
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(WORDS), "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    vision = sizes | {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text | {"pad_token_id": 0}, vision_config=vision, projection_dim=8)
    size = {"height": 16, "width": 16}
    path = tmp_path_factory.mktemp("clip")
    tiny.seeded(lambda: CLIPModel(config)).save_pretrained(path)
    CLIPProcessor(CLIPImageProcessorPil(size=size, crop_size=size), tokenizer).save_pretrained(path)
    return path


def test_the_score_is_two_and_a_half_times_the_cosine_and_never_negative(folder: Path) -> None:
    score = ClipScore(str(folder))
    texts = ["star", "house red", "red"]
    found = score(texts, PICTURES)
    module, processor = score._loaded
    for text, row in zip(texts, found, strict=True):
        for picture, value in zip(PICTURES, row, strict=True):
            with torch.no_grad():
                output = module(**processor(text=[text], images=[picture], return_tensors="pt"))
            cosine = torch.cosine_similarity(output.text_embeds, output.image_embeds).item()
            assert value == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)
            assert 0 <= value <= 2.5


def test_a_long_text_is_cut_where_the_encoder_ends(folder: Path) -> None:
    score = ClipScore(str(folder))
    [[long], [longer]] = score([" ".join(["star"] * 20), " ".join(["star"] * 30)], PICTURES[:1])
    assert long == pytest.approx(longer)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="no CLIP folder `nowhere`"):
        ClipScore("nowhere")


def test_nothing_to_compare_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="got 0 and 3"):
        ClipScore(str(folder))([], PICTURES)
