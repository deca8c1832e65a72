"""What sets of neurons have in common: over samples, over pictures, over concepts. Pure functions of sets."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from kedit.inspection.resampling import Interval, Numbers, pairwise_interval
from kedit.neurons import NeuronScores, NeuronSet

Overlap = Callable[[NeuronSet, NeuronSet], float]


def shared(a: NeuronSet, b: NeuronSet) -> float:
    """Return |a & b| / n, n the size of the larger set (Pan et al. 2023); two empty sets overlap fully."""
    largest = max(len(a), len(b))
    return len(a & b) / largest if largest else 1.0


def overlap_table(sets: Sequence[NeuronSet], overlap: Overlap = NeuronSet.jaccard) -> Numbers:
    """Return the overlap of each set with each other: `[set, set]`."""
    return np.array([[overlap(a, b) for b in sets] for a in sets], dtype=np.float64).reshape(len(sets), len(sets))


def invariance(sets: Sequence[NeuronSet], *, seed: int = 0) -> Interval:
    """Return the mean overlap of each two of `sets`, with its interval over the sets.

    With the best n neurons of single pictures of one concept it is the cross-image invariance of Pan et al. (2023).
    """
    return pairwise_interval(overlap_table(sets, shared), seed=seed)


def specificity(own: NeuronSet, others: Sequence[NeuronSet]) -> list[float]:
    """Return one minus the overlap of a concept's set with that of each other concept (Pan et al. 2023)."""
    return [1 - shared(own, other) for other in others]


def by_chance(neurons: NeuronSet, widths: Mapping[int, int]) -> float:
    """Return the mean overlap of two random sets that have as many neurons in each layer as `neurons`."""
    if not neurons:
        return 1.0
    return sum(len(indices) ** 2 / widths[layer] for layer, indices in neurons.by_layer().items()) / len(neurons)


def halves(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the numbers below `n` in two random halves; the second is larger by one where `n` is odd."""
    if n < 2:
        raise ValueError(f"two halves need at least 2 samples, got {n}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[: n // 2]), sorted(order[n // 2 :])


def part(n: int, share: float, seed: int) -> list[int]:
    """Return a random `share` of the numbers below `n`, at least one of them."""
    if not 0 < share <= 1:
        raise ValueError(f"`share` lies above 0 and up to 1, got {share}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[: max(1, round(share * n))])


def rank_correlation(a: NeuronScores, b: NeuronScores) -> float:
    """Return Spearman's correlation of two scores over all neurons that both have; ties share their mean rank.

    A score that is the same everywhere ranks nothing and gives 0.
    """
    known = ~(a.values.isnan() | b.values.isnan())
    first, second = (_ranks(one.values[known].double().numpy()) for one in (a, b))
    spread = first.std() * second.std() if len(first) else 0.0
    return float(((first - first.mean()) * (second - second.mean())).mean() / spread) if spread else 0.0


def _ranks(values: Numbers) -> Numbers:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    upper = counts.cumsum()
    ranks: Numbers = (upper - (counts - 1) / 2)[place]
    return ranks
