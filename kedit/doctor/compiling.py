"""Whether an edit acts on a compiled block, or at least says that it does not."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kedit.doctor.blocks import Given, silent
from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, at_most, first_line
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.edit.edit import Edit, EditWarning
from kedit.edit.operators import Zero
from kedit.internals.hooks import before
from kedit.neurons import NeuronSet

Call = Callable[[], Tensor]


def compiled(under_test: ModelUnderTest) -> Finding:
    """Compile the last feed-forward block alone, edit it from before and from after its first call, and compare.

    What is tried is whether the compiled block sees hooks; no code is generated (`backend="eager"`), so no compiler is
    needed. What torch had compiled before is compiled again when it is next called.
    """
    layer = _last_that_writes(under_test)
    edit = Edit(NeuronSet(tuple(one for one in under_test.everything if one.layer == layer)), Zero())
    path = under_test.site.blocks[layer].output.rpartition(".")[0]
    block, given = under_test.module.get_submodule(path), _given(under_test, path)
    plain = _called(block, given)
    edited, _ = _under(under_test, edit, lambda: _called(block, given))
    if gap(plain, edited) <= under_test.noise:
        return Finding("DEGRADED", "zeroing a block's neurons changes nothing it returns, compiled or not")
    with _from_scratch():
        try:
            first = _called(_compiled(block), given)
        except Exception as error:  # no dynamo for this Python, or a block that it cannot read
            return Finding("DEGRADED", f"nothing can be compiled here: {first_line(error)}")
        late, warned = _under(under_test, edit, lambda: _called(_compiled(block), given))
    with _from_scratch():
        early, _ = _under(under_test, edit, lambda: _called(_compiled(block), given))
        afterwards = _called(_compiled(block), given)
    what = f"output of a compiled block against the same not compiled, {SHARE}"
    worst = max(gap(plain, first), gap(edited, early), gap(plain, afterwards))
    if worst > under_test.tolerance:
        why = "a block that is first called inside an edit does something else compiled, or stays edited"
        return at_most(worst, under_test.tolerance, what, why)
    ignored = gap(edited, late)
    why = "an edit that begins after the first call of a compiled block is ignored"
    if ignored > under_test.tolerance and warned:
        why += ", with a warning: call `torch.compiler.reset()` first, or compile nothing"
        return Finding("DEGRADED", why, ignored, under_test.tolerance, "<=", what)
    return at_most(ignored, under_test.tolerance, what, f"{why} without a word")


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


def _under(under_test: ModelUnderTest, edit: Edit, call: Call) -> tuple[Tensor, bool]:
    """Return what `call` gives while the model is edited, and whether the edit warned that it was ignored."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with edit.applied(under_test.module):
            output = call()
    return output, any(issubclass(one.category, EditWarning) for one in heard)


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
