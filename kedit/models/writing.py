"""How a batch of answers is written: greedily, with what is known of them beforehand."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kedit.models import prompting
from kedit.models.drafts import Drafted
from kedit.models.guesses import DraftError
from kedit.models.mllm import Within
from kedit.models.once import Copies, encoded, looked_at_once
from kedit.models.passes import evaluating
from kedit.prompts import Prompt

logger = logging.getLogger(__name__)


@torch.no_grad()
def written(
    model: Any,
    prompts: Sequence[Prompt],
    places: Sequence[int],
    drafts: Sequence[tuple[int, ...]] | None,
    within: Within | None,
) -> list[tuple[int, ...]]:
    """Return the tokens of the greedy answer to each prompt of one batch, without special ones.

    Args:
        model: A `HuggingFaceMLLM`.
        prompts: All of one medium; one that is there several times is encoded and looked at once where possible.
        places: Where they stand among all, for `within`.
        drafts: What the answers may be; None for no idea.
        within: Makes the context that they are read in; None for the model as it is.
    """
    copies = Copies.among(prompts)
    inputs = encoded(prompts, copies, model.encode)
    with evaluating(model.module), looked_at_once(model.module, model.outside if copies.any else (), copies):
        if drafts is None:
            with within(places) if within else nullcontext():
                return _kept(model, inputs, _generated(model, inputs))
        try:
            guided = Drafted(drafts, model.max_new_tokens)
            with within(places) if within else nullcontext():
                said = _kept(model, inputs, _generated(model, inputs, custom_generate=guided))
        except DraftError as reason:
            logger.debug("the drafts are no help: %s", reason)
            with within(places) if within else nullcontext():
                return _kept(model, inputs, _generated(model, inputs))
    for row, tokens in zip(guided.undecided, _rewritten(model, prompts, places, guided.undecided, within), strict=True):
        said[row] = tokens
    return said


def _rewritten(
    model: Any, prompts: Sequence[Prompt], places: Sequence[int], rows: Sequence[int], within: Within | None
) -> list[tuple[int, ...]]:
    if not rows:
        return []
    return written(model, [prompts[row] for row in rows], [places[row] for row in rows], None, within)


def _generated(model: Any, inputs: dict[str, Tensor], **how: Any) -> Tensor:
    reader: nn.Module = prompting.reader(model.module, inputs)
    made: Tensor = reader.generate(  # type: ignore[operator]
        **inputs,
        do_sample=False,
        num_beams=1,
        max_new_tokens=model.max_new_tokens,
        pad_token_id=model.tokenizer.pad_token_id,
        disable_compile=True,
        **how,
    )
    return made


def _kept(model: Any, inputs: dict[str, Tensor], made: Tensor) -> list[tuple[int, ...]]:
    """Return the tokens behind each prompt, without special ones."""
    special = set(model.tokenizer.all_special_ids)
    n_before = 1 if model.architecture == "encoder-decoder" else inputs["input_ids"].shape[1]
    new = made[:, n_before:].tolist()
    return [tuple(token for token in row if token not in special) for row in new]
