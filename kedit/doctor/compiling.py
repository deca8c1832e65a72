"""Whether an edit acts on a compiled block, and no longer when it ends."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kedit.doctor.blocks import Given, silent
from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, at_most, first_line
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.internals.hooks import before
from kedit.neurons import NeuronSet


def compiled(under_test: ModelUnderTest) -> Finding:
    """Compile the last feed-forward block alone, edit it after its first call, and compare.

    An edit has compiled code run as it is written; what is tried is whether it does, and ends. No code is generated
    (`backend="eager"`), so no compiler is needed. What torch had compiled before is compiled again at its next call.
    """
    layer = _last_that_writes(under_test)
    edit = Edit(NeuronSet(tuple(one for one in under_test.everything if one.layer == layer)), Zero())
    path = under_test.site.blocks[layer].output.rpartition(".")[0]
    block, given = under_test.module.get_submodule(path), _given(under_test, path)
    plain = _called(block, given)
    with edit.applied(under_test.module):
        edited = _called(block, given)
    if gap(plain, edited) <= under_test.noise:
        return Finding("DEGRADED", "zeroing a block's neurons changes nothing it returns, compiled or not")
    with _from_scratch():
        try:
            first = _called(_compiled(block), given)
        except Exception as error:  # no dynamo for this Python, or a block that it cannot read
            return Finding("DEGRADED", f"nothing can be compiled here: {first_line(error)}")
        with edit.applied(under_test.module):
            late = _called(_compiled(block), given)
        afterwards = _called(_compiled(block), given)
    what = f"output of a compiled block against the same not compiled, {SHARE}"
    worst = max(gap(plain, first), gap(edited, late), gap(plain, afterwards))
    why = "a compiled block does something else, passes an edit by, or stays edited"
    return at_most(worst, under_test.tolerance, what, why)


def _last_that_writes(under_test: ModelUnderTest) -> int:
    """Return the last layer in which zeroing the neurons can be seen."""
    blocks = under_test.site.blocks
    return max((layer for layer in blocks if not silent(under_test, layer)), default=max(blocks))


def _given(under_test: ModelUnderTest, path: str) -> Given:
    """Return the arguments with which the model calls the block at `path`."""
    calls: list[Given] = []
    with before(under_test.module, path, lambda given, named: calls.append((given, named))):
        under_test.logits()
    if not calls:
        raise LookupError(f"the model never calls `{path}`, so there is no block to compile")
    return calls[-1]


def _compiled(block: Any) -> Any:
    return torch.compile(block, backend="eager")


@torch.no_grad()
def _called(block: Any, given: Given) -> Tensor:
    output = block(*given[0], **given[1])
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first


@contextmanager
def _from_scratch() -> Iterator[None]:
    """Forget what was compiled, before and after, and keep torch's warnings about compiling out of the table.

    In between torch compiles, though kedit has a model run as it is written while it reads it.
    """
    torch.compiler.reset()
    try:
        with warnings.catch_warnings(), torch.compiler.set_stance("default"):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.compiler.reset()
