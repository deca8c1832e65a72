"""Whether gradients reach the neurons of every layer, and no weight."""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kedit.doctor.blocks import silent
from kedit.doctor.finding import Finding, above, at_most
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.internals.hooks import record


def gradients(under_test: ModelUnderTest) -> Finding:
    """Differentiate the most likely word's logit by every layer's activations: not zero anywhere, and finite."""
    site, taken = under_test.site, _taken(under_test)
    # A layer that writes nothing has no gradient, and that is right.
    speaking = [layer for layer in site.blocks if not silent(under_test, layer)]
    measured = {layer: _size(taken.get(layer)) for layer in speaking}
    if not measured:
        return Finding("DEGRADED", "every layer's output projection is zero, so there is no gradient to look at")
    bad = [layer for layer, slope in measured.items() if not (math.isfinite(slope) and slope > 0)]
    worst = next((measured[layer] for layer in bad), min(measured.values()))
    kind = "no" if worst == 0 else "no finite"
    return above(
        worst, 0, "smallest over the layers of the largest gradient of a logit",
        f"{kind} gradient reaches layers {', '.join(map(str, bad))}: methods that use gradients would be blind there",
    )  # fmt: skip


def weight_gradients(under_test: ModelUnderTest) -> Finding:
    """Take the same gradients, and count the weights that got one or whose `requires_grad` changed."""
    weights = dict(under_test.module.named_parameters())
    asked = {path: one.requires_grad for path, one in weights.items()}
    with _without_gradients(weights.values()):
        _taken(under_test)
        changed = [path for path, one in weights.items() if one.grad is not None or one.requires_grad != asked[path]]
    shown = f"`{changed[0]}` got a gradient from a pass that asked for none" if changed else ""
    return at_most(len(changed), 0, "weights with a new gradient", shown)


def _taken(under_test: ModelUnderTest) -> dict[int, Tensor | None]:
    """Return the gradient of the most likely words' logits by each layer's activations; None where there is none."""
    with torch.enable_grad(), record(under_test.module, under_test.site, differentiable=True) as activations:
        logits = under_test.model.logits(under_test.batch)[:, -1]
    best = logits.max(-1).values.sum()
    if not best.requires_grad:
        return dict.fromkeys(activations)
    taken = torch.autograd.grad(best, list(activations.values()), allow_unused=True)
    return dict(zip(activations, taken, strict=True))


def _size(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.detach().abs().max())


@contextmanager
def _without_gradients(weights: Collection[Tensor]) -> Iterator[None]:
    """Set the gradients of `weights` aside, so that a new one is seen, and put them back."""
    gradients = [one.grad for one in weights]
    for one in weights:
        one.grad = None
    try:
        yield
    finally:
        for one, gradient in zip(weights, gradients, strict=True):
            one.grad = gradient
