"""GILL from its original files: the folders of OPT and CLIP, and the checkpoint of what was trained between them."""

from pathlib import Path
from typing import Any

import torch

from kedit.models import placing
from kedit.models.gill.files import Checkpoint, Files, GILLFileError
from kedit.models.gill.model import GILLModel
from kedit.models.gill.painter import Painter
from kedit.models.gill.processor import PICTURE, FirstLine, GILLProcessor, img_names

PARTS = ("language_model.", "vision_model.")
"""How the names of the weights begin that are not the checkpoint's."""


def load(
    path: str | Path,
    *,
    language: str = "opt-6.7b",
    vision: str = "clip-vit-large-patch14",
    checkpoint: str = "gill_opt",
    diffusion: str | None = None,
    name: str = "gill",
    prompt: str = "A picture of",
    batch_size: int = 8,
    max_new_tokens: int = 32,
    device: str = "auto",
    dtype: str = "auto",
    mapper_heads: int = 4,
    steps: int = 50,
    guidance: float = 7.5,
    gradient_steps: int = 4,
) -> GILLModel:
    """Load GILL.

    Args:
        path: The folder that the others are named from.
        language: The folder of OPT.
        vision: The folder of CLIP.
        checkpoint: GILL's own weights: their file, or its folder.
        diffusion: The folder of a Stable Diffusion of diffusers, for drawing alone.
        name: What reports call the model.
        prompt: What a caption goes on from.
        batch_size: How many pictures are read at once.
        max_new_tokens: Where a caption ends at the latest.
        device: `auto` is the GPU where there is one, else the CPU.
        dtype: `auto` is bfloat16, the original's, on a GPU and float32 on the CPU.
        mapper_heads: The attention heads of what is in front of Stable Diffusion, which no shape tells.
        steps: How many steps a drawing takes.
        guidance: How strongly Stable Diffusion is told.
        gradient_steps: Through how many of the last steps I-neurons are looked for.

    Raises:
        FileNotFoundError: Files are missing; all that are expected are listed.
        GILLFileError: A file holds something else, or does not fit the others.
    """
    where = placing.device(device)
    kind = placing.data_type(dtype) or (torch.float32 if where.type == "cpu" else torch.bfloat16)
    home = Path(path)
    files = Files.under(home, {"language": language, "vision": vision, "checkpoint": checkpoint})
    painter = None
    if diffusion is not None:
        folder = home.expanduser() / Path(diffusion).expanduser()
        painter = Painter(folder, steps, guidance, device, gradient_steps=gradient_steps)
    own = Checkpoint.read(files)
    tokenizer = _tokenizer(files, len(own.img_rows))
    module = _assembled(files, own, tokenizer, mapper_heads, kind)
    module.ending = FirstLine(tokenizer)
    module.to(where).eval().requires_grad_(False)
    processor = GILLProcessor(tokenizer, _image_processor(files), module.config.n_image_tokens)
    return GILLModel(module, processor, name, prompt, batch_size, max_new_tokens, painter=painter)


def _tokenizer(files: Files, n_img: int) -> Any:
    """Return OPT's tokenizer with the tokens that GILL adds behind its own: one for a picture, and the [IMG] tokens."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(files.language, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise GILLFileError(f"`language` `{files.language}` has no tokenizer that can be read: {reason}") from error
    tokenizer.add_special_tokens({"cls_token": PICTURE})
    tokenizer.add_special_tokens({"extra_special_tokens": img_names(n_img)})
    return tokenizer


def _image_processor(files: Files) -> Any:
    from transformers import CLIPImageProcessorPil

    try:
        return CLIPImageProcessorPil.from_pretrained(files.vision, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise GILLFileError(f"`vision` `{files.vision}` has no `preprocessor_config.json`: {reason}") from error


def _assembled(files: Files, own: Checkpoint, tokenizer: Any, heads: int, dtype: torch.dtype) -> Any:
    """Return the module with all weights in place; nothing is made only to be overwritten."""
    from transformers import CLIPVisionModel, OPTForCausalLM

    from kedit.models.gill.module import GILL, GILLConfig

    language_model = files.part("language").pretrained(OPTForCausalLM, dtype, "OPT")
    settings = own.settings(language_model.config.word_embed_proj_dim, heads)
    _add_tokens(language_model, own, len(tokenizer))
    vision_model = files.part("vision").pretrained(CLIPVisionModel, dtype, "CLIP")
    described = GILLConfig(
        **settings, text_config=language_model.config, vision_config=vision_model.config,
        image_token_index=tokenizer.convert_tokens_to_ids(PICTURE),
    )  # fmt: skip
    with torch.device("meta"):
        module = GILL(described)
    expected = {key: one.shape for key, one in module.state_dict().items() if not key.startswith(PARTS)}
    own.refuse_misfits(expected)
    module.load_state_dict({key: one.to(dtype) for key, one in own.weights.items()}, strict=False, assign=True)
    module.language_model, module.vision_model = language_model, vision_model
    return module


@torch.no_grad()
def _add_tokens(language_model: Any, own: Checkpoint, n_tokens: int) -> None:
    """Make the vocabulary `n_tokens` long: OPT rounds it up by rows that mean nothing. The last ones are the [IMG]s."""
    language_model.resize_token_embeddings(n_tokens, mean_resizing=False)
    rows = language_model.get_input_embeddings().weight
    rows[-len(own.img_rows) :] = own.img_rows.to(rows)
