"""How surprising a neuron's score is where there is nothing to find, and which neurons are too surprising for that."""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PRIOR = 1
"""How many draws the layer's median spread counts for beside a neuron's own."""


def signed_rank(differences: Tensor) -> Tensor:
    """Return the one-sided p-value of each neuron's differences being above zero: `[sample, ...]` -> `[...]`, 64-bit.

    Wilcoxon's signed-rank test (1945), exact for any number of samples: it assumes that samples are independent and
    that without an effect a difference is as likely as its negative, and nothing about how large they are.
    Differences of zero say nothing and are left out. Equal sizes are ranked against the effect, so that p can only be
    too large. The smallest p is `2 ** -samples`. A neuron that never differs cannot be tested and has NaN, as has one
    with a NaN.
    """
    values = differences.double()
    flat = values.reshape(len(values), -1)
    size = flat.abs()
    # The larger ranks of a tie go to the negative ones: sorted by sign first, then stably by size.
    by_sign = (flat < 0).to(torch.int8).sort(dim=0, stable=True).indices
    order = by_sign.gather(0, size.gather(0, by_sign).sort(dim=0, stable=True).indices)
    ordered = flat.gather(0, order)
    n_zero = (flat == 0).sum(0)
    ranks = torch.arange(1, len(flat) + 1, dtype=torch.float64)[:, None] - n_zero
    positive = (ranks * (ordered > 0)).sum(0).long()
    n = len(flat) - n_zero
    found = torch.full((flat.shape[1],), torch.nan, dtype=torch.float64)
    missing = flat.isnan().any(0) | (n == 0)
    tails = _tails(len(flat))
    for count in n[~missing].unique().tolist():
        some = ~missing & (n == count)
        found[some] = torch.from_numpy(tails[count])[positive[some]]
    return found.reshape(values.shape[1:])


def against_own_null(observed: Tensor, null: Tensor) -> Tensor:
    """Return the p-value of each neuron of a layer, 64-bit: `[neuron]`.

    A neuron is standardized by its own draws: by their median and their root mean square distance from it, in
    which the layer's median distance counts as one more draw, since draws are few. The draws themselves, each
    standardized by the other ones of its neuron, are the null of the whole layer, which makes p finer than the draws
    of one neuron could; p is the share of them that is at least as high, with one added above and below. A neuron
    that is the same in all draws and observed, a silent one, cannot be tested and has NaN, as has one with a NaN.

    Args:
        observed: The neurons' scores, `[neuron]`.
        null: Their scores where there is nothing to find, `[draw, neuron]`.
    """
    if len(null) < 3:
        raise ValueError(f"a null distribution needs 3 draws or more, got {len(null)}")
    missing = observed.isnan() | null.isnan().any(0)
    moving = ~missing & (null != observed).any(0)
    found = torch.full(observed.shape, torch.nan, dtype=torch.float64)
    if not bool(moving.any()):
        return found
    values, draws = observed[moving].double(), null[:, moving].double()
    spreads = _spread(draws)
    typical = spreads[spreads > 0].median() if bool((spreads > 0).any()) else spreads.new_tensor(0.0)
    scores = _standardized(values, draws, typical)
    rest = [torch.cat([draws[:one], draws[one + 1 :]]) for one in range(len(draws))]
    pool = torch.cat([_standardized(one, others, typical) for one, others in zip(draws, rest, strict=True)])
    higher = len(pool) - torch.searchsorted(pool.sort().values, scores)
    found[moving] = (1 + higher).double() / (1 + len(pool))
    return found


def benjamini_hochberg(pvalues: Tensor, q: float) -> Tensor:
    """Return which of the hypotheses are rejected, in the shape of `pvalues`; NaN is no hypothesis.

    Benjamini and Hochberg (1995): of the neurons that are kept, a share of at most `q` is false in expectation, if
    their p-values are independent or depend on each other positively (Benjamini and Yekutieli 2001).
    """
    known = pvalues[~pvalues.isnan()].double()
    ordered = known.sort().values
    bars = q * torch.arange(1, len(ordered) + 1, dtype=torch.float64) / max(1, len(ordered))
    passed = (ordered <= bars).nonzero()
    if not len(passed):
        return torch.zeros_like(pvalues, dtype=torch.bool)
    return pvalues <= ordered[int(passed[-1])]


def fewest_found(smallest: float, n_neurons: int, q: float) -> int:
    """Return how many of `n_neurons` must have the smallest p-value so that Benjamini and Hochberg keeps any."""
    return max(1, math.ceil(n_neurons * smallest / q))


@lru_cache(maxsize=8)
def _tails(most: int) -> list[NDArray[np.float64]]:
    """Return for 0 to `most` samples the chance of each sum of positive ranks or a higher one."""
    chances = np.array([1.0])
    tails = [chances]
    for rank in range(1, most + 1):
        longer = np.zeros(len(chances) + rank)
        longer[: len(chances)] += chances / 2
        longer[rank:] += chances / 2
        chances = longer
        tails.append(np.minimum(1.0, chances[::-1].cumsum()[::-1]))
    return tails


def _spread(draws: Tensor) -> Tensor:
    """Return the root mean square distance of each neuron's draws from their median: `[neuron]`.

    Not the median distance, which is zero for a neuron that speaks for a few words only.
    """
    return (draws - _median(draws)).square().mean(0).sqrt()


def _median(draws: Tensor) -> Tensor:
    return draws.quantile(0.5, dim=0)


def _standardized(values: Tensor, draws: Tensor, typical: Tensor) -> Tensor:
    spread = (len(draws) * _spread(draws) + PRIOR * typical) / (len(draws) + PRIOR)
    above = values - _median(draws)
    # Without any spread in the layer, whatever differs from the draws is infinitely far from them.
    far = torch.zeros_like(above).masked_fill(above > 0, torch.inf).masked_fill(above < 0, -torch.inf)
    return torch.where(spread > 0, above / spread.clamp(min=torch.finfo(spread.dtype).tiny), far)
