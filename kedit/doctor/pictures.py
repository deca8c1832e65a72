"""Whether kedit knows where the picture or sound is, and whether the language model hears of it at all."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, NotApplicableError, above, at_most
from kedit.doctor.patient import Patient
from kedit.internals.hooks import before
from kedit.internals.sites import language_paths
from kedit.models.mllm import IMAGE, MODALITIES, Forced


def media(patient: Patient) -> Finding:
    """Swap the pictures or sounds of the two prompts and compare the logits, which must change."""
    patient.needs_medium()
    swapped = patient.logits(patient.swapped)
    return above(
        gap(patient.plain, swapped), patient.noise, f"logits changed by another {patient.medium}, {SHARE}",
        f"the logits do not depend on the {patient.medium}",
    )  # fmt: skip


def positions(patient: Patient) -> Finding:
    """Swap the pictures or sounds and see where the decoder's input changes: at the positions called image or audio."""
    patient.needs_medium()
    batch, medium = patient.batch, patient.medium
    told = batch.modalities == MODALITIES.index(medium)
    if medium == "image" and not torch.equal(told, batch.kinds == IMAGE):
        why = "what is called an image position by kind is not called one by modality"
        return at_most(int((told ^ (batch.kinds == IMAGE)).sum()), 0, "positions of two kinds", why)
    first, second = (_entering(patient, one) for one in (batch, patient.swapped))
    if first is None or second is None:
        return _elsewhere(medium, int(told.sum()))
    if first.shape[:2] != told.shape or first.shape != second.shape:
        return Finding("DEGRADED", "the decoder's input has other positions than the prompt, so none can be compared")
    moved = (first != second).any(-1)
    if not moved.any():
        return _elsewhere(medium, int(told.sum()))
    missed, n_told = int((moved & ~told).sum()), int(told.sum())
    # Ends of rows and the like stand for a picture, too, and are the same in each: the processor counts them.
    extra = max(n_told - max(int(moved.sum()), _expected(patient, batch)), 0)
    what = f"wrong of {n_told} {medium} positions; another {medium} changes {int(moved.sum())}"
    why = f"{missed} that the {medium} changes are not called {medium}, and {extra} are called so that it does not fill"
    return at_most(missed + extra, 0, what, why)


def _elsewhere(medium: str, n_told: int) -> Finding:
    """Return what to say of a model into whose sequence nothing of the medium enters."""
    if n_told == 0:
        raise NotApplicableError(f"the {medium} takes no positions")
    return Finding("DEGRADED", f"the {medium} does not enter at its {n_told} positions (cross-attention, maybe)")


def _expected(patient: Patient, batch: Forced) -> int:
    """Return how many of the prompts' tokens are the one by which the processor calls its medium; 0 if it has none."""
    name = getattr(getattr(patient.model, "processor", None), f"{patient.medium}_token", None)
    tokenizer: Any = getattr(patient.model, "tokenizer", None)
    if not isinstance(name, str) or tokenizer is None:
        return 0
    return int((batch.inputs["input_ids"] == tokenizer.convert_tokens_to_ids(name)).sum())


def _entering(patient: Patient, batch: Forced) -> Tensor | None:
    """Return the embeddings that enter the language model, `[row, pos, d_model]`."""
    seen: list[Tensor] = []

    def keep(given: tuple[Any, ...], named: dict[str, Any]) -> None:
        embeds = named.get("inputs_embeds", given[0] if given else None)
        if isinstance(embeds, Tensor) and embeds.is_floating_point():
            seen.append(embeds.detach().clone())

    with ExitStack() as attached, torch.no_grad():
        attached.enter_context(before(patient.module, language_paths(patient.module)[0], keep))
        patient.logits(batch)
    return seen[-1] if seen else None
