"""Intervals for what is a figure of pairs: of pictures with and without a concept, or of one set and another."""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Interval(NamedTuple):
    """A figure with its 95 % interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    n: int


def pairwise_interval(table: Numbers, *, seed: int = 0, resamples: int = 2000) -> Interval:
    """Return the mean of `table` off its diagonal and its percentile bootstrap interval over the rows.

    `table` is symmetric, `[item, item]`: what each two of the items have in common. Items are resampled, not pairs,
    which are not independent; pairs of an item with itself never count.

    Raises:
        ValueError: There are fewer than 2 items.
    """
    n = len(table)
    if n < 2:
        raise ValueError(f"what samples have in common needs at least 2 of them, got {n}")
    apart = table * ~np.eye(n, dtype=bool)

    def mean(weights: Numbers) -> Numbers:
        pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
        # One item drawn over and over has no pair.
        found: Numbers = np.where(pairs > 0, ((weights @ apart) * weights).sum(1) / np.maximum(pairs, 1), np.nan)
        return found

    return _resampled(mean(np.ones((1, n)))[0], mean(_weights(n, seed, resamples)), n)


def wins(present: Numbers, absent: Numbers) -> Numbers:
    """Return for each pair which of the two is larger: `[present, absent]`, 1, 0, or one half where they are level."""
    above, level = present[:, None] > absent[None, :], present[:, None] == absent[None, :]
    return np.asarray(above + 0.5 * level, dtype=np.float64)


def auroc_interval(table: Numbers, *, seed: int = 0, resamples: int = 2000) -> Interval:
    """Return the area under the ROC curve, which is the mean of `wins`, and its interval.

    Percentile bootstrap that draws the pictures of either kind anew. Where every pair is won, or every pair is lost,
    it would claim certainty; there the interval is Newcombe's (2006, part 2, method 5), which inverts Hanley and
    McNeil's (1982) variance.

    Args:
        table: `[present, absent]`, from `wins`, or the mean of such tables of several sets of neurons.
        seed: Equal seeds give equal intervals.
        resamples: How often the pictures are drawn.

    Raises:
        ValueError: There is no picture of one kind.
    """
    n_present, n_absent = table.shape
    if not table.size:
        raise ValueError(
            f"an area under the ROC curve needs pictures of both kinds, got {n_present} with the concept and "
            f"{n_absent} without"
        )
    value = float(table.mean())
    if value in (0.0, 1.0):
        bound = _newcombe(value, n_present, n_absent)
        return Interval(value, min(value, bound), max(value, bound), n_present + n_absent)
    return _over_pictures(table, seed, resamples)


def auroc_gain(own: Numbers, other: Numbers, *, seed: int = 0, resamples: int = 2000) -> Interval:
    """Return by how much the area of `own` is larger, with the percentile bootstrap interval over the same pictures.

    Both are tables as `auroc_interval` takes them, of one shape.
    """
    if own.shape != other.shape or not own.size:
        raise ValueError(f"two areas of the same pictures have tables of one shape, got {own.shape} and {other.shape}")
    return _over_pictures(own - other, seed, resamples)


def _over_pictures(table: Numbers, seed: int, resamples: int) -> Interval:
    n_present, n_absent = table.shape
    rows, columns = _weights(n_present, seed, resamples), _weights(n_absent, seed + 1, resamples)
    drawn = ((rows @ table) * columns).sum(1) / table.size
    return _resampled(float(table.mean()), drawn, n_present + n_absent)


def _weights(n: int, seed: int, resamples: int) -> Numbers:
    """Return how often each of `n` items is drawn: `[resample, item]`."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return drawn.astype(np.float64)


def _resampled(value: float, drawn: Numbers, n: int) -> Interval:
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Interval(float(value), min(float(value), float(low)), max(float(value), float(high)), n)


def _newcombe(value: float, n_present: int, n_absent: int) -> float:
    """Return the bound of the interval that is not `value`, which is 0 or 1."""
    z = NormalDist().inv_cdf(0.975)
    shared = (n_present + n_absent) / 2 - 1

    def excess(area: float) -> float:
        spread = area * (1 - area) * (1 + shared * (1 - area) / (2 - area) + shared * area / (1 + area))
        return (1 - area) ** 2 - z * z * spread / (n_present * n_absent)

    # By symmetry: the lower bound at 1 is one minus the upper bound at 0.
    low = _root(excess)
    return low if value == 1 else 1 - low


def _root(excess: Callable[[float], float]) -> float:
    """Return where `excess` changes from positive to negative between 0 and 1."""
    low, high = 0.0, 1.0 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2
