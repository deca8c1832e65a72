"""What the inpainter learns from: a picture with a hole over a thing, and the exact picture without that thing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kedit.data.inpaint import grown
from kedit.data.scene import SIZE, Scene, scene
from kedit.samples import Mask

BOX_SHARE = 0.25
"""Share of the holes that are boxes around the things rather than their outlines."""
DILATIONS = range(5)
"""By how many pixels a hole is grown: as many as users' masks may be."""


@dataclass(frozen=True)
class Examples:
    """Holes with what belongs there; pictures in [-1, 1]."""

    masked: Tensor
    """The pictures, 0 inside the holes: `[batch, 3, 64, 64]`."""
    holes: Tensor
    """1 inside: `[batch, 1, 64, 64]`."""
    targets: Tensor
    """The same scenes and noise without the things: `[batch, 3, 64, 64]`."""


def examples(seeds: Sequence[int]) -> Examples:
    """Return the example of each scene seed; a seed always gives the same one."""
    pictures, holes, targets = zip(*map(_example, seeds), strict=True)
    hole = torch.from_numpy(np.stack(holes)).float()[:, None]
    return Examples(as_tensor(pictures) * (1 - hole), hole, as_tensor(targets))


def as_tensor(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return 8-bit pictures `[64, 64, 3]` as `[batch, 3, 64, 64]` in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _example(seed: int) -> tuple[NDArray[np.uint8], Mask, NDArray[np.uint8]]:
    one = scene(seed, colors="free")
    rng = np.random.default_rng((seed, 3))
    category = str(rng.choice(sorted(one.categories)))
    region = _boxes(one, category) if rng.random() < BOX_SHARE else one.region(category)
    return one.pixels(), grown(region, int(rng.choice(DILATIONS))), one.without(category).pixels()


def _boxes(one: Scene, category: str) -> Mask:
    """Return the pixels in the boxes around the things of `category`: `[64, 64]`."""
    inside = np.zeros((SIZE, SIZE), bool)
    for thing in one.things:
        if thing.category == category:
            top, left, side = thing.y - thing.radius, thing.x - thing.radius, 2 * thing.radius
            inside[top : top + side, left : left + side] = True
    return inside
