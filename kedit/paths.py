"""Where the configuration lies, what a list names, and where the user is at home."""

import os
from pathlib import Path


class NoHomeError(OSError):
    """A path begins with `~`, and whose home that is, nobody knows, as in a container without accounts."""


def users_home() -> Path | None:
    """Return the home folder of the process; None where it knows of none. An empty `HOME` is none."""
    try:
        return None if os.environ.get("HOME") == "" else Path.home()
    except RuntimeError:
        return None


def is_writable(folder: Path) -> bool:
    """Return whether files can be put into `folder`, which need not be there yet."""
    while not os.access(folder, os.F_OK):
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def expanded(path: str | Path) -> Path:
    """Return `path` with the home folder in the place of a leading `~`.

    Raises:
        NoHomeError: There is none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise NoHomeError(
            f"no home folder is known for `{path}` (no HOME, no account): write the path in full"
        ) from error


def lying_at(*places: Path) -> Path:
    """Return the first of `places` at which a file lies, as named, or with its suffix in small or large letters.

    It is the first place where there is none. Lists that were written under Windows or macOS often call `1.JPG` what is
    `1.jpg` here.
    """
    for place in places:
        suffixes = dict.fromkeys((place.suffix, place.suffix.lower(), place.suffix.upper()))
        for path in (place.with_suffix(suffix) if suffix else place for suffix in suffixes):
            if path.is_file():
                return path
    return places[0]


def conf_dir() -> Path:
    """Return the folder of the configuration groups, whose primary file is `run.yaml`.

    A checkout is tried first, so that an editable install reads the files that are being edited; a wheel carries them
    in `kedit/conf`.

    Raises:
        FileNotFoundError: Neither place has a `run.yaml`.
    """
    package = Path(__file__).resolve().parent
    checkout, shipped = package.parent / "conf", package / "conf"
    # Another project's `conf` beside an installed kedit must not pass for ours, hence the second file.
    if (package.parent / "pyproject.toml").is_file() and (checkout / "run.yaml").is_file():
        return checkout
    if (shipped / "run.yaml").is_file():
        return shipped
    raise FileNotFoundError(
        f"no `run.yaml` in the checkout's `{checkout}` nor in the wheel's `{shipped}`; reinstall kedit"
    )
