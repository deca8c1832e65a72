"""The fluency guard: whether an edited model still speaks, for a broken one suppresses everything."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from kedit.evaluation.exam import Transcript
from kedit.evaluation.texts import WordTokenizer
from kedit.words import UNSPACED

LONGEST_REPEAT = 4
"""The longest n-gram whose immediate repetition is looked for."""

# A run of marks is one token, so that an ellipsis is no repetition; a sign of a script without spaces is one as well.
_TOKEN = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+|[^\w\s{UNSPACED}]+")


@dataclass(frozen=True)
class Guard:
    """What still counts as fluent, for the target and the retention captions separately."""

    empty: float = 0.1
    """By how much the share of blank captions may exceed the unedited model's."""
    repetition: float = 0.1
    """By how much the share of repetitive captions may exceed the unedited model's."""
    length_ratio: tuple[float, float] = (0.5, 2.0)
    """The range for the words of all edited captions over the words of all unedited ones."""

    def __call__(self, before: Transcript, after: Transcript) -> "Fluency":
        """Return how fluent `after` is, beside `before`."""
        groups = {
            name: GroupFluency.of(getattr(before, name), getattr(after, name))
            for name in ("target", "retention")
            if getattr(before, name)
        }
        faults = [f"on {name} samples {fault}" for name, group in groups.items() for fault in self._faults(group)]
        return Fluency(groups, not faults, "; ".join(faults) or None)

    def _faults(self, group: "GroupFluency") -> Iterable[str]:
        shortest, longest = self.length_ratio
        if group.empty - group.empty_before > self.empty:
            yield f"{group.empty:.0%} of the captions are empty (before: {group.empty_before:.0%})"
        if group.repetition - group.repetition_before > self.repetition:
            yield f"{group.repetition:.0%} of the captions repeat themselves (before: {group.repetition_before:.0%})"
        if group.length_ratio is not None and not shortest <= group.length_ratio <= longest:
            yield f"the captions have {group.length_ratio:.2f} times the words, outside {shortest} to {longest}"


@dataclass(frozen=True)
class GroupFluency:
    """The signs of a broken model in one group of captions: shares in [0, 1] and a ratio of words."""

    empty: float
    empty_before: float
    repetition: float
    repetition_before: float
    length_ratio: float | None
    """Words after over words before; None where there were no words before."""
    n: int

    @classmethod
    def of(cls, before: Sequence[str], after: Sequence[str]) -> "GroupFluency":
        """Return the fluency of the captions `after`, beside that of the same samples' `before`."""
        words_before, words_after = _words(before), _words(after)
        return cls(
            empty=_share(not text.strip() for text in after),
            empty_before=_share(not text.strip() for text in before),
            repetition=_share(map(repetitive, after)),
            repetition_before=_share(map(repetitive, before)),
            length_ratio=words_after / words_before if words_before else None,
            n=len(after),
        )


@dataclass(frozen=True)
class Fluency:
    """The guard's finding for each group of captions, and why it failed if it did."""

    groups: dict[str, GroupFluency] = field(default_factory=dict)
    passed: bool = True
    why: str | None = None

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Fluency":
        """Return what `to_json` wrote."""
        groups = {name: GroupFluency(**told[name]) for name in ("target", "retention") if name in told}
        return cls(groups, told["passed"], told.get("why"))

    def to_json(self) -> dict[str, object]:
        """Return `{"passed", "target": {...}, "retention": {...}}`, and "why" if the guard failed."""
        figures = {name: asdict(group) for name, group in self.groups.items()}
        return {"passed": self.passed, **figures, **({} if self.why is None else {"why": self.why})}


def repetitive(text: str) -> bool:
    """Return whether `text` says an n-gram (n up to 4) three times in a row, or has few distinct bigrams.

    Few means that less than 30 % of the bigrams of a text of at least 8 tokens are distinct (distinct-2,
    Li et al. 2016).
    """
    tokens = _TOKEN.findall(text.lower())
    repeats = any(_repeats(tokens, length) for length in range(1, LONGEST_REPEAT + 1))
    bigrams = list(pairwise(tokens))
    return repeats or (len(tokens) >= 8 and len(set(bigrams)) < 0.3 * len(bigrams))


def _repeats(tokens: Sequence[str], length: int) -> bool:
    starts = range(len(tokens) - 3 * length + 1)
    return any(
        tokens[i : i + length] == tokens[i + length : i + 2 * length] == tokens[i + 2 * length : i + 3 * length]
        for i in starts
    )


def _words(texts: Sequence[str]) -> int:
    return sum(len(WordTokenizer().tokenize(text)) for text in texts)


def _share(claims: Iterable[bool]) -> float:
    listed = [bool(claim) for claim in claims]
    return sum(listed) / len(listed)
