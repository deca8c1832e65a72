"""The grid of a model's image tokens, where it has one: only then is a map of them a map of the picture."""

import re

import torch
from torch import nn

from kedit.models.mllm import IMAGE, Forced

RESAMPLER = re.compile(r"q_?former|resampler|perceiver", re.IGNORECASE)
"""Names of modules and classes whose output tokens stand for no place of the picture."""


class NoGridError(ValueError):
    """The image tokens do not lie on a grid over the picture."""


def token_grids(module: nn.Module, batch: Forced) -> list[tuple[int, int]]:
    """Return the rows and columns of the image tokens of each picture in `batch`.

    They are what the module says of itself (`image_grid`), else the processor (`image_grid_thw` of Qwen's models,
    merged patches counted once), else a square.

    Raises:
        NoGridError: The model resamples its pictures, or the tokens of one do not fill a square. Cutting a picture
            into tiles, and a class token among the patches, end here.
    """
    resampler = next((path for path, one in module.named_modules() if _resamples(path, one)), None)
    if resampler is not None:
        raise NoGridError(
            f"`{resampler}` of {type(module).__name__} resamples the picture: its tokens stand for no place in it"
        )
    counts = [int(count) for count in (batch.kinds == IMAGE).sum(1)]
    grids = _told(module, batch, len(counts)) or [(side := int(count**0.5), side) for count in counts]
    for (rows, columns), count in zip(grids, counts, strict=True):
        if rows * columns != count or not count:
            raise NoGridError(
                f"{count} image tokens of a picture do not fill a grid of {rows} x {columns}; {type(module).__name__} "
                "may cut pictures into tiles or keep a class token"
            )
    return grids


def _resamples(path: str, module: nn.Module) -> bool:
    return bool(RESAMPLER.search(path.rpartition(".")[2]) or RESAMPLER.search(type(module).__name__))


def _told(module: nn.Module, batch: Forced, n: int) -> list[tuple[int, int]] | None:
    """Return the grids that the module or the processor, beside the pixels, says of each picture."""
    own = getattr(module, "image_grid", None)
    if own is not None:
        return [own] * n
    sizes = batch.inputs.get("image_grid_thw")
    if not isinstance(sizes, torch.Tensor) or sizes.shape != (n, 3):
        return None
    vision = getattr(getattr(module, "config", None), "vision_config", None)
    merged = int(getattr(vision, "spatial_merge_size", 1))
    return [(frames * rows // merged, columns // merged) for frames, rows, columns in sizes.tolist()]
