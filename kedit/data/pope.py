"""POPE's questions (Li et al. 2023): whether a thing is in a picture, made from annotations or read from files."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from kedit.data.annotated import AnnotatedPictures
from kedit.data.data_set import AnnotatedDataSet, Record
from kedit.data.grammar import article
from kedit.data.jsonlines import Line, lines
from kedit.data.pictures import SampleError
from kedit.samples import ALONE, EXISTENCE, TARGET, AnySample, Concept, Data, Question, Sample, Split, Surveyed

RULES = ("random", "popular", "adversarial")
"""How what is not in a picture is chosen: any, the most frequent, what most often comes with what was just asked."""
LEAST = 3
"""Things in a picture that is asked about; so many are asked about, and so many that are not there."""


@dataclass(frozen=True)
class Pope:
    """What is asked, and how: the questions that are made, or published ones."""

    question: str | None = None
    """The question, where `{}` stands for "a dog"; None for the data set's own, POPE's where it has none."""
    files: tuple[str | Path, ...] = ()
    """Published questions: files of lines with `image`, `text` and `label`; without any, questions are made."""

    def __post_init__(self) -> None:
        if self.question is not None and (not isinstance(self.question, str) or self.question.count("{}") != 1):
            raise ValueError(f'the question of POPE has `{{}}` once, for "a dog"; got {self.question!r}')
        given: Any = self.files
        object.__setattr__(self, "files", (given,) if isinstance(given, str | Path) else tuple(given))
        if odd := [one for one in self.files if not isinstance(one, str | Path)]:
            raise TypeError(f"the files of POPE are paths, got {odd[0]!r}")

    def questions(self, data: Data, concept: Concept, split: Split, *, seed: int) -> tuple[Question, ...]:
        """Return what is asked about the held-out pictures of `split`, each with the answer yes or no.

        Whether `concept` is in it, of each picture (the kind `target`); POPE's questions (of the kinds of `RULES`, or
        of a file's), a question that several kinds have in each of them; and of every concept without a picture
        (`alone`, with a blank answer).

        Raises:
            FileNotFoundError: There is no such file of questions.
            ValueError: A line cannot be understood, or is of no picture that the data has.
        """
        template = self.question or (data.existence if isinstance(data, Surveyed) else EXISTENCE)
        known = {one.name: one for one in data.concepts}
        ask = {name: template.format(_with_article(one)) for name, one in known.items()}
        shown = [(sample, "yes") for sample in _pictures(split.target)]
        shown += [(sample, "no") for sample in _pictures((*split.near, *split.far))]
        asked = [Question(ask[concept.name], answer, TARGET, sample) for sample, answer in shown]
        samples = [sample for sample, _ in shown]
        if self.files:
            others = published(self.files, data, samples, frozenset(sample.id for sample in split.locate))
        else:
            found = data.annotations(seed=seed) if isinstance(data, Surveyed) else [one.objects for one in samples]
            others = tuple(made(samples, Annotations.of(found, known), ask, seed))
        alone = (Question(text, "", ALONE) for text in ask.values())
        return (*asked, *others, *alone)


def _pictures(samples: Sequence[AnySample]) -> list[Sample]:
    pictures = [one for one in samples if isinstance(one, Sample)]
    if len(pictures) < len(samples):
        raise ValueError("POPE asks about pictures, and the data holds texts")
    return pictures


@dataclass(frozen=True)
class Annotations:
    """How often things are shown, and together."""

    by_frequency: tuple[str, ...]
    """The most frequent first; of equal ones, by name."""
    beside: Mapping[str, tuple[str, ...]]
    """For each thing, those in pictures with it, the most frequent first."""

    @classmethod
    def of(cls, pictures: Sequence[frozenset[str]], known: Mapping[str, object]) -> "Annotations":
        """Return it of pictures with the names of what they show, of which only `known` ones count."""
        counts: Counter[str] = Counter()
        together: dict[str, Counter[str]] = defaultdict(Counter)
        for objects in (one & known.keys() for one in pictures):
            counts.update(objects)
            for name in objects:
                together[name].update(objects - {name})
        return cls(_ordered(counts), {name: _ordered(others) for name, others in together.items()})


def made(samples: Sequence[Sample], annotations: Annotations, ask: Mapping[str, str], seed: int) -> Iterator[Question]:
    """Yield the questions about the pictures that show at least three things, by the original's rules.

    Three things that are there, the same ones for each kind, and after each one that is not, none of them twice. Where
    the original takes the first three annotated things and draws without a seed, the order is drawn with `seed`, for
    each picture its own. A picture without so many other things has fewer questions, as many of yes as of no.

    Args:
        samples: The pictures.
        annotations: How often things are shown.
        ask: The question about each thing.
        seed: Of what is drawn.
    """
    for sample in samples:
        there = sorted(sample.objects & ask.keys())
        if len(there) < LEAST:
            continue
        rng = np.random.default_rng((seed, *sample.id.encode()))
        chosen = [there[place] for place in rng.permutation(len(there))[:LEAST]]
        for kind in RULES:
            asked: list[str] = []
            for thing in chosen:
                possible = [one for one in annotations.by_frequency if one not in sample.objects and one not in asked]
                if not possible:
                    break
                absent = _absent(kind, possible, annotations.beside.get(thing, ()), rng)
                asked.append(absent)
                yield Question(ask[thing], "yes", kind, sample)
                yield Question(ask[absent], "no", kind, sample)


def published(
    files: Sequence[str | Path], data: Data, samples: Sequence[Sample], spent: frozenset[str]
) -> tuple[Question, ...]:
    """Return the questions of files about pictures that the data has; none about those that were located with.

    Args:
        files: Of lines with `image`, `text` (or `question`) and `label` (or `answer`). Their kind is their `category`,
            or else the one of `RULES` that the name of the file has, or its name.
        data: Where the pictures are; `COCO_val2014_000000000042.jpg` is the picture 42 as well.
        samples: Pictures that are open already.
        spent: The ids of the pictures that were located with.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line cannot be understood, or the data has none of the pictures.
    """
    if not isinstance(data, AnnotatedPictures):
        raise ValueError("files of questions name pictures in a folder, which this data set has not")
    data_set, opened = _Opened(data.data_set, spent, {sample.id: sample for sample in samples}), []
    for file in map(Path, files):
        named = next((kind for kind in RULES if kind in file.stem), file.stem)
        for line in lines(file):
            name = line.text("image" if "image" in line.content else "image_source")
            if (sample := data_set.find(name)) is not None:
                opened.append(_question(line, sample, named))
    if not opened:
        raise ValueError(f"the data has none of the pictures that `{files[0]}` asks about, or located with them")
    return tuple(opened)


@dataclass(eq=False)
class _Opened:
    """Finds pictures of a data set by the names that question files give them, and opens each once."""

    data_set: AnnotatedDataSet
    spent: frozenset[str]
    samples: dict[str, Sample | None]

    def find(self, name: str) -> Sample | None:
        """Return the picture; None if there is none, it was located with, or it cannot be used."""
        record = self._meant(name)
        if record is None or record.id in self.spent:
            return None
        if record.id not in self.samples:
            try:
                self.samples[record.id] = self.data_set.sample(record)
            except SampleError:
                self.samples[record.id] = None
        return self.samples[record.id]

    def _meant(self, name: str) -> Record | None:
        """Return the only picture that `name` may mean: by its listed file, or else by its id.

        Exports count their pictures from 1 and name the files from 0, so that an id is often another picture's file.
        """
        asked = _path(name)
        number = _number(asked)
        alike = [one for one in self._files.get(asked.name, ()) if _end_alike(_path(one.file_name or ""), asked)]
        ways = (
            [one for one in alike if one.file_name == name],
            alike,
            [] if asked.suffix else self._stems.get(asked.name, []),
            [] if number is None else self._numbers.get(number, []),
            list(self._with_id(name)),
        )
        found = next(filter(None, ways), [])
        return found[0] if len(found) == 1 else None

    def _with_id(self, name: str) -> Iterator[Record]:
        """Yield the picture whose id a name is, or has before its ending; of numbers, COCO's own count alone."""
        asked = _path(name)
        number, by_id = _number(asked), self._ids
        if name in by_id:
            yield by_id[name]
        elif number in by_id and _number(_path(by_id[number].file_name or "")) is None:
            yield by_id[number]
        elif asked.stem in by_id and (by_id[asked.stem].file_name is None or not asked.stem.isdecimal()):
            yield by_id[asked.stem]

    @cached_property
    def _ids(self) -> dict[str | None, Record]:
        return {record.id: record for record in self.data_set.records}

    @cached_property
    def _files(self) -> dict[str | None, list[Record]]:
        return self._by(lambda path: path.name)

    @cached_property
    def _stems(self) -> dict[str | None, list[Record]]:
        return self._by(lambda path: path.stem)

    @cached_property
    def _numbers(self) -> dict[str | None, list[Record]]:
        return self._by(_number)

    def _by(self, key: Callable[[PurePosixPath], str | None]) -> dict[str | None, list[Record]]:
        """Return the pictures by what `key` makes of their listed files."""
        found: dict[str | None, list[Record]] = defaultdict(list)
        for record in self.data_set.records:
            if record.file_name is not None:
                found[key(_path(record.file_name))].append(record)
        return found


def _question(line: Line, sample: Sample, named: str) -> Question:
    text = line.text("text" if "text" in line.content else "question")
    label = line.text("label" if "label" in line.content else "answer")
    if (answer := label.strip().lower()) not in ("yes", "no"):
        raise ValueError(f"{line.place}: `label` is yes or no, got {label!r}")
    return Question(text, answer, line.text("category") if "category" in line.content else named, sample)


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _number(file: PurePosixPath) -> str | None:
    """Return the id in which COCO's own names end; the numbers of other exports have nothing to do with theirs."""
    digits = re.fullmatch(r"(?:COCO_\w+_)?(\d{12})", file.stem)
    return None if digits is None else str(int(digits[1]))


def _end_alike(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Return whether one path is the end of the other, as that of a file from a folder above it is."""
    shorter = min(len(one.parts), len(other.parts))
    return one.parts[-shorter:] == other.parts[-shorter:]


def _absent(kind: str, possible: Sequence[str], beside: Sequence[str], rng: np.random.Generator) -> str:
    """Return one of the `possible` things, which are the most frequent first."""
    if kind == "popular":
        return possible[0]
    near = [one for one in beside if one in possible] if kind == "adversarial" else []
    return near[0] if near else possible[int(rng.integers(len(possible)))]


def _ordered(counts: Counter[str]) -> tuple[str, ...]:
    return tuple(sorted(counts, key=lambda name: (-counts[name], name)))


def _with_article(concept: Concept) -> str:
    # The original puts "an" for every "a" of the question, so that "image" becomes "imange".
    word = concept.words[0]
    return f"{article(word.lower())} {word}"
