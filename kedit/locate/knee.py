"""The selector that cuts where the sorted scores stop falling fast."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kedit.locate.selection import check_count
from kedit.neurons import NeuronScores, NeuronSet


@dataclass(frozen=True)
class Knee:
    """Neurons that score higher than the knee of the sorted scores.

    Kneedle (Satopaa et al. 2011) on the scores above zero, from high to low, both axes scaled to [0, 1]: the knee is
    where the curve lies farthest below the straight line between its ends. The curve falls by construction, so it is
    not smoothed, and of several knees the farthest counts. There is no knee, and no neuron is kept, where fewer than
    three scores are positive, where all of them are equal, or where the curve is nowhere below the line.
    """

    at_most: int | None = None

    def __post_init__(self) -> None:
        check_count("at_most", self.at_most)

    def __call__(self, scores: NeuronScores, among: NeuronSet | None = None) -> NeuronSet:
        """Return the neurons before the knee."""
        ranked = scores.ranking(among)
        values = scores.of(ranked)
        return scores.chosen(ranked[: before_knee(values[values > 0])][: self.at_most])


def before_knee(values: Tensor) -> int:
    """Return how many of the `values`, which fall, come before their knee; 0 where there is none."""
    if len(values) < 3 or not bool(values[0] > values[-1]):
        return 0
    scaled = (values.double() - values[-1]) / (values[0].double() - values[-1])
    below = torch.linspace(1, 0, len(values), dtype=torch.float64) - scaled
    return int(below.argmax()) if bool(below.max() > 1e-12) else 0
