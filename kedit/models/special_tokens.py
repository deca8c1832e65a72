"""The tokens that mark what is no text, and so what each position of a sequence holds."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedit.internals.positions import image_token
from kedit.models.mllm import IMAGE, MODALITIES, PADDING, TEXT
from kedit.prompts import Medium

MARKED: tuple[Medium, ...] = ("image", "video", "audio")
"""The media that tokens of their own stand for."""


def medium_token(module: nn.Module, medium: Medium) -> int | None:
    """Return the token that stands for a medium, as the configuration names it."""
    found = getattr(getattr(module, "config", None), f"{medium}_token_id", None)
    return found if isinstance(found, int) else None


def first_token(module: nn.Module) -> int:
    """Return what the answers of an encoder-decoder begin with; a LookupError says that none is named."""
    for described in (getattr(module, "generation_config", None), getattr(module, "config", None)):
        for one in (described, getattr(described, "text_config", None)):
            found = getattr(one, "decoder_start_token_id", None)
            if isinstance(found, int):
                return found
    raise LookupError(f"the configuration of {type(module).__name__} names no `decoder_start_token_id`")


def mask_token(tokenizer: Any, name: str) -> int:
    """Return the mask token, or raise a ValueError that says what `name` needs it for."""
    found = tokenizer.mask_token_id
    if found is None:
        raise ValueError(
            f"`{name}` has no `generate`, so that it is read at a mask, and its tokenizer has no mask token"
        )
    return int(found)


def modalities(module: nn.Module, tokenizer: Any, ids: Tensor) -> Tensor:
    """Return what each token of `ids` stands for, as indices into `MODALITIES`."""
    found = torch.full_like(ids, MODALITIES.index("text"))
    special = torch.tensor(sorted(tokenizer.all_special_ids), dtype=ids.dtype, device=ids.device)
    found[torch.isin(ids, special)] = MODALITIES.index("special")
    for medium in MARKED:
        token = image_token(module) if medium == "image" else medium_token(module, medium)
        if token is not None:
            found[ids == token] = MODALITIES.index(medium)
    return found


def places(held: Tensor, mask: Tensor, n_forced: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return `token_types`, `modalities` and `prompt` of a `TeacherForced`, each `[batch, pos]`.

    Args:
        held: What each token stands for, `[batch, pos]`.
        mask: Zero at padding.
        n_forced: How many of the last positions of each row were put there.
    """
    padding = mask == 0
    token_types = torch.where(held == MODALITIES.index("image"), IMAGE, TEXT).masked_fill(padding, PADDING)
    width = held.shape[1]
    ends = torch.tensor([[width - n] for n in n_forced], device=held.device)
    prompt = ~padding & (torch.arange(width, device=held.device) < ends)
    return token_types, held.masked_fill(padding, PADDING), prompt
