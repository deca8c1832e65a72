"""Whether the way from the residual stream to words that kedit takes is the model's own."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from kedit.doctor.comparison import HUGE, SHARE, gap
from kedit.doctor.finding import Finding, NotApplicableError, at_most
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.internals.block_stacks import find_block_stacks
from kedit.internals.hooks import after
from kedit.internals.sites import decoder_path
from kedit.internals.unembedding import Unembedding, UnembeddingError


def lens(under_test: ModelUnderTest) -> Finding:
    """Take the last block's output through `Unembedding`, and compare with the logits."""
    module = under_test.module
    try:
        unembedding = Unembedding.of(module)
    except UnembeddingError as error:
        raise NotApplicableError("the model has no output matrix over its words") from error
    states: list[Tensor] = []
    given: list[Tensor] = []
    with ExitStack() as attached:
        attached.enter_context(after(module, _last_block(under_test), lambda output: states.append(_first(output))))
        attached.enter_context(after(module, "", lambda output: given.append(output.logits.detach())))
        under_test.logits()
    logits = given[-1]
    states_read = states[-1].reshape(len(logits), -1, states[-1].shape[-1])[:, -logits.shape[1] :]
    said = logits.abs() < HUGE  # some models never say a token, whatever the state
    read, logits = unembedding.logits(states_read.flatten(0, 1)).view_as(logits)[said], logits[said].float()
    why = f"the logit lens of the last layer is not the model's logits: {_relation(read, logits)}"
    what = f"difference of the last layer's logit lens and the logits, {SHARE}"
    return at_most(gap(read, logits), under_test.tolerance, what, why)


def _first(output: Any) -> Tensor:
    """Return the residual stream among what a block returns."""
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found.detach()


def _last_block(under_test: ModelUnderTest) -> str:
    """Return the path of the last block of the language model, or of its decoder."""
    owner = decoder_path(under_test.module)
    stacks = {
        path: stack for path, stack in find_block_stacks(under_test.module).items() if path.rpartition(".")[0] == owner
    }
    longest = max(stacks, key=lambda path: len(stacks[path]))
    return f"{longest}.{len(stacks[longest]) - 1}"


def _relation(read: Tensor, logits: Tensor) -> str:
    """Return what the logits are to the lens: its multiple, a softened form of it, or something else."""
    a, b = read.double().cpu(), logits.double().cpu()
    factor = float((a * b).sum() / (a * a).sum().clamp(min=torch.finfo(a.dtype).tiny))
    if float((a * factor - b).abs().max()) < 1e-3 * float(b.abs().max()):
        return f"the logits are {factor:.4g} times it, a factor that kedit does not know of"
    if torch.equal(a.argsort(), b.argsort()):
        return "they rank the words alike, so the model squeezes its logits afterwards (a soft cap)"
    return "they rank the words differently, so a norm or a transformation is left out or added"
