"""Pictures and masks as files hold them: read whole, upright, in RGB; what cannot be used says why."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kedit import pixels
from kedit.samples import Mask

Source = Callable[[], Path | IO[bytes]]
"""Where a picture lies, asked for only when it is read."""

LOSSY = frozenset({"JPEG", "MPO", "WEBP", "AVIF"})
"""Formats, as Pillow calls them, that may put noise where a mask was black; a WebP may be lossless as well."""

Size = tuple[int, int]
"""Width and height of a picture in pixels."""

ORIENTATION = 0x0112
"""The field of EXIF that says how a picture is turned."""

LEAST_SIDE = 8
"""A narrower picture holds nothing to paint out, and image processors take its sides for channels."""


class SampleError(Exception):
    """One picture or its annotation cannot be used; the others can."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        """One of a few words, to count by."""


@dataclass(frozen=True)
class MaskFile:
    """A region as a picture of the same size: what is not transparent, or else not black, upright as its EXIF says.

    A file whose compression loses something (JPEG, AVIF, WebP unless it is lossless) has noise where it was black:
    inside is what is brighter than half of its brightest pixel.
    """

    path: Path

    def draw(self, height: int, width: int) -> Mask:
        """Return the region; a ValueError if the file is missing, cannot be read or is of another size."""
        try:
            with Image.open(self.path) as opened:
                levels = _levels(pixels.upright(opened))
                lossy = opened.format in LOSSY and not _is_lossless(self.path)
        except Exception as error:  # Pillow's readers raise whatever a broken file makes them stumble over.
            raise ValueError(f"cannot read the mask `{shown(self.path)}` ({_explain(error)})") from error
        mask: Mask = levels > (levels.max() / 2 if lossy else 0)
        if mask.shape != (height, width):
            raise ValueError(
                f"the mask `{shown(self.path)}` is {mask.shape[1]} x {mask.shape[0]} pixels, "
                f"the picture {width} x {height}; they must be equal"
            )
        return mask


def _levels(opened: Image.Image) -> NDArray[np.uint8]:
    """Return how far each pixel of a mask is inside, `[height, width]`: its alpha where that varies, else its light."""
    if opened.has_transparency_data:
        alpha = np.array(opened.convert("RGBA"))[..., 3]
        if alpha.min() < alpha.max():
            return alpha
    light: NDArray[np.uint8] = np.array(opened.convert("RGB")).max(-1)
    return light


def _is_lossless(path: Path) -> bool:
    """Return whether a file is a WebP of one picture that has kept every level: its pixels are in a chunk `VP8L`."""
    with path.open("rb") as file:
        if file.read(12)[8:] != b"WEBP":
            return False
        while len(head := file.read(8)) == 8:
            if head[:4] in (b"VP8L", b"VP8 ", b"ANMF"):
                return head[:4] == b"VP8L"
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, os.SEEK_CUR)  # chunks begin at even places
    return False


def read(source: Source, size: Size | None = None, *, upright: bool | None = None) -> Image.Image:
    """Return a picture in RGB, decoded.

    Gray levels, CMYK and palettes are converted, transparency lies on white. A picture is turned upright as its EXIF
    says, unless `size`, the annotated (width, height), is the one that it has as it lies; with `upright`, whichever
    of its two sizes is annotated; and never if that is false.

    Raises:
        SampleError: It is missing, cannot be read to its end, is too small, or not of the annotated size.
    """
    opened = _decoded(source)
    stored = opened.size
    if upright or (upright is None and stored != size):
        opened = pixels.upright(opened)
    if size is not None and size not in ((opened.size, stored) if upright else (opened.size,)):
        raise SampleError("wrong_size", f"the picture has {opened.size} pixels, annotated are {size} (width, height)")
    if min(opened.size) < LEAST_SIDE:
        raise SampleError("too_small", f"the picture has {opened.size} pixels, each side needs {LEAST_SIDE} or more")
    try:
        return pixels.in_rgb(opened)
    except ValueError as error:
        raise SampleError("unreadable_image", str(error)) from error


class Frame(NamedTuple):
    """What the head of a picture file says, without its pixels."""

    stored: Size
    """Width and height as the pixels lie."""
    upright: Size
    """Those that viewers show."""
    is_turned: bool
    """Whether EXIF tells viewers to turn or to mirror it."""


def frame(source: Source) -> Frame | None:
    """Return a picture's frame; None if its file is missing or cannot be read."""
    try:
        with Image.open(source()) as opened:
            # Pillow would decode a whole PNG to look for EXIF behind its pixels.
            told = opened.format != "PNG" or "exif" in opened.info
            orientation = opened.getexif().get(ORIENTATION, 1) if told else 1
            across = opened.size[::-1] if orientation in (5, 6, 7, 8) else opened.size
            return Frame(opened.size, across, orientation in range(2, 9))
    except Exception:  # Pillow's readers raise whatever a broken file makes them stumble over.
        return None


def fitted(picture: Image.Image, longest: int | None) -> Image.Image:
    """Return `picture`, shrunk where a side is longer than `longest`; a SampleError if that leaves too little of it."""
    if longest is None or max(picture.size) <= longest:
        return picture
    shorter = round(min(picture.size) / max(picture.size) * longest)
    if shorter < LEAST_SIDE:
        raise SampleError(
            "too_small",
            f"the picture has {picture.size} pixels, shrunk to a longest side of {longest} its shorter one has "
            f"{shorter}, each side needs {LEAST_SIDE} or more",
        )
    return ImageOps.contain(picture, (longest, longest), Image.Resampling.LANCZOS)


def fitted_mask(mask: Mask, height: int, width: int) -> Mask:
    """Return `mask` at another size: `[height, width]`."""
    if mask.shape == (height, width):
        return mask
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def shown(text: object) -> str:
    """Return `text` as it can be written anywhere: bytes of a file name that are not UTF-8 as escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def _decoded(source: Source) -> Image.Image:
    try:
        with Image.open(source()) as opened:
            opened.load()  # A truncated file is noticed here, not in the middle of a run.
    except FileNotFoundError as error:
        raise SampleError("missing_image", f"there is no `{shown(error.filename)}`") from error
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them stumble over.
        raise SampleError("unreadable_image", f"the picture cannot be read ({_explain(error)})") from error
    return opened


def _explain(error: Exception) -> str:
    return shown(f"{type(error).__name__}: {error}")
