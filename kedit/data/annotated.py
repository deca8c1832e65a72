"""What data sets of annotated pictures on disk have in common, once they have an album."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from kedit.data.album import Album, Rules
from kedit.data.drawing import drawn, split
from kedit.data.jsonlines import text_questions
from kedit.data.pictures import SampleError
from kedit.samples import Concept, Question, Sample, Split, find_concept


class AnnotatedPictures:
    """Draws samples from an album by rules, and reads the text questions beside it."""

    folder: str
    questions_file: str | None

    @property
    @abstractmethod
    def album(self) -> Album:
        """The annotated pictures, none of them opened."""

    @property
    @abstractmethod
    def rules(self) -> Rules:
        """Which of a concept's pictures may be drawn."""

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """Every concept that the album knows."""
        return self.album.concepts

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """The text questions of `questions_file`."""
        return text_questions(Path(self.folder), self.questions_file)

    def samples(self, concept: Concept | str, *, seed: int = 0) -> Iterator[Sample]:
        """Yield the pictures of `concept` that fit, opened one by one; a LookupError suggests the nearest names."""
        name = concept if isinstance(concept, str) else concept.name
        return drawn(self.album, find_concept(self.concepts, name), self.rules, seed=seed)

    def pictures(self, *, seed: int = 0) -> Iterator[Sample]:
        """Yield every picture that can be used, whatever it shows, opened one by one in the order of `seed`."""
        for record in self.album.shuffled(seed):
            with suppress(SampleError):
                yield self.album.sample(record)

    def split(self, concept: Concept, *, locate: int, target: int, retention: int, seed: int) -> Split:
        """Return disjoint samples, `retention` of them near and as many far; see `kedit.data.drawing.split`."""
        counts = {"locate": locate, "target": target, "retention": retention}
        return split(self.album, concept, self.rules, **counts, seed=seed)
