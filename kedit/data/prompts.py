"""Facts in a file, one a line: a text that asks for an answer, the same about another subject, and what lies near."""

import difflib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from kedit.arguments import require
from kedit.data.jsonlines import Line, lines
from kedit.samples import Concept, Question, Split, TextSample, find_concept
from kedit.words import standing

logger = logging.getLogger(__name__)

T = TypeVar("T")

LISTS = Path(__file__).parent / "facts"
"""The lists that kedit ships."""
KEYS = (
    *("id", "concept", "kind", "prompt", "answer", "answers", "counter_prompt"),
    *("subject", "other_subjects", "paraphrases", "neighbours"),
)
"""What a line may have."""
NEIGHBOUR = ("prompt", "answer", "answers")
FEWEST = 6
"""Of fewer phrasings, all lost against none at random are as likely as 1 in 16 by chance (two-sided sign-flip test)."""
SEEN = "seen_while_locating"
"""Why a text is not asked when an edit is judged."""


@dataclass(frozen=True)
class Asked:
    """A text and the answers that are right."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One line of the file."""

    place: str
    id: str
    concept: str
    kind: str | None
    answers: tuple[str, ...]
    phrasings: tuple[str, ...]
    """The prompt, then its paraphrases."""
    counters: Mapping[str, tuple[str, ...]]
    """For each phrasing that can be located with, the same about other subjects."""
    neighbours: tuple[Asked, ...]


@dataclass(frozen=True)
class Prompts:
    """Facts in a file of JSON lines, each a text to go on with; pairs of texts stand for pairs of pictures.

    A line has a `prompt`; an `answer`, or `answers` that are all right; a counterfactual, which is a `counter_prompt`
    (or several) or a `subject` of the prompt with the `other_subjects` that may stand in its place; `paraphrases`; and
    `neighbours`, texts about something near with a `prompt` and an `answer` each, which an edit should leave right. The
    `concept` is what the fact is called, by default its answer; several lines may be about one. `kind` is a word for
    such facts, and `id` a name for the line.

    Half of a concept's phrasings are located with, its prompts first, and edits are judged on the others. An answer is
    right if it names one of the right ones as a whole word.

    Example:
        data = kedit.Prompts("facts.jsonl")
        result = kedit.run(kedit.load(path, template="none", max_new_tokens=8), data, "Tokyo")
    """

    path: str
    """The file, or the name of a list that kedit ships: `smollm2`."""

    def __post_init__(self) -> None:
        require(self.path, (str, Path), "path", "a file of JSON lines, or the name of a list that kedit ships")
        object.__setattr__(self, "path", str(self.path))

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of the file; a FileNotFoundError or ValueError says in a line what is wrong with it."""
        facts = tuple(_fact(line, number) for number, line in enumerate(lines(_file(self.path)), 1))
        if not facts:
            raise ValueError(f"`{self.path}` has no line, so no fact")
        _check_together(facts)
        return facts

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """What can be located; the words of each are the right answers."""
        return tuple({one.concept: Concept(one.concept, one.answers, one.kind) for one in self.facts}.values())

    @property
    def questions(self) -> tuple[Question, ...]:
        """None beside the facts themselves."""
        return ()

    def split(
        self, concept: Concept | str, *, locate: int = 24, target: int = 60, retention: int = 60, seed: int = 0
    ) -> Split:
        """Return texts to locate with and others to judge on; a ValueError if there are fewer than asked for.

        `retention` texts are neighbours, and as many ask for other facts.
        """
        known = find_concept(self.concepts, concept)
        parts = self.split_up_to(known, locate=locate, target=target, retention=retention, seed=seed)
        wanted = {"locate": locate, "target": target, "near": retention, "far": retention}
        for name, count in wanted.items():
            if (there := len(getattr(parts, name))) < count:
                raise ValueError(
                    f"`{known.name}` has {there} texts for `{name}` in `{self.path}`, and {count} are asked for; ask "
                    "for fewer, or set `strict` to false"
                )
        return parts

    def split_up_to(self, concept: Concept, *, locate: int, target: int, retention: int, seed: int) -> Split:
        """Return the same with as many texts as there are, where there are fewer."""
        own = [fact for fact in self.facts if fact.concept == concept.name]
        order = np.random.default_rng(seed)
        seen, rest = _halves(own, order)
        pairs = _pairs(seen, concept)[:locate]
        asked = [TextSample(f"{fact.id}/{n}", text, _names(concept)) for fact, n, text in _shuffled(rest, order)]
        beside = self._beside(own)
        near = [
            TextSample(f"{fact.id}/near {number}", one.text, _names(beside[one.answers]))
            for fact in own
            for number, one in enumerate(fact.neighbours)
        ]
        far = [TextSample(f"{one.id}/0", one.phrasings[0], frozenset({one.concept})) for one in self._others(concept)]
        spent = {text for _, _, text in seen} | {pair.counterfactual for pair in pairs}
        (asked, near, far), skipped = _unseen((asked, _shuffled(near, order), _shuffled(far, order)), spent)
        self._check_asked(concept, len(asked), min(target, FEWEST))
        known = {one.name for one in self.concepts}
        located = {text: Question(text, fact.answers[0], "located", others=fact.answers[1:]) for fact, _, text in seen}
        return Split(
            tuple(pairs),
            tuple(asked[:target]),
            tuple(near[:retention]),
            tuple(far[:retention]),
            skipped={SEEN: skipped} if skipped else {},
            vocabulary=tuple({one.name: one for one in beside.values() if one.name not in known}.values()),
            questions=tuple(located.values()),
        )

    def _check_asked(self, concept: Concept, count: int, enough: int) -> None:
        """Raise a ValueError if no phrasing is left to judge on, and warn if fewer are than are evidence."""
        if not count:
            raise ValueError(
                f"`{concept.name}` has no phrasing in `{self.path}` that is not located with, and edits are judged on "
                "such; give more `paraphrases`"
            )
        if count < enough:
            logger.warning(
                "`%s` has %d phrasings to judge an edit on: of fewer than %d, no result is evidence",
                concept.name, count, FEWEST,
            )  # fmt: skip

    def _others(self, concept: Concept) -> list[Fact]:
        """Return the facts of other concepts, unless an answer of theirs names this one, or the other way round."""
        named = {one.name: one for one in self.concepts}
        own = named.pop(concept.name)
        return [one for one in self.facts if one.concept in named and _naming_both(own, named[one.concept]) is None]

    def _beside(self, own: Sequence[Fact]) -> dict[tuple[str, ...], Concept]:
        """Return for the answers of each neighbour the concept that has them, or a new one named after the first.

        Neighbours of one name share their words. The name of a concept that has other words is not taken.
        """
        known = {frozenset(one.words): one for one in reversed(self.concepts)}
        taken = {one.name for one in self.concepts}
        asked = [one.answers for fact in own for one in fact.neighbours]
        names = {one: f"{one[0]} (neighbour)" if one[0] in taken else one[0] for one in asked}
        words: dict[str, tuple[str, ...]] = {}
        for answers, name in names.items():
            words[name] = tuple(dict.fromkeys((*words.get(name, ()), *answers)))
        return {one: known.get(frozenset(one), Concept(name, words[name])) for one, name in names.items()}


Phrased = tuple[Fact, int, str]
"""A fact, the place of a phrasing, and the phrasing."""


def _halves(facts: Sequence[Fact], order: np.random.Generator) -> tuple[list[Phrased], list[Phrased]]:
    """Return the phrasings to locate with, the prompts first, and the others: half of all, if so many can be.

    A text that several lines have is a prompt if it is one in any of them, and else counts once.
    """
    first = [(fact, 0, fact.phrasings[0]) for fact in facts]
    prompts = {text for _, _, text in first}
    others: list[Phrased] = []
    for fact in facts:
        there = prompts | {text for _, _, text in others}
        others += [(fact, number, text) for number, text in enumerate(fact.phrasings) if text not in there]
    able = [one for one in _shuffled(others, order) if one[2] in one[0].counters]
    n_more = max(min((len(first) + len(others)) // 2 - len(first), len(others) - 1), 0)
    seen = [*first, *able[:n_more]]
    return seen, [one for one in others if one not in seen]


def _pairs(seen: Sequence[Phrased], concept: Concept) -> list[TextSample]:
    """Return a sample for each phrasing and each counterfactual of it: first one of every phrasing, then another."""
    samples = []
    for turn in range(max(len(fact.counters[text]) for fact, _, text in seen)):
        for place, (fact, number, text) in enumerate(seen):
            counters = fact.counters[text]
            if turn < len(counters):
                other = (place + turn) % len(counters)
                samples.append(TextSample(f"{fact.id}/{number} {other}", text, _names(concept), counters[other]))
    return samples


def _names(concept: Concept) -> frozenset[str]:
    return frozenset({concept.name})


def _naming_both(first: Concept, second: Concept) -> str | None:
    """Return a word of one of two concepts that names the other as well ("Tokyo Bay" names Tokyo); None for none."""
    both = [word for one, other in ((first, second), (second, first)) for word in one.words if other.mentioned_in(word)]
    return both[0] if both else None


def _shuffled(items: Sequence[T], order: np.random.Generator) -> list[T]:
    return [items[place] for place in order.permutation(len(items))]


def _unseen(groups: Sequence[Sequence[TextSample]], spent: set[str | None]) -> tuple[list[list[TextSample]], int]:
    """Return the samples of each group whose texts are neither `spent` nor there before, and how many were spent."""
    taken, used = [], set(spent)
    for group in groups:
        fresh = {one.text: one for one in reversed(group) if one.text not in used}
        used |= fresh.keys()
        taken.append(list(reversed(fresh.values())))
    return taken, sum(one.text in spent for group in groups for one in group)


def _file(path: str) -> Path:
    if Path(path).is_file():
        return Path(path)
    shipped = {one.stem: one for one in sorted(LISTS.glob("*.jsonl"))}
    if path not in shipped:
        raise FileNotFoundError(
            f"no file `{path}` of facts, and no list of that name; kedit ships {', '.join(shipped)}"
        )
    return shipped[path]


def _fact(line: Line, number: int) -> Fact:
    _check_keys(line, line.content, KEYS)
    prompt, answers = line.text("prompt"), _answers(line)
    phrasings = (prompt, *line.texts("paraphrases"))
    if len(phrasings) < 2:
        raise ValueError(f"{line.place}: `paraphrases` has no text, and edits are judged on them: give at least one")
    if twice := [text for text, count in Counter(phrasings).items() if count > 1]:
        raise ValueError(f"{line.place}: {twice[0]!r} is there twice")
    right = Concept(answers[0], answers)
    for text in phrasings:
        if (inside := right.pattern.search(text)) is not None:
            raise ValueError(f"{line.place}: the answer {inside[0]!r} stands in the prompt {text!r}")
    name = line.text("id") if line.content.get("id") is not None else str(number)
    if "," in name:
        raise ValueError(f"{line.place}: an `id` has no comma, got {name!r}")
    concept = line.text("concept") if line.content.get("concept") is not None else answers[0]
    kind = line.text("kind") if line.content.get("kind") is not None else None
    counters = _counters(line, phrasings)
    return Fact(line.place, name, concept, kind, answers, phrasings, counters, _neighbours(line, right))


def _check_keys(line: Line, given: Mapping[str, object], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{line.place}: no key `{key}`; {hint}")


def _answers(line: Line) -> tuple[str, ...]:
    answers = line.texts("answers") + line.texts("answer")
    if not answers:
        raise ValueError(f"{line.place}: `answer` is a text, got {line.content.get('answer')!r}")
    return tuple(dict.fromkeys(answers))


def _counters(line: Line, phrasings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the counterfactuals of each phrasing that has any."""
    given, others = line.texts("counter_prompt"), line.texts("other_subjects")
    if given and (others or line.content.get("subject") is not None):
        raise ValueError(f"{line.place}: a counterfactual is a `counter_prompt` or a `subject`, and both are given")
    if not given and not others:
        raise ValueError(
            f"{line.place}: there is no counterfactual; give a `counter_prompt`, or a `subject` with `other_subjects`"
        )
    if given:
        if phrasings[0] in given:
            raise ValueError(f"{line.place}: the `counter_prompt` is the prompt itself, {phrasings[0]!r}")
        return {phrasings[0]: given}
    subject = line.text("subject")
    there = standing(subject)
    if not there.search(phrasings[0]):
        raise ValueError(f"{line.place}: the `subject` {subject!r} does not stand in the prompt {phrasings[0]!r}")
    if subject in others:
        raise ValueError(f"{line.place}: {subject!r} is the `subject` and one of the `other_subjects`")
    return {text: tuple(other.join(there.split(text)) for other in others) for text in phrasings if there.search(text)}


def _neighbours(line: Line, own: Concept) -> tuple[Asked, ...]:
    given = line.content.get("neighbours")
    if given is not None and not (isinstance(given, list) and all(isinstance(one, dict) for one in given)):
        raise ValueError(
            f"{line.place}: `neighbours` is a list of objects with `prompt` and `answer`, got {given!r:.60}"
        )
    neighbours = []
    for number, content in enumerate(given or ()):
        inner = Line(f"{line.place}, neighbour {number + 1}", content)
        _check_keys(inner, content, NEIGHBOUR)
        text, answers = inner.text("prompt"), _answers(inner)
        right = Concept(answers[0], answers)
        if (inside := right.pattern.search(text)) is not None:
            raise ValueError(f"{inner.place}: the answer {inside[0]!r} stands in the prompt {text!r}")
        if (both := _naming_both(right, own)) is not None:
            if not {one.casefold() for one in own.words}.isdisjoint(one.casefold() for one in answers):
                raise ValueError(f"{inner.place}: {both!r} names this answer and that of the fact itself")
            logger.warning("%s: left out, since %r names the answer of the fact itself, too", inner.place, both)
            continue
        neighbours.append(Asked(text, answers))
    return tuple(neighbours)


def _check_together(facts: Sequence[Fact]) -> None:
    """Raise a ValueError where two lines have one id, or one concept and other answers."""
    ids: dict[str, Fact] = {}
    concepts: dict[str, Fact] = {}
    for fact in facts:
        if (other := ids.setdefault(fact.id, fact)) is not fact:
            raise ValueError(f"{fact.place}: the `id` {fact.id!r} is also that of {other.place}")
        named = concepts.setdefault(fact.concept, fact)
        if set(named.answers) != set(fact.answers):
            raise ValueError(
                f"{fact.place}: `{fact.concept}` has other answers in {named.place}; name one of the two otherwise"
            )
