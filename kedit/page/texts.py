"""Texts of strangers on a page: escaped, isolated from the direction around them, nothing in them invisible."""

import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher

from markupsafe import Markup, escape

from kedit.notebook import unseen

LONGEST = 2000
"""Characters that are shown of one text."""
MOST_WORDS = 600
"""Words up to which two texts are compared word by word."""

Piece = tuple[str, bool]
"""Some text, and whether it changed."""


def plain(text: object) -> str:
    """Return a text for an attribute or a title: what would be invisible is spelled, such as `U+202E`."""
    return "".join(f"\u27e8U+{ord(one):04X}\u27e9" if unseen(one) else one for one in _cut(str(text)))


def marked(text: object) -> Markup:
    """Return a text as HTML, in a `bdi` of its own; what would be invisible is spelled."""
    return Markup("<bdi>{}</bdi>").format(_spelled(_cut(str(text))))


def prose(text: str) -> Markup:
    """Return a sentence as HTML, with what stands between backticks as code."""
    parts = _cut(text).split("`")
    if len(parts) % 2 == 0:  # a backtick alone means itself
        return marked(text)
    inner = [Markup("<code>{}</code>").format(marked(one)) if at % 2 else _spelled(one) for at, one in enumerate(parts)]
    return Markup("<bdi>{}</bdi>").format(Markup("").join(inner))


def marked_pieces(pieces: list[Piece], element: str) -> Markup:
    """Return a text as HTML, what changed inside an `element` such as `del` or `ins`."""
    inner = [
        Markup("<{0}>{1}</{0}>").format(Markup(element), _spelled(text)) if changed else _spelled(text)
        for text, changed in pieces
    ]
    return Markup("<bdi>{}</bdi>").format(Markup("").join(inner))


def changes(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Return both texts in pieces, of which those that the other text has not are changed."""
    old, new = _words(before), _words(after)
    if len(old) + len(new) > MOST_WORDS:
        return [("".join(old), before != after)], [("".join(new), before != after)]
    steps = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    olds = [("".join(old[a:b]), step != "equal") for step, a, b, _, _ in steps if b > a]
    news = [("".join(new[c:d]), step != "equal") for step, _, _, c, d in steps if d > c]
    return olds, news


def _words(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", _cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST} characters more)"


def _spelled(text: str) -> Markup:
    return Markup("").join(_spell(text))


def _spell(text: str) -> Iterator[Markup]:
    for part in re.split(r"([^ -~])", text):
        if len(part) == 1 and unseen(part):
            name = unicodedata.name(part, "control character")
            yield Markup('<span class="unseen" title="{}">U+{:04X}</span>').format(name.lower(), ord(part))
        else:
            yield escape(part)
