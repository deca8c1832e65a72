"""How sure a number is: intervals, paired differences and a permutation test, all seeded."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""One number for each sample: `[sample]`."""

EXACT_UP_TO = 12
"""Differences that the permutation test still enumerates (4,096 sign patterns)."""


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval and the number of samples behind it.

    A figure that could not be measured has the value None and says `why`. One sample that is not a
    share has a value and no interval.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    why: str | None = None

    def __post_init__(self) -> None:
        if self.value is None and not self.why:
            raise ValueError("a figure without a value must say `why` it could not be measured")
        numbers = [number for number in (self.value, self.low, self.high) if number is not None]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"a figure must be finite, got value {self.value}, low {self.low}, high {self.high}")

    @classmethod
    def missing(cls, why: str) -> "Measured":
        """Return the figure that could not be measured, and why."""
        return cls(None, None, None, 0, why)

    def __str__(self) -> str:
        if self.value is None:
            return "not measured"
        ends = "" if self.low is None or self.high is None else f" [{two_places(self.low)}, {two_places(self.high)}]"
        return f"{two_places(self.value)}{ends}"

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Measured":
        """Return the figure that `to_json` wrote."""
        return cls(content["value"], content["low"], content["high"], content["n"], content.get("why"))

    def to_json(self) -> dict[str, float | int | str | None]:
        """Return `{"value", "low", "high", "n"}`, and "why" where there is something to explain."""
        figure: dict[str, float | int | str | None] = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
        }
        return figure if self.why is None else {**figure, "why": self.why}


def two_places(value: float) -> str:
    """Return `value` with two decimal places, and zero without a sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def bootstrap_mean(
    values: Sequence[float], *, shares: bool = True, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Measured:
    """Return the mean of `values` and its interval.

    Percentile bootstrap over samples (Efron and Tibshirani 1993, chapter 13). Where every value is 0 or
    1, Wilson's score interval instead (Wilson 1927; Brown, Cai and DasGupta 2001): the bootstrap of 20
    successes in 20 is [1, 1], which claims a certainty that 20 samples do not give. That is right for `shares` alone:
    with false, numbers such as nats or differences, which may happen to be 0 or 1, have the bootstrap's in any case.
    """
    checked = _checked(values, "values")
    if not len(checked):
        return Measured.missing("there is no sample to measure it on")
    if shares and np.isin(checked, (0.0, 1.0)).all():
        return _wilson(int(checked.sum()), len(checked), level)
    return _percentile_bootstrap(checked, seed, resamples, level)


def bootstrap_ratio(
    counted: Sequence[float], total: Sequence[float], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Measured:
    """Return the sum of `counted` over that of `total`, and its interval; n is how many samples have a total above 0.

    What belongs together stays together: the mentions of a caption, or the questions about a picture, are resampled as
    one. A ratio of 0 or 1 has Wilson's interval of n samples, as in `bootstrap_mean`.

    Args:
        counted: What counts of each sample, `[sample]`, from 0 to its total.
        total: Of what, `[sample]`.
        seed: Of the bootstrap.
        resamples: How often samples are drawn.
        level: Of the interval.
    """
    tops, bottoms = _checked(counted, "counted"), _checked(total, "total")
    if len(tops) != len(bottoms):
        raise ValueError(f"there is a total for each sample, got {len(tops)} and {len(bottoms)}")
    if (tops < 0).any() or (tops > bottoms + 1e-9).any():
        raise ValueError("`counted` lies between 0 and `total` for each sample")
    tops, bottoms = tops[bottoms > 0], bottoms[bottoms > 0]
    if not (n := len(tops)):
        return Measured.missing("there is nothing to count")
    if (bottoms == 1).all():
        return bootstrap_mean(tops.tolist(), seed=seed, resamples=resamples, level=level)
    value = float(tops.sum() / bottoms.sum())
    if not tops.any() or np.allclose(tops, bottoms):
        return _wilson(n if tops.any() else 0, n, level)
    _normal_quantile(level)
    if n == 1:
        return Measured(value, None, None, 1, "an interval needs at least 2 samples")
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    ratios = tops[drawn].sum(axis=1) / bottoms[drawn].sum(axis=1)
    low, high = np.quantile(ratios, ((1 - level) / 2, (1 + level) / 2))
    return Measured(value, min(value, float(low)), max(value, float(high)), n)


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> Measured:
    """Return the mean of `a - b`, sample by sample, with its paired percentile bootstrap interval."""
    differences = _paired(a, b)
    if not len(differences):
        return Measured.missing("there is no sample to compare on")
    return _percentile_bootstrap(differences, seed, resamples, level)


def share_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> Measured:
    """Return the mean of `a - b` where both are outcomes in [0, 1], with an interval fit for shares.

    Bonett and Price (2012): a Wald interval over the differences and two invented ones, +1 and -1, which
    keeps its coverage when nearly all samples agree, where the bootstrap collapses to a point. For 0/1
    outcomes it is their formula; outcomes averaged over seeds are fractions and use the same augmentation.
    """
    differences = _paired(a, b)
    if not len(differences):
        return Measured.missing("there is no sample to compare on")
    for name, values in (("a", a), ("b", b)):
        if min(values) < 0 or max(values) > 1:
            raise ValueError(f"shares lie in [0, 1], `{name}` spans {min(values)} to {max(values)}")
    augmented = np.append(differences, (1.0, -1.0))
    half = _normal_quantile(level) * float(augmented.std()) / math.sqrt(len(augmented))
    center, value = float(augmented.mean()), float(differences.mean())
    return Measured(value, min(value, max(-1.0, center - half)), max(value, min(1.0, center + half)), len(differences))


def permutation_pvalue(a: Sequence[float], b: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> float:
    """Return the two-sided p-value of the paired sign-flip test (Good 2005, section 3.2).

    Exact up to 12 non-zero differences; beyond, `resamples` random flips count together with the one
    observed, so that p is never 0. Samples on which `a` and `b` agree carry no evidence: p is 1 if all do.
    """
    differences = _paired(a, b)
    moved = differences[differences != 0]
    observed = abs(float(moved.sum()))
    if len(moved) <= EXACT_UP_TO:
        patterns = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((1 - 2 * patterns) @ moved) >= observed - 1e-9).mean())
    flips = np.random.default_rng(seed).choice((-1.0, 1.0), size=(resamples, len(moved)))
    as_extreme = int((np.abs(flips @ moved) >= observed - 1e-9).sum())
    return (1 + as_extreme) / (1 + resamples)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for being several, in the same order (Holm 1979).

    The chance that any of the adjusted values is at most 0.05 while its hypothesis is true is at most 0.05, however
    they depend on each other.
    """
    if bad := [p for p in pvalues if not 0 <= p <= 1]:
        raise ValueError(f"a p-value lies between 0 and 1, got {bad[0]}")
    adjusted, highest = [0.0] * len(pvalues), 0.0
    for rank, number in enumerate(sorted(range(len(pvalues)), key=lambda n: pvalues[n])):
        highest = max(highest, min(1.0, (len(pvalues) - rank) * pvalues[number]))
        adjusted[number] = highest
    return adjusted


def harmonic_mean(*values: float) -> float:
    """Return the harmonic mean of non-negative `values`; 0 as soon as one of them is 0."""
    if not values or not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"a harmonic mean needs finite numbers of at least 0, got {values}")
    return 0.0 if 0 in values else len(values) / sum(1 / value for value in values)


def undominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point whether no other is at least as high in both coordinates and higher in one."""
    order = sorted(range(len(points)), key=lambda number: points[number], reverse=True)
    stays = [False] * len(points)
    highest, holder = float("-inf"), None
    for number in order:
        # From high to low in the first coordinate, a point stays if it is the highest so far in the second.
        if points[number][1] > highest or points[number] == holder:
            stays[number], holder, highest = True, points[number], points[number][1]
    return stays


def _wilson(successes: int, n: int, level: float) -> Measured:
    share, z = successes / n, _normal_quantile(level)
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n successes one end is the share itself, which rounding may miss by 1e-17.
    return Measured(share, min(share, max(0.0, center - half)), max(share, min(1.0, center + half)), n)


def _percentile_bootstrap(values: Values, seed: int, resamples: int, level: float) -> Measured:
    _normal_quantile(level)
    value, n = float(values.mean()), len(values)
    if n == 1:
        return Measured(value, None, None, 1, "an interval needs at least 2 samples")
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    low, high = np.quantile(values[drawn].mean(axis=1), ((1 - level) / 2, (1 + level) / 2))
    return Measured(value, min(value, float(low)), max(value, float(high)), n)


def _normal_quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}; 0.95 is usual")
    return NormalDist().inv_cdf((1 + level) / 2)


def _paired(a: Sequence[float], b: Sequence[float]) -> Values:
    if len(a) != len(b):
        raise ValueError(f"paired samples must be equally many, got {len(a)} and {len(b)}")
    difference: Values = _checked(a, "a") - _checked(b, "b")
    return difference


def _checked(values: Sequence[float], name: str) -> Values:
    array = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"`{name}` has {len(bad)} of {len(array)} entries that are not finite, the first {array[bad[0]]} "
            f"at index {bad[0]}; leave out the samples that could not be measured"
        )
    return array
