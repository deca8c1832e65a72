"""What a picture of the picture world shows, read from its pixels: the judge of drawn pictures.

No model: each pixel is the background, a colour of the world or a mixture of both; what is mixed in is compared with
every shape of every size at every place. Pictures that another decoder drew (blurred, noisy, not at whole pixels) are
read as well, and what no shape explains is counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kedit.data.grammar import BACKGROUNDS, CATEGORIES, COLORS
from kedit.data.scene import RADII, RGB, SIZE, Scene, Thing
from kedit.data.shapes import coverage

Values = NDArray[np.float64]

LEAST_MATCH = 0.9
"""The Dice overlap of a shape with the paint it explains from which on the shape is there."""
LEAST_PAINT = 12
"""Pixels that are surely of a colour, from which on the colour is looked for."""
SURE = 0.6
"""How much of a pixel has to be paint for the pixel to be surely painted."""
FAR = 48.0
"""How far from every mixture of background and paint a pixel may lie, in 8-bit levels: beyond, it is no paint."""
MARGIN = 2
"""Pixels around a shape's box that have to be free of its paint."""
_PLANE = (SIZE + 2 * (MARGIN + max(RADII) + MARGIN),) * 2
"""Room for a padded picture and the largest template beside each other: correlation by Fourier transforms is cyclic."""
MOST_UNEXPLAINED = 0.3
"""The share of the paint that no shape explains, up to which a picture is a valid scene."""
MOST_THINGS, MOST_PHRASES = 4, 3
"""What a scene of the picture world holds at most; see `kedit.data.scene.scene`."""


@dataclass(frozen=True)
class Found:
    """What was found in a picture."""

    scene: Scene
    """Background and things, with `categories`, `phrases` and `region`; its seed is 0 and its texture `plain`: these
    are not read."""
    matches: tuple[float, ...]
    """For each thing the Dice overlap of its shape with the paint there, 0.9 to 1."""
    unexplained: float
    """The share of all paint that no thing explains, 0 to 1; 0 where there is no paint."""

    @property
    def is_valid(self) -> bool:
        """Whether the picture is a scene of the world: 1 to 3 kinds of things and hardly a trace beside them."""
        phrases = self.scene.phrases
        whole = bool(self.scene.things) and self.unexplained <= MOST_UNEXPLAINED
        return whole and len(self.scene.things) <= MOST_THINGS and len(phrases) <= MOST_PHRASES


def find(picture: Image.Image) -> Found:
    """Return what a picture of the picture world shows.

    Args:
        picture: 64 x 64 pixels; of another size, it is resized.
    """
    small = picture.convert("RGB")
    small = small if small.size == (SIZE, SIZE) else small.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, np.float64)
    background, backdrop = _backdrop(pixels)
    paints = _paints(pixels, backdrop)
    placed: list[tuple[Thing, float]] = []
    total = left = 0.0
    for color, paint in paints.items():
        total += float(paint.sum())
        placed += _things(color, paint)
        left += float(paint.sum())
    things = tuple(thing for thing, _ in placed)
    share = left / total if total else 0.0
    return Found(Scene(0, background, "plain", things), tuple(match for _, match in placed), share)


def _backdrop(pixels: Values) -> tuple[str, Values]:
    """Return the name of the background and what it is at each pixel, `[64, 64, 3]`: level and slope by column."""
    names = (*BACKGROUNDS, *COLORS)
    distances = np.stack([np.linalg.norm(pixels - np.asarray(RGB[name], float), axis=2) for name in names])
    nearest = distances.argmin(0)
    n = [int((nearest == number).sum()) for number in range(len(BACKGROUNDS))]
    name = BACKGROUNDS[int(np.argmax(n))]
    column = np.arange(SIZE) / SIZE - 0.5
    free = (nearest == names.index(name)) & (distances[names.index(name)] < FAR)
    level = np.asarray(RGB[name], float)
    if free.sum() < SIZE:
        return name, np.broadcast_to(level, pixels.shape)
    at = np.broadcast_to(column, (SIZE, SIZE))[free]
    design = np.stack([np.ones_like(at), at], axis=1)
    weights, *_ = np.linalg.lstsq(design, pixels[free], rcond=None)
    return name, np.broadcast_to(weights[0] + column[:, None] * weights[1], pixels.shape)


def _paints(pixels: Values, backdrop: Values) -> dict[str, Values]:
    """Return for each colour that is there how much of each pixel is its paint, `[64, 64]` in [0, 1]."""
    first = _mixed(pixels, backdrop, {color: np.asarray(RGB[color], float) for color in COLORS})
    shades = {
        color: np.median(pixels[share > SURE], axis=0)
        for color, share in first.items()
        if (share > SURE).sum() >= LEAST_PAINT
    }
    return _mixed(pixels, backdrop, shades)


def _mixed(pixels: Values, backdrop: Values, shades: dict[str, Values]) -> dict[str, Values]:
    """Return how much of each pixel is of the shade whose mixture with the backdrop comes nearest to it."""
    if not shades:
        return {}
    shares, misses = [], []
    for shade in shades.values():
        way = shade - backdrop
        share = (((pixels - backdrop) * way).sum(2) / np.maximum((way**2).sum(2), 1.0)).clip(0.0, 1.0)
        shares.append(share)
        misses.append(np.linalg.norm(pixels - backdrop - share[..., None] * way, axis=2))
    nearest = np.argmin(misses, axis=0)
    return {
        color: np.where((nearest == number) & (misses[number] < FAR) & (shares[number] > 0.25), shares[number], 0.0)
        for number, color in enumerate(shades)
    }


def _things(color: str, paint: Values) -> Iterator[tuple[Thing, float]]:
    """Yield the things of one colour, the best match first, and take from `paint` what each explains."""
    for _ in range(MOST_THINGS + 1):
        if paint.sum() < LEAST_PAINT:
            return
        thing, match = _best(color, paint)
        if match < LEAST_MATCH:
            return
        paint[_around(thing)] = 0.0
        yield thing, match


def _around(thing: Thing) -> tuple[slice, slice]:
    """Return the box of a thing, one pixel wider on each side: what blur carries out of it."""
    reach = thing.radius + 1
    return (
        slice(max(0, thing.y - reach), thing.y + reach),
        slice(max(0, thing.x - reach), thing.x + reach),
    )


def _best(color: str, paint: Values) -> tuple[Thing, float]:
    """Return the thing that matches the paint best, and its Dice overlap, over all shapes, sizes, blurs and places."""
    names, spectra, energies = _templates()
    padded = np.pad(paint, MARGIN).astype(np.float32)
    correlated = np.fft.irfft2(np.fft.rfft2(padded, _PLANE) * spectra, _PLANE)
    overlaps = np.full((len(names), SIZE + 1, SIZE + 1), -1.0)
    within = {radius: _sums(paint**2, radius + MARGIN) for radius in RADII}
    for number, (_, radius) in enumerate(names):
        # The first row and column of a template lie `radius` before its center, and in the padding the margin is free.
        n = SIZE - 2 * radius + 1
        centers = slice(radius, radius + n)
        overlaps[number, centers, centers] = (
            2 * correlated[number, :n, :n] / (within[radius][centers, centers] + energies[number])
        )
    number, y, x = (int(one) for one in np.unravel_index(overlaps.argmax(), overlaps.shape))
    category, radius = names[number]
    return Thing(category, color, x, y, radius), float(overlaps[number, y, x].clip(0.0, 1.0))


def _sums(values: Values, reach: int) -> Values:
    """Return for each center (a corner of pixels, `[65, 65]`) the sum of the square that reaches so far from it."""
    total = np.zeros((SIZE + 1, SIZE + 1))
    total[1:, 1:] = values.cumsum(0).cumsum(1)
    low = np.maximum(np.arange(SIZE + 1) - reach, 0)
    high = np.minimum(np.arange(SIZE + 1) + reach, SIZE)
    sums: Values = total[np.ix_(high, high)] - total[np.ix_(low, high)] - total[np.ix_(high, low)]
    sums += total[np.ix_(low, low)]
    return sums


@lru_cache(maxsize=1)
def _templates() -> tuple[Sequence[tuple[str, int]], NDArray[np.complex64], Values]:
    """Return shape and radius of each template, the spectrum that correlates with it, and its sum of squares."""
    names = [(category, radius) for category in CATEGORIES for radius in RADII] * 2
    sharp = [np.pad(coverage(*name).astype(np.float64), MARGIN) for name in names[: len(names) // 2]]
    drawn = [*sharp, *map(_blurred, sharp)]
    spectra = np.stack([np.conj(np.fft.rfft2(one, _PLANE)) for one in drawn]).astype(np.complex64)
    return names, spectra, np.array([float((one**2).sum()) for one in drawn])


def _blurred(shape: Values) -> Values:
    """Return a shape as a decoder softens it: weights 1, 2, 3, 2, 1 over five pixels both ways."""
    kernel = np.array([1.0, 2.0, 3.0, 2.0, 1.0]) / 9
    for axis in (0, 1):
        shape = np.apply_along_axis(np.convolve, axis, shape, kernel, mode="same")
    return shape
