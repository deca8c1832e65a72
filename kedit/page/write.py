"""Writing a page: sections into one file that asks for nothing from outside, and is never too large."""

import base64
import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kedit import __version__
from kedit.page.folder import Folder, PageError
from kedit.page.headings import Heading, heading
from kedit.page.materials import Materials, leave_materials
from kedit.page.parts import Section
from kedit.page.sections import SECTIONS
from kedit.page.texts import marked, marked_pieces, plain, prose
from kedit.results.run_folder import Run, write_atomic

logger = logging.getLogger(__name__)

PAGE = "report.html"
MOST_BYTES = 5_000_000
SHARES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.0)
"""Shares of the pictures, from all to none; the page takes the first that fits."""


def leave_page(run: Run, make: Callable[[], Materials] = Materials) -> None:
    """Leave the page of a run in its folder, and what `make` returns for it; where that fails, the run goes on."""
    leave_materials(run, make)
    add_page(run.folder)


def add_page(folder: str | Path) -> Path | None:
    """Write the page of a folder and return its path; where that fails, warn, and return None."""
    try:
        return write_page(folder)
    except Exception as error:  # a page is no reason to lose a run
        text = " ".join(str(error).split())
        logger.warning("no page: %s; `kedit page %s` tries again", text, folder)
        logger.info("the page could not be written", exc_info=True)
        return None


def write_page(folder: str | Path) -> Path:
    """Write `report.html` into the folder of a run or a sweep, from what lies there, and return its path.

    Raises:
        PageError: The folder has nothing to tell, one of its files is damaged, or the page would be too large.
        OSError: The page cannot be written.
    """
    told = Folder(folder)
    head = heading(told)
    if head is None:
        there = "holds no result of a finished command" if told.path.is_dir() else "does not exist"
        raise PageError(f"no page of `{told.path}`: it {there}; give the folder of a run or of a sweep")
    sections = [section for make in SECTIONS if (section := make(told)) is not None]
    write_atomic(told.path / PAGE, _fit(told, head, sections))
    return told.path / PAGE


def _fit(folder: Folder, head: Heading, sections: Sequence[Section]) -> str:
    """Return the page with as many pictures as there is room for."""
    for share in SHARES:
        page = render(head, [section.limited(share) for section in sections], _up(folder))
        if len(page.encode()) <= MOST_BYTES:
            return page
    raise PageError(f"the page of `{folder.path}` is larger than {MOST_BYTES:,} bytes, even without pictures")


def render(head: Heading, sections: Sequence[Section], up: str = "") -> str:
    """Return a page as HTML.

    Args:
        head: The title and the finding.
        sections: What follows, in order.
        up: The address of the page of the sweep that the run belongs to; empty for none.
    """
    style, script = (_own(name) for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
    policy += "base-uri 'none'; form-action 'none'"
    template = _environment().get_template("page.html.j2")
    return template.render(
        head=head, sections=sections, up=up, policy=Markup(policy), style=Markup(style), script=Markup(script),
        version=__version__,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("kedit.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {"marked": marked, "plain": plain, "pieces": marked_pieces, "prose": prose}
    found.filters |= {"kind_of": lambda value: type(value).__name__, "sort_value": sort_value, "is_number": is_number}
    return found


def _own(name: str) -> str:
    """Return kedit's own style sheet or script, as it stands in the page."""
    return files("kedit.page").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return the source of a content policy that allows this one text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _up(folder: Folder) -> str:
    """Return the address of the sweep's page, for a job's folder."""
    is_job = folder.path.name.isdigit() and (folder.path.parent / "sweep.json").is_file()
    return f"../{PAGE}" if is_job else ""


def is_number(cell: Any) -> bool:
    """Return whether a cell shows a number."""
    return isinstance(getattr(cell, "value", cell), int | float)


def sort_value(cell: Any) -> str:
    """Return what a cell is sorted by: a number, or its text."""
    value = getattr(cell, "value", getattr(cell, "text", cell))
    return "" if value is None else str(value)
