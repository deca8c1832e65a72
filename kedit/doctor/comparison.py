"""How far two results of a model lie apart, and how far they may by rounding alone."""

import math

import torch
from torch import Tensor, nn

HUGE = 1e30
"""Beyond this a logit is a mask ("never say this"), not a number to measure by."""
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far apart two ways of computing the same may lie, as a share of the largest value.

Sums in another order differ by a few units in the last place in each of many layers: 32-bit models of 7 billion
weights by some 1e-5. A bug of padding, caching or positions changes the largest logits by 1e-2 and more.
"""
SHARE = "relative"
"""The unit of `gap`: a share of the largest value."""


def gap(first: Tensor, second: Tensor) -> float:
    """Return the largest difference of two tensors of one shape, as a share of their largest value.

    0 if and only if they are equal. Infinity where one of them is NaN, or masked (infinite) and the other not.
    """
    if first.shape != second.shape:
        raise ValueError(f"two results of one prompt have the shapes {list(first.shape)} and {list(second.shape)}")
    a, b = (one.detach().double().cpu() for one in (first, second))
    masked = (a.abs() > HUGE) | (b.abs() > HUGE)
    if bool((a.isnan() | b.isnan()).any()) or not torch.equal(a[masked], b[masked]):
        return math.inf
    a, b = a[~masked], b[~masked]
    if torch.equal(a, b):
        return 0.0
    return float((a - b).abs().max() / torch.maximum(a.abs().max(), b.abs().max()))


def rounding(module: nn.Module) -> float:
    """Return how far apart results of `module` may lie by rounding, by the coarsest type among its weights."""
    kinds = {one.dtype for one in module.parameters()}
    known = [bound for kind, bound in ROUNDING.items() if kind in kinds]
    # Quantized weights (8 and 4 bits) are multiplied in blocks whose rounding is that of bfloat16 or worse.
    coarse = any(not kind.is_floating_point or kind.itemsize < 2 for kind in kinds)
    return max([*known, ROUNDING[torch.bfloat16] if coarse else 0.0], default=ROUNDING[torch.float32])
