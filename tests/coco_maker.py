"""Writes tiny data sets in COCO's format, with pictures whose right masks are known."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kedit.samples import Mask

CATEGORIES = {"dog": "animal", "cat": "animal", "car": "vehicle", "bus": "vehicle", "person": "person"}
SIZE = (40, 30)
"""Width and height of every picture."""


def rectangle(x: float, y: float, width: float, height: float) -> list[float]:
    """Return a polygon, as COCO lists it."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def mask_of(x: int, y: int, width: int, height: int, size: tuple[int, int] = SIZE) -> Mask:
    """Return the mask of a rectangle in a picture of `size` (width, height)."""
    mask = np.zeros(size[::-1], dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def runs_of(mask: Mask) -> list[int]:
    """Return the run lengths of `mask` as COCO counts them, column by column."""
    flat = np.concatenate(([False], mask.T.ravel(), [not mask[-1, -1]]))
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(end - start) for start, end in pairwise((0, *ends))]


def compressed(runs: Sequence[int]) -> str:
    """Return COCO's text for `runs`."""
    text = []
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text.append(chr(48 + bits + 0x20 * more))
    return "".join(text)


def rle(mask: Mask, *, text: bool = True) -> dict[str, Any]:
    """Return `mask` as COCO's run lengths, compressed to a `text` or not."""
    runs = runs_of(mask)
    return {"size": list(mask.shape), "counts": compressed(runs) if text else runs}


def picture(seed: int = 0, size: tuple[int, int] = SIZE, mode: str = "RGB") -> Image.Image:
    """Return a noisy picture; no two seeds give the same."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@dataclass
class CocoMaker:
    """A data set in the making: `add` pictures, then `write`."""

    folder: Path
    categories: dict[str, str] = field(default_factory=lambda: dict(CATEGORIES))
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    captions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pictures(self) -> Path:
        """The folder of the pictures."""
        return self.folder / "val2017"

    def add(
        self,
        *objects: str | tuple[str, Any],
        captions: Iterable[str] = (),
        image: Image.Image | None = None,
        file_name: str | None = None,
        **more: Any,
    ) -> int:
        """Add a picture with `objects`, names or (name, segmentation), and return its id."""
        number = len(self.images) + 1
        name = file_name or f"{number:012}.png"
        self.pictures.mkdir(parents=True, exist_ok=True)
        shown = image or picture(number)
        shown.save(self.pictures / name)
        self.images.append({"id": number, "file_name": name, "width": shown.width, "height": shown.height, **more})
        for one in objects:
            category, outline = (one, [rectangle(4, 4, 12, 10)]) if isinstance(one, str) else one
            self.annotate(number, category, outline)
        self.captions += [
            {"id": len(self.captions) + 1 + place, "image_id": number, "caption": text}
            for place, text in enumerate(captions)
        ]
        return number

    def annotate(self, number: int, category: str, segmentation: Any, **more: Any) -> None:
        """Add an instance of `category` to the picture `number`."""
        entry = {"id": len(self.annotations) + 1, "image_id": number, "iscrowd": 0, "bbox": [4, 4, 12, 10]}
        known = {"category_id": list(self.categories).index(category) + 1, "segmentation": segmentation}
        self.annotations.append(entry | known | more)

    def write(self) -> str:
        """Write the annotation files and return the folder."""
        folder = self.folder / "annotations"
        folder.mkdir(parents=True, exist_ok=True)
        self.pictures.mkdir(exist_ok=True)
        listed = [
            {"id": number, "name": name, "supercategory": kind}
            for number, (name, kind) in enumerate(self.categories.items(), 1)
        ]
        instances = {"images": self.images, "annotations": self.annotations, "categories": listed}
        (folder / "instances_val2017.json").write_text(json.dumps(instances))
        (folder / "captions_val2017.json").write_text(json.dumps({"annotations": self.captions}))
        return str(self.folder)


def small_world(folder: Path) -> CocoMaker:
    """Return a data set of 60 pictures: 20 of dogs, 15 of cats, 15 of cars, 10 that show nothing annotated."""
    maker = CocoMaker(folder)
    for number in range(60):
        objects = ["dog"] if number < 20 else ["cat"] if number < 35 else ["car"] if number < 50 else []
        maker.add(*objects, captions=[f"a {name} here" for name in objects] or ["grass"])
    return maker
