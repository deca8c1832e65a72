"""Whether a model would rather begin its answer with yes or with no."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from kedit.prompts import Prompt, batches
from kedit.samples import Progress, silent

WORDS = ("yes", "no")


def first_tokens(model: Any) -> tuple[list[int], list[int]] | None:
    """Return the tokens that are the word yes, and those that are no; None where there are none for one of them.

    In small and in capital letters, with and without a blank before: which one begins an answer, the chat decides.

    Args:
        model: A `HuggingFaceMLLM`.
    """
    found = [_tokens_of(model, word) for word in WORDS]
    return (found[0], found[1]) if all(found) else None


@torch.no_grad()
def log_odds(
    model: Any,
    prompts: Sequence[Prompt],
    conditions: Sequence[Callable[[], AbstractContextManager[Any]]] = (nullcontext,),
    *,
    progress: Progress = silent,
) -> list[list[float]] | None:
    """Return, under each condition, the log-odds in nats that the answer to each prompt begins with yes, not with no.

    Args:
        model: A `HuggingFaceMLLM`.
        prompts: What is asked.
        conditions: What makes the context of each, such as that of an edit; `nullcontext` is the model as it is.
        progress: Shows the batches.

    Returns:
        `[condition][prompt]`; None where the model has no token for one of the words.
    """
    if (tokens := first_tokens(model)) is None:
        return None
    odds = torch.full((len(conditions), len(prompts)), torch.nan, dtype=torch.float64)
    chunks = batches(prompts, model.batch_size)
    for chunk in progress(chunks, len(chunks), "yes or no"):
        rows = model.read([prompts[place] for place in chunk], [()] * len(chunk))
        for number, condition in enumerate(conditions):
            with condition():
                logits = model.logits(rows)[:, -1].double().cpu()
            yes, no = (logits[:, some].logsumexp(-1) for some in tokens)
            odds[number, chunk] = yes - no
    return [list(row) for row in odds.tolist()]


def _tokens_of(model: Any, word: str) -> list[int]:
    forms = [blank + form for blank in ("", " ") for form in (word, word.capitalize(), word.upper())]
    first = {ids[0] for form in forms if (ids := model.tokenizer(form, add_special_tokens=False).input_ids)}
    return sorted(token for token in first if model.words([token])[0].casefold() == word)
