"""What part of a picture a processor shows the model, measured on drawn pictures rather than read off its options."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of the picture's width and height; what lies outside [0, 1] is padding."""
SNAP = 0.01
"""How near to the picture's edge a tile ends there: processors blur the outermost pixels, colors have 256 steps."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where in the picture each pixel comes from that the model is shown."""

    across: Tensor
    """`[tile, height, width]`: the share of the picture's width to the left of it."""
    down: Tensor
    """`[tile, height, width]`: the share of its height above it."""
    shown: Tensor
    """`[tile, height, width]`: whether it is of the picture at all, and not padding."""

    def joined(self, rows: int, columns: int) -> "Places":
        """Return the tiles, which are in the order of reading, as one: `[1, rows * height, columns * width]`."""

        def join(tiles: Tensor) -> Tensor:
            _, height, width = tiles.shape
            grid = tiles.reshape(rows, columns, height, width).transpose(1, 2)
            return grid.reshape(1, rows * height, columns * width)

        return Places(join(self.across), join(self.down), join(self.shown))

    def __getitem__(self, tiles: slice) -> "Places":
        return Places(self.across[tiles], self.down[tiles], self.shown[tiles])

    def boxes(self) -> list[Box | None]:
        """Return what each tile covers, padding included; None for one with too little of the picture to tell."""
        found: list[Box | None] = []
        for across, down, shown in zip(self.across, self.down, self.shown, strict=True):
            ends = [_ends(across, shown), _ends(down.T, shown.T)]
            (left, right), (top, bottom) = (one or (np.nan, np.nan) for one in ends)
            found.append((left, top, right, bottom) if all(ends) else None)
        return found


def places(pixels: Callable[[Image.Image], Tensor], size: tuple[int, int]) -> Places:
    """Return where the pixels come from that a processor makes of a picture of `size`, width and height.

    Three pictures go through it: a black, a white, and one whose red rises from left to right and whose green from top
    to bottom. Whatever it does to sizes, edges, tiles and scales shows in where the colors arrive.

    Args:
        pixels: The processor: `[..., channel, height, width]` of a picture, in which every tile is one.
        size: Width and height.
    """
    width, height = size
    black, white = (_tiles(pixels(Image.new("RGB", size, color))) for color in ("black", "white"))
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.round(255 * (np.arange(width) + 0.5) / width)
    ramp[..., 1] = np.round(255 * (np.arange(height) + 0.5) / height)[:, None]
    drawn, contrast = _tiles(pixels(Image.fromarray(ramp))), white - black
    shares = (drawn - black) / contrast
    # A pixel that is the same in a black and in a white picture shows neither.
    shown = (contrast[:, 0].abs() > 0.99 * contrast[:, 0].abs().max()) & torch.isfinite(shares[:, :2]).all(1)
    return Places(shares[:, 0], shares[:, 1], shown)


def _tiles(pixels: Tensor) -> Tensor:
    return pixels.detach().double().cpu().reshape(-1, *pixels.shape[-3:])


def _ends(shares: Tensor, shown: Tensor) -> tuple[float, float] | None:
    """Return the shares at both ends of a tile's width, by the straight line through its columns."""
    counts = shown.sum(0)
    columns = torch.nonzero(counts)[:, 0]
    if len(columns) < 2:
        return None
    means = shares.masked_fill(~shown, 0).sum(0)[columns] / counts[columns]
    centers = (columns.double() + 0.5) / shares.shape[1]
    slope, start = np.polyfit(centers.numpy(), means.numpy(), 1)
    return _snapped(float(start)), _snapped(float(start + slope))


def _snapped(share: float) -> float:
    edge = round(share)
    return float(edge) if edge in (0, 1) and abs(share - edge) < SNAP else share
