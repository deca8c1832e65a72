"""Whether kedit knows where the picture or sound is, and whether the language model hears of it at all."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, above, at_most
from kedit.doctor.patient import Patient
from kedit.hooks import before
from kedit.models.mllm import IMAGE, MODALITIES, Forced
from kedit.sites import language_paths


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
    expected = _expected(patient, batch)
    if expected is not None and expected != told.sum(1).tolist():
        why = f"the processor made {expected} {medium} tokens of the two prompts, and {told.sum(1).tolist()} were found"
        wrong = sum(abs(a - b) for a, b in zip(expected, told.sum(1).tolist(), strict=True))
        return at_most(wrong, 0, f"{medium} positions too many or too few", why)
    first, second = (_entering(patient, one) for one in (batch, patient.swapped))
    if first is None or second is None or first.shape[:2] != told.shape or first.shape != second.shape:
        return Finding("DEGRADED", "the decoder's input has other positions than the prompt, so none can be compared")
    moved = (first != second).any(-1)
    if not moved.any():
        return Finding("DEGRADED", f"the {medium} does not enter at the decoder's input (cross-attention, maybe)")
    wrong = int((moved & ~told).sum())
    what = f"of {int(moved.sum())} positions that the {medium} changes not called {medium}, {int(told.sum())} are"
    return at_most(wrong, 0, what, f"edits and methods that act on {medium} positions would miss them")


def _expected(patient: Patient, batch: Forced) -> list[int] | None:
    """Return how many tokens of each prompt the processor calls its medium's; None where it does not say."""
    processor: Any = getattr(patient.model, "processor", None)
    token = getattr(processor, f"{patient.medium}_token_id", None)
    name = getattr(processor, f"{patient.medium}_token", None)
    tokenizer = getattr(patient.model, "tokenizer", None)
    if token is None and isinstance(name, str) and tokenizer is not None:
        token = tokenizer.convert_tokens_to_ids(name)
    if not isinstance(token, int) or token == getattr(tokenizer, "unk_token_id", None):
        return None
    counts: list[int] = (batch.inputs["input_ids"] == token).sum(1).tolist()
    return counts


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
