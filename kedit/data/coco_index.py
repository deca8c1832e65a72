"""Reading COCO's annotation files into records, without opening a picture or drawing a mask."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kedit.data.coco_words import UNLESS, WORDS
from kedit.data.data_set import AnnotatedDataSet, Record
from kedit.data.masks import BOXES, Box, Outline, Polygons, Unreadable, outline
from kedit.data.pictures import shown
from kedit.data.places import Places
from kedit.paths import lying_at
from kedit.samples import Concept

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
NO_CROWD = frozenset({"", "0", "0.0", "false", "no", "none", "null", "nan"})
"""What exporters write of an instance that is no crowd, in small letters."""
NO_OUTLINE: tuple[Any, ...] = (None, [], [[]], {}, "")
"""What exporters write for the outline of an object that has a box alone."""


@dataclass
class _Shown:
    """What the annotation says of one picture, while it is being gathered."""

    outlines: dict[str, list[Outline]] = field(default_factory=lambda: defaultdict(list))
    crowds: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Reading:
    """How an annotation is to be read where it does not say so itself."""

    boxes: bool | str | None = None
    """When an instance without an outline has its box for a region: if this is true or the form of the boxes, one of
    `kedit.data.masks.BOXES`; never if false; None for the categories of which no instance has an outline."""
    upright: bool | None = None
    """Whether coordinates are of the pictures as viewers turn them; None if their sizes and coordinates say so."""

    def __post_init__(self) -> None:
        if not (self.boxes is None or isinstance(self.boxes, bool) or self.boxes in BOXES):
            raise ValueError(f"`boxes` is true, false, null or one of {', '.join(BOXES)}; got {self.boxes!r}")


def read_data_set(
    instances: Path, captions: Path | None, images: Path, *, reading: Reading = Reading(), max_side: int | None = None
) -> AnnotatedDataSet:
    """Return the pictures that `instances` annotates, with the captions of `captions`; none is opened.

    Args:
        instances: An annotation file with `images`, `annotations` and `categories`.
        captions: One with `annotations` that are captions, or None.
        images: The folder of the pictures.
        reading: How the annotation is read where it does not say so.
        max_side: See `AnnotatedDataSet`.

    Raises:
        ValueError: A file is no such annotation, or contradicts itself.
    """
    content = _content(instances, ("images", "annotations", "categories"))
    pictures, categories = (_by_id(content[part], part, instances) for part in ("images", "categories"))
    _check_files(pictures.values(), instances)
    _check_names(categories.values(), instances)
    names = {key: str(one.get("name", key)) for key, one in categories.items()}
    concepts = _concepts(categories, {_key(one.get("category_id")) for one in content["annotations"]}, instances)
    found, notes = _gathered(content["annotations"], pictures, names, reading.boxes)
    references = _references(captions, pictures)
    bare = Counter(_bare(one["file_name"]) for one in pictures.values())
    records = [
        _record(one, images, found[key], references[key], alone=bare[_bare(one["file_name"])] == 1)
        for key, one in pictures.items()
    ]
    places = Places(records)
    why = places.why_upright() if reading.upright is None else None
    upright = True if why is not None else reading.upright
    notes += [why] if why is not None else []
    notes += places.oddities(upright=upright is True)
    if upright is not None:
        records = [replace(record, upright=upright) for record in records]
    return AnnotatedDataSet(tuple(records), concepts, max_side, tuple(notes))


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
    if "segmentation" in entry and entry["segmentation"] not in NO_OUTLINE:
        return {**_kept(entry), "outline": outline(entry["segmentation"])}
    return _kept(entry) if "id" in entry or "image_id" in entry else entry


def _kept(entry: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in entry.items() if key in KEPT}
    if not kept.get("file_name") and isinstance(address := entry.get("coco_url"), str):  # LVIS names no file
        kept["file_name"] = address.rpartition("/")[2]
    return kept


def _key(number: object) -> str:
    """Return an id as it is compared: exporters write 7, "7" or, through a table, 7.0 for the same."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _by_id(entries: list[dict[str, Any]], part: str, path: Path) -> dict[str, dict[str, Any]]:
    """Return `entries` by their id; a ValueError if one has none or shares it."""
    missing = [one for one in entries if "id" not in one]
    if missing:
        raise ValueError(f"an entry of `{part}` in `{shown(path)}` has no `id`: {str(missing[0])[:80]}")
    twice = [key for key, count in Counter(_key(one["id"]) for one in entries).items() if count > 1]
    if twice:
        raise ValueError(
            f"{len(twice)} ids are used more than once in `{part}` of `{shown(path)}`, the first {twice[0]}"
        )
    return {_key(one["id"]): one for one in entries}


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


def _check_names(categories: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Raise a ValueError if the name of a category, or that of its kind, is a list or the like."""
    for one in categories:
        for key in ("name", "supercategory"):
            if isinstance(value := one.get(key), list | dict):
                raise ValueError(f"category {one['id']} in `{shown(path)}`: `{key}` is a text, got {value!r}")


def _gathered(
    annotations: list[dict[str, Any]], pictures: Collection[str], names: Mapping[str, str], boxes: bool | str | None
) -> tuple[Mapping[str, _Shown], list[str]]:
    """Return what is annotated of each picture, and what is odd; annotations of no listed picture are left out."""
    found: dict[str, _Shown] = defaultdict(_Shown)
    outlined = {_key(one.get("category_id")) for one in annotations if "outline" in one}
    form = boxes if isinstance(boxes, str) else "xywh"
    single = {_key(one.get("category_id")) for one in annotations if not _is_crowd(one)}
    astray, boxed, crowded = 0, Counter[str](), Counter[str]()
    for one in annotations:
        key, category = _key(one.get("image_id")), _key(one.get("category_id"))
        if key not in pictures:
            astray += 1
            continue
        if category not in names:
            raise ValueError(f"an annotation of image {key} has category {category}, which `categories` does not list")
        takes_box = bool(boxes) or (boxes is None and category not in outlined)
        found[key].outlines[names[category]].append(_outline(one, form if takes_box else None))
        boxed[category] += boxes is None and category not in outlined
        if category not in single:
            crowded[category] += 1
        elif _is_crowd(one):
            found[key].crowds.add(names[category])
    if astray and astray == len(annotations):
        raise ValueError(f"none of the {astray} annotations belongs to one of the {len(pictures)} images")
    notes = [f"{astray} of {len(annotations)} annotations belong to no image and are left out"] if astray else []
    if boxed.total():
        notes.append(
            f"{boxed.total()} of {len(annotations)} instances are of {len(+boxed)} categories without any outline: "
            "their boxes are the regions, which `data.boxes=false` leaves out"
        )
    if crowded:
        notes.append(
            f"all {crowded.total()} instances of {len(crowded)} categories are marked as crowds, as CVAT marks masks: "
            "they are taken for single ones"
        )
    return found, notes


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
    return str(annotation.get("iscrowd")).strip().lower() not in NO_CROWD


def _outline(annotation: Mapping[str, Any], form: str | None) -> Outline:
    """Return the outline of an instance or, where it has none and boxes are in a `form`, its box."""
    drawn: Outline = annotation.get("outline", Polygons(()))
    box = annotation.get("bbox")
    if "outline" in annotation or not isinstance(box, list) or len(box) != 4:
        return drawn
    if form is None:
        return Unreadable("the outline is empty: it has no polygon; `data.boxes=true` takes its box")
    try:
        a, b, c, d = map(float, box)
    except (TypeError, ValueError):
        return Unreadable(f"the box is not four numbers: {box!r}")
    return Box(a, b, c, d, form)


def _references(captions: Path | None, pictures: Collection[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for one in _content(captions, ("annotations",))["annotations"] if captions is not None else ():
        text = one.get("caption")  # a table that pandas exported has null or NaN where there is none
        key = _key(one.get("image_id"))
        if isinstance(text, str) and text.strip() and key in pictures:
            found[key].append(text.strip())
    return found


def _record(
    picture: Mapping[str, Any], images: Path, found: _Shown, references: Iterable[str], *, alone: bool
) -> Record:
    width, height = (_side(picture, key) for key in ("width", "height"))
    return Record(
        id=_key(picture["id"]),
        source=partial(_picture, images, picture["file_name"], alone=alone),
        size=(width, height) if width and height else None,
        references=tuple(references),
        objects=frozenset(found.outlines),
        outlines={name: tuple(outlines) for name, outlines in found.outlines.items()},
        crowds=frozenset(found.crowds),
        file_name=picture["file_name"],
    )


def _side(picture: Mapping[str, Any], key: str) -> int:
    """Return an annotated side in pixels, 0 where there is none; a ValueError names the picture of an odd one."""
    value = picture.get(key)
    try:
        number = float(value or 0)
        return 0 if math.isnan(number) else int(number)  # a table has NaN where there is none
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"image {picture['id']}: `{key}` is a number of pixels, got {value!r}") from None


def _bare(name: str) -> str:
    """Return a file's name without folders, as those are compared that may be one file."""
    return name.replace("\\", "/").rpartition("/")[2].lower()


def _picture(images: Path, name: str, *, alone: bool) -> Path:
    """Return where a picture lies: as it is named from the folder of pictures, or as annotation tools name it.

    Some write Windows' paths, some the path from the folder above, and some a path that was theirs alone: its last part
    is looked for if the picture stands `alone` with it.
    """
    plain = name.replace("\\", "/")
    bare = [images / Path(plain).name] if alone else []
    return lying_at(images / name, images / plain, images.parent / plain, *bare)


def _concepts(categories: Mapping[str, Mapping[str, Any]], used: Collection[str], path: Path) -> tuple[Concept, ...]:
    """Return a concept for each category; a ValueError if two that are `used` have one name.

    What no annotation uses and only groups others is none: the root that Roboflow puts in front, which may be called as
    a class is.
    """
    kinds = Counter(one.get("supercategory") for one in categories.values())
    by_name: dict[str, list[str]] = defaultdict(list)
    for key, one in categories.items():
        own = one.get("name") == one.get("supercategory")
        if key in used or kinds[one.get("name")] <= own:
            by_name[str(one.get("name", key))].append(key)
    for name, keys in by_name.items():
        keys[:] = [key for key in keys if key in used] or keys[:1]
        if len(keys) > 1:
            raise ValueError(
                f"each category needs a name of its own; more than one is called `{name}` in `{shown(path)}` (ids "
                f"{', '.join(keys)}); rename one, or give its annotations the id of the other"
            )
    return tuple(_concept(name, categories[keys[0]].get("supercategory")) for name, keys in by_name.items())


def _concept(name: str, category: str | None) -> Concept:
    # LVIS writes `fire_hydrant`, and `mouse_(computer_equipment)` to tell it from the animal.
    spoken = re.sub(r"[\s_]*\(.*\)$", "", name).replace("_", " ") or name
    return Concept(name, (spoken, *WORDS.get(spoken, ())), category, UNLESS.get(spoken, ()))
