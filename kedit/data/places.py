"""What is odd about where an annotation says things are: beyond the picture, or in another form than it is read."""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import isfinite

from kedit.data.data_set import Record
from kedit.data.masks import SHARES, Box, Corners, Outline, Polygons
from kedit.data.pictures import Frame, Size, frame, shown

SLACK = 0.01
"""The share of a side, beside one pixel, by which outlines reach over the edge without a word: rounding does."""
MOST_OPENED = 1000
"""The pictures of which at most the head is read, where the annotation names no size."""


class Places:
    """The outlines of some records, in the frames of their pictures.

    A frame is the annotated size; without it, that of the file as viewers show it, of the first `MOST_OPENED` pictures.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        """Look at every outline once; masks cannot reach over an edge and are left out."""
        self._framed = list(_framed(records))
        self._beyond = [
            (record, size)
            for record, size in self._framed
            if any(not _inside(extent, size) for extent in _extents(record, size))
        ]

    def why_upright(self) -> str | None:
        """Return why the annotation is of the pictures as viewers turn them, although it names their sizes as they lie.

        That is so where coordinates lie beyond the annotated frame, inside it when it is turned, and EXIF turns the
        file. None if no picture says so.
        """
        turned = [
            record
            for record, size in self._beyond
            if record.size is not None
            and all(_inside(extent, size[::-1]) for extent in _extents(record, size))
            and _swaps(size, frame(record.source))
        ]
        if not turned:
            return None
        return (
            f"{len(turned)} pictures have coordinates beyond the size that the annotation names, and inside it once "
            f"the picture is turned as its EXIF says, the first `{shown(turned[0].id)}`: all pictures are read "
            "upright; `data.upright=false` reads them as they lie"
        )

    def oddities(self, *, upright: bool = False) -> tuple[str, ...]:
        """Return a sentence for each kind of oddity; of `upright` records, the turned frame is as good."""
        numbered = [
            (outline, size)
            for record, size in self._framed
            for outlines in record.outlines.values()
            for outline in outlines
            if isinstance(outline, Box | Polygons)
        ]
        boxes = [(outline, size) for outline, size in numbered if isinstance(outline, Box)]
        polygons = [outline for outline, _ in numbered if isinstance(outline, Polygons)]
        beyond = [
            shown(record.id)
            for record, size in self._beyond
            for extent in _extents(record, size)
            if not _inside(extent, size) and not (upright and _inside(extent, size[::-1]))
        ]
        return tuple(_notes(boxes, polygons, beyond))


def may_be_turned(record: Record) -> bool:
    """Return whether a picture is read as it lies although viewers turn it: nothing says what the annotators saw."""
    if record.size is None or record.upright is not None:
        return False
    head = frame(record.source)
    return head is not None and head.is_turned and head.stored == record.size


def _notes(boxes: Sequence[tuple[Box, Size]], polygons: Sequence[Polygons], beyond: Sequence[str]) -> Iterator[str]:
    """Yield what is odd; `beyond` has the picture of each outline that reaches over its edge."""
    if boxes and all(box.form not in SHARES and _is_share(box.numbers) for box, _ in boxes):
        yield (
            f"the numbers of all {len(boxes)} boxes lie between 0 and 1, as shares of the picture do: "
            "`data.boxes=share` reads x, y, width, height so, `share_xyxy` two corners, `yolo` a center and a size"
        )
    if polygons and all((extent := one.extent()) is not None and _is_share(extent) for one in polygons):
        yield (
            f"the numbers of all {len(polygons)} polygons lie between 0 and 1, as shares of the picture do, and are "
            "read as pixels: multiply them by its width and height"
        )
    if beyond and not polygons and all(_are_corners(box, size) for box, size in boxes):
        yield (
            f"{len(beyond)} of {len(boxes)} boxes reach beyond their picture, the first in `{beyond[0]}`, and all lie "
            "inside it if their four numbers are x, y, x, y: `data.boxes=xyxy` reads them so"
        )
    elif beyond:
        yield (
            f"{len(beyond)} of {len(boxes) + len(polygons)} outlines reach beyond their picture, the first in "
            f"`{beyond[0]}`: what lies outside is cut off"
        )


def _framed(records: Sequence[Record]) -> Iterator[tuple[Record, Size]]:
    """Yield the records with places that can be judged, each with the size of its picture."""
    placed = [record for record in records if any(map(_has_numbers, record.outlines.values()))]
    yield from ((record, record.size) for record in placed if record.size is not None)
    for record in islice((record for record in placed if record.size is None), MOST_OPENED):
        if (head := frame(record.source)) is not None:
            yield record, head.upright


def _has_numbers(outlines: Sequence[Outline]) -> bool:
    return any(isinstance(one, Box | Polygons) for one in outlines)


def _extents(record: Record, size: Size) -> Iterator[Corners]:
    """Yield the corners of each outline in pixels; a mask and what is no number has none."""
    width, height = size
    for outlines in record.outlines.values():
        for one in outlines:
            extent = one.corners(height, width) if isinstance(one, Box) else None
            if isinstance(one, Polygons):
                extent = one.extent()
            if extent is not None and all(map(isfinite, extent)):
                yield extent


def _inside(corners: Corners, size: Size) -> bool:
    """Return whether `corners` lie in a picture of `size`, but for what rounding does."""
    left, top, right, bottom = corners
    across, down = 1 + SLACK * size[0], 1 + SLACK * size[1]
    return left >= -across and top >= -down and right <= size[0] + across and bottom <= size[1] + down


def _are_corners(box: Box, size: Size) -> bool:
    """Return whether the four numbers of a box may be two corners inside a picture of `size`."""
    left, top, right, bottom = box.numbers
    return box.form == "xywh" and left < right and top < bottom and _inside(box.numbers, size)


def _is_share(numbers: Corners) -> bool:
    return min(numbers) >= 0 and 0 < max(numbers) <= 1


def _swaps(size: Size, head: Frame | None) -> bool:
    """Return whether a picture has `size` as it lies, and its sides change places when viewers turn it."""
    return head is not None and head.stored == size and head.upright == size[::-1] != size
