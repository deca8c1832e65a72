"""Files with one JSON object on each line: what people list their own pictures, concepts and questions in."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit.data.pictures import shown
from kedit.samples import Concept


@dataclass(frozen=True)
class Line:
    """One line of a file, as a JSON object; it knows where it stands, for errors."""

    place: str
    content: Mapping[str, Any]

    def text(self, key: str) -> str:
        """Return the text under `key`; a ValueError if there is none."""
        value = self.content.get(key)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{self.place}: `{key}` is a text, got {value!r}")
        return value

    @property
    def name(self) -> str:
        """The `name`, without white space around it; a ValueError if there is none."""
        return self.text("name").strip()

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the list of texts under `key`, none if it is missing; a single text is a list of one."""
        value = self.content.get(key)
        listed = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(one, str) and one.strip() for one in listed):
            raise ValueError(f"{self.place}: `{key}` is a text or a list of texts, got {value!r}")
        return tuple(listed)


def captions_of(line: Line) -> tuple[str, ...]:
    """Return the captions of a picture; a table that pandas exported has null or NaN where there is none."""
    found: list[str] = []
    for key in ("captions", "caption"):
        value = line.content.get(key)
        for one in value if isinstance(value, list) else [value]:
            if one is None or (isinstance(one, float) and math.isnan(one)):
                continue
            if not isinstance(one, str):
                raise ValueError(f"{line.place}: `{key}` is a text or a list of texts, got {value!r}")
            found += [one] if one.strip() else []
    return tuple(found)


def lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file that are not blank; a ValueError names the line that is no JSON object.

    Bytes that are not UTF-8, as a file name may have, become what `os.fsencode` turns back into them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file `{shown(path)}`")
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, text in enumerate(file, 1):
            place = f"`{shown(path)}`, line {number}"
            if not text.strip():
                continue
            try:
                content = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"{place}: no JSON ({error.msg}, column {error.colno})") from error
            if not isinstance(content, dict):
                raise ValueError(f"{place}: a JSON object is expected, got {shown(text.strip())[:60]}")
            yield Line(place, content)


def concepts_of(path: Path | None, objects: Collection[str]) -> tuple[Concept, ...]:
    """Return a concept for each of the `objects` that pictures show: as the file at `path` describes it, if it does.

    Each line is a `name`, and may have `words`, a `category` and phrases `unless`.

    Raises:
        ValueError: A line cannot be understood, or two names are of one thing, as `dog` and `Dog` are.
    """
    described = {}
    for line in lines(path) if path is not None else ():
        name = line.name
        if name in described:
            raise ValueError(f"{line.place}: the concept `{name}` is there twice")
        category = line.text("category") if line.content.get("category") is not None else None
        described[name] = Concept(name, line.texts("words"), category, line.texts("unless"))
    names = sorted({*objects, *described})
    _check_different(names)
    return tuple(described.get(name) or Concept(name) for name in names)


def _check_different(names: Sequence[str]) -> None:
    """Raise a ValueError if two names are one but for case and what is between words: pictures of one lack the other.

    Between digits it counts, so that `1-1` is not `11`.
    """
    first: dict[str, str] = {}
    for name in names:
        bare = re.sub(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)", "", name).casefold() or name
        if (earlier := first.setdefault(bare, name)) != name:
            raise ValueError(
                f"`{shown(earlier)}` and `{shown(name)}` are two names that differ in case, white space, `_` or `-` "
                "alone, and would be two things; write one of them everywhere, in the list and in the file of concepts"
            )
