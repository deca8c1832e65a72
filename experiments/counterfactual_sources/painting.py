"""The same pictures with a concept painted out by each source."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from kedit.data.inpaint import Inpainter
from kedit.data.pairs import Heavy, counterfactuals
from kedit.progress import show_progress
from kedit.samples import Concept, Counterfactual, Data, Sample, Split

AGAIN = " (other pictures)"
"""What follows the reference's name where it is run once more, on as many pictures that no source has seen."""


@dataclass(frozen=True)
class Counts:
    """How many samples of each concept."""

    locate: int
    target: int
    retention: int


@dataclass(frozen=True, eq=False)
class Painted:
    """What one source made of the pictures of one concept."""

    source: str
    pairs: Sequence[Counterfactual]
    seconds: float
    """For a picture, the first one, which may load a pipeline, left out."""
    skipped: int = 0
    """How many pictures the source could not paint."""


@dataclass(frozen=True, eq=False)
class Studio:
    """Paints the pictures of each concept by every source."""

    data: Data
    sources: Mapping[str, Inpainter]
    reference: str
    counts: Counts
    seed: int = 0
    warm: set[str] = field(default_factory=set)

    def split(self, concept: Concept) -> Split:
        """Return the samples of `concept`; those to locate with are twice as many, half of them for `AGAIN`."""
        counts = self.counts
        return self.data.split(
            concept, locate=2 * counts.locate, target=counts.target, retention=counts.retention, seed=self.seed
        )

    def painted(self, concept: Concept, split: Split) -> list[Painted]:
        """Return the pictures of `split` without `concept`, the reference's first and, on the other half, last."""
        first, second = split.locate[: self.counts.locate], split.locate[self.counts.locate :]
        sources = {self.reference: self.sources[self.reference], **self.sources}
        made = [
            self._painted(name, source, concept, first)
            for name, source in show_progress(sources.items(), len(sources), f"painting out {concept.name}")
        ]
        again = self._painted(self.reference, self.sources[self.reference], concept, second)
        return [*made, replace(again, source=self.reference + AGAIN)]

    def close(self) -> None:
        """Let the pipelines go that sources have loaded."""
        for source in self.sources.values():
            if isinstance(source, Heavy):
                source.release()

    def _painted(self, name: str, source: Inpainter, concept: Concept, samples: Sequence[Sample]) -> Painted:
        if name not in self.warm:
            source(samples[0], concept)
            self.warm.add(name)
        began = time.perf_counter()
        # As a plain function, which holds nothing to release: the next concept needs the pipeline again.
        made, skipped = counterfactuals(partial(source), samples, concept)
        seconds = (time.perf_counter() - began) / len(samples)
        return Painted(name, made, seconds, sum(skipped.values()))
