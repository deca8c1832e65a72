"""A folder of results under the digest of what they were made from: whole, checked, or not there."""

import hashlib
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedit.entries import Entry, content_of, end_of, ending, entry_at, is_of_another_edition, is_whole
from kedit.paths import NoHomeError, expanded

logger = logging.getLogger(__name__)

KEY = re.compile(r"[0-9a-f]{64}")
DRAFT = ".draft-"
ABANDONED = 3600.0
"""Seconds after which a draft belongs to no process that is still writing it."""


def default_folder() -> Path:
    """Return where the store is unless the user says otherwise: `$KEDIT_STORE`, or `~/.cache/kedit`.

    Raises:
        NoHomeError: It is in the user's home, and there is none.
    """
    return expanded(os.environ.get("KEDIT_STORE") or "~/.cache/kedit")


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

    A file is the content, what it is (JSON), how long that is, SHA-256 of the key and all of these, and a mark;
    programs that stop at the end of what they know, such as viewers of PNG, open it as it is. A file appears in one
    step, so that several processes may share the folder and one that is killed leaves no half entry.
    """

    folder: Path
    _warned: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def get(self, key: str) -> bytes | None:
        """Return the content under `key`, or None if there is none.

        A file that is not what was put there is named in the log and removed.
        """
        path = self.path(key)
        try:
            held = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            logger.warning("cannot read `%s` (%s): going on without it", path, error.strerror or error)
            return None
        if is_of_another_edition(held):
            return None
        content = content_of(key, held)
        with suppress(OSError):  # as in a folder that may only be read
            if content is not None:
                os.utime(path)  # `Entry.used`; few disks keep the time of a mere read
            else:
                logger.warning("`%s` is not what was put there (damaged): it is removed", path)
                path.unlink()
        return content

    def put(self, key: str, content: bytes, about: Mapping[str, Any] | None = None) -> None:
        """Put `content` under `key`, in one step.

        Args:
            key: What `digest` returned.
            content: Any bytes.
            about: Says what it is, in JSON's terms; `kind` is the one name it must have, and is `other` by default.

        Raises:
            OSError: If the folder or the file cannot be written.
            ValueError: If `about` has no `kind`, or JSON cannot say it.
        """
        end = end_of(key, content, about)
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        for draft in _abandoned(path.parent):
            _remove(draft)
        draft = path.parent / f"{DRAFT}{secrets.token_hex(8)}"
        try:
            with draft.open("xb") as file:
                file.write(content)
                file.write(end)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def cached(self, key: str, make: Callable[[], bytes], about: Mapping[str, Any] | None = None) -> bytes:
        """Return the content under `key`; where there is none, what `make` returns, which is kept.

        What cannot be kept, as on a full disk, is a warning, once for each reason.
        """
        content = self.get(key)
        if content is not None:
            return content
        content = make()
        self.keep(key, content, about)
        return content

    def keep(self, key: str, content: bytes, about: Mapping[str, Any] | None = None) -> None:
        """Put `content` under `key`; what cannot be kept, as on a full disk, is a warning, once for each reason."""
        try:
            self.put(key, content, about)
        except OSError as error:
            reason = str(error.strerror or error)
            if reason not in self._warned:
                logger.warning("cannot keep results in `%s` (%s): going on without", self.folder, reason)
            self._warned.add(reason)

    def ls(self) -> list[Entry]:
        """Return all entries, sorted by key, reading no more than the end of each file."""
        found = (entry_at(path) for path in sorted(self._files(), key=lambda path: path.name))
        return [one for one in found if one is not None]

    def rm(self, key: str) -> bool:
        """Remove the entry of `key` and return whether there was one."""
        try:
            self.path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def verify(self) -> list[str]:
        """Return the keys of the entries that are damaged, sorted; reads every file and removes none."""
        return sorted(path.name for path in self._files() if not is_whole(path))

    def leftovers(self) -> list[Path]:
        """Return the files that are no entries: of other editions of the store, and of processes that were killed."""
        old = (path for path in self._files() if is_of_another_edition(ending(path)))
        return sorted([*old, *(draft for folder in self.folder.glob("??") for draft in _abandoned(folder))])

    def path(self, key: str) -> Path:
        """Return the file of `key`; a ValueError if it is no key."""
        if not KEY.fullmatch(key):
            raise ValueError(f"a key is 64 hexadecimal digits, as `digest` makes them; got {key!r}")
        return self.folder / key[:2] / key

    def _files(self) -> Iterator[Path]:
        return (path for path in self.folder.glob("??/*") if KEY.fullmatch(path.name))


def store_at(folder: str | Path) -> Store | None:
    """Return the store in `folder`, in the usual one if that is empty; None, with a warning, where there is no home."""
    try:
        return Store(expanded(folder) if folder else default_folder())
    except NoHomeError as error:
        logger.warning("%s; going on without a store, unless KEDIT_STORE=/a/folder names one", error)
        return None


def _abandoned(folder: Path) -> Iterator[Path]:
    """Yield the drafts that processes left when they were killed."""
    for draft in folder.glob(f"{DRAFT}*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > ABANDONED:
                yield draft


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
