"""One picture of the embedded world: what it shows, its pixels, its exact masks and its exact counterfactual."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kedit.data import grammar
from kedit.data.grammar import BACKGROUNDS, CATEGORIES, COLORS, Phrase
from kedit.data.shapes import coverage
from kedit.samples import Mask

SIZE = 64
RADII = range(8, 13)
TEXTURES = ("plain", "stripes", "dots", "gradient")
PIXEL_NOISE = 6.0
"""Standard deviation of the noise on each channel, in 8-bit levels."""
PAIR_SHARE = 0.15

RGB = {
    "red": (214, 39, 40),
    "green": (44, 160, 60),
    "blue": (50, 90, 220),
    "yellow": (240, 215, 50),
    "purple": (145, 60, 185),
    "orange": (245, 140, 30),
    "white": (236, 236, 236),
    "gray": (128, 128, 128),
    "black": (28, 28, 28),
    "pink": (244, 182, 200),
}


@dataclass(frozen=True)
class Thing:
    """One drawn object; `x` and `y` are the center in pixels, `radius` half the side of its box."""

    category: str
    color: str
    x: int
    y: int
    radius: int


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Everything, the noise included, follows from the seed."""

    seed: int
    background: str
    texture: str
    things: tuple[Thing, ...]

    @property
    def categories(self) -> frozenset[str]:
        """The categories in the picture."""
        return frozenset(thing.category for thing in self.things)

    @property
    def paired(self) -> frozenset[str]:
        """The categories that are there twice."""
        counts = Counter(thing.category for thing in self.things)
        return frozenset(category for category, count in counts.items() if count > 1)

    @cached_property
    def phrases(self) -> tuple[Phrase, ...]:
        """The object phrases of a caption, in training order."""
        kinds = {(thing.category, thing.color) for thing in self.things}
        counted = [Phrase(*kind, sum((t.category, t.color) == kind for t in self.things)) for kind in kinds]
        return tuple(grammar.in_order(counted))

    def captions(self) -> tuple[str, ...]:
        """Return every valid caption, the most usual one first; none for a scene without objects."""
        return tuple(grammar.captions(self.phrases, self.background))

    def without(self, category: str) -> "Scene":
        """Return the exact counterfactual: the same scene and noise, `category` not drawn."""
        return replace(self, things=tuple(t for t in self.things if t.category != category))

    def region(self, category: str) -> Mask:
        """Return the pixels that `category` touches: `[64, 64]`, true inside."""
        touched = np.zeros((SIZE, SIZE), dtype=bool)
        for thing in self.things:
            if thing.category == category:
                touched[_box(thing)] |= coverage(thing.category, thing.radius) > 0
        return touched

    def pixels(self) -> NDArray[np.uint8]:
        """Render the scene: `[64, 64, 3]`."""
        rng = np.random.default_rng((self.seed, 1))
        tint = rng.normal(0, 8, 3)
        noise = rng.normal(0, PIXEL_NOISE, (SIZE, SIZE, 3)).astype(np.float32)
        phase = int(rng.integers(0, 8))
        canvas = _backdrop(self.background, self.texture, phase) + tint.astype(np.float32)
        for thing in self.things:
            # The shade depends on the place alone, so leaving another object out does not change it.
            shade = np.random.default_rng((self.seed, 2, thing.x, thing.y)).normal(0, 8, 3)
            alpha = coverage(thing.category, thing.radius)[..., None]
            paint = np.asarray(RGB[thing.color], np.float32) + shade.astype(np.float32)
            canvas[_box(thing)] = canvas[_box(thing)] * (1 - alpha) + paint * alpha
        pixels: NDArray[np.uint8] = np.clip(canvas + noise, 0, 255).astype(np.uint8)
        return pixels

    def image(self) -> Image.Image:
        """Render the scene as a picture."""
        return Image.fromarray(self.pixels())


def _box(thing: Thing) -> tuple[slice, slice]:
    return (
        slice(thing.y - thing.radius, thing.y + thing.radius),
        slice(thing.x - thing.radius, thing.x + thing.radius),
    )


def _backdrop(background: str, texture: str, phase: int) -> NDArray[np.float32]:
    """Return the canvas before anything is drawn: `[64, 64, 3]`."""
    canvas: NDArray[np.float32] = np.full((SIZE, SIZE, 3), RGB[background], np.float32)
    row, column = np.mgrid[0:SIZE, 0:SIZE]
    patterns: dict[str, Callable[[], NDArray[np.float64]]] = {
        "plain": lambda: np.zeros((SIZE, SIZE)),
        "stripes": lambda: np.where((row + phase) % 8 < 4, 9.0, -9.0),
        "dots": lambda: np.where(((row + phase) % 8 < 3) & ((column + phase) % 8 < 3), -22.0, 3.0),
        "gradient": lambda: (column - SIZE / 2) * 0.6,
    }
    canvas += patterns[texture]()[..., None].astype(np.float32)
    return canvas


def scene(seed: int, *, colors: Literal["distinct", "free"] = "distinct") -> Scene:
    """Return the scene of `seed`: 1-3 objects that do not overlap.

    Args:
        seed: Any integer from 0; equal seeds give equal pixels.
        colors: `distinct` gives objects of different category different colors; `free` does not, which
            makes captions harder (22 % of the scenes then have two categories in one color).
    """
    if seed < 0:
        raise ValueError(f"the seed of a scene is 0 or more, got {seed}")
    rng = np.random.default_rng((seed, 0))
    background = str(rng.choice(BACKGROUNDS))
    texture = str(rng.choice(TEXTURES))
    n_phrases = int(rng.choice([1, 2, 3], p=[0.25, 0.4, 0.35]))
    kinds = rng.choice(len(CATEGORIES), n_phrases, replace=False)
    palette = rng.choice(len(COLORS), n_phrases, replace=colors == "free")
    named = [(CATEGORIES[k], COLORS[c]) for k, c in zip(kinds, palette, strict=True)]
    if n_phrases < 3 and rng.random() < PAIR_SHARE * 1.5:
        named.append(named[0])
    return Scene(seed, background, texture, tuple(_place(named, rng)))


def _place(named: list[tuple[str, str]], rng: np.random.Generator) -> Iterator[Thing]:
    """Yield a thing for each (category, color), at random places that keep apart."""
    while True:
        radii = rng.choice(RADII, len(named))
        centers = [rng.integers(r, SIZE - r + 1, 2) for r in radii]
        apart = all(
            np.abs(centers[i] - centers[j]).max() > radii[i] + radii[j] for i in range(len(named)) for j in range(i)
        )
        if apart:
            break
    for (category, color), (x, y), radius in zip(named, centers, radii, strict=True):
        yield Thing(category, color, int(x), int(y), int(radius))


def scenes(start: int = 0, *, colors: Literal["distinct", "free"] = "distinct") -> Iterator[Scene]:
    """Yield the scenes of the seeds from `start` on, without end."""
    return (scene(seed, colors=colors) for seed in count(start))
