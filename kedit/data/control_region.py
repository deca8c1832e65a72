"""Another place in the picture for a region of the same shape, to paint out as a control."""

import hashlib
import logging

import numpy as np
from numpy.typing import NDArray

from kedit.samples import Mask

logger = logging.getLogger(__name__)


def control_region(region: Mask, name: str) -> Mask:
    """Return `region` shifted to where it lies inside the picture and not on itself: `[height, width]`.

    Which of all such places it is depends on `name` alone. Where there is none, as for a region of more than half the
    picture, it is the place of least overlap, less the overlap: the area is then smaller, which a warning says.
    """
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    shape = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    overlaps = _overlaps(region, shape)
    least = overlaps.min()
    places = np.argwhere(overlaps == least)
    digest = hashlib.sha256(name.encode()).digest()
    top, left = places[int.from_bytes(digest[:8]) % len(places)]
    shifted = np.zeros_like(region)
    shifted[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    if least:
        area = int(region.sum())
        logger.warning("sample `%s`: only %d of %d pixels fit beside the concept", name, area - least, area)
    moved: Mask = shifted & ~region
    return moved


def _overlaps(region: Mask, shape: Mask) -> NDArray[np.int64]:
    """Return how many pixels `shape` shares with `region` at each place where it fits: `[top, left]`."""
    size = region.shape
    spectrum = np.fft.rfft2(region.astype(np.float64)) * np.fft.rfft2(shape.astype(np.float64), size).conj()
    # Places at which the shape would wrap around the border are cut off.
    fits = tuple(slice(full - part + 1) for full, part in zip(size, shape.shape, strict=True))
    return np.rint(np.fft.irfft2(spectrum, size)[fits]).astype(np.int64)
