"""A model that draws, and who looks at its drawings: what it draws and says, unedited and edited."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.Image import Image

from kedit.arguments import require
from kedit.edit.edit import Change
from kedit.evaluation.drawings import Asked, Outcome
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.locate.drawn import Depicted
from kedit.models.drawing import drawer
from kedit.models.drawings import Drawings
from kedit.models.mllm import MLLM
from kedit.pipelines.seers import Seer
from kedit.samples import Concept, Progress, Sample, mentioned, silent


@dataclass(frozen=True)
class Drawn:
    """What a model drew and said, unedited or under one edit."""

    drawings: Drawings
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class DrawingSet:
    """What is to be drawn and described."""

    asked: Asked
    prompts: tuple[str, ...]
    pictures: tuple[Image, ...]

    @classmethod
    def of(cls, evaluation_set: EvaluationSet) -> "DrawingSet":
        """Return the captions of a set's pictures as prompts, and its pictures of the concept to describe."""
        vocabulary = vocabulary_of(evaluation_set)
        target = [one for one in evaluation_set.target if isinstance(one, Sample)]
        prompts = [caption_of(one) for one in (*target, *evaluation_set.retention)]
        things = tuple(mentioned(vocabulary, one) for one in prompts)
        objects = tuple(one.objects for one in target)
        asked = Asked(evaluation_set.concept, things, len(target), objects, tuple(vocabulary))
        return cls(asked, tuple(prompts), tuple(one.image for one in target))


@dataclass(frozen=True, eq=False)
class Artist:
    """A model that draws prompts, and who says what its drawings show."""

    model: MLLM
    seer: Seer
    temperature: float = 1.0
    guidance: float | None = None
    seed: int = 0
    progress: Progress = silent

    def drawings(self, prompts: Sequence[str], *, seed: int | None = None) -> Drawings:
        """Return a drawing of each prompt."""
        return drawer(self.model).draw(
            prompts, seed=self.seed if seed is None else seed, temperature=self.temperature, guidance=self.guidance,
            progress=self.progress,
        )  # fmt: skip

    def depicted(self, prompts: Sequence[str], concept: Concept, *, seed: int | None = None) -> Depicted:
        """Return drawings of prompts with where they show the concept; drawings that do not are left out.

        Raises:
            ValueError: None does.
        """
        drawings = self.drawings(prompts, seed=seed)
        seen = [self.seer(picture, [concept]).regions.get(concept.name) for picture in drawings.images]
        if not any(mask is not None for mask in seen):
            raise ValueError(
                f"none of {len(prompts)} drawings of `{self.model.name}` that were asked for `{concept.name}` shows it "
                f"(the first: {prompts[0]!r})"
            )
        return Depicted.of(concept, drawings, seen, drawer(self.model))

    def outputs(self, evaluation_set: DrawingSet, edit: Change | None) -> Drawn:
        """Return what the model draws and says, under an edit or without."""
        with edit.applied(self.model) if edit is not None else nullcontext():
            drawings = self.drawings(evaluation_set.prompts)
            captions = self.model.caption(evaluation_set.pictures, progress=self.progress)
        asked, draws = evaluation_set.asked, drawer(self.model)
        looked_for = [wanted | {asked.concept.name} for wanted in asked.things]
        seen = [
            self.seer(picture, [one for one in asked.vocabulary if one.name in names])
            for picture, names in zip(drawings.images, looked_for, strict=True)
        ]
        errors = None
        if draws.codebook:
            again = draws.decode(draws.encode(drawings.images))
            errors = tuple(_distance(*pair) for pair in zip(drawings.images, again, strict=True))
        outcome = Outcome(
            tuple(frozenset(one.regions) for one in seen),
            tuple(one.valid for one in seen),
            errors,
            tuple(one.text for one in captions),
        )
        return Drawn(drawings, outcome)


def caption_of(sample: Any) -> str:
    """Return the caption that a picture is asked for by, its first; a ValueError says that it has none."""
    require(sample, Sample, "sample", "a picture with its captions")
    if not sample.references:
        raise ValueError(f"sample `{sample.id}` has no caption to draw from")
    caption: str = sample.references[0]
    return caption


def vocabulary_of(evaluation_set: EvaluationSet) -> tuple[Concept, ...]:
    """Return what prompts may ask for, the concept first."""
    return tuple(dict.fromkeys([evaluation_set.concept, *evaluation_set.vocabulary]))


def _distance(one: Image, other: Image) -> float:
    """Return the mean absolute difference of two pictures over channels, 0 to 1."""
    a, b = (np.asarray(picture.convert("RGB"), np.float64) for picture in (one, other.resize(one.size)))
    return float(np.abs(a - b).mean() / 255)
