"""What is prepared, without the pictures that the model cannot read: passed over, counted, and told in one warning."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from PIL.Image import Image

from kedit.models.mllm import MLLM
from kedit.models.refusals import refusals
from kedit.pipelines.preparation import Prepared
from kedit.samples import AnySample, Question, QuestionSplit, Sample

logger = logging.getLogger(__name__)

T = TypeVar("T")
REASON = "model_cannot_read"


def readable(model: MLLM, prepared: Prepared) -> Prepared:
    """Return what is prepared without what `model` cannot read.

    Raises:
        ValueError: Nothing is left of the pairs, of the target samples, or of those without the concept.
    """
    sift, evaluation_set = _Sieve(model), prepared.evaluation_set
    pairs = sift(prepared.pairs, lambda pair: _of_sample(pair.sample), "pairs to locate with")
    target = sift(evaluation_set.target, _of_sample, "pictures of the concept")
    kept = {sample.id for sample in sift(evaluation_set.retention, _of_sample, "pictures without the concept")}
    about = {poll.sample.id: poll.sample for poll in prepared.polls if poll.sample is not None}
    held_out = {sample.id for sample in evaluation_set.target + evaluation_set.retention}
    others = sift([sample for name, sample in about.items() if name not in held_out], _of_sample, "")
    if not sift.count:
        return prepared
    near, far = (
        tuple(sample for sample in part if sample.id in kept) for part in (evaluation_set.near, evaluation_set.far)
    )
    kept |= {sample.id for sample in [*target, *others]}
    polls = tuple(poll for poll in prepared.polls if poll.sample is None or poll.sample.id in kept)
    evaluation_set = replace(evaluation_set, target=tuple(target), near=near, far=far)
    return prepared._replace(
        evaluation_set=evaluation_set, pairs=pairs, polls=polls, skipped=sift.counted(prepared.skipped)
    )


def with_readable_pairs(model: MLLM, prepared: Prepared) -> Prepared:
    """Return one part of what is prepared without the pairs that `model` cannot read, of which none may be left."""
    sift = _Sieve(model)
    pairs = sift(prepared.pairs, lambda pair: _of_sample(pair.sample), "")
    return prepared._replace(pairs=pairs, skipped=sift.counted(prepared.skipped)) if sift.count else prepared


def readable_questions(model: MLLM, question_split: QuestionSplit) -> QuestionSplit:
    """Return a question split without the questions about pictures that `model` cannot read; see `readable`."""
    sift = _Sieve(model)
    about = lambda question: None if question.sample is None else question.sample.image  # noqa: E731
    halves: list[list[Question]] = [
        sift(half, about, "questions") for half in (question_split.locate, question_split.evaluate)
    ]
    if not sift.count:
        return question_split
    return replace(
        question_split,
        locate=tuple(halves[0]),
        evaluate=tuple(halves[1]),
        skipped=sift.counted(dict(question_split.skipped)),
    )


class _Sieve:
    """Sifts samples by whether a model can read their pictures, and counts."""

    def __init__(self, model: MLLM) -> None:
        self.model, self.count, self.first = model, 0, ""

    def __call__(self, items: Sequence[T], image_of: Callable[[T], Image | None], what: str) -> list[T]:
        """Return the items whose pictures can be read; a ValueError says that of so called ones none can."""
        pictured = [(place, image) for place, one in enumerate(items) if (image := image_of(one)) is not None]
        refused = refusals(self.model, [image for _, image in pictured])
        if not refused:
            return list(items)
        first = next(iter(refused.values()))
        if what and len(refused) == len(items):
            raise ValueError(f"`{self.model.name}` can read none of {len(items)} {what}; the first has {first}")
        self.count, self.first = self.count + len(refused), self.first or first
        left_out = {pictured[number][0] for number in refused}
        return [one for place, one in enumerate(items) if place not in left_out]

    def counted(self, skipped: dict[str, int]) -> dict[str, int]:
        """Return `skipped` with what was sifted out, and say it."""
        logger.warning(
            "skipped %d pictures that `%s` cannot read (%s), the first of %s", self.count, self.model.name, REASON,
            self.first,
        )  # fmt: skip
        return {**skipped, REASON: skipped.get(REASON, 0) + self.count}


def _of_sample(sample: AnySample) -> Image | None:
    return sample.image if isinstance(sample, Sample) else None
