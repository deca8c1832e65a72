"""From values at image tokens to pixels: a picture's subgrids of tokens, painted over what each of them covers."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kedit.models.image_grid.grid import ImageGrid, NoGridError, Subgrid
from kedit.models.image_grid.reading import picture_grids, token_grids

__all__ = ["ImageGrid", "NoGridError", "Subgrid", "paint", "picture_grids", "smallest_cell", "token_grids"]

Mode = Literal["bilinear", "nearest"]


def paint(
    values: NDArray[np.float64], grid: ImageGrid, size: tuple[int, int], mode: Mode = "bilinear"
) -> NDArray[np.float64]:
    """Return the values of image tokens, `[image_pos]`, over a picture: `[height, width]`.

    Where several subgrids cover a pixel, it gets their mean; where none does, as beyond the crop of a picture, zero.

    Args:
        values: One for each image token.
        grid: How the tokens lie on the picture.
        size: Width and height of the picture in pixels, as `PIL.Image.size`.
        mode: How cells become pixels; `bilinear` interpolates between the centers of cells.
    """
    width, height = size
    total, covered = np.zeros((height, width)), np.zeros((height, width))
    for subgrid in grid.subgrids:
        rows, columns = subgrid.tokens.shape
        left, top, right, bottom = subgrid.box
        across, down = _shares(width, columns, left, right, mode), _shares(height, rows, top, bottom, mode)
        total += down @ values[subgrid.tokens] @ across.T
        covered += np.outer(down.any(1), across.any(1))
    return total / np.maximum(covered, 1)


def smallest_cell(grid: ImageGrid, size: tuple[int, int]) -> int:
    """Return the side of the grid's smallest cell in pixels of a picture of `size`, width and height."""
    width, height = size
    sides = []
    for subgrid in grid.subgrids:
        rows, columns = subgrid.tokens.shape
        left, top, right, bottom = subgrid.box
        sides += [width * (right - left) / columns, height * (bottom - top) / rows]
    return int(min(sides) + 1e-6)


def _shares(n_pixels: int, n_cells: int, low: float, high: float, mode: Mode) -> NDArray[np.float64]:
    """Return how much of each cell each pixel takes, `[pixel, cell]`; of none beyond them, from `low` to `high`."""
    centers = (np.arange(n_pixels) + 0.5) / n_pixels
    at = (centers - low) / (high - low) * n_cells
    inside = (at >= 0) & (at <= n_cells)
    shares = np.zeros((n_pixels, n_cells))
    pixels = np.arange(n_pixels)
    if mode == "nearest":
        shares[pixels, np.clip(np.floor(at).astype(int), 0, n_cells - 1)] = 1
    else:
        at = np.clip(at - 0.5, 0, n_cells - 1)
        first = np.clip(np.floor(at).astype(int), 0, max(n_cells - 2, 0))
        second = np.minimum(first + 1, n_cells - 1)
        np.add.at(shares, (pixels, first), 1 - (at - first))
        np.add.at(shares, (pixels, second), at - first)
    return shares * inside[:, None]
