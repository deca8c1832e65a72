"""What a run leaves on disk: whole files or none, and a status."""

import json
import logging
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from kedit.figure_style import Style

log = logging.getLogger(__name__)

STEMS = (
    *("scores", "pvalues", "significance", "shard", "neurons", "neurons_*", "captions", "answers", "timing"),
    *("report", "report_*", "locate", "compare", "inspect", "decode", "leaderboard", "inpaint", "bench", "planted"),
    *("calibration", "grid", "operators", "gone", "page", "drawings"),
)
SUFFIXES = ("json", "jsonl", "csv", "md", "html", "safetensors")
FILES = ("STATUS", "KEY", "kedit.log", *(f"{stem}.{suffix}" for stem in STEMS for suffix in SUFFIXES))
"""Names of all files that a run may leave beside its folders, so that whoever takes its place can remove them."""
OF_ANY_COMMAND = ("STATUS", "KEY", "kedit.log")
"""Those of them that lie in a folder as soon as a command begins, or hold no result."""
FIGURES = (
    *("layers", "scores", "effects", "before_after", "heatmaps", "score", "methods", "overlap", "matrix", "dose"),
    *("pareto", "thresholds", "words", "sensitivity", "concepts", "convergence", "measures", "planted"),
    *("counterfactuals", "operators", "sources", "pictures_*", "calibration", "relearning", "gone", "drawings"),
)
FOLDERS: dict[str, tuple[str, ...]] = {
    "figures": tuple(f"{stem}.{suffix}" for stem in FIGURES for suffix in ("png", "pdf", "svg")),
    "pictures": ("[0-9][0-9][0-9]*-*.counterfactual.png", "[0-9][0-9][0-9]*-*.control.png"),
    "wandb": ("run-*", "offline-run-*", "latest-run", "debug*.log", "settings"),
    ".hydra": ("*.yaml",),
}
"""The folders that a run may leave, and what it puts there, by names that a user's own files hardly have."""


class Drawable(Protocol):
    """What can write itself as a picture, such as `kedit.plots.Drawing`."""

    def save(self, path: Path, style: Style | None = None) -> object:
        """Write the picture in a style, None for the usual one."""
        ...


class RunFolderError(OSError):
    """A file of a run cannot be written; the message names it."""


class FinishedRunError(FileExistsError):
    """A folder holds a finished run of another result."""


def write_file(path: str | Path, write: Callable[[Path], object]) -> None:
    """Put what `write` makes in the place of `path`, in one step.

    `write` gets the path of a temporary file in the same folder, with the same suffix. Whatever
    interrupts it, a full disk or a kill, `path` holds all of its old content or all of the new.

    Raises:
        RunFolderError: If the folder or the file cannot be written; no temporary file is left.
    """
    path = Path(path)
    draft = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(draft)
        _flush(draft, os.O_RDWR)
        draft.replace(path)
        # The new name is safe from a power cut only when the folder is flushed too; not all systems can.
        with suppress(OSError):
            _flush(path.parent, os.O_RDONLY)
    except Exception as error:
        cause = system_error(error)
        # `write` may also fail on a file of its own, which its error already names.
        if cause is None or (cause.filename and Path(cause.filename) not in (draft, path, *path.parents)):
            raise
        raise _refused(path, cause) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Replace the content of `path` by `data` (text as UTF-8) in one step, as `write_file` does."""
    encoded = data.encode() if isinstance(data, str) else data
    write_file(path, lambda draft: draft.write_bytes(encoded))


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as JSON in one step.

    Floats keep every digit, mappings their order; sets are sorted and paths become text.

    Raises:
        ValueError: If a number is not finite, which JSON cannot say; the message names its place.
    """
    write_atomic(path, _json(value, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[object]) -> None:
    """Write one line of JSON for each row, in one step; values as in `write_json`."""
    write_atomic(path, "".join(_json(row) + "\n" for row in rows))


def _flush(path: Path, access: int) -> None:
    handle = os.open(path, access)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def system_error(error: Exception) -> OSError | None:
    """Return what the system said where an error is its; None where it is another."""
    if isinstance(error, OSError):
        return error
    # safetensors is written in Rust, whose I/O errors arrive as text that ends in the system's number.
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _refused(path: Path, error: OSError) -> RunFolderError:
    refused = RunFolderError(
        f"cannot write `{path}`: {error.strerror or error}; choose a run folder that is writable and has space left"
    )
    refused.errno = error.errno
    return refused


def _json(value: object, indent: int | None = None) -> str:
    for place, number in _numbers(value):
        if not math.isfinite(number):
            raise ValueError(f"`{place}` is {number}; JSON has no such number, use None and say why")
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)


def _numbers(value: object, place: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield place or "value", value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _numbers(inner, f"{place}[{index}]")


def _plain(value: object) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form: {value!r:.80}")


@dataclass(frozen=True)
class Run:
    """The folder of one run, open while the run lasts.

    Inside `with`, `STATUS` says `running`; afterwards `done`, or `failed: ` and the reason.
    A run that was killed still says `running`.
    """

    folder: Path

    def __enter__(self) -> Self:
        write_atomic(self.folder / "STATUS", "running\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            write_atomic(self.folder / "STATUS", f"{_outcome(error)}\n")
        except RunFolderError as unwritable:
            if error is None:
                raise
            log.warning("%s", unwritable)  # must not hide why the run failed

    @property
    def status(self) -> str:
        """The one line in `STATUS`: `running`, `done` or `failed: ` and the reason."""
        return (self.folder / "STATUS").read_text(encoding="utf-8").strip()

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures so far, as paths relative to the folder, sorted."""
        return tuple(sorted(f"figures/{one.name}" for one in (self.folder / "figures").glob("[!.]*")))

    def save_file(self, name: str, write: Callable[[Path], object]) -> Path:
        """Let `write` make the file `name` and return its path; see `write_file`."""
        write_file(self.folder / name, write)
        return self.folder / name

    def save_text(self, name: str, text: str) -> Path:
        """Write `text` and return its path."""
        write_atomic(self.folder / name, text)
        return self.folder / name

    def save_json(self, name: str, value: object) -> Path:
        """Write `value` as JSON and return its path; see `write_json`."""
        write_json(self.folder / name, value)
        return self.folder / name

    def save_jsonl(self, name: str, rows: Iterable[object]) -> Path:
        """Write one line of JSON for each row and return the path."""
        write_jsonl(self.folder / name, rows)
        return self.folder / name

    def save_figure(self, name: str, draw: Callable[[Path], object]) -> Path:
        """Let `draw` make `figures/<name>` and return its path."""
        return self.save_file(f"figures/{name}", draw)

    def save_figures(self, drawings: Mapping[str, Drawable], style: Style | bool = True) -> list[Path]:
        """Write each of the `drawings` as a picture of its name, and return the paths.

        Args:
            drawings: The figures.
            style: How they are written, True as usual, False not at all.
        """
        if isinstance(style, bool):
            return [self.save_figure(f"{name}.png", one.save) for name, one in drawings.items()] if style else []
        return [
            self.save_figure(f"{name}.{style.format}", partial(one.save, style=style)) for name, one in drawings.items()
        ]


def is_finished(folder: Path) -> bool:
    """Return whether `folder` holds a run that is done."""
    try:
        return (folder / "STATUS").read_text(encoding="utf-8") == "done\n"
    except (OSError, UnicodeDecodeError):
        return False


def new_folder(wanted: Path) -> Path:
    """Make the folder `wanted`, or the first of `wanted-2`, `wanted-3`, ... that nobody has made, and return it.

    Of several processes that ask at the same moment, each gets a folder of its own.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    folder, number = wanted, 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")


def clear(folder: Path, keep: Iterable[str] = ()) -> None:
    """Remove what a run left in `folder`, and the runs in its numbered folders; other files stay.

    A folder without a STATUS holds no run, and the one that the process works in, or one around it, is the user's:
    nothing is removed there.

    Args:
        folder: The run's.
        keep: Names of files and folders that stay.
    """
    if not (folder / "STATUS").exists() or is_the_users(folder):
        return
    for path in list(folder.iterdir()):
        if path.name in keep:
            continue
        if path.name in FOLDERS and path.is_dir():
            for inner in _left_in(path):
                _remove(inner)
            _remove_empty(path)
        elif path.name.isdigit() and (path / "STATUS").exists():
            clear(path)
            _remove_empty(path)
        elif any(fnmatch(path.name, name) for name in FILES):
            path.unlink(missing_ok=True)


def may_go(name: str) -> bool:
    """Return whether `clear` may remove something of this name, or in it, from the folder of a run."""
    return name in FOLDERS or name.isdigit() or any(fnmatch(name, one) for one in FILES)


def is_the_users(folder: Path) -> bool:
    """Return whether a folder is the one that the process works in, or one around it."""
    here = Path.cwd()
    return folder.resolve() in (here, *here.parents)


def _left_in(folder: Path) -> list[Path]:
    """Return what has the name of something that a run leaves in a folder of `FOLDERS`; of a link, nothing."""
    patterns = () if folder.is_symlink() else FOLDERS[folder.name]
    return [one for pattern in patterns for one in folder.glob(pattern)]


def check_own(folder: Path, aside: str = "STATUS") -> None:
    """Raise a FinishedRunError where files of somebody else's lie under names that a run is about to write.

    Args:
        folder: Where a run is about to begin; what one began there, its STATUS tells, or the file `aside`.
        aside: What the STATUS may be called as well.
    """
    if any((folder / name).exists() for name in ("STATUS", aside)):
        return
    beside = [one for name in FILES if name not in OF_ANY_COMMAND for one in folder.glob(name)]
    # Where nothing is ever removed, W&B's runs may lie side by side.
    within = FOLDERS.keys() - {".hydra"} - ({"wandb"} if is_the_users(folder) else set())
    inside = [one for name in within for one in _left_in(folder / name)]
    if others := sorted(str(one.relative_to(folder)) for one in (*beside, *inside)):
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise FinishedRunError(
            f"`{folder}` holds files that no run has left there ({', '.join(others[:3])}{more}), which would be "
            "replaced or removed: name another folder"
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # somebody else has put something there
        folder.rmdir()


@contextmanager
def result_folder(folder: str | Path, name: str, content: object, *, overwrite: bool) -> Iterator[Run]:
    """Open `folder` for a result, as a run; what an unfinished run, or one to be overwritten, left there is removed.

    Args:
        folder: Where the result goes.
        name: The file that tells the result.
        content: What that file will say.
        overwrite: Whether a finished run of another result, and files by the same names, may be replaced.

    Raises:
        FinishedRunError: There is one, or there are files by the same names that no run has left, and they may not.
    """
    folder = Path(folder)
    if not overwrite and is_finished(folder) and not _says(folder / name, content):
        raise FinishedRunError(
            f"`{folder}` holds a finished run with another result; name another folder, or replace it with "
            "`overwrite=True`"
        )
    if not overwrite:
        check_own(folder)
    if overwrite or not is_finished(folder):
        clear(folder)
    with Run(folder) as run:
        yield run


def _says(path: Path, content: object) -> bool:
    """Return whether the JSON file at `path` says `content`, however long it took."""
    try:
        return bool(_timeless(json.loads(path.read_text(encoding="utf-8"))) == _timeless(json.loads(_json(content))))
    except (OSError, ValueError):
        return False


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key != "seconds"}
    return [_timeless(one) for one in content] if isinstance(content, list) else content


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "done"
    if isinstance(error, KeyboardInterrupt):
        return "failed: interrupted"
    first_line = next(iter(str(error).strip().splitlines()), "")
    return f"failed: {type(error).__name__}" + (f": {first_line}" if first_line else "")
