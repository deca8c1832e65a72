"""The twelve shapes of the picture world, drawn analytically."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]
Inside = Callable[[Grid, Grid], NDArray[np.bool_]]

SUPERSAMPLING = 4


def _polygon(*corners: tuple[float, float]) -> Inside:
    """Return the even-odd inside test of a polygon (x to the right, y down)."""

    def inside(x: Grid, y: Grid) -> NDArray[np.bool_]:
        result = np.zeros(x.shape, dtype=bool)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if y0 == y1:
                continue
            crosses = (y0 > y) != (y1 > y)
            result ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        return result

    return inside


def _star(x: Grid, y: Grid) -> NDArray[np.bool_]:
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    corners = [(float(r * np.cos(a)), float(r * np.sin(a))) for r, a in zip(radii, angles, strict=True)]
    return _polygon(*corners)(x, y)


def _heart(x: Grid, y: Grid) -> NDArray[np.bool_]:
    u, v = x * 1.25, 0.15 - y * 1.2
    return (u**2 + v**2 - 1) ** 3 - u**2 * v**3 <= 0


def _house(x: Grid, y: Grid) -> NDArray[np.bool_]:
    roof = _polygon((0, -0.95), (0.95, -0.1), (-0.95, -0.1))(x, y)
    walls = (np.abs(x) <= 0.68) & (y >= -0.1) & (y <= 0.85)
    door = (np.abs(x) <= 0.2) & (y >= 0.25)
    return (roof | walls) & ~door


def _tree(x: Grid, y: Grid) -> NDArray[np.bool_]:
    top = _polygon((0, -1.0), (0.55, -0.2), (-0.55, -0.2))(x, y)
    skirt = _polygon((0, -0.55), (0.8, 0.5), (-0.8, 0.5))(x, y)
    trunk = (np.abs(x) <= 0.16) & (y >= 0.4) & (y <= 1.0)
    return top | skirt | trunk


SHAPES: dict[str, Inside] = {
    "circle": lambda x, y: x**2 + y**2 <= 0.9,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.8,
    "triangle": _polygon((0, -0.9), (0.95, 0.75), (-0.95, 0.75)),
    "star": _star,
    "heart": _heart,
    "cross": lambda x, y: (np.minimum(np.abs(x), np.abs(y)) <= 0.27) & (np.maximum(np.abs(x), np.abs(y)) <= 0.92),
    "ring": lambda x, y: (x**2 + y**2 <= 0.95) & (x**2 + y**2 >= 0.32),
    "moon": lambda x, y: (x**2 + y**2 <= 0.95) & ((x - 0.45) ** 2 + y**2 >= 0.6),
    "diamond": lambda x, y: np.abs(x) / 0.68 + np.abs(y) <= 1.0,
    "arrow": _polygon((-0.95, -0.25), (0.1, -0.25), (0.1, -0.75), (0.98, 0), (0.1, 0.75), (0.1, 0.25), (-0.95, 0.25)),
    "tree": _tree,
    "house": _house,
}
"""Inside tests over the unit square [-1, 1] x [-1, 1], y down."""


@lru_cache(maxsize=512)
def coverage(shape: str, radius: int) -> NDArray[np.float32]:
    """Return the share of each pixel that `shape` covers: `[2 * radius, 2 * radius]` in [0, 1]."""
    steps = 2 * radius * SUPERSAMPLING
    axis = (np.arange(steps) + 0.5) / steps * 2 - 1
    x, y = np.meshgrid(axis, axis)
    cells = SHAPES[shape](x, y).reshape(2 * radius, SUPERSAMPLING, 2 * radius, SUPERSAMPLING)
    covered: NDArray[np.float32] = cells.mean((1, 3)).astype(np.float32)
    covered.setflags(write=False)
    return covered
