"""Reads what an object shows in a notebook, as a browser does: elements, texts and pictures."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image

from kedit.results.table import Table

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)> & \u202etxt.exe\u2066'
"""What a stranger may call a thing: markup, and marks that turn the direction of writing round."""
TOLD = EVIL.replace("\u202e", "\\u202e").replace("\u2066", "\\u2066")
"""What a reader sees of it."""
ELEMENTS = frozenset(["p", "br", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td", "img", "pre"])


class Page(HTMLParser):
    """The elements of a page, its texts and its pictures."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.texts: list[str] = []
        self.pictures: list[Image.Image] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.texts.append("")
        for name, value in attrs:
            assert name in ("alt", "style", "src"), name
            if name == "src":
                kind, _, content = (value or "").partition(",")
                assert kind == "data:image/png;base64"
                self.pictures.append(Image.open(io.BytesIO(base64.b64decode(content))))

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data


def read_page(page: str, *tables: Table) -> Page:
    """Return a page; fail unless it holds all that the tables say, and nothing but plain elements."""
    seen = Page(page)
    assert set(seen.elements) <= ELEMENTS
    assert not any(mark in page for mark in "\u202e\u2066")
    for table in tables:
        notes = (line for note in table.notes for line in note.splitlines())
        wanted = [table.title, *table.columns, *notes, *(cell for row in table.texts for cell in row)]
        missing = [text for text in wanted if text not in seen.texts and text.replace(EVIL, TOLD) not in seen.texts]
        assert not [text for text in missing if text]
    return seen
