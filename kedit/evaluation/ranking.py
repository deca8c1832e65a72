"""How well a ranking puts what is right in front of what is not."""

import math
from collections.abc import Sequence

import numpy as np


def average_precision(scores: Sequence[float], relevant: Sequence[bool]) -> float:
    """Return the average precision of a ranking from high to low score, in (0, 1].

    The sum over thresholds n of (R_n - R_{n-1}) P_n, with precision P and recall R among the items that score at
    least as much as the threshold (Manning, Raghavan and Schuetze 2008, section 8.4; scikit-learn's
    `average_precision_score`). Items of equal score are taken in together, so that their order does not matter.

    Args:
        scores: One number for each item; infinite ones are ranked like any other.
        relevant: Which items are right.

    Raises:
        ValueError: A score is NaN, the lengths differ, or no item is right.
    """
    values, right = np.asarray(scores, np.float64), np.asarray(relevant, bool)
    if values.shape != right.shape or values.ndim != 1:
        raise ValueError(f"each item needs a score and whether it is right, got {values.shape} and {right.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {len(values)} scores are NaN, which has no rank")
    if not right.any():
        raise ValueError(f"none of the {len(right)} items is right, so no ranking of them is better than another")
    order = np.argsort(-values, kind="stable")
    # The last item of each group of equal scores is where a threshold lies.
    ranked = values[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    found = right[order].cumsum()[ends]
    gained = np.diff(found, prepend=0) / right.sum()
    return float((gained * found / (ends + 1)).sum())


def expected_average_precision(n: int, n_relevant: int) -> float:
    """Return the mean average precision of all orders of `n` items, `n_relevant` of them right.

    At the rank k of a right item the other k - 1 hold (k - 1)(R - 1)/(n - 1) right ones on average, so the
    mean over ranks is (H_n + (R - 1)/(n - 1) (n - H_n)) / n, where H_n is the n-th harmonic number.
    """
    if not 1 <= n_relevant <= n:
        raise ValueError(f"of {n} items at least 1 and at most {n} are right, got {n_relevant}")
    if n == 1:
        return 1.0
    harmonic = math.fsum(1 / rank for rank in range(1, n + 1))
    return (harmonic + (n_relevant - 1) / (n - 1) * (n - harmonic)) / n
