"""What each row has said and may say next, and the calls of a model that check it, on a cache that can be cut."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PER_TOKEN = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
"""What `generate` hands on from call to call, a number for each token, and makes longer as it goes."""
CUTTABLE = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""The layers of a cache whose last columns can be cut off; a sliding one only before it begins to slide."""
TIE = (64 * torch.finfo(torch.float32).eps, 4.0)
"""Two tokens are as likely if their logits differ by at most so much of the largest, or by so many units of rounding of
16-bit weights: a column rounds differently alone and among others (on the shipped model by 6 units of 32 bits at most,
and by 1.5 of 16 bits)."""


class DraftError(Exception):
    """The model or its settings leave no way to check guesses; the answers are to be written one token at a time."""


@dataclass(eq=False)
class Guess:
    """One row: what it has said, and what it may say next."""

    ahead: tuple[int, ...]
    ends: Collection[int]
    """The tokens that end an answer."""
    n_most: int
    """The length at which an answer ends."""
    said: tuple[int, ...] = ()
    done: bool = False

    @property
    def written(self) -> tuple[int, ...]:
        """What the row has said and what it may say next."""
        return self.said + self.ahead

    def take(self, named: Sequence[int]) -> int:
        """Take what the model named behind what was said and behind each guess; return how many tokens are settled."""
        n = 0
        for n, token in enumerate(named, 1):
            self.done = token in self.ends or len(self.said) + n == self.n_most
            if self.done or n > len(self.ahead) or self.ahead[n - 1] != token:
                break
        self.said += tuple(named[:n])
        fed = min(len(named), len(self.ahead) + 1)
        # What the model named behind a wrong guess is the better guess there.
        self.ahead = tuple(named[n:fed]) + self.ahead[fed:]
        return n


@dataclass(eq=False)
class Reading:
    """A model that has read a batch of prompts, and what the next call of it is made with."""

    model: Any
    ids: Tensor
    """The prompts, `[batch, pos]`."""
    asked: dict[str, Any]
    """What `generate` hands on from call to call; a number for each token of the prompts."""
    n_most: int
    """The number of columns that an answer may have."""
    cache: Any = None

    def prompt(self) -> tuple[Tensor, Tensor]:
        """Read the prompts and return what the model says first; see `_named`.

        Raises:
            DraftError: The model keeps no cache, or none that can be cut.
        """
        inputs = self.model.prepare_inputs_for_generation(self.ids, is_first_iteration=True, **self.asked)
        outputs = self.model(**inputs, return_dict=True)
        self.cache = outputs.get("past_key_values")
        self._check_cache()
        return _named(outputs.logits, 1)

    def onward(self, fed: Sequence[Sequence[int]], start: int) -> tuple[Tensor, Tensor]:
        """Read tokens of each row's answer from its column `start` on, and return what follows each; see `_named`.

        The answers are of different lengths: what is behind a shorter one means nothing.
        """
        self._cut(self.ids.shape[1] + start)
        width = max(map(len, fed))
        rows = [[*one, *[0] * (width - len(one))] for one in fed]
        tokens = torch.tensor(rows, dtype=self.ids.dtype, device=self.ids.device)
        given = self._stretched(start + width)
        filler = self.ids.new_zeros(len(rows), start)
        inputs = self.model.prepare_inputs_for_generation(
            torch.cat([self.ids, filler, tokens], dim=1),
            next_sequence_length=width, past_key_values=self.cache, is_first_iteration=False, **given,
        )  # fmt: skip
        self._check_inputs(inputs)
        if "logits_to_keep" in inputs:
            inputs["logits_to_keep"] = width
        return _named(self.model(**inputs, return_dict=True).logits, width)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        at = torch.tensor(rows, device=self.ids.device)
        self.ids = self.ids[at]
        self.cache.batch_select_indices(at)
        for name, value in self._per_token().items():
            # Positions may have several axes, which come first.
            self.asked[name] = value.index_select(value.ndim - 2, at.to(value.device))

    def _per_token(self) -> dict[str, Tensor]:
        return {name: value for name in PER_TOKEN if isinstance(value := self.asked.get(name), Tensor)}

    def _stretched(self, n: int) -> dict[str, Any]:
        """Return what the call is made with, longer by `n` columns of text."""
        asked = {name: value for name, value in self.asked.items() if name != "past_key_values"}
        for name, value in self._per_token().items():
            last = value[..., -1:].expand(*value.shape[:-1], n)
            if name == "position_ids":
                last = last + torch.arange(1, n + 1, device=value.device)
            elif name == "attention_mask":
                last = torch.ones_like(last)
            elif name == "mm_token_type_ids":
                last = torch.zeros_like(last)
            asked[name] = torch.cat([value, last], dim=-1)
        return asked

    def _cut(self, n_columns: int) -> None:
        """Forget what the cache holds behind the first `n_columns`."""
        too_many = self.cache.get_seq_length() - n_columns
        if too_many > 0:
            self.cache.crop(-too_many)

    def _check_cache(self) -> None:
        layers, n_prompt = getattr(self.cache, "layers", None), self.ids.shape[1]
        if not layers:
            raise DraftError(f"{type(self.model).__name__} keeps no cache of layers")
        for layer in layers:
            if type(layer).__name__ not in CUTTABLE or layer.get_seq_length() != n_prompt:
                raise DraftError(f"a {type(layer).__name__} of the cache cannot be cut")
            if getattr(layer, "sliding_window", n_prompt + self.n_most + 1) <= n_prompt + self.n_most:
                raise DraftError(f"the cache slides after {layer.sliding_window} columns")

    def _check_inputs(self, inputs: Mapping[str, Any]) -> None:
        known = ("input_ids", *PER_TOKEN)
        unknown = [name for name, value in inputs.items() if isinstance(value, Tensor) and name not in known]
        if unknown:
            raise DraftError(f"`{unknown[0]}` is needed behind the prompt")


def _named(logits: Tensor, n_last: int) -> tuple[Tensor, Tensor]:
    """Return the likeliest token behind each of the last columns, and whether it is so by more than rounding.

    Both are `[batch, n_last]`.
    """
    last = logits[:, -n_last:]
    best = last.topk(2, dim=-1).values.float()
    share = max(TIE[0], TIE[1] * torch.finfo(logits.dtype).eps)
    return last.argmax(-1), best[..., 0] - best[..., 1] > share * last.abs().amax(-1).float()
