"""Turning one thing into another by the columns of some neurons: NAM's image editing in closed form."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedit.edit.edit import module_of
from kedit.edit.weight_change import WeightChange
from kedit.internals.sites import Site
from kedit.internals.weights import is_conv1d
from kedit.neurons import NeuronSet

TAU = 1e-3
"""The ridge, next to the largest squared singular value of the activations."""


def least_change(activations: Tensor, wanted: Tensor, tau: float = TAU) -> Tensor:
    """Return what to add to the columns of some neurons, so that they write `wanted`: `[neuron, d_model]`.

    Equation 8 of NAM (Fang et al., NeurIPS 2024): the dW that minimises |sum_k a_k dW_k - (h_B - h_A)| + tau |dW|. With
    squares of both, over several samples, it is a ridge regression, dW = (A'A + tau I)^-1 A'D; of one sample, dW_k =
    a_k d / (sum_k a_k^2 + tau). The paper's penalty is on the sum of the dW_k, which leaves each of them open; here it
    is on each. In 64 bits.

    Args:
        activations: `[sample, neuron]`, A.
        wanted: `[sample, d_model]`, D: how the last hidden state is to change in each sample.
        tau: Next to the largest squared singular value of A.

    Raises:
        ValueError: The samples of both differ in number, all activations are zero, or tau is negative.
    """
    if activations.ndim != 2 or wanted.ndim != 2 or len(activations) != len(wanted):
        raise ValueError(
            f"there is a wanted change for each sample's activations, got {list(activations.shape)} and "
            f"{list(wanted.shape)}"
        )
    if not 0 <= tau < math.inf:
        raise ValueError(f"`tau` is a finite number, 0 or more, got {tau}")
    a, d = activations.double(), wanted.double()
    left, sizes, right = torch.linalg.svd(a, full_matrices=False)
    if not len(sizes) or sizes[0] == 0:
        raise ValueError("none of the neurons is active in a sample, so no column of them can change what is drawn")
    kept = sizes > sizes[0] * 1e-9
    filtered = torch.where(kept, sizes / (sizes.square() + tau * sizes[0] ** 2), torch.zeros_like(sizes))
    changes: Tensor = right.T @ (filtered[:, None] * (left.T @ d))
    return changes


@dataclass(frozen=True, eq=False)
class Turn:
    """What is added to the columns of neurons, in as many strengths as one likes."""

    neurons: NeuronSet
    """At the site `mid`, whose activations the columns are multiplied with."""
    added: Tensor
    """`[neuron, d_model]`, in the order of the set."""

    def __post_init__(self) -> None:
        if self.neurons.site != "mid" or self.neurons.scope != "language":
            raise ValueError(
                f"columns are of neurons of the language model at the site `mid`, got `{self.neurons.site}` of "
                f"`{self.neurons.scope}`"
            )
        if self.added.ndim != 2 or len(self.added) != len(self.neurons):
            raise ValueError(f"`added` is [{len(self.neurons)}, d_model], got {list(self.added.shape)}")

    @property
    def norm(self) -> float:
        """The L2 norm of all that is added: the paper's figure of merit, at equal effect."""
        return float(self.added.norm())

    @torch.no_grad()
    def change(self, model: Any, strength: float = 1.0) -> WeightChange:
        """Return the weights with `strength` times that in them, to be applied as long as a `with` lasts."""
        module = module_of(model)
        site, tensors, start = Site.of(module, "mid"), dict[str, Tensor](), 0
        for layer, indices in self.neurons.by_layer().items():
            path = site.block(layer).output
            weight = module.get_parameter(f"{path}.weight").detach().clone()
            columns = weight if is_conv1d(module.get_submodule(path)) else weight.T
            columns[list(indices)] += (strength * self.added[start : start + len(indices)]).to(weight)
            tensors[f"{path}.weight"] = weight
            start += len(indices)
        return WeightChange(tensors)
