"""Whether the model is afterwards what it was: its weights, its hooks, and nothing that is not a number."""

import math
from contextlib import suppress

import torch
from torch import Tensor

from kedit.doctor.finding import Finding, at_most
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.doctor.state import State
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.internals.hooks import record


class _OnPurposeError(Exception):
    """Ends an edit half-way, on purpose."""


def restored(under_test: ModelUnderTest) -> Finding:
    """Edit, record and fail inside an edit; then compare weights and hooks with what they were before all checks."""
    before = under_test.before
    with suppress(_OnPurposeError), Edit(under_test.everything, Zero()).applied(under_test.module):
        under_test.logits()
        raise _OnPurposeError
    with record(under_test.module, under_test.site):
        under_test.logits()
    changes = State.of(under_test.module).changes(before)
    shown = f"changed by running the model under edits: {', '.join(changes[:3])}" if changes else ""
    what = f"of {len(before.weights)} weights and {len(before.hooks)} hooks that are not as before"
    return at_most(len(changes), 0, what, shown)


def finite(under_test: ModelUnderTest) -> Finding:
    """Count the weights, activations and logits that are not finite."""
    bad = {path: _not_finite(one) for path, one in under_test.module.named_parameters()}
    with torch.no_grad(), record(under_test.module, under_test.site) as activations:
        logits = under_test.model.logits(under_test.batch)
    bad |= {f"activations of layer {layer}": _not_finite(one) for layer, one in activations.items()}
    bad["logits"] = int(logits.isnan().sum())  # a mask may be infinite
    where = [name for name, count in bad.items() if count]
    shown = f"the first are in `{where[0]}`" if where else ""
    return at_most(sum(bad.values()), 0, "numbers that are not finite", shown, status="ERROR")


def _not_finite(values: Tensor) -> int:
    if values.is_meta or not values.is_floating_point():
        return 0
    return math.prod(values.shape) - int(values.detach().isfinite().sum())
