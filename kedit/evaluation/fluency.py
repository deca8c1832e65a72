"""The fluency guard: whether an edited model still speaks, for a broken one suppresses everything."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from kedit.evaluation.evaluation_set import Outputs
from kedit.evaluation.texts import WordTokenizer
from kedit.words import UNSPACED

LONGEST_REPEAT = 4
"""The longest n-gram whose immediate repetition is looked for."""

# A run of marks is one token, so that an ellipsis is no repetition; a sign of a script without spaces is one as well.
_TOKEN = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+|[^\w\s{UNSPACED}]+")


@dataclass(frozen=True)
class Speech:
    """Texts that a model gave, and what tells whether they are language; None is what was not taken."""

    texts: Sequence[str]
    surprise: Sequence[float | None] | None = None
    """How unlikely the unedited model finds the median token of each, in nats; None where it is too short to tell."""
    cut: Sequence[bool] | None = None
    """Whether each ends only because it may not be longer."""


@dataclass(frozen=True)
class Guard:
    """What still counts as language, for the captions of target and retention samples separately.

    The shares are of the texts of a group, and may exceed the unedited model's by so much.
    """

    empty: float = 0.1
    """Blank texts."""
    repetition: float = 0.1
    """Texts that repeat themselves."""
    strange: float = 0.1
    """Texts whose median token the unedited model finds `perplexity` times as perplexing as it finds its own."""
    perplexity: float = 100.0
    """A ratio. On the shipped model, "ring" or "shape" in place of "star" leaves the worst caption at 1.1 and 3 in 10
    neurons zeroed at 2.5; of captions with their words shuffled 95 % are above 9,900; half of the babble that 9 in 10
    neurons zeroed leave is above 460. Of captions of other pictures, fluent but all wrong, 22 % are above 100."""
    cut: float = 0.1
    """Texts that end only because they may not be longer. Where more than half of the unedited ones do, this is not
    asked: the limit is too short for an end, as for texts to be gone on with."""
    length_ratio: tuple[float, float] = (0.5, 2.0)
    """The range for the words of all edited texts over the words of all unedited ones."""

    def __call__(self, before: Outputs, after: Outputs) -> "Fluency":
        """Return how fluent the captions of `after` are, beside those of `before`."""
        n_target = len(before.target)
        parts = {"target": slice(n_target), "retention": slice(n_target, None)}
        groups = {
            name: (_captions(before, part), _captions(after, part))
            for name, part in parts.items()
            if getattr(before, name)
        }
        return self.judge(groups)

    def judge(
        self, groups: Mapping[str, tuple[Speech, Speech]], *, what: str = "captions", where: str = "on {} samples "
    ) -> "Fluency":
        """Return how fluent each group's texts after an edit are, beside those before.

        `what` they are called, and `where` a group of some name is, is said of what is wrong with them.
        """
        found = {name: GroupFluency.of(*pair, self.perplexity) for name, pair in groups.items()}
        faults = [where.format(name) + one for name, group in found.items() for one in self._faults(group, what)]
        return Fluency(found, not faults, "; ".join(faults) or None)

    def _faults(self, group: "GroupFluency", what: str) -> Iterable[str]:
        limited = group.cut_before is not None and group.cut_before > 0.5
        for now, was, most, fault in (
            (group.empty, group.empty_before, self.empty, "are empty"),
            (group.repetition, group.repetition_before, self.repetition, "repeat themselves"),
            (group.strange, group.strange_before, self.strange, "are no language to the unedited model"),
            (None if limited else group.cut, group.cut_before, self.cut, "run on until they are cut off"),
        ):
            if now is not None and was is not None and now - was > most:
                yield f"{now:.0%} of the {what} {fault} (before: {was:.0%})"
        shortest, longest = self.length_ratio
        if group.length_ratio is not None and not shortest <= group.length_ratio <= longest:
            yield f"the {what} have {group.length_ratio:.2f} times the words, outside {shortest} to {longest}"


@dataclass(frozen=True)
class GroupFluency:
    """The signs of a broken model in one group of texts: shares in [0, 1], a ratio of words, and perplexities."""

    empty: float
    empty_before: float
    repetition: float
    repetition_before: float
    length_ratio: float | None
    """Words after over words before; None where there were no words before."""
    n: int
    strange: float | None = None
    """None where nobody asked the unedited model; so below."""
    strange_before: float | None = None
    perplexity: float | None = None
    """The unedited model's, of the median token of the median text; None as well where all texts are too short."""
    perplexity_before: float | None = None
    cut: float | None = None
    cut_before: float | None = None

    @classmethod
    def of(cls, before: Speech, after: Speech, ratio: float) -> "GroupFluency":
        """Return the fluency of the texts of `after`, beside that of the same samples' in `before`.

        A text is strange where it is `ratio` times as perplexing as the median text of `before`.
        """
        words_before, words_after = _words(before.texts), _words(after.texts)
        usual, now = _median(before.surprise), _median(after.surprise)
        bound = (usual or 0.0) + math.log(ratio)

        def strange(speech: Speech) -> float | None:
            # Texts that are too short to be judged say nothing of what is usual.
            known = usual is not None and speech.surprise is not None
            return _share((one or 0) > bound for one in speech.surprise or ()) if known else None

        return cls(
            empty=_share(not text.strip() for text in after.texts),
            empty_before=_share(not text.strip() for text in before.texts),
            repetition=_share(map(repetitive, after.texts)),
            repetition_before=_share(map(repetitive, before.texts)),
            length_ratio=words_after / words_before if words_before else None,
            n=len(after.texts),
            strange=strange(after),
            strange_before=strange(before),
            perplexity=None if now is None else _perplexity(now),
            perplexity_before=None if usual is None else _perplexity(usual),
            cut=None if after.cut is None else _share(after.cut),
            cut_before=None if before.cut is None else _share(before.cut),
        )


@dataclass(frozen=True)
class Fluency:
    """The guard's finding for each group of captions, and why it failed if it did."""

    groups: dict[str, GroupFluency] = field(default_factory=dict)
    passed: bool = True
    why: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Fluency":
        """Return what `to_json` wrote."""
        groups = {name: GroupFluency(**group) for name, group in content.items() if isinstance(group, Mapping)}
        return cls(groups, content["passed"], content.get("why"))

    def to_json(self) -> dict[str, object]:
        """Return `{"passed"}` and a mapping for each group, such as "target", and "why" if the guard failed."""
        figures = {name: asdict(group) for name, group in self.groups.items()}
        return {"passed": self.passed, **figures, **({} if self.why is None else {"why": self.why})}


def middle(several: Sequence[Fluency]) -> Fluency:
    """Return the one in the middle, from fluent to not: fluent if at least half of them are."""
    return sorted(several, key=lambda one: not one.passed)[(len(several) - 1) // 2]


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


def _captions(outputs: Outputs, part: slice) -> Speech:
    surprise = None if outputs.surprise is None else outputs.surprise[part]
    cut = None if outputs.cut is None else outputs.cut[part]
    return Speech((outputs.target + outputs.retention)[part], surprise, cut)


def _median(surprise: Sequence[float | None] | None) -> float | None:
    known = [value for value in surprise or () if value is not None]
    return median(known) if known else None


def _perplexity(surprise: float) -> float:
    # To four digits, since batches of other sizes round otherwise; a number that JSON can hold, whatever was said.
    return float(f"{math.exp(min(surprise, 700.0)):.4g}")


def _words(texts: Sequence[str]) -> int:
    return sum(len(WordTokenizer().tokenize(text)) for text in texts)


def _share(claims: Iterable[bool]) -> float:
    listed = [bool(claim) for claim in claims]
    return sum(listed) / len(listed)
