"""A folder that is there as a whole or not at all: written beside its place, and renamed into it at the end."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kedit.results.run_folder import FinishedRunError, RunFolderError, system_error


@contextmanager
def whole_folder(folder: str | Path, mark: str, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden folder beside `folder`, which takes its place where the block ends well, and else is removed.

    One that a killed process left is removed by the next that writes the same folder; of two at the same time, the
    second is refused.

    Args:
        folder: Where it is to be.
        mark: The file by which such a folder is known: one without it is never replaced, unless it is empty.
        overwrite: Whether such a folder may be replaced.

    Raises:
        FinishedRunError: There is one, and it may not, or it is none.
        RunFolderError: It cannot be written, as on a full disk; the message names it.
    """
    folder = Path(folder)
    check_free(folder, mark, overwrite=overwrite)
    draft = folder.with_name(f".{folder.name}.draft")
    with _only_here(draft):
        try:
            yield draft
            _put_in_place(draft, folder)
        except Exception as error:
            if (cause := system_error(error)) is None or isinstance(error, RunFolderError):
                raise
            if cause.filename and draft not in (Path(cause.filename), *Path(cause.filename).parents):
                raise
            raise RunFolderError(
                f"cannot write `{folder}`: {cause.strerror or cause}; name a folder that is writable and has space left"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def check_free(folder: Path, mark: str, *, overwrite: bool) -> None:
    """Raise a FinishedRunError where there is something at `folder` that may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / mark).is_file():
        raise FinishedRunError(f"`{folder}` is there and has no `{mark}`, so it is not replaced: name another folder")
    if not overwrite:
        raise FinishedRunError(f"`{folder}` is there; name another folder, or replace it with `overwrite=true`")


@contextmanager
def _only_here(draft: Path) -> Iterator[None]:
    """Make the draft, and hold it so that no other process does; what a dead one left is removed."""
    import fcntl

    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.mkdir(exist_ok=True)
    handle = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in list(draft.iterdir()):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    except BlockingIOError as error:
        raise FinishedRunError(f"another process is writing `{draft}`: wait for it, or name another folder") from error
    finally:
        os.close(handle)


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename the draft; what was there goes only when the new is there."""
    for path in (*draft.iterdir(), draft):
        _flush(path)
    if not folder.exists():
        draft.rename(folder)
        return
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
