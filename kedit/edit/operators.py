"""What an edit does to the neurons it names: elementwise rules on their activations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from kedit.neurons import SiteName


class Operator(Protocol):
    """Rewrites the activations of the edited neurons of one layer; never in place."""

    def __call__(self, values: Tensor, layer: int, indices: Tensor) -> Tensor:
        """Return new values for `values` `[..., k]`, the activations of neurons `indices` `[k]` of `layer`."""
        ...


def check_operator(given: object) -> None:
    """Raise a TypeError unless `given` is an operator: not its class, nor its name."""
    if isinstance(given, type):
        raise TypeError(f"an operator is an object, got the class {given.__name__}: write `{given.__name__}(...)`")
    if not callable(given):
        raise TypeError(f"an operator is an object such as `Zero()`, got {given!r:.60}")


@dataclass(frozen=True)
class Zero:
    """Set the activations to zero. At `mid` this is the same as zeroing the neuron's column of the weight."""

    def __call__(self, values: Tensor, layer: int, indices: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(values)


@dataclass(frozen=True)
class Scale:
    """Multiply the activations by `factor`: below 1 dampens, above 1 amplifies, below 0 inverts."""

    factor: float

    def __post_init__(self) -> None:
        if not _is_finite(self.factor):
            raise ValueError(f"`factor` is a finite number, got {self.factor!r}")

    def __call__(self, values: Tensor, layer: int, indices: Tensor) -> Tensor:
        """Return the scaled values."""
        return values * self.factor


def aim(operator: Operator) -> Literal["less", "more"]:
    """Return whether an operator is to make what the neurons say more likely, or less, as most are."""
    return "more" if isinstance(operator, Scale) and operator.factor > 1 else "less"


def amplify(factor: float = 2.0) -> Scale:
    """Return a `Scale` that strengthens the neurons (Dai et al. 2022 double them)."""
    if not _is_finite(factor) or not factor > 1:
        raise ValueError(f"`amplify` needs a factor > 1, got {factor}; use `Scale({factor})` to dampen")
    return Scale(factor)


@dataclass(frozen=True, eq=False)
class Patch:
    """Set the activations to those of a reference: a constant, or a value for each neuron.

    `kedit.edit.reference` computes the values from other runs of the model: their mean over counterfactual pictures,
    over a data set, or over a donor's positions.
    """

    reference: float | Mapping[int, Tensor] = 0.0
    """A constant, or for each layer the values of all its neurons, `[neuron]`."""
    source: str = "constant"
    """Where the values come from, for people."""
    site: SiteName | None = None
    """The site where they were measured; None fits every site."""

    def __post_init__(self) -> None:
        if isinstance(self.reference, Mapping):
            if odd := [one for one in self.reference.values() if not isinstance(one, Tensor)]:
                raise TypeError(f"the reference has a tensor `[neuron]` for each layer, got {odd[0]!r:.60}")
            bad = [layer for layer, values in self.reference.items() if not bool(values.isfinite().all())]
            if bad:
                raise ValueError(f"the reference of layer {bad[0]} holds values that are not finite")
        elif not _is_finite(self.reference):
            raise ValueError(f"the reference is a finite number, got {self.reference!r}; or give a tensor by layer")

    def __call__(self, values: Tensor, layer: int, indices: Tensor) -> Tensor:
        """Return the reference values in the shape of `values`."""
        if not isinstance(self.reference, Mapping):
            return torch.full_like(values, self.reference)
        if layer not in self.reference:
            raise LookupError(f"the reference has no layer {layer}; it has {sorted(self.reference)}")
        return self.reference[layer].to(values)[indices].expand_as(values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Patch):
            return NotImplemented
        mine, others = self.reference, other.reference
        if not isinstance(mine, Mapping) or not isinstance(others, Mapping):
            return mine is others or (isinstance(mine, float | int) and mine == others)
        return mine.keys() == others.keys() and all(torch.equal(mine[layer], others[layer]) for layer in mine)

    def __hash__(self) -> int:
        return hash(tuple(self.reference) if isinstance(self.reference, Mapping) else self.reference)

    def __repr__(self) -> str:
        shown = self.source if isinstance(self.reference, Mapping) else repr(self.reference)
        return f"Patch({shown})"


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
