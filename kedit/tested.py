"""The newest releases that kedit's tests have passed with, and a word where what is installed is newer."""

import json
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

logger = logging.getLogger(__name__)

FILE = Path(__file__).with_suffix(".json")
"""The libraries that decide the numbers, each with its release; `make lock` and `make test-newest` renew it."""


@cache
def tell_untested() -> None:
    """Warn in one line, the first time in a process, of libraries that are newer than the tests know."""
    tested = json.loads(FILE.read_text(encoding="utf-8"))
    installed = dict(_installed(tested))
    if found := newer(installed, tested):
        text = ", ".join(f"{name} {installed[name]} (tested up to {tested[name]})" for name in found)
        logger.warning("newer than kedit's tests know: %s; `kedit doctor` checks whether a model can be trusted", text)


def newer(versions: Mapping[str, str], tested: Mapping[str, str]) -> list[str]:
    """Return the names whose version is above the tested one; which build it is (`+cpu`) does not matter."""
    from packaging.version import Version

    public = {name: Version(Version(found).public) for name, found in versions.items()}
    return [name for name, release in tested.items() if name in public and public[name] > Version(release)]


def _installed(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
