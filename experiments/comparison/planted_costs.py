"""What locating takes, in passes, time and memory, beside one plain forward of the same pictures."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from experiments.benchmarks.memory import peak_bytes
from kedit.models.mllm import MLLM, Generated
from kedit.samples import Counterfactual


@dataclass(frozen=True)
class Cost:
    """Passes for each picture, and time and peak memory as multiples of one plain forward's."""

    forwards: float
    backwards: float
    time: float
    memory: float


def plain_forward(model: MLLM, pairs: Sequence[Counterfactual], captions: Sequence[Generated]) -> Callable[[], None]:
    """Return a function that reads each original and its caption's words up to the concept's, and keeps nothing."""
    mentions = [model.mention(told, pair.concept, force=True) for told, pair in zip(captions, pairs, strict=True)]
    prefixes = [mention.prefix for mention in mentions if mention is not None]
    images = [pair.sample.image for pair in pairs]

    @torch.no_grad()
    def forward() -> None:
        for start in range(0, len(images), model.batch_size):
            some = slice(start, start + model.batch_size)
            model.logits(model.forced(images[some], prefixes[some]))

    return forward


def cost_of(
    locator: Any,
    model: MLLM,
    pairs: Sequence[Counterfactual],
    captions: Sequence[Generated],
    forward: Callable[[], None],
    repeats: int,
) -> Cost:
    """Return what the locator takes to score; the two take turns, and each time is a median of `repeats`."""

    def score() -> Any:
        return locator.score(model, pairs, captions=captions)

    about = next(iter(score().values())).provenance
    forward()
    spent = [(_seconds(score), _seconds(forward)) for _ in range(repeats)]
    method, plain = (median(times) for times in zip(*spent, strict=True))
    return Cost(
        int(about["forwards"]) / len(pairs),
        int(about["backwards"]) / len(pairs),
        method / plain,
        peak_bytes(score) / peak_bytes(forward),
    )


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
