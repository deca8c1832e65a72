"""Pictures small enough for a page, as data URIs: as they are, or with where a neuron fires."""

import base64
import io
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kedit.samples import Mask

logger = logging.getLogger(__name__)

SIDE = 192
"""Pixels of a picture's longer side on the page."""
WIDEST = 1100
"""Pixels of a figure's width on the page."""
QUALITY = 82
COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64)
"""Viridis, as in the figures, from no activation to the strongest."""
EDGE = (213, 94, 0)
"""The outline of the concept, as in the figures."""


def picture_uri(image: Image.Image, side: int = SIDE) -> str:
    """Return a picture with `side` pixels at most as a data URI."""
    return _uri(_small(image, side))


def fired_uri(image: Image.Image, heat: NDArray[np.float64], top: float, region: Mask | None, side: int = SIDE) -> str:
    """Return a picture under the heat map of a neuron, with an outline of the concept, as a data URI.

    Args:
        image: The picture.
        heat: How strongly the neuron fires, `[height, width]`.
        top: The activation that is drawn as the strongest.
        region: Where the concept is, `[height, width]`; None where nobody knows.
        side: Pixels of the longer side.
    """
    small = _small(image, side)
    shares = Image.fromarray((heat / (top or 1)).astype(np.float32)).resize(small.size, Image.Resampling.BILINEAR)
    warm = np.clip(np.asarray(shares, dtype=np.float64), 0, 1)[..., None]
    places = np.linspace(0, 1, len(COLOURS))
    colours = np.concatenate([np.interp(warm, places, column) for column in COLOURS.T], -1)
    gray = np.asarray(small.convert("L").convert("RGB"), dtype=np.float64)
    mixed = gray + (colours - gray) * (0.9 * warm**0.5)
    if region is not None:
        mask = np.asarray(Image.fromarray(region).resize(small.size, Image.Resampling.NEAREST), dtype=bool)
        edge = _grown(_grown(mask)) & ~mask  # two pixels: of one, the compression would take the colour
        mixed[_grown(edge)] = 255
        mixed[edge] = EDGE
    return _uri(Image.fromarray(mixed.round().astype(np.uint8)))


def figure_uri(path: Path) -> str | None:
    """Return a figure as a data URI; None for a format that browsers show in no picture, or a file that is none."""
    if path.suffix == ".svg":
        return _data("image/svg+xml", path.read_bytes())
    if path.suffix != ".png":
        return None
    try:
        with Image.open(path) as figure:
            shown = figure.convert("RGB")
    except OSError as error:
        logger.warning("`%s` is left out of the page: %s", path, error)
        return None
    if shown.width > WIDEST:
        height = max(1, round(shown.height * WIDEST / shown.width))
        shown = shown.resize((WIDEST, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _uri(shown)


def _small(image: Image.Image, side: int) -> Image.Image:
    """Return a picture whose longer side has `side` pixels, or of a tiny one a whole multiple."""
    shown, longest = image.convert("RGB"), max(image.size)
    if longest > side:
        return shown.resize([max(1, round(one * side / longest)) for one in image.size], Image.Resampling.LANCZOS)
    return shown.resize([one * (side // longest) for one in image.size], Image.Resampling.NEAREST)


def _grown(mask: Mask) -> Mask:
    """Return a mask with one pixel more on every side."""
    wide = np.pad(mask, 1)
    grown: Mask = mask | wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2]
    return grown


def _uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "WEBP", quality=QUALITY, method=2)
    return _data("image/webp", content.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
