"""Whether kedit knows where the picture or sound is, and whether the language model hears of it at all."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, NotApplicableError, above, at_most
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.internals.hooks import before
from kedit.internals.sites import language_paths
from kedit.models.mllm import IMAGE, MODALITIES, TeacherForced


def media(under_test: ModelUnderTest) -> Finding:
    """Swap the pictures or sounds of the two prompts and compare the logits, which must change."""
    under_test.needs_medium()
    swapped = under_test.logits(under_test.swapped)
    return above(
        gap(under_test.plain, swapped), under_test.noise, f"logits changed by another {under_test.medium}, {SHARE}",
        f"the logits do not depend on the {under_test.medium}",
    )  # fmt: skip


def positions(under_test: ModelUnderTest) -> Finding:
    """Swap the pictures or sounds and see where the decoder's input changes: at the positions called image or audio."""
    under_test.needs_medium()
    batch, medium = under_test.batch, under_test.medium
    told = batch.modalities == MODALITIES.index(medium)
    if medium == "image" and not torch.equal(told, batch.token_types == IMAGE):
        why = "what is called an image position by kind is not called one by modality"
        return at_most(int((told ^ (batch.token_types == IMAGE)).sum()), 0, "positions of two kinds", why)
    first, second = (_entering(under_test, one) for one in (batch, under_test.swapped))
    if first is None or second is None:
        return _elsewhere(medium, int(told.sum()))
    if first.shape[:2] != told.shape or first.shape != second.shape:
        return Finding("DEGRADED", "the decoder's input has other positions than the prompt, so none can be compared")
    moved = (first != second).any(-1)
    if not moved.any():
        return _elsewhere(medium, int(told.sum()))
    missed, n_told = int((moved & ~told).sum()), int(told.sum())
    # Ends of rows and the like stand for a picture, too, and are the same in each: the processor counts them.
    extra = max(n_told - max(int(moved.sum()), _expected(under_test, batch)), 0)
    what = f"wrong of {n_told} {medium} positions; another {medium} changes {int(moved.sum())}"
    why = f"{missed} that the {medium} changes are not called {medium}, and {extra} are called so that it does not fill"
    return at_most(missed + extra, 0, what, why)


def _elsewhere(medium: str, n_told: int) -> Finding:
    """Return what to say of a model into whose sequence nothing of the medium enters."""
    if n_told == 0:
        raise NotApplicableError(f"the {medium} takes no positions")
    return Finding("DEGRADED", f"the {medium} does not enter at its {n_told} positions (cross-attention, maybe)")


def _expected(under_test: ModelUnderTest, batch: TeacherForced) -> int:
    """Return how many of the prompts' tokens are the one by which the processor calls its medium; 0 if it has none."""
    name = getattr(getattr(under_test.model, "processor", None), f"{under_test.medium}_token", None)
    tokenizer: Any = getattr(under_test.model, "tokenizer", None)
    if not isinstance(name, str) or tokenizer is None:
        return 0
    return int((batch.inputs["input_ids"] == tokenizer.convert_tokens_to_ids(name)).sum())


def _entering(under_test: ModelUnderTest, batch: TeacherForced) -> Tensor | None:
    """Return the embeddings that enter the language model, `[row, pos, d_model]`."""
    seen: list[Tensor] = []

    def keep(given: tuple[Any, ...], named: dict[str, Any]) -> None:
        embeds = named.get("inputs_embeds", given[0] if given else None)
        if isinstance(embeds, Tensor) and embeds.is_floating_point():
            seen.append(embeds.detach().clone())

    with ExitStack() as attached, torch.no_grad():
        attached.enter_context(before(under_test.module, language_paths(under_test.module)[0], keep))
        under_test.logits(batch)
    return seen[-1] if seen else None
