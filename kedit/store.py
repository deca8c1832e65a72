"""A folder of results under the digest of what they were made from: whole, checked, or not there."""

import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

KEY = re.compile(r"[0-9a-f]{64}")
MARK = b"kedit-1\n"
"""What an entry's file ends with, behind its checksum."""
TAIL = hashlib.sha256().digest_size + len(MARK)
DRAFT = ".draft-"
ABANDONED = 3600.0
"""Seconds after which a draft belongs to no process that is still writing it."""


def digest(about: object, *contents: bytes) -> str:
    """Return the key of what is made from `about` and `contents`: SHA-256, in hexadecimal.

    Args:
        about: Anything that JSON can say; the order of a mapping's keys does not matter.
        contents: Bytes such as pixels, in an order that matters.
    """
    told = json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    whole = hashlib.sha256()
    for part in (told, *contents):
        # With its length in front, no part can be mistaken for the end of the one before.
        whole.update(len(part).to_bytes(8))
        whole.update(part)
    return whole.hexdigest()


@dataclass(frozen=True)
class Store:
    """Bytes under keys that `digest` makes, one file each.

    A file is the content, SHA-256 of key and content, and a mark; programs that stop at the end of what they know,
    such as viewers of PNG, open it as it is. A file appears in one step, so that several processes may share the
    folder and one that is killed leaves no half entry.
    """

    folder: Path
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def get(self, key: str) -> bytes | None:
        """Return the content under `key`, or None if there is none.

        A file that is not what was put there is named in the log and removed.
        """
        try:
            held = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cannot read `%s` (%s): going on without it", self.path(key), error.strerror or error)
            return None
        content = _content(key, held)
        if content is None:
            logger.warning("`%s` is not what was put there (damaged): it is removed", self.path(key))
            with suppress(OSError):
                self.path(key).unlink()
        return content

    def put(self, key: str, content: bytes) -> None:
        """Put `content` under `key`, in one step; an OSError if the folder or the file cannot be written."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        draft = path.parent / f"{DRAFT}{secrets.token_hex(8)}"
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.write(_checksum(key, content) + MARK)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def remembered(self, key: str, make: Callable[[], bytes]) -> bytes:
        """Return the content under `key`; where there is none, what `make` returns, which is kept.

        What cannot be kept, as on a full disk, is a warning, once for each reason.
        """
        content = self.get(key)
        if content is not None:
            return content
        content = make()
        try:
            self.put(key, content)
        except OSError as error:
            reason = str(error.strerror or error)
            if reason not in self._told:
                logger.warning("cannot keep results in `%s` (%s): going on without", self.folder, reason)
            self._told.add(reason)
        return content

    def ls(self) -> list[str]:
        """Return the keys of all entries, sorted."""
        return sorted(path.name for path in self._files())

    def rm(self, key: str) -> bool:
        """Remove the entry of `key` and return whether there was one."""
        try:
            self.path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def verify(self) -> list[str]:
        """Return the keys of the entries that are damaged, sorted; reads every file and removes none."""
        return [key for key in self.ls() if _content(key, self.path(key).read_bytes()) is None]

    def path(self, key: str) -> Path:
        """Return the file of `key`; a ValueError if it is no key."""
        if not KEY.fullmatch(key):
            raise ValueError(f"a key is 64 hexadecimal digits, as `digest` makes them; got {key!r}")
        return self.folder / key[:2] / key

    def _files(self) -> Iterator[Path]:
        return (path for path in self.folder.glob("??/*") if KEY.fullmatch(path.name))


def _checksum(key: str, content: bytes) -> bytes:
    # With the key, a file that was moved to another name is damaged as well.
    return hashlib.sha256(key.encode() + content).digest()


def _content(key: str, held: bytes) -> bytes | None:
    """Return the content of a file, or None if it is damaged."""
    content, tail = held[:-TAIL], held[-TAIL:]
    return content if tail == _checksum(key, content) + MARK else None


def _remove_abandoned(folder: Path) -> None:
    """Remove the drafts that processes left when they were killed."""
    for draft in folder.glob(f"{DRAFT}*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > ABANDONED:
                draft.unlink()
