"""What the model is asked, and what it said: the two inputs of `measure`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kedit.arguments import require
from kedit.samples import AnySample, Concept, Question, Sample, TextSample

SAMPLES = (Sample, TextSample)
PARTS: Mapping[str, type | tuple[type, ...]] = {
    "vocabulary": Concept,
    "target": SAMPLES,
    "near": SAMPLES,
    "far": SAMPLES,
    "questions": Question,
}
"""What the parts of an evaluation set hold."""


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out samples and questions on which an edit of `concept` is judged.

    `target` samples show the concept, `near` and `far` ones do not; together, near and far are the
    retention samples (near: the same kind of thing, far: another kind).
    """

    concept: Concept
    vocabulary: tuple[Concept, ...]
    """Every concept whose mention is looked for; `concept` may be among them."""
    target: tuple[AnySample, ...]
    near: tuple[AnySample, ...] = ()
    far: tuple[AnySample, ...] = ()
    questions: tuple[Question, ...] = ()
    """Questions that need no picture."""

    def __post_init__(self) -> None:
        require(self.concept, (Concept, str), "concept", "a `Concept`, or its name")
        if isinstance(self.concept, str):
            object.__setattr__(self, "concept", Concept(self.concept))
        for name, kind in PARTS.items():
            what = kind[0].__name__ if isinstance(kind, tuple) else kind.__name__
            require(getattr(self, name), Iterable, name, f"a list of `{what}`")
            for one in getattr(self, name):
                require(one, kind, name, f"a list of `{what}`")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_shown(self.concept, "target", self.target, expected=True)
        _check_shown(self.concept, "near", self.near, expected=False)
        _check_shown(self.concept, "far", self.far, expected=False)
        repeated = [name for name, count in Counter(s.id for s in self.target + self.retention).items() if count > 1]
        if repeated:
            raise ValueError(f"sample `{repeated[0]}` appears more than once; target, near and far must be disjoint")
        about_pictures = [question.text for question in self.questions if question.sample is not None]
        if about_pictures:
            raise ValueError(f"`questions` must need no picture, got {about_pictures[0]!r} about a sample")

    @property
    def retention(self) -> tuple[AnySample, ...]:
        """The near samples, then the far ones."""
        return self.near + self.far

    @property
    def has_pictures(self) -> bool:
        """Whether pictures are asked about, and not texts alone."""
        return not any(isinstance(sample, TextSample) for sample in self.target)

    @property
    def others(self) -> tuple[Concept, ...]:
        """The vocabulary without the concept."""
        return tuple(other for other in self.vocabulary if other.name != self.concept.name)


@dataclass(frozen=True)
class Outputs:
    """What the model said under one condition: a caption for each sample, an answer for each question."""

    target: tuple[str, ...]
    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    logprobs: tuple[float, ...] | None = None
    """For each target sample, the teacher-forced log-probability of the concept's word, in nats.

    Entries of samples whose unedited caption does not name the concept are never read.
    """
    surprise: tuple[float | None, ...] | None = None
    """For each caption, target, near and far, how unlikely the unedited model finds its median token, in nats; None
    where it is too short to tell."""
    cut: tuple[bool, ...] | None = None
    """For each of the same captions, whether it ends only because it may not be longer."""

    def __post_init__(self) -> None:
        for name in ("target", "near", "far", "answers"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"`{name}` is a list of texts, got the text {getattr(self, name)!r:.60}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("logprobs", "surprise", "cut"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def retention(self) -> tuple[str, ...]:
        """The captions of the near samples, then of the far ones."""
        return self.near + self.far

    def check_fits(self, evaluation_set: EvaluationSet, condition: str) -> None:
        """Raise a ValueError unless there is one text for each sample and question of `evaluation_set`."""
        asked = {
            "target": evaluation_set.target,
            "near": evaluation_set.near,
            "far": evaluation_set.far,
            "answers": evaluation_set.questions,
        }
        found: dict[str, Sequence[object]] = {name: getattr(self, name) for name in asked}
        every = evaluation_set.target + evaluation_set.retention
        for name, about in (("logprobs", evaluation_set.target), ("surprise", every), ("cut", every)):
            if getattr(self, name) is not None:
                asked[name], found[name] = about, getattr(self, name)
        for name, items in asked.items():
            if len(found[name]) != len(items):
                raise ValueError(
                    f"the outputs `{condition}` have {len(found[name])} `{name}`, the evaluation set asks for "
                    f"{len(items)}"
                )


def _check_shown(concept: Concept, name: str, samples: tuple[AnySample, ...], *, expected: bool) -> None:
    wrong = [sample for sample in samples if sample.shows(concept) != expected]
    if wrong:
        objects = ", ".join(sorted(wrong[0].objects)) or "nothing annotated"
        rule = "must show" if expected else "must not show"
        raise ValueError(
            f"`{name}` samples {rule} `{concept.name}`; {len(wrong)} of {len(samples)} break this, "
            f"the first `{wrong[0].id}`, which shows {objects}"
        )
