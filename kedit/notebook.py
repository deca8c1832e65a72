"""What an object shows in a notebook: HTML in which text from strangers stays text."""

import base64
import html
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 256
"""Pixels of the longer side of a thumbnail, at most."""

UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})
"""Categories of characters that change a text and show nothing. Among them are the marks that turn the direction of
writing round: a text that holds them could make the page read otherwise than it was written (Unicode Standard Annex 9,
section 2)."""
SPACES = frozenset("\n\t")
JOINERS = frozenset("\u200c\u200d")
"""They join letters of words and parts of emoji."""


class Shown:
    """What a console shows, and a notebook keeps beside the HTML, by its text and not by all of its fields."""

    def __repr__(self) -> str:
        return str(self)


def escape(text: str) -> str:
    """Return a text for HTML: markup and what would be invisible are seen, and do nothing."""
    return html.escape("".join(one.encode("unicode_escape").decode() if unseen(one) else one for one in text))


def unseen(character: str) -> bool:
    """Return whether a character shows nothing, and is neither a space nor joins letters."""
    return unicodedata.category(character) in UNSEEN and character not in SPACES | JOINERS


def element(kind: str, text: str) -> str:
    """Return an escaped text as an element, such as a `p`."""
    return f"<{kind}>{escape(text)}</{kind}>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", notes: Iterable[str] = ()) -> str:
    """Return texts, `[row][column]`, as a table with its title above and the notes below; all are escaped."""
    head = "".join(element("th", name) for name in columns)
    body = "".join("<tr>" + "".join(element("td", text) for text in row) + "</tr>" for row in rows)
    caption = element("caption", title) if title else ""
    grid = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    lines = [escape(line) for note in notes for line in note.splitlines() if line]
    return grid + (f"<p>{'<br>'.join(lines)}</p>" if lines else "")


def picture(png: bytes, told: str) -> str:
    """Return a PNG inside the page; `told` is for whoever cannot see it."""
    content = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(told)}" style="max-width: 100%" src="data:image/png;base64,{content}">'


def thumbnails(images: Mapping[str, "Image"]) -> str:
    """Return pictures side by side, each under what it is called."""
    columns = (f"<td>{picture(_small(image), name)}</td>" for name, image in images.items())
    heads = "".join(element("th", name) for name in images)
    return f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{''.join(columns)}</tr></tbody></table>"


def _small(image: "Image") -> bytes:
    small, target = image.convert("RGB"), BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(target, "PNG")
    return target.getvalue()
