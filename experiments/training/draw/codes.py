"""The code of each cell of a picture: its background, or the color of the object on it and which part that shows."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kedit.data.grammar import BACKGROUNDS, CATEGORIES, COLORS
from kedit.data.scene import RADII, RGB, SIZE, Scene, Thing
from kedit.data.shapes import coverage

GRID = 8
"""Cells to a side; a cell has 8 x 8 pixels."""
CELL = SIZE // GRID
PARTS = 84
"""Kinds of views of an object that a cell may show: clusters of what the object covers there and next to it."""
N_CODES = len(BACKGROUNDS) + len(COLORS) * PARTS
MARGIN, MARGIN_WEIGHT, KIND_WEIGHT = 2, 0.5, 2.5
"""Pixels around a cell that its part depends on, how much, and how much it depends on the category."""
STAMP, SNAPPED_RADIUS = 3, 11
"""Cells to a side, and radius in pixels, of an object that is snapped to the grid."""
FAINT = 0.04
"""Share of a cell that an object has to cover; a cell without such an object is background."""


class Cells(NamedTuple):
    """The cells of one scene that an object covers: which cells, `[cell]`, colors, and views, `[cell, feature]`."""

    where: NDArray[np.int64]
    color: NDArray[np.int64]
    view: NDArray[np.float32]


def clean(one: Scene) -> NDArray[np.float32]:
    """Return the picture of a scene without texture, tint, shade and noise: `[64, 64, 3]`, 0 to 255."""
    canvas = np.full((SIZE, SIZE, 3), RGB[one.background], np.float32)
    for thing in one.things:
        alpha = mask(thing)[..., None]
        canvas = canvas * (1 - alpha) + np.asarray(RGB[thing.color], np.float32) * alpha
    return canvas


def crowded(seed: int) -> Scene:
    """Return a scene with as many things, at most eight, as find a place in 60 trials: more to learn in one picture."""
    rng = np.random.default_rng((seed, 3))
    things: list[Thing] = []
    for _ in range(60):
        radius = int(rng.choice(RADII))
        x, y = (int(center) for center in rng.integers(radius, SIZE - radius + 1, 2))
        thing = Thing(str(rng.choice(CATEGORIES)), str(rng.choice(COLORS)), x, y, radius)
        if len(things) < 8 and all(max(abs(x - t.x), abs(y - t.y)) > radius + t.radius for t in things):
            things.append(thing)
    return Scene(seed, str(rng.choice(BACKGROUNDS)), "plain", tuple(things))


def snapped(one: Scene, rng: np.random.Generator) -> Scene:
    """Return a scene of the same objects, each of one size and in the middle of three by three cells of its own.

    A caption leaves places and sizes free. Snapped to the grid, an object is the same nine codes wherever it is.
    """
    while True:
        places = rng.integers(1, GRID - 1, (len(one.things), 2))
        apart = np.abs(places[:, None] - places[None]).max(-1) + GRID * np.eye(len(places))
        if apart.min() >= STAMP:
            break
    things = [
        replace(thing, x=int(column) * CELL + CELL // 2, y=int(row) * CELL + CELL // 2, radius=SNAPPED_RADIUS)
        for thing, (row, column) in zip(one.things, places, strict=True)
    ]
    return replace(one, things=tuple(things))


def stamps(centers: Tensor) -> NDArray[np.int64]:
    """Return the parts of a snapped object of each category: `[category, 3, 3]`, -1 where it is not to be seen."""
    found = np.full((len(CATEGORIES), STAMP, STAMP), -1, np.int64)
    for number, category in enumerate(CATEGORIES):
        middle = CELL + CELL // 2
        seen = cells(Scene(0, BACKGROUNDS[0], "plain", (Thing(category, COLORS[0], middle, middle, SNAPPED_RADIUS),)))
        parts = assign(torch.from_numpy(seen.view), centers).numpy()
        found[number, seen.where // GRID, seen.where % GRID] = parts
    return found


def stamped(one: Scene, table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the codes of a snapped scene, `[64]`, from `stamps`: what `codes` returns, sooner."""
    grid = np.full((GRID, GRID), BACKGROUNDS.index(one.background), np.int64)
    for thing in one.things:
        parts = table[CATEGORIES.index(thing.category)]
        top, left = thing.y // CELL - 1, thing.x // CELL - 1
        block = grid[top : top + STAMP, left : left + STAMP]
        block[parts >= 0] = (len(BACKGROUNDS) + COLORS.index(thing.color) * PARTS + parts)[parts >= 0]
    return grid.reshape(-1)


def mask(thing: Thing) -> NDArray[np.float32]:
    """Return the share of each pixel that a thing covers: `[64, 64]`."""
    whole = np.zeros((SIZE, SIZE), np.float32)
    rows, columns = (slice(center - thing.radius, center + thing.radius) for center in (thing.y, thing.x))
    whole[rows, columns] = coverage(thing.category, thing.radius)
    return whole


def cells(one: Scene) -> Cells:
    """Return the cells that objects cover; where two do, that of the one that covers more."""
    masks = np.stack([mask(thing) for thing in one.things])
    shares = masks.reshape(len(masks), GRID, CELL, GRID, CELL).mean((2, 4)).reshape(len(masks), -1)
    owner = shares.argmax(0)
    where = np.flatnonzero(shares.max(0) >= FAINT)
    padded = np.pad(masks, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    side = CELL + 2 * MARGIN
    weight = np.full((side, side), MARGIN_WEIGHT, np.float32)
    weight[MARGIN:-MARGIN, MARGIN:-MARGIN] = 1
    view = np.zeros((len(where), side * side + len(CATEGORIES)), np.float32)
    for row, cell in enumerate(where):
        top, left = (cell // GRID) * CELL, (cell % GRID) * CELL
        view[row, : side * side] = (padded[owner[cell], top : top + side, left : left + side] * weight).ravel()
        view[row, side * side + CATEGORIES.index(one.things[owner[cell]].category)] = KIND_WEIGHT
    color = np.array([COLORS.index(one.things[owner[cell]].color) for cell in where], np.int64)
    return Cells(where, color, view)


def fit_parts(scenes: Iterable[Scene], *, seed: int, rounds: int = 25) -> Tensor:
    """Return the centers of the parts, `[part, feature]`, by k-means; a part without cells starts anew."""
    views = torch.from_numpy(np.concatenate([cells(one).view for one in scenes]))
    random = torch.Generator().manual_seed(seed)
    centers = views[torch.randperm(len(views), generator=random)[:PARTS]]
    for _ in range(rounds):
        nearest = assign(views, centers)
        counts = torch.bincount(nearest, minlength=PARTS)
        sums = torch.zeros_like(centers).index_add_(0, nearest, views)
        fresh = views[torch.randint(len(views), (PARTS,), generator=random)]
        centers = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), fresh)
    return centers


def assign(views: Tensor, centers: Tensor) -> Tensor:
    """Return the nearest center of each view: `[cell]`."""
    return (centers.square().sum(1) - 2 * views @ centers.T).argmin(1)


def codes(one: Scene, centers: Tensor) -> NDArray[np.int64]:
    """Return the code of each cell of a scene, `[64]`, row by row."""
    found = np.full(GRID * GRID, BACKGROUNDS.index(one.background), np.int64)
    seen = cells(one)
    part = assign(torch.from_numpy(seen.view), centers).numpy()
    found[seen.where] = len(BACKGROUNDS) + seen.color * PARTS + part
    return found


def codebook(centers: Tensor, width: int) -> Tensor:
    """Return a first codebook, `[code, width]`: unit vectors, close for codes of one color or alike parts."""
    n_kinds = len(BACKGROUNDS) + len(COLORS)
    shapes = torch.linalg.svd(centers - centers.mean(0), full_matrices=False)
    parts = (shapes.U * shapes.S)[:, : width - n_kinds]
    parts = parts / parts.norm(dim=1, keepdim=True).mean()
    table = torch.zeros(N_CODES, width)
    for number in range(N_CODES):
        if number < len(BACKGROUNDS):
            table[number, number] = 1
            continue
        color, part = divmod(number - len(BACKGROUNDS), PARTS)
        table[number, len(BACKGROUNDS) + color] = 1
        table[number, n_kinds:] = parts[part]
    return torch.nn.functional.normalize(table, dim=1)
