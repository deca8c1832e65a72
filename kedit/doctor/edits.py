"""Whether edits do exactly what they say: nothing, everything, or one column of a weight."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kedit.doctor.blocks import unreadable
from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, above, at_most
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.edit.edit import Edit
from kedit.edit.operators import Patch, Scale, Zero
from kedit.internals.hooks import record
from kedit.neurons import NeuronId, NeuronSet


def identity(under_test: ModelUnderTest) -> Finding:
    """Multiply all activations by 1 and compare the logits bit by bit."""
    plain, noise = under_test.plain, under_test.noise
    with Edit(under_test.everything, Scale(1.0)).applied(under_test.module):
        edited = under_test.logits()
    why = "an edit that changes nothing changes the logits"
    if noise > 0:
        why = f"the model is not deterministic: two runs on the same prompts differ by {noise:.2g}"
    return at_most(max(gap(plain, edited), noise), 0, f"logits changed by scaling with 1, {SHARE}", why)


def zero(under_test: ModelUnderTest) -> Finding:
    """Zero all neurons and compare the logits, which must change."""
    with Edit(under_test.everything, Zero()).applied(under_test.module):
        edited = under_test.logits()
    return above(
        gap(under_test.plain, edited), under_test.noise, f"logits changed by zeroing all neurons, {SHARE}",
        "zeroing every neuron changes no logit: the hooks do not reach the computation",
    )  # fmt: skip


def column(under_test: ModelUnderTest) -> Finding:
    """Zero a strong neuron of the first, middle and last layer by hook, and its column of the weight, and compare."""
    layers = sorted(under_test.site.blocks)
    chosen = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    for layer in chosen:
        if reason := unreadable(under_test, layer):
            return Finding("DEGRADED", f"no column of layer {layer} can be zeroed to compare with: {reason}")
    gaps: dict[int, float] = {}
    effects = []
    for one in _strongest(under_test, chosen):
        with Edit(NeuronSet((one,)), Zero()).applied(under_test.module):
            by_hook = under_test.logits()
        with _zeroed_column(under_test, one):
            by_weight = under_test.logits()
        gaps[one.layer] = gap(by_hook, by_weight)
        effects += [gap(under_test.plain, by_hook), gap(under_test.plain, by_weight)]
    what = f"logits with neurons zeroed by hook against a column of the weight zeroed, {SHARE}"
    if max(effects) <= under_test.noise:
        return Finding("DEGRADED", f"the strongest neurons of layers {chosen} change no logit", 0, 0, "<=", what)
    other = ", ".join(str(layer) for layer, difference in gaps.items() if difference > 0)
    why = f"in layers {other} the neuron that is edited is not the column of the weight"
    return at_most(max(gaps.values()), 0, what, why)


def dtype(under_test: ModelUnderTest) -> Finding:
    """Patch all neurons with 64-bit numbers kept on the CPU, and see that type and device of no layer change."""
    widths = under_test.site.widths
    reference = {layer: torch.zeros(width, dtype=torch.float64) for layer, width in widths.items()}
    with record(under_test.module, under_test.site) as before:
        under_test.logits()
    patched = Edit(under_test.everything, Patch(reference))
    with patched.applied(under_test.module), record(under_test.module, under_test.site) as now:
        under_test.logits()
    was, became = ({layer: (one.dtype, one.device) for layer, one in seen.items()} for seen in (before, now))
    other = sorted(layer for layer in was if became.get(layer) != was[layer])
    shown = f"{was[other[0]]} became {became.get(other[0])} in layer {other[0]}" if other else ""
    return at_most(len(other), 0, "layers whose type or device an edit changes", shown)


def _strongest(under_test: ModelUnderTest, layers: list[int]) -> list[NeuronId]:
    """Return the neuron of each layer that writes most into the residual stream."""
    with record(under_test.module, under_test.site) as activations:
        under_test.logits()
    found = []
    for layer in layers:
        strength = under_test.site.value_matrix(under_test.module, layer).detach().float().norm(dim=1)
        if layer in activations:
            strength = strength * activations[layer].float().abs().flatten(0, -2).sum(0).to(strength.device)
        found.append(NeuronId(layer, int(strength.argmax())))
    return found


@contextmanager
def _zeroed_column(under_test: ModelUnderTest, one: NeuronId) -> Iterator[None]:
    """Zero what the neuron writes, in the weight itself; afterwards the weight is as it was, bit by bit."""
    column = under_test.site.value_vector(under_test.module, one).detach()  # a view of the weight
    values = column.clone()
    try:
        column.zero_()
        yield
    finally:
        column.copy_(values)
