"""Whether a linear map reads something off states, and whether it could have learned anything (Hewitt and Liang 2019).

A probe that is right proves little where it would also learn labels that mean nothing. So it is given a control task
as well: each type of sample, such as each kind of thing beside the concept, gets a label by lot. Selectivity is how
much more often it is right in the true task.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kedit.inspection.resampling import Numbers

STRENGTH = 0.1
"""Of the penalty on a probe's weights, for each sample that it learns from; features have variance 1."""
DRAWS = 10
"""How often the labels of the control task are drawn."""


@dataclass(frozen=True)
class Ridge:
    """A linear map from features to numbers, with a penalty on its weights."""

    mean: Tensor
    scale: Tensor
    weights: Tensor
    """`[feature, number]`, of features of mean 0 and variance 1."""
    bias: Tensor

    @classmethod
    def fit(cls, features: Tensor, wanted: Tensor, strength: float = STRENGTH) -> "Ridge":
        """Return the map of least squares, in closed form, in 64 bits.

        Args:
            features: `[sample, feature]`.
            wanted: What each sample's numbers are, `[sample, number]`.
            strength: Of the penalty, for each sample.
        """
        features, wanted = features.double(), wanted.double()
        mean, scale = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        inputs, bias = (features - mean) / scale, wanted.mean(0)
        penalty = strength * len(inputs) * torch.eye(inputs.shape[1], dtype=torch.float64, device=inputs.device)
        return cls(mean, scale, torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ (wanted - bias)), bias)

    def __call__(self, features: Tensor) -> Tensor:
        """Return the numbers of features `[..., feature]`, as 64 bits."""
        return (features.double() - self.mean) / self.scale @ self.weights + self.bias


@dataclass(frozen=True, eq=False)
class Probed:
    """How often a probe is right about each held-out sample, `[sample]`, of 0 to 1."""

    right: Numbers
    """In the true task."""
    control: Numbers
    """In the control task, over its draws."""


def probe(
    taught: Tensor, labels: Sequence[bool], asked: Tensor, truth: Sequence[bool],
    types: tuple[Sequence[str], Sequence[str]], *, draws: int = DRAWS, seed: int = 0,
) -> Probed:  # fmt: skip
    """Return how often a linear probe is right in the true and in the control task.

    Args:
        taught: Features to learn from, `[sample, feature]`.
        labels: Their labels.
        asked: Features of held-out samples.
        truth: Their labels.
        types: What decides the label in the control task, of the samples learned from and of the held-out ones.
        draws: How often those labels are drawn, half of the types each.
        seed: Of the draws.
    """
    names = sorted({*types[0], *types[1]})
    columns, answers = [list(labels)], [list(truth)]
    for draw in range(draws):
        order = np.random.default_rng((seed, draw)).permutation(len(names))
        label = {name: bool(place % 2) for name, place in zip(names, order, strict=True)}
        columns.append([label[one] for one in types[0]])
        answers.append([label[one] for one in types[1]])
    signs = torch.tensor(columns, device=taught.device).T.double() * 2 - 1
    said = Ridge.fit(taught, signs)(asked) > 0
    right = (said.cpu() == torch.tensor(answers).T).double().numpy()
    return Probed(right[:, 0], right[:, 1:].mean(1))
