"""Captions and transcripts as JSON and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from kedit.evaluation.exam import Transcript
from kedit.models.mllm import Generated

PARTS = ("target", "near", "far", "answers")


def plain(told: Transcript) -> dict[str, Any]:
    """Return a transcript as JSON, where a log-probability that was not taken is null."""
    logprobs = [None if one != one else one for one in told.logprobs or ()]
    texts = {name: list(getattr(told, name)) for name in PARTS}
    return {**texts, "logprobs": logprobs if told.logprobs is not None else None}


def transcript_of(told: Mapping[str, Any]) -> Transcript:
    """Return the transcript that `plain` wrote."""
    logprobs = told["logprobs"]
    if logprobs is not None:
        logprobs = tuple(float("nan") if one is None else one for one in logprobs)
    return Transcript(**{**told, "logprobs": logprobs})


def rows(captions: Sequence[Generated]) -> list[list[Any]]:
    """Return captions as JSON: the text and the tokens of each."""
    return [[one.text, list(one.tokens)] for one in captions]


def captions_of(told: Sequence[Sequence[Any]]) -> list[Generated]:
    """Return the captions that `rows` wrote."""
    return [Generated(text, tuple(tokens)) for text, tokens in told]
