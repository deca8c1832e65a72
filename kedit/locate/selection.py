"""Which of the scored neurons to keep. Selecting is instant and pure: sweep it."""

import math
from dataclasses import dataclass
from typing import Protocol

from kedit.neurons import NeuronScores, NeuronSet


class Selector(Protocol):
    """Keeps some of the neurons, of the earlier stages' candidates where there are any."""

    def __call__(self, scores: NeuronScores, among: NeuronSet | None = None) -> NeuronSet:
        """Return the neurons to keep."""
        ...


@dataclass(frozen=True)
class Above:
    """Neurons that score more than `threshold`, the best `at_most` of them."""

    threshold: float
    at_most: int | None = None

    def __post_init__(self) -> None:
        _check_finite("threshold", self.threshold)
        check_count("at_most", self.at_most)

    def __call__(self, scores: NeuronScores, among: NeuronSet | None = None) -> NeuronSet:
        """Return the neurons above the threshold."""
        ranked = scores.ranking(among)
        values = scores.of(ranked).tolist()
        kept = [one for one, value in zip(ranked, values, strict=True) if value > self.threshold]
        return scores.chosen(kept[: self.at_most])


@dataclass(frozen=True)
class TopK:
    """The `k` best neurons; ties go to the lower layer and index."""

    k: int

    def __post_init__(self) -> None:
        if self.k is None:
            raise ValueError("`k` is a number of neurons, 0 or more, got None")
        check_count("k", self.k)

    def __call__(self, scores: NeuronScores, among: NeuronSet | None = None) -> NeuronSet:
        """Return the best neurons."""
        return scores.chosen(scores.ranking(among)[: self.k])


@dataclass(frozen=True)
class Quantile:
    """The best share `1 - q` of the neurons it may choose from: q=0.99 keeps one in a hundred, and one of fewer."""

    q: float
    of_max: float | None = None
    """If set, what is kept must also score at least this share of the best neuron; see `RatioOfMax`."""
    at_most: int | None = None
    allow_empty: bool = False
    """Whether a share of less than one neuron is none."""

    def __post_init__(self) -> None:
        if not isinstance(self.q, int | float) or not 0 <= self.q <= 1:
            raise ValueError(f"`q` is a quantile between 0 and 1, got {self.q}")
        if self.of_max is not None:
            _check_ratio("of_max", self.of_max)
        check_count("at_most", self.at_most)

    def __call__(self, scores: NeuronScores, among: NeuronSet | None = None) -> NeuronSet:
        """Return the neurons above the quantile."""
        ranked = scores.ranking(among)
        # Rounded first: (1 - 0.9) * 10 is 0.9999999999999998.
        n_kept = math.floor(round((1 - self.q) * len(ranked), 9))
        if self.q < 1 and not self.allow_empty:
            n_kept = max(n_kept, 1)
        kept = scores.chosen(ranked[:n_kept][: self.at_most])
        return kept if self.of_max is None else kept & RatioOfMax(self.of_max)(scores, among)


@dataclass(frozen=True)
class RatioOfMax:
    """Neurons that score at least `ratio` of the best one (Dai et al. 2022: 0.2 of the maximum)."""

    ratio: float
    at_most: int | None = None

    def __post_init__(self) -> None:
        _check_ratio("ratio", self.ratio)
        check_count("at_most", self.at_most)

    def __call__(self, scores: NeuronScores, among: NeuronSet | None = None) -> NeuronSet:
        """Return the neurons near the maximum; none if no score is positive."""
        ranked = scores.ranking(among)
        values = scores.of(ranked).tolist()
        if not values or values[0] <= 0:
            return scores.chosen(())
        kept = [one for one, value in zip(ranked, values, strict=True) if value >= self.ratio * values[0]]
        return scores.chosen(kept[: self.at_most])


def _check_ratio(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"`{name}` is a share of the maximum, above 0 and at most 1, got {value}")


def _check_finite(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"`{name}` is a finite number, got {value}")


def check_count(name: str, value: int | None) -> None:
    """Raise a ValueError unless `value` is None or a whole number of neurons."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"`{name}` is a number of neurons, 0 or more, got {value!r}")
