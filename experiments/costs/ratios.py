"""Times of several ways to do one thing, taken in turns in one process, and their ratios."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from kedit.samples import Progress, silent

RESAMPLES = 2000
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""What a time is: seconds that passed, or processor seconds that this process used."""


@dataclass(frozen=True)
class Ratio:
    """A median and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def in_turns(
    ways: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 2,
    clock: str = "wall",
    seed: int = 0,
    progress: Progress = silent,
    what: str = "timing",
) -> dict[str, list[float]]:
    """Return the seconds of each call, by way: `repeats` numbers each, the i-th of all ways taken side by side.

    Each repetition calls every way once, in an order of its own, so that a slow moment of the machine falls
    on all of them and no way profits from its predecessor. The first `warmup` repetitions do not count, and garbage
    is collected between repetitions only.
    """
    if clock not in CLOCKS:
        raise ValueError(f"`clock` is one of {', '.join(CLOCKS)}, got {clock!r}")
    if repeats < 1 or warmup < 0:
        raise ValueError(f"`repeats` is at least 1 and `warmup` at least 0, got {repeats} and {warmup}")
    shuffled, seconds = random.Random(seed), {name: list[float]() for name in ways}
    with _garbage_at_rest():
        for repetition in progress(range(repeats + warmup), repeats + warmup, what):
            order = list(ways)
            shuffled.shuffle(order)
            spent = {name: _timed(ways[name], CLOCKS[clock]) for name in order}
            gc.collect()
            if repetition >= warmup:
                for name in ways:
                    seconds[name].append(spent[name])
    return seconds


def ratio(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Ratio:
    """Return the median over repetitions of `ours / theirs`, with its percentile bootstrap interval."""
    pairs = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    draws = random.Random(seed)
    medians = sorted(statistics.median(draws.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return Ratio(statistics.median(pairs), medians[round(0.025 * RESAMPLES)], medians[round(0.975 * RESAMPLES) - 1])


def spread(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the quartiles; of a single number, that number twice."""
    if len(seconds) == 1:
        return seconds[0], seconds[0]
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, high


def _timed(way: Callable[[], object], now: Callable[[], float]) -> float:
    _settle()
    began = now()
    way()
    _settle()
    return now() - began


@contextmanager
def _garbage_at_rest() -> Iterator[None]:
    """Collect garbage only when asked, and look only at what is made from now on."""
    enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if not frozen:  # who froze something before wants it to stay so
            gc.unfreeze()
        if enabled:
            gc.enable()


def _settle() -> None:
    """Wait for a GPU, whose work is otherwise still under way when the call returns."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
