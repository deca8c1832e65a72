"""CHAIR (Rohrbach et al. 2018): how often captions name objects that are not in the picture."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.evaluation.report import Figures, as_json
from kedit.evaluation.scores import Scores, pooled
from kedit.evaluation.statistics import Measured, bootstrap_mean, bootstrap_ratio
from kedit.samples import Concept, Sample
from kedit.words import numbers

logger = logging.getLogger(__name__)

ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
VEHICLES = ("jet", "train")
QUALIFIED: Mapping[str, tuple[str, ...]] = {"baby": ANIMALS, "adult": ANIMALS, "passenger": VEHICLES}
"""Words for people that are none before these: a baby elephant, a passenger train."""
WHOLE = (
    *("motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light"),
    *("fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove"),
    *("tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier"),
    *("potted plant", "laptop computer", "home plate"),
)
"""Two words that are one name."""
TWO_WORDS: Mapping[str, str] = {
    **{pair: pair for pair in WHOLE},
    **{f"{first} {second}": second for first, those in QUALIFIED.items() for second in those},
    "bow tie": "tie",
    "toilet seat": "toilet",
}
"""The original's table: what two words in a row are read as. Its `stove top oven` is three, and never found."""

GROUPS = ("target", "retention")
FIGURES = ("chair_i", "chair_s", "recall", "chair_i_all", "chair_s_all")
"""Of the objects besides the concept; and, with `_all`, of all objects, as published figures are."""
NO_CONTROL = "no random control was run"

# As NLTK's tokenizer, for what matters here: a hyphen joins, an apostrophe parts.
_TOKEN = re.compile(r"\w+(?:-\w+)*")
_QUALIFIER = re.compile(
    "|".join(
        rf"\b{first}\s+(?=(?:{'|'.join(sorted({form for one in those for form in numbers(one)}))})\b)"
        for first, those in QUALIFIED.items()
    ),
    re.IGNORECASE,
)


class ObjectWords(Protocol):
    """Knows which words of a text name which object."""

    @property
    def name(self) -> str:
        """What a report calls the list of words."""
        ...

    def named(self, text: str) -> list[str]:
        """Return the object of each mention in `text`; an object that is named twice is there twice."""
        ...

    def object_of(self, concept: str) -> str | None:
        """Return what a concept of the data is called here; None if it is no object."""
        ...


@dataclass(frozen=True)
class OwnWords:
    """The words of kedit's concepts, in any number and with the phrases in which they mean something else."""

    concepts: tuple[Concept, ...]
    name: str = "kedit's own words"

    def named(self, text: str) -> list[str]:
        """Return the concept of each mention; "baby" and the like before an animal name nobody."""
        plain = _QUALIFIER.sub("", text)
        return [
            concept.name
            for concept in self.concepts
            for mention in concept.pattern.finditer(plain)
            if mention["word"] is not None
        ]

    def object_of(self, concept: str) -> str | None:
        """Return the concept's own name."""
        return concept


@dataclass(frozen=True)
class Synonyms:
    """The original's reading of a text: words, in the singular, of which two in a row may be one, and synonyms.

    Its `pattern.singularize` guesses (a glass is "glas", for which its table has an entry); here a word is the plural
    of one that the lists have, or stays as it is.
    """

    name: str
    objects: Mapping[str, str]
    """The object of each synonym."""

    @classmethod
    def read(cls, path: str | Path) -> "Synonyms":
        """Return the synonyms in a file, of which each line is `object, synonym, synonym`, as the original's.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It has no line, or is no text.
        """
        if not (path := Path(path)).is_file():
            raise FileNotFoundError(f"no file `{path}` of synonyms; each line is `object, synonym, synonym`")
        try:
            lines = path.read_text(encoding="utf-8-sig").lower().splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"`{path}` is no text in UTF-8") from error
        rows = [[" ".join(word.split()) for word in line.split(",") if word.strip()] for line in lines]
        objects = {word: row[0] for row in rows for word in row}
        if not objects:
            raise ValueError(f"`{path}` has no synonyms; each line is `object, synonym, synonym`")
        if never := sorted(word for word in objects if " " in word and word not in TWO_WORDS.values()):
            logger.warning(
                "%d synonyms of several words in `%s` are not found as a whole, as in the original, whose table of two "
                "words lacks them: %s", len(never), path, ", ".join(never[:5]) + ", ..." * (len(never) > 5),
            )  # fmt: skip
        return cls(str(path), objects)

    def named(self, text: str) -> list[str]:
        """Return the object of each mention, by the original's rules."""
        single = [self._singular.get(word, word) for word in _TOKEN.findall(text.lower())]
        words: list[str] = []
        place = 0
        while place < len(single):
            pair = TWO_WORDS.get(" ".join(single[place : place + 2]))
            words.append(pair or single[place])
            place += 2 if pair else 1
        if "toilet" in words:  # whose seat is no chair
            words = [word for word in words if word != "seat"]
        return [self.objects[word] for word in words if word in self.objects]

    def object_of(self, concept: str) -> str | None:
        """Return the object that a concept's name is a synonym of."""
        return self.objects.get(concept.lower().replace("_", " "))

    @cached_property
    def _singular(self) -> Mapping[str, str]:
        known = {word for phrase in (*self.objects, *TWO_WORDS) for word in phrase.split()}
        return {form: word for word in sorted(known) for form in numbers(word)} | {word: word for word in known}


def object_words(chair: bool | str | Path | ObjectWords, concepts: Iterable[Concept]) -> ObjectWords | None:
    """Return the words that CHAIR reads with: kedit's own if `chair` is true, or those of a file; None if it is false.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no synonyms, or none of the `concepts`.
    """
    if isinstance(chair, bool):
        return OwnWords(tuple(concepts)) if chair else None
    words = Synonyms.read(chair) if isinstance(chair, str | Path) else chair
    listed = [concept.name for concept in concepts]
    if not any(words.object_of(name) for name in listed):
        raise ValueError(f"the synonyms in `{words.name}` have none of the data's concepts, such as {listed[0]}")
    return words


@dataclass(frozen=True)
class ChairReport:
    """CHAIR of the captions of each group: unedited, edited, and with random neurons edited instead."""

    words: str
    """The list of words."""
    concept: str
    before: Mapping[str, Figures]
    after: Mapping[str, Figures]
    control: Mapping[str, Figures]
    """Each caption's mean over the seeds."""

    def to_json(self) -> dict[str, object]:
        """Return the "chair" part of report.json."""
        conditions = {"before": self.before, "after": self.after, "control": self.control}
        groups = {
            group: {name: as_json(figures[group]) for name, figures in conditions.items()} for group in self.before
        }
        return {"words": self.words, **groups}


def measure_chair(
    evaluation_set: EvaluationSet,
    before: Outputs,
    after: Outputs,
    controls: Sequence[Outputs],
    words: ObjectWords,
    *,
    seed: int = 0,
) -> ChairReport:
    """Return CHAIR of captions that were written anyway.

    `chair_i`: hallucinated mentions over all mentions, of the whole corpus, repeats counted; `chair_s`: the share of
    captions with a hallucinated mention; `recall`: of the objects in the pictures, the share that is named. All are of
    the objects besides the concept, since a word that is no longer said lowers plain CHAIR whatever takes its place;
    plain CHAIR is `chair_i_all` and `chair_s_all`. What a picture shows are its annotated objects and those that its
    reference captions name.

    Args:
        evaluation_set: The held-out samples.
        before: What the unedited model said.
        after: What the edited model said.
        controls: What it said with random neurons edited, for each seed.
        words: Which words name which object.
        seed: Of the bootstrap.
    """
    target = words.object_of(evaluation_set.concept.name)
    groups: dict[str, tuple[Sample, ...]] = {
        name: getattr(evaluation_set, name) for name in GROUPS if getattr(evaluation_set, name)
    }
    truths = {name: [_shown(sample, words) for sample in samples] for name, samples in groups.items()}

    def counts(outputs: Outputs) -> dict[str, Scores]:
        return {name: _counts(getattr(outputs, name), truths[name], target, words) for name in groups}

    runs = [counts(one) for one in controls]
    at_random = {name: _figures(pooled([run[name] for run in runs]), seed) if runs else _missing() for name in groups}
    was, now = ({name: _figures(scores, seed) for name, scores in counts(one).items()} for one in (before, after))
    return ChairReport(words.name, evaluation_set.concept.name, was, now, at_random)


def _shown(sample: Sample, words: ObjectWords) -> frozenset[str]:
    """Return what a picture shows: the objects that are annotated, and those that its references name."""
    annotated = {thing for name in sample.objects if (thing := words.object_of(name)) is not None}
    return frozenset(annotated.union(*map(words.named, sample.references)))


def _counts(
    captions: Sequence[str], truths: Sequence[frozenset[str]], target: str | None, words: ObjectWords
) -> Scores:
    """Return what the figures are made of, a number for each caption."""
    scores: Scores = {}
    for caption, truth in zip(captions, truths, strict=True):
        every = words.named(caption)
        others, there = [one for one in every if one != target], truth - {target}
        wrong, wrong_all = (sum(one not in truth for one in mentions) for mentions in (others, every))
        counted = {"mentions": len(others), "wrong": wrong, "any": wrong > 0, "there": len(there)}
        counted |= {"found": len(there.intersection(others))}
        counted |= {"mentions_all": len(every), "wrong_all": wrong_all, "any_all": wrong_all > 0}
        for name, value in counted.items():
            scores.setdefault(name, []).append(float(value))
    return scores


def _figures(scores: Scores, seed: int) -> dict[str, Measured]:
    return {
        "chair_i": bootstrap_ratio(scores["wrong"], scores["mentions"], seed=seed),
        "chair_s": bootstrap_mean(scores["any"], seed=seed),
        "recall": bootstrap_ratio(scores["found"], scores["there"], seed=seed),
        "chair_i_all": bootstrap_ratio(scores["wrong_all"], scores["mentions_all"], seed=seed),
        "chair_s_all": bootstrap_mean(scores["any_all"], seed=seed),
    }


def _missing() -> dict[str, Measured]:
    return dict.fromkeys(FIGURES, Measured.missing(NO_CONTROL))
