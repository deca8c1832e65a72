"""Whether an edit means the same while the model draws a picture."""

from contextlib import ExitStack
from itertools import islice

import torch
from torch import Tensor

from kedit.doctor.blocks import unreadable
from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.edits import strongest, zeroed_column
from kedit.doctor.finding import Finding, NotApplicableError, at_most
from kedit.doctor.model_under_test import N_NEW, ModelUnderTest
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.models.drawing import drawer
from kedit.models.drawing_tokens import TokenDrawer
from kedit.models.gill.drawer import GILLDrawer
from kedit.neurons import NeuronSet
from kedit.prompts import Prompt


def drawing(under_test: ModelUnderTest) -> Finding:
    """Draw while strong neurons are zeroed by hook, and by their columns of the weights, and compare.

    The first codes of two drawings are compared by their logits; of GILL, what it tells Stable Diffusion.
    """
    try:
        found = drawer(under_test.model)
    except ValueError as error:
        raise NotApplicableError("the model draws no pictures") from error
    layers = sorted(under_test.site.blocks)
    chosen = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    for layer in chosen:
        if reason := unreadable(under_test, layer):
            return Finding("DEGRADED", f"no column of layer {layer} can be zeroed to compare with: {reason}")
    neurons = strongest(under_test, chosen)
    plain = _drawn(found, under_test)
    with Edit(NeuronSet(tuple(neurons)), Zero()).applied(under_test.module):
        by_hook = _drawn(found, under_test)
    with ExitStack() as zeroed:
        for one in neurons:
            zeroed.enter_context(zeroed_column(under_test, one))
        by_weight = _drawn(found, under_test)
    what = f"drawing with neurons zeroed by hook against columns of the weights zeroed, {SHARE}"
    if max(gap(plain, by_hook), gap(plain, by_weight)) <= under_test.noise:
        return Finding("DEGRADED", f"the strongest neurons of layers {chosen} change no drawing", 0, 0, "<=", what)
    why = "while the model draws, the neurons that are edited are not the columns of the weights"
    return at_most(gap(by_hook, by_weight), under_test.noise, what, why)


@torch.no_grad()
def _drawn(found: object, under_test: ModelUnderTest) -> Tensor:
    """Return the logits of the first codes of two drawings, `[cell, row, code]`, or what GILL tells its painter."""
    asked = [one.text for one in under_test.prompts]
    if isinstance(found, GILLDrawer):
        model = found.model
        return model.map_states(model.img_states(model.read_drawing([Prompt(one) for one in asked])))
    assert isinstance(found, TokenDrawer)
    # At temperature 0, so that an edit shows in what follows, too, if it changes a code.
    return torch.stack([step.scores for step in islice(found.steps(asked, seed=0, temperature=0), N_NEW)])
