"""Greedy answers by checking guesses: several tokens in one call, each kept only if the model says the same.

A draft is what an answer may be, such as the one without an edit. The model reads it in one call and names the token
that follows each of its columns; up to the first that differs, this is what it would have said one by one (Leviathan
et al. 2023, the greedy case). Behind that, what it named becomes the next guess (Santilli et al. 2023), as long as
guessing pays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kedit.models.guesses import DraftError, Guess, Reading
from kedit.rows import calling

PAYS = 1.5
"""Guessing goes on while a call settles so many tokens of a row, on average."""


@dataclass(frozen=True, eq=False)
class Drafted:
    """A decoding loop for `generate(custom_generate=...)` that knows what each row may say.

    It writes what greedy decoding does. Rows are finished, and left out of the calls, one after the other.
    """

    drafts: Sequence[Sequence[int]]
    """For each row, the tokens that it may say; empty for none."""
    n_new: int
    """The length at which an answer ends."""
    undecided: list[int] = field(default_factory=list)
    """The rows in which two tokens were as likely but for rounding, to be written in the ordinary way."""

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Sequence[Any],
        stopping_criteria: Sequence[Any],
        generation_config: Any,
        **asked: Any,
    ) -> Tensor:
        """Return the prompts and their answers, `[batch, pos]`, padded on the right.

        Raises:
            DraftError: Something beside the likeliest token has a say, or the cache cannot be cut.
        """
        refuse_more_than_greedy(model, logits_processor, stopping_criteria, generation_config)
        ends = generation_config._eos_token_tensor
        stops = frozenset() if ends is None else frozenset(ends.flatten().tolist())
        guesses = [Guess(tuple(draft), stops, self.n_new) for draft in self.drafts]
        reading = Reading(model, input_ids, asked, self.n_new)
        rows, pays = list(range(len(guesses))), True
        with calling(rows):
            self._settle([guesses[row] for row in rows], rows, reading.prompt(), 0)
        while rows := self._going_on(rows, guesses, reading):
            going = [guesses[row] for row in rows]
            start = min(len(one.said) for one in going) - 1
            end = max(len(one.written) for one in going) if pays else start + 1
            fed = [one.written[start : min(end, self.n_new - 1)] for one in going]
            with calling(rows):
                n_settled = self._settle(going, rows, reading.onward(fed, start), start)
            pays = pays and n_settled >= PAYS * len(rows)
        return _behind(input_ids, [one.said for one in guesses], int(generation_config._pad_token_tensor))

    def _settle(self, going: Sequence[Guess], rows: Sequence[int], named: tuple[Tensor, Tensor], start: int) -> int:
        """Let each row take what the model named behind column `start` and on; return how many tokens that settles."""
        total = 0
        for one, row, tokens, sure in zip(going, rows, named[0].tolist(), named[1].tolist(), strict=True):
            first = max(0, len(one.said) - 1 - start)
            n_taken = one.take(tokens[first:])
            total += n_taken
            if not all(sure[first : first + n_taken]):
                self.undecided.append(row)
        return total

    def _going_on(self, rows: Sequence[int], guesses: Sequence[Guess], reading: Reading) -> list[int]:
        """Return the rows that are not finished, and leave out the others."""
        kept = [place for place, row in enumerate(rows) if not guesses[row].done and row not in self.undecided]
        if kept and len(kept) < len(rows):
            reading.select(kept)
        return [rows[place] for place in kept]


def refuse_more_than_greedy(
    model: Any, processors: Sequence[Any], criteria: Sequence[Any], generation_config: Any
) -> None:
    """Raise a DraftError unless an answer is the likeliest tokens, up to one that ends it or to a length."""
    mode = str(getattr(generation_config.get_generation_mode(), "value", "unknown"))
    if mode != "greedy_search":
        raise DraftError(f"the generation mode is {mode}")
    if len(processors):
        raise DraftError(f"{type(processors[0]).__name__} changes the logits")
    for one in criteria:
        if type(one).__name__ not in ("MaxLengthCriteria", "EosTokenCriteria"):
            raise DraftError(f"{type(one).__name__} may end an answer")
    if model.config.is_encoder_decoder or getattr(model, "_is_stateful", False):
        raise DraftError(f"{type(model).__name__} has no cache that can be cut")
    if getattr(model.config.get_text_config(), "cross_attention_layers", None):
        raise DraftError(f"the cache of {type(model).__name__} holds more than its sequence")
    told = generation_config
    if told.prefill_chunk_size or told.return_dict_in_generate or not told.use_cache:
        raise DraftError("the generation settings ask for parts, for more than tokens, or for no cache")


def _behind(prompt: Tensor, said: Sequence[tuple[int, ...]], pad: int) -> Tensor:
    width = max(map(len, said))
    rows = [[*one, *[pad] * (width - len(one))] for one in said]
    return torch.cat([prompt, torch.tensor(rows, dtype=prompt.dtype, device=prompt.device)], dim=1)
