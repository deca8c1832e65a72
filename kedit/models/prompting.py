"""How a processor of transformers wants its texts and pictures, told by what it offers rather than by its name."""

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.models.passes import parameters
from kedit.prompts import Medium


def plain(processor: Any, medium: Medium, text: str) -> str:
    """Return a prompt for a processor without a chat format: what stands for the medium, then the text.

    Q-Former models (BLIP-2, InstructBLIP) have `num_query_tokens`, and their processors put the picture in front
    themselves. Those of prefix language models (PaliGemma) write what separates the two, and the end of the line.
    Elsewhere the two are on lines of their own.
    """
    if medium == "text" or getattr(processor, "num_query_tokens", None):
        return text
    between = "" if reads_prefix(processor) else "\n"
    return f"{getattr(processor, f'{medium}_token')}{between}{text}"


def reads_prefix(processor: Any) -> bool:
    """Return whether the processor is one of a prefix language model: it takes the answer as a `suffix`.

    Its token types are 0 in the prompt, which is read in both directions, and 1 in the answer.
    """
    return "suffix" in signature(type(processor).__call__).parameters


def for_each(processor: Any, images: Sequence[Image]) -> list[Any]:
    """Return the pictures of a batch of prompts with one picture each.

    The processors of transformers take a list for each prompt, without which some of them (Gemma 3, Mllama) give all
    pictures to the first one.
    """
    from transformers import ProcessorMixin

    return [[image] for image in images] if isinstance(processor, ProcessorMixin) else list(images)


def tidied(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a processor's inputs without what is only for training, and the Q-Former's questions padded on the right.

    A Q-Former counts its positions from the first column on, whether that is padding or not.
    """
    kept = {key: value for key, value in inputs.items() if key != "labels"}
    mask = kept.get("qformer_attention_mask")
    if mask is None:
        return kept
    order = mask.argsort(dim=1, descending=True, stable=True)
    return kept | {key: kept[key].gather(1, order) for key in ("qformer_input_ids", "qformer_attention_mask")}


def refuse_padded_pictures(module: nn.Module, inputs: Mapping[str, Tensor], name: str) -> None:
    """Raise a ValueError if pictures are padded to one size before a tokenizer reads them whole, as Emu3's does."""
    sizes = inputs.get("image_sizes")
    if sizes is None or len(sizes.unique(dim=0)) < 2 or not hasattr(getattr(module, "model", None), "get_image_tokens"):
        return
    raise ValueError(
        f"`{name}` pads the pictures of a batch to one size before it reads them, so that each would depend on the "
        "others; set `batch_size=1`, or give pictures of one size"
    )


def seen_on(seen: Tensor, mask: Tensor, prefixes: Sequence[tuple[int, ...]], width: int) -> Tensor:
    """Return which tiles each position looks at, padded on the left: `[batch, width, picture, tile]`.

    Args:
        seen: Of the prompts as they came from the processor: `[batch, pos, picture, tile]`.
        mask: Which of those positions hold a token: `[batch, pos]`.
        prefixes: The tokens of each answer, which look at what the last token of the prompt does.
        width: The number of positions of the whole.
    """
    whole = seen.new_zeros(len(seen), width, *seen.shape[2:])
    for row, (one, keep, prefix) in enumerate(zip(seen, mask, prefixes, strict=True)):
        looked = one[keep.bool()]
        looked = torch.cat([looked, looked[-1:].expand(len(prefix), *looked.shape[1:])])
        whole[row, width - len(looked) :] = looked
    return whole


def reader(module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """Return what reads `inputs`: the language model alone for texts, in a model that insists on a picture (BLIP-2)."""
    wanted = parameters(module).get("pixel_values")
    insists = wanted is not None and wanted.default is Parameter.empty
    return module.language_model if insists and "pixel_values" not in inputs else module
