"""MiniGPT-4, the model of two-stage filtering's authors, from its four original files."""

from pathlib import Path
from typing import Any

import torch

from kedit.models import placing
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.minigpt4_files import Files, MiniGPT4FileError, Parts
from kedit.models.minigpt4_processor import IMAGE_MEAN, IMAGE_STD, PAD, SYSTEM, Ending, MiniGPT4Processor

LANGUAGE = "language_model."
IN_FLOAT32 = ("query_tokens", "qformer")
"""What stays in float32, as in BLIP-2, beginning with these names."""


def load(
    path: str | Path,
    *,
    flavor: str = "vicuna",
    vision: str = "eva_vit_g.pth",
    qformer: str = "blip2_pretrained_flant5xxl.pth",
    checkpoint: str = "prerelease_minigpt4_7b.pth",
    language: str = "vicuna-7b",
    name: str | None = None,
    prompt: str = "Describe this image in detail.",
    system: str = SYSTEM,
    batch_size: int = 8,
    max_new_tokens: int = 60,
    device: str = "auto",
    dtype: str = "auto",
    vision_blocks: int = 39,
    vision_heads: int = 16,
    qformer_heads: int = 12,
) -> HuggingFaceMLLM:
    """Load MiniGPT-4.

    Args:
        path: The folder that the other files are named from.
        flavor: `vicuna` (Vicuna-v0 with a Q-Former: 32 image tokens without a place in the picture) or `llama2`
            (Llama-2-chat without: 64 image tokens, 16 rows of 4).
        vision: EVA-ViT-g/14.
        qformer: BLIP-2's first files for Flan-T5-XXL; not read for `llama2`.
        checkpoint: MiniGPT-4's own file.
        language: The folder of Vicuna or Llama-2-chat.
        name: What reports call the model; by default that of the language model's folder.
        prompt: What asks the model for a caption.
        system: What is said before each question; the original demo's words by default, none if empty.
        batch_size: How many pictures are read at once.
        max_new_tokens: Where a caption ends at the latest.
        device: `auto` is the GPU where there is one, else the CPU.
        dtype: `auto` is float16, the original's, on a GPU and float32 on the CPU. The Q-Former stays in float32.
        vision_blocks: The blocks of the vision tower that are used; the original leaves out the file's last one.
        vision_heads: Its attention heads, which no shape tells.
        qformer_heads: The Q-Former's.

    Raises:
        FileNotFoundError: A file is missing; all that are expected are listed.
        MiniGPT4FileError: A file holds something else, is of another flavor, or does not fit the others.
    """
    where = placing.device(device)
    kind = placing.data_type(dtype) or (torch.float32 if where.type == "cpu" else torch.float16)
    names = {"vision": vision, "qformer": qformer, "checkpoint": checkpoint, "language": language}
    files = Files.under(Path(path), flavor, names)
    parts = Parts.read(files)
    tokenizer, language_model = _tokenizer(files), _language_model(files, kind)
    settings = parts.settings(vision_blocks, vision_heads, qformer_heads)
    module = _assembled(parts, settings, language_model, kind)
    module.ending = Ending(tokenizer)
    module.to(where).eval().requires_grad_(False)
    processor = _processor(module.config, tokenizer, files, system)
    called = name or f"minigpt4-{files.language.name}"
    return HuggingFaceMLLM(module, processor, called, prompt, batch_size, max_new_tokens)


def _tokenizer(files: Files) -> Any:
    """Return the language model's tokenizer, with the original's padding token."""
    from transformers import LlamaTokenizer

    missing = (
        f"`language` `{files.language}` has no tokenizer that can be read (`tokenizer.model`, which needs the package "
        "`sentencepiece`, or `tokenizer.json`)"
    )
    try:
        tokenizer: Any = LlamaTokenizer.from_pretrained(files.language, local_files_only=True, padding_side="left")
    except (OSError, ValueError, ImportError) as error:
        raise MiniGPT4FileError(f"{missing}: {str(error).splitlines()[0]}") from error
    if not tokenizer("picture", add_special_tokens=False).input_ids:
        # Without those files transformers makes a tokenizer that knows no word.
        raise MiniGPT4FileError(f"{missing}: it knows no word")
    known = tokenizer.convert_tokens_to_ids(PAD) not in (None, tokenizer.unk_token_id)
    tokenizer.pad_token = PAD if known else tokenizer.eos_token
    return tokenizer


def _language_model(files: Files, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return files.part("language").pretrained(AutoModelForCausalLM, dtype, "language model")


def _assembled(parts: Parts, settings: dict[str, Any], language_model: Any, dtype: torch.dtype) -> Any:
    """Return the module with all weights in place; nothing is made only to be overwritten."""
    from kedit.models.minigpt4_model import MiniGPT4, MiniGPT4Config

    n_tokens = language_model.get_input_embeddings().num_embeddings
    described = MiniGPT4Config(**settings, text_config=language_model.config, image_token_index=n_tokens)
    with torch.device("meta"):
        module = MiniGPT4(described)
    expected = {key: value.shape for key, value in module.state_dict().items() if not key.startswith(LANGUAGE)}
    placed = list(parts.placed(settings["vision_config"]["num_hidden_layers"]))
    parts.refuse_misfits(placed, expected, language_model.config.hidden_size)
    weights = {one.key: one.value.to(torch.float32 if one.key.startswith(IN_FLOAT32) else dtype) for one in placed}
    module.load_state_dict(weights, strict=False, assign=True)
    module.use(language_model)
    return module


def _processor(described: Any, tokenizer: Any, files: Files, system: str) -> MiniGPT4Processor:
    from transformers import BlipImageProcessorPil

    side = described.vision_config.image_size
    pictures = BlipImageProcessorPil(
        size={"height": side, "width": side}, image_mean=list(IMAGE_MEAN), image_std=list(IMAGE_STD)
    )
    return MiniGPT4Processor(
        tokenizer, pictures, files.kind, described.image_token_id, described.n_image_tokens, system
    )
