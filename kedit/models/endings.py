"""Where an answer ends and begins, in models that tell it by its text and not by a token."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor


class Ending(Protocol):
    """The rule by which an answer is cut."""

    def criterion(self, n_prompt: int) -> Callable[..., Tensor]:
        """Return a stopping criterion of `generate`: which rows are at their end, behind `n_prompt` tokens."""
        ...

    def trimmed(self, tokens: Tensor) -> Tensor:
        """Return `[pos]`: what is kept of an answer, then the mark of an end up to its length."""
        ...


def generate_to_end(generate: Callable[..., Any], ending: Ending | None, *args: Any, **options: Any) -> Any:
    """Return what `generate` of transformers does with these arguments; of an answer, only what `ending` keeps of it.

    What it cuts away becomes the mark of an end, so that the tokens keep their shape.
    """
    prompt = options.get("input_ids", args[0] if args else None)
    if ending is None or prompt is None:
        return generate(*args, **options)
    from transformers import StoppingCriteriaList

    n_prompt = prompt.shape[1]
    given = options.pop("stopping_criteria", None) or ()
    criteria = StoppingCriteriaList([*given, ending.criterion(n_prompt)])
    written = generate(*args, stopping_criteria=criteria, **options)
    tokens = written if isinstance(written, Tensor) else written.sequences
    for row in tokens:
        row[n_prompt:] = ending.trimmed(row[n_prompt:])
    return written
