"""Image tokens that a model packs out of tiles: LLaVA-NeXT and LLaVA-OneVision."""

from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kedit.models.image_grid.grid import WHOLE, ImageGrid, NoGridError, Subgrid
from kedit.models.image_grid.tiles import Box, Places


def packs(module: nn.Module) -> bool:
    """Return whether the module merges the tiles of a picture and writes an embedding at the end of each line."""
    return hasattr(module, "pack_image_features") and isinstance(getattr(module, "image_newline", None), Tensor)


def packed_grid(packer: Any, sizes: Tensor, shown: Places, count: int) -> ImageGrid:
    """Return the grid of the whole picture, then of its tiles as one, without padding, with ends of lines (LLaVA-NeXT).

    The model's own packing does the work: it is given the places of the patches in place of their features.
    """
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    described = packer.config
    side = described.vision_config.image_size // described.vision_config.patch_size
    rows, columns = get_anyres_image_grid_shape(
        sizes[0], described.image_grid_pinpoints, described.vision_config.image_size
    )
    down, across = (torch.arange(n * side, dtype=torch.float64).add(0.5) / (n * side) for n in (rows, columns))
    canvas = torch.stack(torch.meshgrid(down, across, indexing="ij"), -1)
    tiles = canvas.reshape(rows, side, columns, side, 2).transpose(1, 2).reshape(rows * columns, side * side, 2)
    features = torch.cat([torch.full((1, side * side, 2), -1.0, dtype=torch.float64), tiles])
    packed = _packed_features(packer, features, sizes)
    if len(packed) != count:
        raise NoGridError(f"{type(packer).__name__} packs {len(packed)} image tokens, and the prompt holds {count}")
    whole, canvas_box = shown[:1].boxes()[0], shown[1:].joined(rows, columns).boxes()[0]
    base = Subgrid(np.arange(side * side).reshape(side, side), whole or WHOLE)
    lines = int(packed[:, 0].isnan().sum())
    tokens = np.arange(side * side, count).reshape(lines, -1)[:, :-1]
    if canvas_box is None or not tokens.size:
        return ImageGrid(count, (base,))
    return ImageGrid(count, (base, Subgrid(tokens, _within(packed[torch.from_numpy(tokens)], canvas_box))))


def _packed_features(packer: Any, features: Tensor, sizes: Tensor) -> Tensor:
    """Return the features `[tile, patch, feature]` of one picture as the model packs them, NaN at the ends of lines."""
    options: dict[str, Any] = {"image_newline": features.new_full((features.shape[-1],), torch.nan)}
    described = packer.config
    for name in ("vision_feature_select_strategy", "vision_aspect_ratio"):
        if name in signature(packer.pack_image_features).parameters:
            options[name] = getattr(described, name)
    packed, _ = packer.pack_image_features([features], sizes[:1], **options)
    found: Tensor = packed[0]
    return found


def _within(centers: Tensor, canvas: Box) -> Box:
    """Return what part of the picture cells with these centers cover.

    Args:
        centers: `[row, column, 2]`, down and across, as shares of the canvas.
        canvas: What the canvas covers of the picture.
    """
    left, top, right, bottom = canvas
    low, high = centers[0, 0].tolist(), centers[-1, -1].tolist()
    steps = [(high[axis] - low[axis]) / max(1, centers.shape[axis] - 1) / 2 for axis in (0, 1)]
    ends = [(low[axis] - steps[axis], high[axis] + steps[axis]) for axis in (0, 1)]
    (first_row, last_row), (first_column, last_column) = ends
    width, height = right - left, bottom - top
    return (
        left + first_column * width, top + first_row * height, left + last_column * width, top + last_row * height
    )  # fmt: skip
