"""What a model said, as JSON and back, and as the outputs that are measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.models.mllm import Generated


@dataclass(frozen=True)
class RawOutputs:
    """The captions and answers of one evaluation set, in its order, and the log-probabilities of the concept's word."""

    texts: tuple[Generated, ...]
    """Of the target, near and far samples and of the questions."""
    logprobs: tuple[float, ...]
    """For each target sample; NaN where none was taken, and empty where none could be."""
    surprise: tuple[float | None, ...]
    """Of each caption to the unedited model; None where it is too short to tell."""
    cut: tuple[bool, ...]
    """Whether each caption ends only because it may not be longer."""

    def outputs(self, evaluation_set: EvaluationSet) -> Outputs:
        """Return it as `measure` takes it."""
        texts = iter(one.text for one in self.texts)
        asked = (evaluation_set.target, evaluation_set.near, evaluation_set.far, evaluation_set.questions)
        target, near, far, answers = (tuple(next(texts) for _ in part) for part in asked)
        return Outputs(target, near, far, answers, self.logprobs or None, self.surprise, self.cut)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, where a log-probability that was not taken is null."""
        logprobs = [None if one != one else one for one in self.logprobs]
        signs = {"surprise": list(self.surprise), "cut": list(self.cut)}
        return {"texts": rows(self.texts), "logprobs": logprobs, **signs}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        logprobs = tuple(float("nan") if one is None else one for one in content["logprobs"])
        return cls(tuple(captions_of(content["texts"])), logprobs, tuple(content["surprise"]), tuple(content["cut"]))


def rows(captions: Sequence[Generated]) -> list[list[Any]]:
    """Return captions as JSON: the text and the tokens of each."""
    return [[one.text, list(one.tokens)] for one in captions]


def captions_of(told: Sequence[Sequence[Any]]) -> list[Generated]:
    """Return the captions that `rows` wrote."""
    return [Generated(text, tuple(tokens)) for text, tokens in told]
