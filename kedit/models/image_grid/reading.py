"""Where in a picture each image token lies, in models where it lies somewhere: only then is a map of them one of it."""

import re
from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image
from torch import nn

from kedit.models.image_grid.grid import WHOLE, ImageGrid, NoGridError, Subgrid, merged
from kedit.models.image_grid.packing import packed_grid, packs
from kedit.models.image_grid.tiles import Places, places
from kedit.models.mllm import IMAGE, MLLM, TeacherForced

RESAMPLER = re.compile(r"q_?former|resampler|perceiver", re.IGNORECASE)
"""Names of modules and classes whose output tokens stand for no place of the picture."""


def picture_grids(model: MLLM, images: Sequence[Image]) -> list[ImageGrid]:
    """Return how the image tokens of each picture lie on it, after the captioning prompt.

    The tiles of a picture, and what of it they show, are measured (`kedit.models.image_grid.tiles`); tiles that fill a
    rectangle together become one subgrid. Ends of lines, which are image tokens in some models, are in no subgrid.

    Raises:
        NoGridError: The language model's sequence holds no picture, or its tokens stand for no place in it.
    """
    known: dict[tuple[int, int], ImageGrid] = {}
    for image in images:
        if image.size not in known:
            known[image.size] = _grid(model, image)
    return [known[image.size] for image in images]


def token_grids(module: nn.Module, batch: TeacherForced) -> list[tuple[int, int]]:
    """Return the rows and columns of the image tokens of each picture in `batch`, where they are one subgrid.

    They are what the module says of itself (`image_grid`), else the processor (`image_grid_thw` of Qwen's models,
    merged patches counted once), else a square.

    Raises:
        NoGridError: The model resamples its pictures, or the tokens of one do not fill a square. Cutting a picture
            into tiles, and a class token among the patches, end here.
    """
    _refuse_resampler(module)
    counts = [int(count) for count in (batch.token_types == IMAGE).sum(1)]
    grids = _stated_grids(module, batch, len(counts)) or [(side := int(count**0.5), side) for count in counts]
    for (rows, columns), count in zip(grids, counts, strict=True):
        if rows * columns != count or not count:
            raise NoGridError(
                f"{count} image tokens of a picture do not fill a grid of {rows} x {columns}; {type(module).__name__} "
                "may cut pictures into tiles or keep a class token"
            )
    return grids


def _refuse_resampler(module: nn.Module) -> None:
    if getattr(module, "pools_pictures", False):
        raise NoGridError(f"{type(module).__name__} makes a picture one vector: its tokens stand for no place in it")
    for path, one in module.named_modules():
        if RESAMPLER.search(path.rpartition(".")[2]) or RESAMPLER.search(type(one).__name__):
            raise NoGridError(
                f"`{path}` of {type(module).__name__} resamples the picture: its tokens stand for no place in it"
            )


def _stated_grids(module: nn.Module, batch: TeacherForced, n: int) -> list[tuple[int, int]] | None:
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


def _grid(model: MLLM, image: Image) -> ImageGrid:
    module, batch = model.module, model.teacher_forced([image], [()])
    _refuse_resampler(module)
    count = int((batch.token_types == IMAGE).sum())
    if not count:
        raise NoGridError(
            f"the sequence of {type(module).__name__} holds no picture: its layers look at it from outside"
        )
    pixels = batch.inputs.get("pixel_values")
    if _stated_grids(module, batch, 1) is not None or pixels is None or pixels.ndim < 4:
        return ImageGrid.of(*token_grids(module, batch)[0])
    shown = places(lambda drawn: model.teacher_forced([drawn], [()]).inputs["pixel_values"], image.size)
    packer = next((one for one in module.modules() if packs(one)), None)
    sizes = batch.inputs.get("image_sizes")
    if packer is not None and sizes is not None:
        return packed_grid(packer, sizes, shown, count)
    if sizes is not None:
        return _in_lines(module, (int(pixels.shape[-2]), int(pixels.shape[-1])), shown, count)
    return _tiled(module, shown, count)


def _tiled(module: nn.Module, shown: Places, count: int) -> ImageGrid:
    """Return the grid of tokens that come tile after tile, each a square of them."""
    n_tiles = len(shown.across)
    side = round((count / n_tiles) ** 0.5)
    if side * side * n_tiles != count:
        raise NoGridError(
            f"{count} image tokens of a picture do not fill {n_tiles} squares, one for each tile; "
            f"{type(module).__name__} may keep a class token"
        )
    tokens = np.arange(count).reshape(n_tiles, side, side)
    boxed = zip(tokens, shown.boxes(), strict=True)
    return ImageGrid(count, tuple(merged([Subgrid(one, box) for one, box in boxed if box is not None])))


def _in_lines(module: nn.Module, size: tuple[int, int], shown: Places, count: int) -> ImageGrid:
    """Return the grid of a picture of any height and width, with or without ends of lines (Emu3)."""
    for patch in range(1, min(size) + 1):
        rows, columns = size[0] // patch, size[1] // patch
        ends = count - rows * columns
        if not size[0] % patch and not size[1] % patch and ends in (0, rows):
            box = shown.boxes()[0] or WHOLE
            tokens = np.arange(count).reshape(rows, -1)[:, :columns]
            return ImageGrid(count, (Subgrid(tokens, box),))
    raise NoGridError(
        f"{count} image tokens do not fill the rows of a picture of {size[0]} x {size[1]} pixels in "
        f"{type(module).__name__}"
    )
