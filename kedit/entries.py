"""The files of a store: a content, what it is, and a checksum over both."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MARK = b"kedit-2\n"
"""What an entry's file ends with."""
MARKS = re.compile(rb"kedit-\d\n")
"""The marks of all editions; a file of another one is as good as not there."""
LENGTH = 8
"""Bytes that say how long the description is."""
TAIL = LENGTH + hashlib.sha256().digest_size + len(MARK)
GLANCE = 4096
"""Bytes from a file's end within which most descriptions lie."""
DAMAGED = "damaged"
"""The kind of an entry whose file does not even say what it is."""


@dataclass(frozen=True)
class Entry:
    """What an entry's file says of itself."""

    key: str
    kind: str
    """`scores`, `generation` and so on; `damaged` where the file does not say."""
    about: Mapping[str, Any]
    """What was put with the content, `kind` included."""
    size: int
    """Bytes on disk."""
    used: float
    """When it was last read or written, in seconds since 1970."""


def end_of(key: str, content: bytes, about: Mapping[str, Any] | None) -> bytes:
    """Return what stands behind the content in its file: description, length, checksum, mark.

    Raises:
        ValueError: If `about` has no `kind`, or JSON cannot say it.
    """
    told: dict[str, Any] = {"kind": "other"} if about is None else dict(about)
    if not isinstance(told.get("kind"), str) or not told["kind"]:
        raise ValueError(f"`about` must say the `kind` of what is kept, such as `scores`; got {told!r:.200}")
    try:
        described = json.dumps(told, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"`about` must be what JSON can say: {error}") from error
    described += len(described).to_bytes(LENGTH)
    return described + _checksum(key, content, described) + MARK


def content_of(key: str, held: bytes) -> bytes | None:
    """Return the content of a file whose bytes are `held`, or None if it is damaged."""
    checked = memoryview(held)[: -(TAIL - LENGTH)]
    if len(held) < TAIL or held[len(checked) :] != _checksum(key, checked) + MARK:
        return None
    return held[: len(held) - TAIL - _length(held)]


def is_of_another_edition(held: bytes) -> bool:
    """Return whether a file that ends with `held` was written by another edition of the store."""
    mark = held[-len(MARK) :]
    return mark != MARK and MARKS.fullmatch(mark) is not None


def is_whole(path: Path) -> bool:
    """Return whether a file is what was put there; one that is gone, or of another edition, is no damage."""
    try:
        held = path.read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return is_of_another_edition(held) or content_of(path.name, held) is not None


def entry_at(path: Path) -> Entry | None:
    """Return what a file says at its end; None if it is gone, or of another edition.

    Another process may remove or replace the file meanwhile: what is returned is all of one file.
    """
    try:
        with path.open("rb") as file:
            status, end = os.fstat(file.fileno()), _end(file)
    except FileNotFoundError:
        return None
    except OSError:
        return _unreadable(path)
    if is_of_another_edition(end):
        return None
    about = _about(end)
    return Entry(path.name, about.get("kind", DAMAGED), about, status.st_size, status.st_mtime)


def ending(path: Path) -> bytes:
    """Return the end of a file, so much that the description is in it; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            return _end(file)
    except OSError:
        return b""


def _unreadable(path: Path) -> Entry | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return Entry(path.name, DAMAGED, {}, status.st_size, status.st_mtime)


def _end(file: BinaryIO) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - GLANCE))
    end = file.read()
    if len(end) < (needed := TAIL + _length(end)) <= size:
        file.seek(size - needed)
        end = file.read()
    return end


def _about(end: bytes) -> dict[str, Any]:
    """Return the description in the `end` of a file; empty if there is none."""
    start = len(end) - TAIL - _length(end)
    if start >= 0 and end.endswith(MARK):
        with suppress(ValueError):
            content = json.loads(end[start:-TAIL])
            if isinstance(content, dict) and isinstance(content.get("kind"), str):
                return content
    return {}


def _length(end: bytes) -> int:
    return int.from_bytes(end[-TAIL:][:LENGTH])


def _checksum(key: str, *parts: bytes | memoryview) -> bytes:
    # With the key, a file that was moved to another name is damaged as well.
    whole = hashlib.sha256(key.encode())
    for part in parts:
        whole.update(part)
    return whole.digest()
