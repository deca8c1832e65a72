"""Regions as annotations write them (polygons, boxes, run lengths), and the masks that they stand for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kedit.samples import Mask

Points = NDArray[np.float32]
"""The numbers of a polygon as an annotation lists them: `x, y, x, y, ...` in pixels, y down."""


Corners = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

BOXES = {
    "xywh": "x, y, width, height, the last two above 0",
    "xyxy": "x, y of the left upper corner and x, y of the right lower one, which lies farther right and down",
    "share": "x, y, width, height in shares of the picture's width and height, the last two above 0",
    "share_xyxy": "x, y, x, y of two corners in shares of the picture's width and height, the second farther on",
    "yolo": "x, y of its center, width, height in shares of the picture's width and height, the last two above 0",
}
"""The forms in which annotations write a box, and what each is."""
SHARES = frozenset({"share", "share_xyxy", "yolo"})
"""Those that do not count pixels."""


class Outline(Protocol):
    """One annotated region of a picture, not drawn yet."""

    def draw(self, height: int, width: int) -> Mask:
        """Return the region in a picture of that size: `[height, width]`; a ValueError says why there is none."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """The union of polygons; a pixel belongs to one if its center lies inside (even-odd rule)."""

    parts: tuple[Points, ...]

    def draw(self, height: int, width: int) -> Mask:
        """Return the union; what lies outside the picture is cut off."""
        if not self.parts:
            raise ValueError("the outline is empty: it has no polygon")
        mask = np.zeros((height, width), dtype=bool)
        for part in self.parts:
            if part.size < 6 or part.size % 2:
                raise ValueError(f"a polygon is three or more points x, y; got {part.size} numbers")
            if not np.isfinite(part).all():
                raise ValueError("a polygon has a coordinate that is no finite number")
            _fill(mask, part.reshape(-1, 2).astype(np.float64))
        return mask

    def extent(self) -> Corners | None:
        """Return the corners of what holds all points; None where that cannot be told."""
        parts = [part for part in self.parts if part.size and part.size % 2 == 0]
        if not parts:
            return None
        points = (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(-1, 2)
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Box:
    """An upright rectangle: four numbers, in a form of `BOXES`."""

    a: float
    b: float
    c: float
    d: float
    form: str = "xywh"

    @property
    def numbers(self) -> Corners:
        """The four numbers as they are written."""
        return self.a, self.b, self.c, self.d

    def corners(self, height: int, width: int) -> Corners:
        """Return left, top, right and bottom in a picture of that size, in pixels."""
        a, b, c, d = self.numbers
        if self.form in SHARES:
            a, b, c, d = a * width, b * height, c * width, d * height
        if self.form.endswith("xyxy"):
            return a, b, c, d
        return (a - c / 2, b - d / 2, a + c / 2, b + d / 2) if self.form == "yolo" else (a, b, a + c, b + d)

    def draw(self, height: int, width: int) -> Mask:
        """Return the pixels whose center lies in the box; what lies outside the picture is cut off."""
        left, top, right, bottom = self.corners(height, width)
        if not np.isfinite((left, top, right, bottom)).all() or right <= left or bottom <= top:
            raise ValueError(f"a box is {BOXES[self.form]}; got {list(self.numbers)}")
        rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
        inside: Mask = ((top <= rows) & (rows < bottom))[:, None] & ((left <= columns) & (columns < right))
        return inside


@dataclass(frozen=True, slots=True)
class RunLengths:
    """COCO's run lengths, column by column: so many pixels outside, so many inside, and so on.

    As numbers where COCO writes them uncompressed (crowds), else as its text.
    """

    counts: str | tuple[int, ...]
    height: int
    width: int

    def draw(self, height: int, width: int) -> Mask:
        """Return the mask; it has to be of the picture's size."""
        if (self.height, self.width) != (height, width):
            raise ValueError(
                f"the mask is {self.width} x {self.height} pixels, the picture {width} x {height}; they must be equal"
            )
        runs = uncompressed(self.counts) if isinstance(self.counts, str) else list(self.counts)
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError(f"the runs of the mask cover {sum(runs)} pixels, the picture has {height * width}")
        inside = np.arange(len(runs)) % 2 == 1
        mask: Mask = np.ascontiguousarray(np.repeat(inside, runs).reshape(width, height).T)
        return mask


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An annotation that describes no region."""

    why: str

    def draw(self, height: int, width: int) -> Mask:
        """Raise the ValueError that says why."""
        raise ValueError(self.why)


def outline(segmentation: Any) -> Outline:
    """Return what COCO's `segmentation` describes; where that is nothing, drawing it says why."""
    try:
        if isinstance(segmentation, dict):
            height, width = segmentation["size"]
            counts = segmentation["counts"]
            counts = counts if isinstance(counts, str) else tuple(map(int, counts))
            return RunLengths(counts, int(height), int(width))
        # VGG's annotator writes a single polygon without the list around it, labelme one of pairs x, y.
        is_one = bool(segmentation) and all(isinstance(one, int | float) or len(one) == 2 for one in segmentation)
        parts = [segmentation] if is_one else segmentation
        return Polygons(tuple(np.array(part, np.float32).ravel() for part in parts))
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        return Unreadable(f"the outline is neither polygons nor run lengths ({type(error).__name__}: {error})")


def union(outlines: Iterable[Outline], height: int, width: int) -> Mask:
    """Return everything that is inside any of `outlines`: `[height, width]`."""
    mask = np.zeros((height, width), dtype=bool)
    for one in outlines:
        mask |= one.draw(height, width)
    return mask


def uncompressed(text: str) -> list[int]:
    """Return the run lengths that COCO's compressed text stands for; a ValueError if it is cut off or no such text.

    Six bits a character from `0` on: five of the number, least significant first, and one that says that more
    follow. The number is signed, and from the fourth on it is the difference to the run two before
    (`rleToString` in COCO's maskApi.c).
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the text of a mask has a character that is not of its alphabet: {character!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the text of a mask is cut off")
    return runs


def _fill(mask: Mask, points: NDArray[np.float64]) -> None:
    """Set the pixels of `mask` whose center is inside the polygon of `points`, `[point, (x, y)]`.

    Each edge is noted where it crosses the centers of a column; going down, every crossing changes between
    outside and inside.
    """
    height, width = mask.shape
    x0, y0 = points.T
    x1, y1 = np.roll(points, -1, axis=0).T
    first, last = (np.ceil(end(x0, x1) - 0.5).clip(0, width).astype(int) for end in (np.minimum, np.maximum))
    edge = np.repeat(np.arange(len(points)), last - first)
    # The columns of each edge, one edge after the other: first, first + 1, ..., last - 1.
    column = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    slope = (y1[edge] - y0[edge]) / (x1[edge] - x0[edge])
    row = np.ceil(y0[edge] + (column + 0.5 - x0[edge]) * slope - 0.5).clip(0, height).astype(int)
    if not row.size:
        return
    top, bottom = int(row.min()), int(row.max())
    crossings = np.bincount((row - top) * width + column, minlength=(bottom - top + 1) * width)
    odd = crossings.reshape(-1, width)[:-1] % 2 == 1
    mask[top:bottom] |= np.logical_xor.accumulate(odd, axis=0)
