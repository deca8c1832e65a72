"""What NAM asks of the neurons of a concept: whether they return, and whether they are its own. Functions of sets."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_

from kedit.neurons import NeuronScores, NeuronSet

KAPPAS = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45)
"""The chances up to which a neuron may be critical for other concepts as well."""


def in_all(sets: Sequence[NeuronSet]) -> float:
    """Return the share of a set's neurons that all of `sets` hold, of the largest of them.

    NAM's cross-sample invariance (Fang et al., NeurIPS 2024), of sets from several drawings of one concept. Empty
    sets have nothing to share, and give 0.

    Raises:
        ValueError: There are fewer than two sets.
    """
    if len(sets) < 2:
        raise ValueError(f"what sets have in common takes at least 2 of them, got {len(sets)}")
    largest = max(map(len, sets))
    return len(reduce(and_, sets)) / largest if largest else 0.0


def its_own(sets: Mapping[str, NeuronSet], kappas: Sequence[float] = KAPPAS) -> dict[str, dict[str, float]]:
    """Return for each concept which shares of its neurons are no other concept's, or hardly.

    NAM's concept specificity: `alone` is the share that is critical for this concept alone, and each kappa, as text,
    the share that is critical for another concept, drawn at random, with a chance below kappa.

    Args:
        sets: The neurons of each concept.
        kappas: Chances, each above 0 and at most 1.

    Raises:
        ValueError: There are fewer than two concepts, one has no neuron, or a kappa is no chance.
    """
    if len(sets) < 2:
        raise ValueError(f"specificity is against other concepts; got {len(sets)} concepts")
    if empty := [name for name, one in sets.items() if not one]:
        raise ValueError(f"`{empty[0]}` has no neuron, so there is none to be its own")
    if bad := [one for one in kappas if not 0 < one <= 1]:
        raise ValueError(f"a kappa is a chance above 0 and at most 1, got {bad[0]}")
    found: dict[str, dict[str, float]] = {}
    for name, own in sets.items():
        others = [one for other, one in sets.items() if other != name]
        chances = [sum(neuron in one for one in others) / len(others) for neuron in own]
        below = {f"{kappa:.2f}": sum(chance < kappa for chance in chances) / len(own) for kappa in kappas}
        found[name] = {"alone": chances.count(0.0) / len(own)} | below
    return found


def best(scores: NeuronScores, k: int) -> NeuronSet:
    """Return the `k` neurons with the highest scores."""
    return scores.chosen(scores.ranking()[:k])


def by_layer(scores: Mapping[str, tuple[NeuronScores, NeuronScores]], k: int) -> dict[str, list[float]]:
    """Return how many of the best `k` neurons each layer holds, the mean over concepts: of both scores, and in both.

    NAM's distribution over layers.

    Args:
        scores: For each concept those of its I- and of its T-neurons.
        k: The size of the sets.
    """
    n_layers = max(len(one.values) for pair in scores.values() for one in pair)
    kinds: dict[str, list[float]] = {name: [0.0] * n_layers for name in ("I-neurons", "T-neurons", "both")}
    for drawn, worded in scores.values():
        first, second = best(drawn, k), best(worded, k)
        for counts, some in zip(kinds.values(), (first, second, first & second), strict=True):
            for layer, indices in some.by_layer().items():
                counts[layer] += len(indices) / len(scores)
    return kinds
