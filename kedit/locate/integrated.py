"""Integrated gradients of one layer: what each neuron contributes on the way from a silent layer to the real one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from kedit.internals.hooks import intervene
from kedit.internals.sites import Site

AlphaRule = Literal["left", "right", "midpoint", "linspace"]
"""Where on the way the gradient is taken; see `alphas`."""


class Attribution(NamedTuple):
    """What integrated gradients found in one layer."""

    scores: Tensor
    """`[neuron]`, 32-bit, in units of the output."""
    gap: float
    """The completeness error: how far the sum of the scores is from what the layer as a whole contributes."""


def alphas(rule: AlphaRule, steps: int) -> Tensor:
    """Return the shares of the activation at which the gradient is taken: `[steps]`, each of weight 1 / steps.

    With m steps: `left` is k / m for k from 0 to m - 1 (Dai et al. 2022, the official code), `right` from 1 to m,
    `midpoint` (k + 1/2) / m, whose error falls with the square of m, and `linspace` m points from 0 to 1
    inclusive (EleutherAI's code), which weighs both ends fully and so converges only as fast as the first two.
    """
    if rule == "linspace":
        return torch.linspace(0, 1, steps)
    first = {"left": 0.0, "right": 1.0, "midpoint": 0.5}[rule]
    return (torch.arange(steps) + first) / steps


@dataclass(frozen=True)
class IntegratedGradients:
    """The path integral of the gradient as all neurons of a layer grow from zero to what they are, together.

    `IG_i = sum over p of a_p,i * 1/m * sum over k of dP/da_p,i at alpha_k * a` over the positions p that move
    (Dai et al. 2022, arXiv 2104.08696, equation 4, as their code computes it: the whole layer along one
    path; the paper writes a path for each neuron). The scores of a layer sum to P(a) - P(0).
    """

    steps: int = 20
    alpha_rule: AlphaRule = "midpoint"
    at_once: int = 20
    """How many steps go through the model together; only memory and speed depend on it."""

    def __post_init__(self) -> None:
        if self.alpha_rule not in get_args(AlphaRule):
            raise ValueError(f"`alpha_rule` is one of {', '.join(get_args(AlphaRule))}, got {self.alpha_rule!r}")
        for name in ("steps", "at_once"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` is a number of steps, 1 or more, got {value!r}")

    @torch.inference_mode(False)
    def attribute(
        self,
        module: nn.Module,
        site: Site,
        layer: int,
        outputs: Callable[[int], Tensor],
        moves: Tensor,
        whole: float,
    ) -> Attribution:
        """Return the contribution of each neuron of `layer`; `steps` + 1 forwards and `steps` backwards.

        Args:
            module: The model that `outputs` runs.
            site: Which tensor holds the neurons.
            layer: The layer whose neurons grow.
            outputs: Runs n copies of one input and returns the output of each, `[n]`.
            moves: `[pos]`, true at the positions whose activations grow; the others stay as they are.
            whole: The output of the input as it is, P(a).
        """
        parts = []
        with torch.enable_grad():
            for some in alphas(self.alpha_rule, self.steps).split(self.at_once):
                path = _Path(some, moves)
                with intervene(module, site, {layer: path}, label="integrated gradients"):
                    y = outputs(len(some))
                parts.append(path.contribution(y))
        with torch.no_grad(), intervene(module, site, {layer: _Path(torch.zeros(1), moves)}, label="silent"):
            silent = outputs(1).item()
        scores = torch.stack(parts).sum(0) / self.steps
        return Attribution(scores.cpu(), abs(scores.double().sum().item() - (whole - silent)))


class _Path:
    """A rewrite that scales the activations of each copy by a share of its own and keeps them for the gradient."""

    def __init__(self, shares: Tensor, moves: Tensor) -> None:
        self.shares, self.moves = shares, moves
        self.original: Tensor | None = None
        self.scaled: Tensor | None = None

    def __call__(self, activation: Tensor) -> Tensor:
        """Return the scaled activations, in the shape they came in: some models flatten copies and positions."""
        moves = self.moves.to(activation.device)
        apart = activation.detach().reshape(len(self.shares), len(moves), -1)
        self.original = apart[:, moves].float()
        changed = apart.clone()
        changed[:, moves] = (self.original * self.shares.to(activation.device)[:, None, None]).to(apart.dtype)
        self.scaled = changed.reshape(activation.shape).requires_grad_(torch.is_grad_enabled())
        return self.scaled

    def contribution(self, outputs: Tensor) -> Tensor:
        """Return activation times gradient, summed over copies and positions: `[neuron]`."""
        if self.original is None or self.scaled is None:
            raise RuntimeError("the model never ran the layer whose neurons are to be attributed")
        (gradient,) = torch.autograd.grad(outputs.sum(), self.scaled)
        if not gradient.isfinite().all():
            raise ValueError(
                "a gradient on the way from a silent layer to the real one is no number; where 16 bits are too few for "
                "it, load the model with `dtype=bfloat16` or `float32`"
            )
        apart = gradient.reshape(len(self.shares), len(self.moves), -1)
        return (self.original * apart[:, self.moves.to(apart.device)].float()).sum((0, 1))
