"""What data sets of annotated pictures on disk have in common, once they are read."""

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from kedit.data.data_set import AnnotatedDataSet, Rules
from kedit.data.drawing import Asked, drawn, split
from kedit.data.pictures import SampleError
from kedit.data.question_file import read_question_file, split_questions, text_questions
from kedit.samples import EXISTENCE, Concept, Question, QuestionSplit, Sample, Split, find_concept

logger = logging.getLogger(__name__)


class AnnotatedPictures:
    """Draws samples from a data set by rules, and reads the questions beside it."""

    folder: str
    questions_file: str | None
    max_side: int | None
    max_frames: int = 16

    @property
    @abstractmethod
    def data_set(self) -> AnnotatedDataSet:
        """The annotated pictures, none of them opened."""

    @property
    @abstractmethod
    def rules(self) -> Rules:
        """Which of a concept's pictures may be drawn."""

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """Every concept that the data set knows."""
        return self.data_set.concepts

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """The questions of `questions_file` that are about nothing but words."""
        return text_questions(Path(self.folder), self.questions_file)

    @property
    def existence(self) -> str:
        """POPE's question."""
        return EXISTENCE

    def annotations(self, *, seed: int) -> list[frozenset[str]]:
        """Return the names of the concepts in each picture of the data set, whatever the seed."""
        return [record.objects for record in self.data_set.records]

    def samples(self, concept: Concept | str, *, seed: int = 0) -> Iterator[Sample]:
        """Yield the pictures of `concept` that fit, opened one by one; a LookupError suggests the nearest names."""
        name = concept if isinstance(concept, str) else concept.name
        return drawn(self.data_set, find_concept(self.concepts, name), self.rules, seed=seed)

    def pictures(self, *, seed: int = 0) -> Iterator[Sample]:
        """Yield every picture that can be used, whatever it shows, opened one by one in the order of `seed`."""
        for record in self.data_set.shuffled(seed):
            with suppress(SampleError):
                yield self.data_set.sample(record)

    def split_questions(self, *, locate: int, evaluate: int, seed: int) -> QuestionSplit:
        """Return questions of `questions_file`, of each kind so many for each half."""
        if self.questions_file is None:
            raise ValueError(f"`{self.folder}` has no questions; set `questions_file` to a file of them in the folder")
        asked = read_question_file(Path(self.folder), self.questions_file)
        limits = {"max_side": self.max_side, "max_frames": self.max_frames}
        return split_questions(asked, locate=locate, evaluate=evaluate, seed=seed, **limits)  # type: ignore[arg-type]

    def split(
        self, concept: Concept | str, *, locate: int = 24, target: int = 60, retention: int = 60, seed: int = 0
    ) -> Split:
        """Return disjoint samples, `retention` of them near and as many far; see `kedit.data.drawing.split`."""
        found = find_concept(self.concepts, concept)
        return self._split(found, Asked(locate, target, retention), seed, strict=True)

    def split_up_to(self, concept: Concept, *, locate: int, target: int, retention: int, seed: int) -> Split:
        """Return the same with as many samples as there are, where there are fewer; a warning says how many."""
        return self._split(concept, Asked(locate, target, retention), seed, strict=False)

    def _split(self, concept: Concept, asked: Asked, seed: int, *, strict: bool) -> Split:
        parts = split(self.data_set, concept, self.rules, asked, seed=seed, strict=strict)
        for remark in parts.remarks:
            logger.warning(remark)
        return parts
