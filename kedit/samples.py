"""What kedit reads: a concept, a picture or a text that may be about it, and the same without it."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from kedit import notebook
from kedit.arguments import require, shown
from kedit.prompts import Prompt, Sound, Video
from kedit.words import whole_words

T = TypeVar("T")

Mask = NDArray[np.bool_]
"""A region of a picture: `[height, width]`, true inside."""


@dataclass(frozen=True)
class Concept:
    """A piece of knowledge to locate: the thing's name, the words for it and its kind."""

    name: str
    words: tuple[str, ...] = ()
    """The words that count as a mention, in any number. Empty means the name alone."""
    category: str | None = None
    """The kind of thing it is (COCO's supercategory); retention is near inside it and far outside."""
    unless: tuple[str, ...] = ()
    """Longer phrases in which a word means something else: a "hot dog" is no mention of a dog."""

    def __post_init__(self) -> None:
        require(self.name, str, "name", "the name of a concept")
        if not self.name.strip():
            raise ValueError(f"a concept needs a name, got {self.name!r}")
        given: tuple[object, ...] = (self.words, self.unless)
        for texts in given:
            if isinstance(texts, str):
                raise TypeError(f"the words of `{self.name}` are a sequence, got {texts!r}; write ({texts!r},)")
        object.__setattr__(self, "words", tuple(self.words) or (self.name,))
        object.__setattr__(self, "unless", tuple(self.unless))
        if odd := [word for word in self.words + self.unless if not isinstance(word, str)]:
            raise TypeError(f"the words of `{self.name}` are texts, got {shown(odd[0])}")
        if blank := [word for word in self.words + self.unless if not word.strip()]:
            raise ValueError(f"a blank word would be found in every text, got {blank[0]!r} for concept `{self.name}`")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The regular expression of one whole word of the concept, or of a phrase of `unless` around it.

        `kedit.words.whole_words` says what is found. The group `word` is what counts as a mention: a phrase of
        `unless` matches without it.
        """
        return whole_words(self.words, self.unless)

    def first_mention(self, text: str) -> tuple[int, int] | None:
        """Return the character span of the first mention in `text`, or None."""
        named = (found.span() for found in self.pattern.finditer(text) if found["word"] is not None)
        return next(named, None)

    def mentioned_in(self, text: str) -> bool:
        """Return whether `text` names the concept."""
        return self.first_mention(text) is not None


def mentioned(concepts: Iterable[Concept], text: str) -> frozenset[str]:
    """Return the names of the `concepts` that `text` names."""
    return frozenset(concept.name for concept in concepts if concept.mentioned_in(text))


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture, the captions that are right for it and the regions of what it shows."""

    id: str
    image: Image
    references: tuple[str, ...] = ()
    objects: frozenset[str] = frozenset()
    """The names of the concepts in the picture, as annotated."""
    regions: Mapping[str, Mask] = field(default_factory=dict)
    """For each annotated concept, the union of its instances' masks: `[height, width]`."""
    render_without: Callable[[str], Image] | None = None
    """Draws the same picture without a concept, where the data set can."""

    def __post_init__(self) -> None:
        require(self.image, Image, "image", "a picture of Pillow")
        for name, collect in (("references", tuple), ("objects", frozenset)):
            given = getattr(self, name)
            # A text alone would become its letters.
            object.__setattr__(self, name, collect([given] if isinstance(given, str) else given))

    def __repr__(self) -> str:
        return f"Sample({self.id!r}, shows {', '.join(sorted(self.objects)) or 'nothing'})"

    def _repr_html_(self) -> str:
        return notebook.thumbnails({f"{self.id}: {', '.join(sorted(self.objects))}": self.image})

    def shows(self, concept: Concept) -> bool:
        """Return whether the annotation says that the picture shows `concept`."""
        return concept.name in self.objects

    def asked(self, question: str) -> Prompt:
        """Return the `question` about the picture, as a model reads it."""
        return Prompt(question, self.image)

    def region(self, concept: Concept) -> Mask:
        """Return the region of `concept`; a LookupError names what the sample has instead."""
        if concept.name not in self.regions:
            found = ", ".join(sorted(self.regions)) or "none"
            raise LookupError(f"sample `{self.id}` has no region for `{concept.name}`; regions: {found}")
        return self.regions[concept.name]


@dataclass(frozen=True, eq=False)
class TextSample:
    """A text that a model goes on with or answers, in place of a picture that shows something."""

    id: str
    text: str
    objects: frozenset[str] = frozenset()
    """The names of the concepts that a right answer names."""
    counterfactual: str | None = None
    """The same text about another subject, so that a right answer does not name them; None where there is none."""
    references: tuple[str, ...] = ()
    """Whole answers that are right."""

    def shows(self, concept: Concept) -> bool:
        """Return whether a right answer names `concept`."""
        return concept.name in self.objects

    def asked(self, question: str) -> Prompt:
        """Return the text, as a model reads it."""
        return Prompt(self.text)


AnySample = Sample | TextSample
"""What a model may be asked about."""


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """A sample and the same picture with one concept's region painted out; a text as concept is its name."""

    sample: Sample
    concept: Concept
    image: Image
    """The picture without the concept, of the sample's size."""
    control: Image | None = None
    """The picture with another region painted out and the concept left in, of the sample's size."""

    def __post_init__(self) -> None:
        require(self.sample, Sample, "sample", "a `Sample`")
        require(self.concept, (Concept, str), "concept", "a `Concept`, or its name")
        if isinstance(self.concept, str):
            object.__setattr__(self, "concept", Concept(self.concept))
        require(self.image, Image, "image", "a picture of Pillow")
        for name, image in (("counterfactual", self.image), ("control picture", self.control)):
            if image is not None and image.size != self.sample.image.size:
                raise ValueError(
                    f"the {name} of sample `{self.sample.id}` is {image.size} pixels, "
                    f"the original {self.sample.image.size}; they must be equal"
                )

    def __repr__(self) -> str:
        return f"Counterfactual({self.sample!r}, without {self.concept.name})"

    def _repr_html_(self) -> str:
        pictures = {self.sample.id: self.sample.image, f"without {self.concept.name}": self.image}
        return notebook.thumbnails(pictures | ({"control": self.control} if self.control is not None else {}))

    def asked(self, question: str) -> Prompt:
        """Return the `question` about the picture without the concept."""
        return Prompt(question, self.image)

    def asked_of_control(self, question: str) -> Prompt:
        """Return the `question` about the control picture; a ValueError says that there is none."""
        if self.control is None:
            raise ValueError(
                f"sample `{self.sample.id}` has no control picture; set `inpaint.control` to paint out another region"
            )
        return Prompt(question, self.control)


@dataclass(frozen=True, eq=False)
class TextPair:
    """A text whose right answer names a concept, and the same text about another subject."""

    sample: TextSample
    concept: Concept

    def __post_init__(self) -> None:
        require(self.sample, TextSample, "sample", "a `TextSample`")
        if self.sample.counterfactual is None:
            raise ValueError(f"the text `{self.sample.id}` has no counterfactual: the same text about another subject")

    def asked(self, question: str) -> Prompt:
        """Return the text about another subject."""
        return Prompt(self.sample.counterfactual or "")

    def asked_of_control(self, question: str) -> Prompt:
        """Refuse: there is no text in which something else was changed."""
        raise ValueError(f"the text `{self.sample.id}` has no control; pictures alone do (`control=false`)")


Pair = Counterfactual | TextPair
"""What neurons are located with."""


def pictured(pairs: Sequence[Pair], what: str) -> list[Counterfactual]:
    """Return pairs of pictures; a ValueError says that `what` needs such, and that some are texts."""
    found = [pair for pair in pairs if isinstance(pair, Counterfactual)]
    if len(found) < len(pairs):
        raise ValueError(f"{what} needs pictures, and the data are texts")
    return found


@dataclass(frozen=True)
class Question:
    """A question and the answer that is right; about a picture, a video or a sound when that is set."""

    text: str
    answer: str
    """Blank where nobody knows it."""
    kind: str
    sample: Sample | None = None
    video: Video | None = None
    sound: Sound | None = None
    others: tuple[str, ...] = ()
    """Other answers that are right as well."""

    @property
    def prompt(self) -> Prompt:
        """What a model is asked; a ValueError if it is about several things."""
        return Prompt(self.text, self.sample.image if self.sample else None, self.video, self.sound)


@dataclass(frozen=True)
class QuestionSplit:
    """Questions to locate with, and others to evaluate on, about other things."""

    locate: tuple[Question, ...]
    evaluate: tuple[Question, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many questions were passed over because what they are about cannot be used, by the reason."""


@dataclass(frozen=True)
class Split:
    """Disjoint samples to locate with and to evaluate on."""

    locate: tuple[AnySample, ...]
    """Pictures of the concept that locating may see, or texts that ask for it."""
    target: tuple[AnySample, ...]
    """Held-out ones of the concept."""
    near: tuple[AnySample, ...]
    """Those without the concept that show something of its category, or ask for its neighbours."""
    far: tuple[AnySample, ...]
    """Those without the concept or anything of its category."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many pictures were passed over because they cannot be used, by the reason."""
    remarks: tuple[str, ...] = ()
    """What whoever uses them should know, a sentence each."""
    vocabulary: tuple[Concept, ...] = ()
    """What the samples show or ask for beside the concepts of the data."""
    questions: tuple[Question, ...] = ()
    """Questions about the concept that need no picture, beside those of the data."""

    def __post_init__(self) -> None:
        ids = [sample.id for part in (self.locate, self.target, self.near, self.far) for sample in part]
        twice = sorted(one for one, n in Counter(ids).items() if n > 1)
        if twice:
            raise ValueError(f"a sample may be in one part of a split only; in several: {', '.join(twice[:5])}")


class Data(Protocol):
    """A data set: the concepts it knows, samples for each, and questions without a picture."""

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """Every concept that can be located."""
        ...

    @property
    def questions(self) -> tuple[Question, ...]:
        """Text-only questions, to test what an edit leaves of the text knowledge."""
        ...

    def split(
        self, concept: Concept | str, *, locate: int = 24, target: int = 60, retention: int = 60, seed: int = 0
    ) -> Split:
        """Return disjoint samples of a concept or of its name, `retention` of them near and as many far."""
        ...


@runtime_checkable
class Finite(Protocol):
    """A data set that may have fewer pictures than are asked for."""

    def split_up_to(self, concept: Concept, *, locate: int, target: int, retention: int, seed: int) -> Split:
        """Return what `split` does, or fewer samples where there are fewer; a ValueError if there are next to none."""
        ...


@runtime_checkable
class HasQuestions(Protocol):
    """A data set with questions about pictures, videos, sounds or nothing but words."""

    def split_questions(self, *, locate: int, evaluate: int, seed: int) -> QuestionSplit:
        """Return at most so many questions of each kind for each half; no thing is asked about in both."""
        ...


EXISTENCE = "Is there {} in the image?"
"""How POPE asks (Li et al. 2023); `{}` stands for "a dog"."""
TARGET, ALONE = "target", "alone"
"""The kinds of POPE's questions about the concept, one for each picture, and of those without a picture."""


@runtime_checkable
class Surveyed(Protocol):
    """A data set that can tell what many pictures show, and how to ask whether something is in one."""

    @property
    def existence(self) -> str:
        """The question, where `{}` stands for "a dog"."""
        ...

    def annotations(self, *, seed: int) -> Sequence[frozenset[str]]:
        """Return the names of the concepts in each annotated picture; of endless ones, in some."""
        ...


def find_concept(concepts: Iterable[Concept], asked: str | Concept) -> Concept:
    """Return the concept that is `asked` for, by its name; a LookupError suggests the nearest, by all their words."""
    require(asked, (str, Concept), "concept", "the name of a concept")
    name = asked.name if isinstance(asked, Concept) else asked
    known = {concept.name: concept for concept in concepts}
    if name in known:
        return known[name]
    folded = {word.casefold(): one for one, concept in known.items() for word in concept.words}
    folded |= {one.casefold(): one for one in known}
    typed = name.casefold()
    close = [typed] if typed in folded else difflib.get_close_matches(typed, folded, n=3, cutoff=0.5)
    near = dict.fromkeys(folded[one] for one in close)
    hint = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(sorted(known)) or 'none'}"
    raise LookupError(f"no concept `{name}` in the data; {hint}")


class Progress(Protocol):
    """Shows how far a long job is: yields `items`, of which there are `total`, under the name `what`."""

    def __call__(self, items: Iterable[T], total: int, what: str) -> Iterable[T]:
        """Return `items`, showing how many have been taken."""
        ...


def silent(items: Iterable[T], total: int, what: str) -> Iterable[T]:  # noqa: ARG001
    """Return `items` and show nothing; the default `Progress`."""
    return items
