"""Who says what a drawn picture shows: the exact finder of the picture world, or a segmenter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL.Image import Image

from kedit.data.finder import find
from kedit.data.found import Segmenter
from kedit.data.scenes import Scenes
from kedit.samples import Concept, Data, Mask, Sample

LEAST = 0.005
"""The share of a picture from which on what a segmenter finds counts."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a picture shows of what was looked for."""

    regions: Mapping[str, Mask]
    """By the names of the concepts that are there: `[height, width]`."""
    valid: bool | None
    """Whether the picture is whole; None where nothing tells."""


class Seer(Protocol):
    """Says what a picture shows."""

    def __call__(self, picture: Image, concepts: Sequence[Concept]) -> Seen:
        """Return which of `concepts` a picture shows, and where."""
        ...


@dataclass(frozen=True)
class Finder:
    """The exact finder of the picture world."""

    def __call__(self, picture: Image, concepts: Sequence[Concept]) -> Seen:
        """Return which of `concepts` a picture shows, and where."""
        found = find(picture)
        shown = [one.name for one in concepts if one.name in found.scene.categories]
        return Seen({name: found.scene.region(name) for name in shown}, found.is_valid)


@dataclass(frozen=True)
class BySegmenter:
    """A segmenter that finds a concept by its name, such as `kedit.models.segmenter.ClipSeg`."""

    segment: Segmenter

    def __post_init__(self) -> None:
        if getattr(self.segment, "refines", True):
            raise ValueError("drawn pictures have no boxes, so the segmenter has to find things by name: clipseg")

    def __call__(self, picture: Image, concepts: Sequence[Concept]) -> Seen:
        """Return which of `concepts` cover at least 0.5 % of a picture, and where; whether it is whole is not known."""
        drawn = Sample("drawing", picture)
        found = {one.name: self.segment(drawn, one) for one in concepts}
        return Seen({name: mask for name, mask in found.items() if mask.mean() >= LEAST}, None)


def seer_of(data: Data, segment: Segmenter | None) -> Seer:
    """Return a segmenter as what judges drawings, or the picture world's own finder without one.

    Raises:
        ValueError: The data is not the picture world, and there is no segmenter.
    """
    if segment is not None:
        return BySegmenter(segment)
    if isinstance(data, Scenes):
        return Finder()
    raise ValueError(
        f"what drawings of {type(data).__name__} show has to be found by a segmenter: `segment=clipseg "
        "segment.path=FOLDER`; only those of the picture world are found without"
    )
