"""COCO's object annotations and captions, as published, as a data set."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kedit.data import coco_index
from kedit.data.annotated import AnnotatedPictures
from kedit.data.data_set import AnnotatedDataSet, Rules
from kedit.data.pictures import shown

logger = logging.getLogger(__name__)

LAYOUTS = (
    ("annotations/instances_val2017.json", "val2017"),
    ("annotations/instances_train2017.json", "train2017"),
    ("_annotations.coco.json", "."),
    ("annotations/instances_default.json", "images/default"),
    ("annotations/instances_default.json", "images"),
    ("result.json", "images"),
    ("result.json", "."),
)
"""Where COCO, Roboflow, CVAT and Label Studio put the annotation and the pictures, in the folder of an export."""


def layout_of(folder: Path) -> dict[str, Any] | None:
    """Return what `Coco` has to be told to read the export in `folder`; None if it holds none that is known."""
    for instances, images in LAYOUTS:
        if (folder / instances).is_file() and (folder / images).is_dir():
            if instances.endswith("2017.json"):
                return {} if images == "val2017" else {"subset": images}
            return {"instances": instances, "images": images, "captions": None}
    return None


@dataclass(frozen=True)
class Coco(AnnotatedPictures):
    """Pictures with annotated instances, in COCO's format and arrangement of files.

    A concept is a category, with the words that people use for it; a sample's references are the captions of its
    picture, its regions the outlines of the instances. The annotation is read once, on first use; pictures and
    masks when a sample is drawn.
    """

    folder: str
    """Where the files below lie; in their names, `{subset}` stands for the field `subset`."""
    subset: str = "val2017"
    instances: str = "annotations/instances_{subset}.json"
    captions: str | None = "annotations/captions_{subset}.json"
    """None for a data set without captions."""
    images: str = "{subset}"
    min_area: float = 0.02
    """A concept's pictures are drawn if its region takes at least this share of them,"""
    max_area: float = 0.6
    """and at most this one;"""
    max_others: int | None = None
    """if they show at most so many other categories (None: any number);"""
    without: Collection[str] | None = None
    """if they show none of these categories;"""
    crowds: bool = False
    """and, unless this is set, if the concept is not outlined as a crowd."""
    boxes: bool | str | None = None
    """When an instance without an outline has its box for a region: if this is true or the form of the boxes (`xywh`
    as COCO writes them, `xyxy`, `share`, `share_xyxy`, `yolo`); never if false, which spoils its sample; None for the
    categories of which no instance has an outline."""
    upright: bool | None = None
    """Whether coordinates are of the pictures as viewers turn them (EXIF); None if sizes and coordinates say so."""
    max_side: int | None = None
    """Pictures with a longer side are shrunk to it; None keeps them."""
    questions_file: str | None = None
    """A file of lines with a `question` and an `answer`, to test what an edit leaves of the text knowledge."""

    def __post_init__(self) -> None:
        _ = self.rules, self._reading, self._place("instances"), self._place("captions"), self._place("images")

    @cached_property
    def data_set(self) -> AnnotatedDataSet:
        """The annotated pictures, none of them opened.

        Raises:
            FileNotFoundError: A file or the folder of pictures is missing.
            ValueError: The annotation is none, or contradicts itself.
        """
        instances, captions, images = (self._place(field) for field in ("instances", "captions", "images"))
        if not instances.is_file() or not images.is_dir():
            missing = images if instances.is_file() else instances
            raise FileNotFoundError(
                f"no `{shown(missing)}`; `folder` needs the annotation `{self.instances}` and the pictures in "
                f"`{self.images}` (`subset` is {self.subset}), as the archives of COCO unpack{self._instead()}"
            )
        told = captions if self.captions is not None and captions.is_file() else None
        data_set = coco_index.read_data_set(instances, told, images, reading=self._reading, max_side=self.max_side)
        if self.captions is not None and told is None:
            remark = f"no captions `{shown(captions)}`: the samples have no references"
            data_set = replace(data_set, notes=(remark, *data_set.notes))
        for note in data_set.notes:
            logger.warning(note)
        return data_set

    @property
    def rules(self) -> Rules:
        """Which of a concept's pictures may be drawn."""
        return Rules(self.min_area, self.max_area, self.max_others, self.without, self.crowds)

    @property
    def _reading(self) -> coco_index.Reading:
        return coco_index.Reading(self.boxes, self.upright)

    def _instead(self) -> str:
        """Return the settings that read what lies in the folder, where that is known."""
        found = layout_of(Path(self.folder)) or {}
        words = [f"data.{key}={'null' if value is None else value}" for key, value in found.items()]
        return f"; `{' '.join(words)}` reads what is there" if words else ""

    def _place(self, field: str) -> Path:
        pattern = str(getattr(self, field))
        try:
            return Path(self.folder, pattern.format(subset=self.subset))
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"`{field}` may hold `{{subset}}` and no other braces, got {pattern!r}") from error
