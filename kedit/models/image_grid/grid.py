"""How the image tokens of a picture lie on it: subgrids of them, each over a part of the picture.

What a token covers is its own patch; attention lets it know of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kedit.models.image_grid.tiles import SNAP, Box

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class NoGridError(ValueError):
    """The image tokens do not lie on a grid over the picture."""


@dataclass(frozen=True, eq=False)
class Subgrid:
    """One view of a picture: its tokens row by row."""

    tokens: NDArray[np.int64]
    """`[row, column]`, counted from the picture's first image token."""
    box: Box = WHOLE
    """The part of the picture that it covers; padding lies outside [0, 1]."""

    def edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the edges of the columns, `[column + 1]`, and of the rows, `[row + 1]`, as shares of the picture."""
        rows, columns = self.tokens.shape
        left, top, right, bottom = self.box
        return np.linspace(left, right, columns + 1), np.linspace(top, bottom, rows + 1)


@dataclass(frozen=True, eq=False)
class ImageGrid:
    """How the image tokens of one picture lie on it: in one subgrid or, with the tiles of a picture merged, several."""

    n_tokens: int
    subgrids: tuple[Subgrid, ...]

    @classmethod
    def of(cls, rows: int, columns: int) -> "ImageGrid":
        """Return one subgrid over the whole picture."""
        return cls(rows * columns, (Subgrid(np.arange(rows * columns).reshape(rows, columns)),))

    def cells(self) -> NDArray[np.int64]:
        """Return the subgrid, row and column of each token, `[image_pos, 3]`; -1 where it stands for no place."""
        found = np.full((self.n_tokens, 3), -1)
        for number, subgrid in enumerate(self.subgrids):
            rows, columns = np.indices(subgrid.tokens.shape)
            found[subgrid.tokens] = np.stack([np.full_like(rows, number), rows, columns], -1)
        return found

    def boxes(self) -> NDArray[np.float64]:
        """Return what each token covers of the picture, `[image_pos, 4]`: left, top, right and bottom as shares.

        NaN for a token that stands for no place in it: the end of a line, or padding.
        """
        found = np.full((self.n_tokens, 4), np.nan)
        for subgrid in self.subgrids:
            columns, rows = subgrid.edges()
            sides = [columns[:-1], rows[:-1, None], columns[1:], rows[1:, None]]
            whole = np.stack([np.broadcast_to(side, subgrid.tokens.shape) for side in sides], -1)
            part = np.clip(whole, 0, 1)
            # What is left of a cell of padding by a rounding error is no place.
            left_over = np.subtract(part[..., 2:], part[..., :2]) / np.subtract(whole[..., 2:], whole[..., :2])
            found[subgrid.tokens] = np.where(left_over.min(-1, keepdims=True) < SNAP, np.nan, part)
        return found


def merged(subgrids: Sequence[Subgrid]) -> list[Subgrid]:
    """Return the subgrids with those made one that are of one size and fill a rectangle together."""
    groups: list[list[Subgrid]] = []
    for one in subgrids:
        like = next((group for group in groups if np.allclose(_size(group[0]), _size(one), rtol=0.05)), None)
        groups.append([one]) if like is None else like.append(one)
    return [one for group in groups for one in _joined(group)]


def _size(subgrid: Subgrid) -> tuple[float, float, int]:
    left, top, right, bottom = subgrid.box
    return right - left, bottom - top, subgrid.tokens.size


def _joined(group: list[Subgrid]) -> list[Subgrid]:
    """Return tiles of one size as one subgrid if there is one of them at each place of a rectangle."""
    if len(group) == 1:
        return group
    boxes = np.array([one.box for one in group])
    corner, far = boxes.min(0)[:2], boxes.max(0)[2:]
    step = (boxes[:, 2:] - boxes[:, :2]).mean(0)
    at = np.rint((boxes[:, :2] - corner) / step).astype(int)
    columns, rows = at.max(0) + 1
    tiles = {(row, column): one.tokens for (column, row), one in zip(at.tolist(), group, strict=True)}
    if len(tiles) != len(group) or len(tiles) != rows * columns:
        return group
    tokens = np.block([[tiles[row, column] for column in range(columns)] for row in range(rows)])
    return [Subgrid(tokens, (float(corner[0]), float(corner[1]), float(far[0]), float(far[1])))]
