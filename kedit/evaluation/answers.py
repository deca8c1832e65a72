"""When an answer is right."""

import re
from typing import Literal, get_args

from kedit.samples import Question
from kedit.words import UNSPACED

Match = Literal["contains", "exact"]
"""When an answer is right: it has the words of one of the right answers somewhere in it, or no other words."""

_WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")
"""A sign of a script without spaces is a word of its own."""


def right(question: Question, said: str, match: Match = "contains") -> bool:
    """Return whether `said` answers `question`; case and punctuation do not count, and words count only whole.

    `contains` is MINER's rule (Huang et al. 2024) but for whole words: with it, an answer that lists everything is
    right.
    """
    check_match(match)
    told = _words(said)
    for answer in (question.answer, *question.others):
        words = _words(answer)
        starts = range(len(told) - len(words) + 1) if match == "contains" else [0] if len(told) == len(words) else []
        if words and any(told[start : start + len(words)] == words for start in starts):
            return True
        # An answer may be a mark that is no word.
        if not words and answer.strip() and said.strip() == answer.strip():
            return True
    return False


def is_known(question: Question) -> bool:
    """Return whether a right answer is known."""
    return any(answer.strip() for answer in (question.answer, *question.others))


def check_match(match: str) -> None:
    """Raise a ValueError unless `match` says when an answer is right."""
    if match not in get_args(Match):
        raise ValueError(f"`match` is {' or '.join(get_args(Match))}, got {match!r}")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
