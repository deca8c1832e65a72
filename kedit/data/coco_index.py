"""Reading COCO's annotation files into records, without opening a picture or drawing a mask."""

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kedit.data.album import Album, Record
from kedit.data.coco_words import UNLESS, WORDS
from kedit.data.masks import Box, Outline, Polygons, Unreadable, outline
from kedit.data.pictures import shown
from kedit.samples import Concept

logger = logging.getLogger(__name__)

KEPT = frozenset(
    {
        "id",
        "image_id",
        "category_id",
        "file_name",
        "width",
        "height",
        "name",
        "supercategory",
        "iscrowd",
        "bbox",
        "caption",
    }
)
"""What is kept of an entry; links, dates and licenses would take as much memory again."""


@dataclass
class _Shown:
    """What the annotation says of one picture, while it is being gathered."""

    outlines: dict[str, list[Outline]] = field(default_factory=lambda: defaultdict(list))
    crowds: set[str] = field(default_factory=set)


def album(instances: Path, captions: Path | None, images: Path, *, boxes: bool, max_side: int | None) -> Album:
    """Return the pictures that `instances` annotates, with the captions of `captions`; none is opened.

    Args:
        instances: An annotation file with `images`, `annotations` and `categories`.
        captions: One with `annotations` that are captions, or None.
        images: The folder of the pictures.
        boxes: Whether an instance without an outline has its box for a region.
        max_side: See `Album`.

    Raises:
        ValueError: A file is no such annotation, or contradicts itself.
    """
    content = _content(instances, ("images", "annotations", "categories"))
    pictures, categories = (_by_id(content[part], part, instances) for part in ("images", "categories"))
    _check_files(pictures.values(), instances)
    names = {number: str(one.get("name", number)) for number, one in categories.items()}
    found = _gathered(content["annotations"], pictures, names, boxes=boxes)
    references = _references(captions, pictures)
    records = (_record(one, images, found[number], references[number]) for number, one in pictures.items())
    concepts = (_concept(names[number], one.get("supercategory")) for number, one in categories.items())
    return Album(tuple(records), tuple(concepts), max_side)


def _content(path: Path, parts: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Return a file's content; outlines are packed while it is parsed: as lists they take ten times as much."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            content: Any = json.load(file, object_hook=_packed)
    except json.JSONDecodeError as error:
        raise ValueError(f"`{shown(path)}` is no JSON, or cut off ({error})") from error
    for part in parts:
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            raise ValueError(f"`{shown(path)}` is no annotation in COCO's format: it has no list of objects `{part}`")
    return {part: content[part] for part in parts}


def _packed(entry: dict[str, Any]) -> dict[str, Any]:
    if "segmentation" in entry:
        return {**_kept(entry), "outline": outline(entry["segmentation"])}
    return _kept(entry) if "id" in entry else entry


def _kept(entry: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key in KEPT}
    if not kept.get("file_name") and isinstance(address := entry.get("coco_url"), str):  # LVIS names no file
        kept["file_name"] = address.rpartition("/")[2]
    return kept


def _by_id(entries: list[dict[str, Any]], part: str, path: Path) -> dict[int, dict[str, Any]]:
    """Return `entries` by their id; a ValueError if one has none or shares it."""
    missing = [one for one in entries if "id" not in one]
    if missing:
        raise ValueError(f"an entry of `{part}` in `{shown(path)}` has no `id`: {str(missing[0])[:80]}")
    twice = [number for number, count in Counter(one["id"] for one in entries).items() if count > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} ids are used more than once in `{part}` of `{shown(path)}`, the first {twice[0]}"
        )
    return {one["id"]: one for one in entries}


def _check_files(pictures: Collection[dict[str, Any]], path: Path) -> None:
    """Raise a ValueError if a picture has no file or shares it: it would be located with and evaluated on."""
    nameless = [one["id"] for one in pictures if not isinstance(one.get("file_name"), str)]
    if nameless:
        raise ValueError(f"image {nameless[0]} in `{shown(path)}` has no `file_name`")
    twice = [name for name, count in Counter(one["file_name"] for one in pictures).items() if count > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} files are listed under more than one image id in `{shown(path)}`, "
            f"the first `{shown(twice[0])}`"
        )


def _gathered(
    annotations: list[dict[str, Any]], pictures: Collection[int], names: Mapping[int, str], *, boxes: bool
) -> Mapping[int, _Shown]:
    """Return what is annotated of each picture; annotations of no listed picture are counted and left out."""
    found: dict[int, _Shown] = defaultdict(_Shown)
    astray = 0
    for one in annotations:
        number: Any = one.get("image_id")
        category: Any = one.get("category_id")
        if number not in pictures:
            astray += 1
            continue
        if category not in names:
            raise ValueError(
                f"an annotation of image {number} has category {category}, which `categories` does not list"
            )
        found[number].outlines[names[category]].append(_outline(one, boxes=boxes))
        if one.get("iscrowd"):
            found[number].crowds.add(names[category])
    if astray and astray == len(annotations):
        raise ValueError(f"none of the {astray} annotations belongs to one of the {len(pictures)} images")
    if astray:
        logger.warning("%d of %d annotations belong to no image and are left out", astray, len(annotations))
    return found


def _outline(annotation: Mapping[str, Any], *, boxes: bool) -> Outline:
    drawn: Outline = annotation.get("outline", Polygons(()))
    box = annotation.get("bbox")
    if boxes and isinstance(drawn, Polygons) and not drawn.parts and isinstance(box, list) and len(box) == 4:
        try:
            return Box(*map(float, box))
        except (TypeError, ValueError):
            return Unreadable(f"the box is not four numbers: {box!r}")
    return drawn


def _references(captions: Path | None, pictures: Collection[int]) -> Mapping[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for one in _content(captions, ("annotations",))["annotations"] if captions is not None else ():
        text = one.get("caption")  # a table that pandas exported has null or NaN where there is none
        if isinstance(text, str) and text.strip() and one.get("image_id") in pictures:
            found[one["image_id"]].append(text.strip())
    return found


def _record(picture: Mapping[str, Any], images: Path, found: _Shown, references: Iterable[str]) -> Record:
    width, height = picture.get("width"), picture.get("height")
    return Record(
        id=str(picture["id"]),
        source=partial(Path, images, picture["file_name"]),
        size=(int(width), int(height)) if width and height else None,
        references=tuple(references),
        objects=frozenset(found.outlines),
        outlines={name: tuple(outlines) for name, outlines in found.outlines.items()},
        crowds=frozenset(found.crowds),
    )


def _concept(name: str, category: str | None) -> Concept:
    # LVIS writes `fire_hydrant`, and `mouse_(computer_equipment)` to tell it from the animal.
    spoken = re.sub(r"[\s_]*\(.*\)$", "", name).replace("_", " ") or name
    return Concept(name, (spoken, *WORDS.get(spoken, ())), category, UNLESS.get(spoken, ()))
