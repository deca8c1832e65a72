"""How surprising a neuron's score is where there is nothing to find, and which neurons are too surprising for that."""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NORMAL = 1.4826
"""What makes the median absolute deviation of a normal sample an estimate of its standard deviation."""
PRIOR = 12
"""How many draws the layer's median spread counts for beside a neuron's own, of which there are about as many."""


def signed_rank(differences: Tensor) -> Tensor:
    """Return the one-sided p-value of each neuron's differences being above zero: `[sample, ...]` -> `[...]`, 64-bit.

    Wilcoxon's signed-rank test (1945), exact for any number of samples: it assumes that samples are independent and
    that without an effect a difference is as likely as its negative, and nothing about how large they are.
    Differences of zero say nothing and are left out; p is 1 where nothing else is. Equal sizes are ranked against the
    effect, so that p can only be too large. A neuron with a NaN has NaN. The smallest p is `2 ** -samples`.
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
    missing = flat.isnan().any(0)
    tails = _tails(len(flat))
    for count in n[~missing].unique().tolist():
        some = ~missing & (n == count)
        found[some] = torch.from_numpy(tails[count])[positive[some]]
    return found.reshape(values.shape[1:])


def against_own_null(observed: Tensor, null: Tensor, layers: Tensor) -> Tensor:
    """Return the p-value of each of some neurons, 64-bit: `[neuron]`.

    A neuron is standardized by its own draws, by their median and 1.4826 x their median absolute deviation, which
    is shrunk towards the median of it in its layer, since draws are few. The draws themselves, each standardized
    by the other ones of its neuron, are the null, pooled over all neurons given; p is the share of them that is at
    least as high, with one added above and below. So the neurons given should be those among which is chosen:
    with the silent majority in the pool, neurons of strong activations would look surprising. A neuron that is the same
    in all draws and observed has p = 1 and adds nothing to the null; one with a NaN has NaN.

    Args:
        observed: The neurons' scores, `[neuron]`.
        null: Their scores where there is nothing to find, `[draw, neuron]`.
        layers: The neurons' layers, `[neuron]`.
    """
    if len(null) < 3:
        raise ValueError(f"a null distribution needs 3 draws or more, got {len(null)}")
    missing = observed.isnan() | null.isnan().any(0)
    found = torch.ones(observed.shape, dtype=torch.float64).masked_fill(missing, torch.nan)
    moving = ~missing & (null != observed).any(0)
    if not bool(moving.any()):
        return found
    values, draws = observed[moving].double(), null[:, moving].double()
    typical = _by_layer(_spread(draws), layers[moving])
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
    return NORMAL * (draws - _median(draws)).abs().quantile(0.5, dim=0)


def _median(draws: Tensor) -> Tensor:
    return draws.quantile(0.5, dim=0)


def _by_layer(spreads: Tensor, layers: Tensor) -> Tensor:
    """Return for each neuron the median of the spreads above zero in its layer."""
    typical = torch.zeros_like(spreads)
    for layer in layers.unique():
        here = layers == layer
        positive = spreads[here & (spreads > 0)]
        if len(positive):
            typical[here] = positive.median()
    return typical


def _standardized(values: Tensor, draws: Tensor, typical: Tensor) -> Tensor:
    spread = (len(draws) * _spread(draws) + PRIOR * typical) / (len(draws) + PRIOR)
    above = values - _median(draws)
    # Without any spread in the layer, whatever differs from the draws is infinitely far from them.
    far = torch.zeros_like(above).masked_fill(above > 0, torch.inf).masked_fill(above < 0, -torch.inf)
    return torch.where(spread > 0, above / spread.clamp(min=torch.finfo(spread.dtype).tiny), far)
