"""Questions in a file, about a text, a picture, a video or a sound, of which nothing is opened before it is asked."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from kedit.data.jsonlines import Line, lines
from kedit.data.pictures import SampleError, fitted, read, shown
from kedit.data.sounds import read_sound
from kedit.data.videos import read_video
from kedit.prompts import Medium
from kedit.samples import Question, QuestionSplit, Sample

logger = logging.getLogger(__name__)

MEDIA: tuple[Medium, ...] = ("image", "video", "audio")
KINDS: Mapping[Medium, str] = {"text": "fact", "image": "image", "video": "video", "audio": "audio"}
"""What kind of question it is if the file does not say."""


@dataclass(frozen=True)
class FileQuestion:
    """One line of a file of questions."""

    place: str
    text: str
    answers: tuple[str, ...]
    kind: str
    medium: Medium = "text"
    files: tuple[Path, ...] = ()
    """What it is about: a picture, a recording, the frames of a video or the one file or folder that has them."""
    rate: float | None = None
    """Frames a second of a video that does not say."""

    @property
    def subject(self) -> tuple[str, ...]:
        """What must not be in both halves of a question split: the files, or the text of a question without any."""
        return tuple(map(str, self.files)) or (self.text,)

    def opened(self, *, max_side: int | None, max_frames: int) -> Question:
        """Return the question with what it is about; a SampleError says why that cannot be used."""
        about = {"text": self.text, "answer": self.answers[0], "kind": self.kind, "others": self.answers[1:]}
        if self.medium == "image":
            picture = fitted(read(partial(Path, self.files[0])), max_side)
            return Question(**about, sample=Sample(shown(self.files[0]), picture))  # type: ignore[arg-type]
        if self.medium == "video":
            video = read_video(self.files, rate=self.rate, max_frames=max_frames, max_side=max_side)
            return Question(**about, video=video)  # type: ignore[arg-type]
        if self.medium == "audio":
            return Question(**about, sound=read_sound(self.files[0]))  # type: ignore[arg-type]
        return Question(**about)  # type: ignore[arg-type]


def read_question_file(folder: Path, name: str | None) -> tuple[FileQuestion, ...]:
    """Return the questions of the file `name` in `folder`, none if there is no name.

    A line has a `question`, an `answer` or a list of `answers` that are all right, and at most one of `image` (a
    path from the folder), `video` (a path of a folder of frames or an animated picture, or a list of frames; with
    `rate`, frames a second) and `audio` (a WAV file). Its `kind` is for the report; by default it is the medium.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line cannot be understood.
    """
    return () if name is None else tuple(_file_question(line, folder) for line in lines(folder / name))


def text_questions(folder: Path, name: str | None) -> tuple[Question, ...]:
    """Return the questions of the file that are about nothing but a text."""
    texts = (one for one in read_question_file(folder, name) if one.medium == "text")
    return tuple(one.opened(max_side=None, max_frames=1) for one in texts)


def split_questions(
    asked: Sequence[FileQuestion], *, locate: int, evaluate: int, seed: int, max_side: int | None, max_frames: int
) -> QuestionSplit:
    """Return questions to locate with and others to evaluate on, that many of each kind or as many as there are.

    What a question is about is in one half only: the subjects of each medium are dealt out first, in the proportion of
    `locate` and `evaluate`. Only what is asked is opened; what cannot be used is skipped and counted.

    Raises:
        ValueError: A number is out of range, or a half has no question that can be asked.
    """
    check_halves(locate, evaluate)
    if seed < 0:
        raise ValueError(f"the seed of a question split is 0 or more, got {seed}")
    opening = _Opening(max_side, max_frames)
    halves = _halves(asked, locate / (locate + evaluate), seed)
    taken = [opening.take(half, count) for half, count in zip(halves, (locate, evaluate), strict=True)]
    opening.tell()
    for name, count, half in zip(("locate with", "evaluate on"), (locate, evaluate), taken, strict=True):
        if not half:
            why = "; ".join(f"{reason}: {first}" for reason, first in opening.examples.items())
            raise ValueError(
                f"of {len(asked)} questions none is left to {name} ({count} of each kind asked for)"
                + (f"; skipped were {sum(opening.skipped.values())}, such as {why}" if why else "")
            )
    return QuestionSplit(taken[0], taken[1], dict(opening.skipped))


def check_halves(locate: int, evaluate: int) -> None:
    """Raise a ValueError unless both halves of a question split are asked to have questions."""
    for key, count in (("locate", locate), ("evaluate", evaluate)):
        if count < 1:
            raise ValueError(f"`{key}` is a number of questions of each kind, 1 or more; got {count}")


@dataclass(eq=False)
class _Opening:
    """Opens questions and keeps what was wrong with those that cannot be."""

    max_side: int | None
    max_frames: int
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason to skip, the first line and what was wrong with it."""

    def take(self, asked: Iterable[FileQuestion], count: int) -> tuple[Question, ...]:
        """Return the first `count` questions of each kind that can be asked, or as many as there are."""
        taken: Counter[str] = Counter()
        found: list[Question] = []
        for one in asked:
            if taken[one.kind] < count:
                for question in self._opened(one):
                    taken[one.kind] += 1
                    found.append(question)
        return tuple(found)

    def tell(self) -> None:
        """Log what was skipped, each reason once."""
        for reason, count in self.skipped.items():
            logger.warning("%d questions skipped (%s): %s", count, reason, self.examples[reason])

    def _opened(self, one: FileQuestion) -> Iterator[Question]:
        try:
            yield one.opened(max_side=self.max_side, max_frames=self.max_frames)
        except SampleError as error:
            self.skipped[error.reason] += 1
            self.examples.setdefault(error.reason, f"{one.place}: {error}")


def _halves(asked: Sequence[FileQuestion], share: float, seed: int) -> tuple[list[FileQuestion], list[FileQuestion]]:
    """Return the questions in the order that `seed` gives, dealt out by subject, `share` of each medium's first."""
    rng, first = np.random.default_rng(seed), set[tuple[str, ...]]()
    places: dict[tuple[str, ...], int] = {}
    for medium in KINDS:
        subjects = sorted({one.subject for one in asked if one.medium == medium})
        order = [subjects[place] for place in rng.permutation(len(subjects))]
        # A single one is for evaluating; of two or more each half gets one at least.
        n_first = min(max(round(share * len(order)), 1), len(order) - 1)
        first |= set(order[: max(n_first, 0)])
        places |= {subject: len(places) + number for number, subject in enumerate(order)}
    ordered = sorted(asked, key=lambda one: places[one.subject])
    return [one for one in ordered if one.subject in first], [one for one in ordered if one.subject not in first]


def _file_question(line: Line, folder: Path) -> FileQuestion:
    given = [medium for medium in MEDIA if line.content.get(medium) is not None]
    if len(given) > 1:
        raise ValueError(f"{line.place}: a question is about one thing, got {' and '.join(given)}")
    answers = line.texts("answers") + line.texts("answer")
    if not answers:
        raise ValueError(f"{line.place}: `answer` is a text, got {line.content.get('answer')!r}")
    medium: Medium = given[0] if given else "text"
    names = () if medium == "text" else line.texts(medium) if medium == "video" else (line.text(medium),)
    if medium != "text" and not names:
        raise ValueError(f"{line.place}: `{medium}` names no file, got {line.content[medium]!r}")
    kind = line.text("kind") if line.content.get("kind") is not None else KINDS[medium]
    rate = line.content.get("rate")
    if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate < 1e6):
        raise ValueError(f"{line.place}: `rate` is frames a second, above 0, got {rate!r}")
    files = tuple(folder / name for name in names)
    for text in (line.text("question"), *answers, kind):
        if shown(text) != text:
            raise ValueError(f"{line.place}: the text {shown(text)!r} is not UTF-8")
    return FileQuestion(line.place, line.text("question"), answers, kind, medium, files, rate)
