"""Which positions of a sequence a forward pass computes, and what they hold."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from kedit.hooks import before
from kedit.sites import embedding_path, language_paths

Positions = Literal["all", "image", "text", "last"]
"""Where an edit acts: everywhere, on image tokens, on the rest, or from the last prompt token on.

An encoder-decoder reads as one sequence, the decoder's columns behind the encoder's: `last` is the last token that the
encoder reads and every token of the decoder.
"""
Phase = Literal["both", "prefill", "decode"]
"""When an edit acts: on the prompt (`prefill`; what an encoder reads), on generated tokens (`decode`; all of a decoder
that has an encoder), or on both."""


def image_token(module: nn.Module) -> int | None:
    """Return the id of the token that stands for a piece of a picture, as the model's configuration names it.

    None where the sequence holds no picture: in a text model, and where some layers look at it from outside (Llama 3.2
    Vision), whose one token for it says only where it belongs.
    """
    described = getattr(module, "config", None)
    found = getattr(described, "image_token_id", None)
    looking = getattr(getattr(described, "text_config", None), "cross_attention_layers", None)
    return found if isinstance(found, int) and not looking else None


def check_span(positions: str, phase: str) -> None:
    """Raise a ValueError unless both are among the names above."""
    for key, value, allowed in (("positions", positions, get_args(Positions)), ("phase", phase, get_args(Phase))):
        if value not in allowed:
            raise ValueError(f"`{key}` is one of {', '.join(allowed)}, got {value!r}")


class Span(Protocol):
    """The columns that the current call of a stack of blocks computes."""

    def where(self, positions: Positions, phase: Phase, n_rows: int) -> Tensor:
        """Return the mask of the positions to act on, `[batch, pos]`; there are `n_rows` of them in all.

        Raises:
            ValueError: The positions of the call are unknown.
        """
        ...


class Sequence:
    """The columns that the current decoder call computes, counted from the first token of the sequence.

    Columns mean the same with a key-value cache, where a call computes only the new ones, and without. They
    are columns of the padded batch: left padding shifts no column. The prompt is what the first call of a generation
    computes. A call without a cache that repeats the prompt's tokens and is one longer than the call before it
    continues that generation, unless the sequence is an encoder's, which never `grows`.
    """

    def __init__(self, image_token: int | None, *, grows: bool = True) -> None:
        self.image_token, self.grows = image_token, grows
        self._tokens: Tensor | None = None
        self._prompt: Tensor | None = None
        self._last: Tensor | None = None
        self._mask: Tensor | None = None
        self._start = self._end = 0
        self._settled, self._parted = True, False

    def saw_tokens(self, tokens: Tensor) -> None:
        """Take note of the token ids of a call, `[batch, pos]`; the codes of pictures, a mere list, are no sequence."""
        if tokens.ndim == 2:
            self._tokens, self._settled = tokens, False

    def saw_call(self, kwargs: dict[str, Any]) -> None:
        """Take note of a decoder call: its first column is the length of the cache."""
        if self._settled:
            # Tokens that an earlier call has used up say nothing of a call with embeddings of its own.
            self._tokens = None
        if isinstance(tokens := kwargs.get("input_ids"), Tensor):
            # Encoders and decoders may have an embedding of their own beside the one that the model names.
            self.saw_tokens(tokens)
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        self._start = int(cache.get_seq_length()) if cache is not None else 0
        self._mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def where(self, positions: Positions, phase: Phase, n_rows: int) -> Tensor:
        """Return the mask of the positions to act on: `[batch, pos]`.

        Args:
            positions: Which of them by content.
            phase: Which of them by age.
            n_rows: The number of positions of the whole batch in the activations at hand.

        Raises:
            ValueError: The call was not made with token ids, or on a cache that was filled before the edit, so that its
                positions are unknown.
        """
        tokens = self._expanded(n_rows)
        self._settle(tokens)
        if self._prompt is None:
            raise ValueError(
                f"the cache held {self._start} columns before the edit began: edits by position need the whole "
                "generation, from its prompt on, inside `with`"
            )
        if self._parted and (positions == "last" or phase != "both"):
            raise ValueError(
                f"the model was called with {tokens.shape[1]} columns behind {self._start} cached ones: guesses "
                "(assisted decoding, prompt lookup) or a prompt in parts, so that the prompt's end is unknown; "
                "generate without them, or edit at `positions` all, image or text in phase both"
            )
        columns = torch.arange(self._start, self._end, device=tokens.device).expand_as(tokens)
        n_prompt = self._prompt.shape[1]
        if positions == "all":
            mask = columns >= 0
        elif positions == "last":
            mask = columns >= (n_prompt - 1 if self._last is None else self._last[:, None])
        else:
            no_image = torch.zeros_like(tokens, dtype=torch.bool)
            images = no_image if self.image_token is None else tokens == self.image_token
            mask = images if positions == "image" else ~images
        if phase == "prefill":
            return mask & (columns < n_prompt)
        return mask & (columns >= n_prompt) if phase == "decode" else mask

    def _expanded(self, n_rows: int) -> Tensor:
        """Return the tokens of the call, a row for each of its beams where the model embedded them only once."""
        seen = self._tokens
        if seen is not None and seen.ndim == 2 and seen.numel() and n_rows % seen.numel() == 0:
            return seen.repeat_interleave(n_rows // seen.numel(), dim=0)
        found = "no tokens" if seen is None else f"{seen.numel()} tokens"
        raise ValueError(
            f"the decoder runs on {n_rows} positions and the embedding saw {found}: edits by position need "
            "a model that is called with token ids"
        )

    def _settle(self, tokens: Tensor) -> None:
        """Decide once for each call whether it starts a new sequence."""
        if self._settled:
            return
        end, self._settled = self._start + tokens.shape[1], True
        if self._start == 0 and not self._continues(tokens):
            self._prompt, self._last = tokens, _last_valid(self._mask)
            self._parted = False
        elif self._start and (tokens.shape[1] > 1 or self._start < self._end):
            self._parted = True
        self._end = end

    def _continues(self, tokens: Tensor) -> bool:
        prompt = self._prompt
        if not self.grows or prompt is None or tokens.shape[0] != prompt.shape[0] or tokens.shape[1] != self._end + 1:
            return False
        return torch.equal(tokens[:, : prompt.shape[1]], prompt)


class Written:
    """The columns of a decoder behind its encoder: all of them are generated text."""

    def where(self, positions: Positions, phase: Phase, n_rows: int) -> Tensor:
        """Return the mask of the positions to act on: `[1, n_rows]`."""
        return torch.full((1, n_rows), positions != "image" and phase != "prefill")


@dataclass(frozen=True)
class Columns:
    """The columns of a language model that is one sequence, or of its encoder and decoder."""

    spans: Mapping[str, Span]
    """By the path of the module that owns the stack of blocks; the last one is of any other, too."""

    def of(self, path: str) -> Span:
        """Return the span of the stack that the module at `path` is in or owns."""
        owners = [owner for owner in self.spans if f"{path}.".startswith(f"{owner}.")]
        return self.spans[owners[0] if owners else list(self.spans)[-1]]


@contextmanager
def following(module: nn.Module, image_token: int | None) -> Iterator[Columns]:
    """Yield the columns, up to date whenever a block of the language model runs.

    Args:
        module: The model, called with token ids.
        image_token: The id of the image token in the input; None when there is none.
    """
    embedding = embedding_path(module)
    if embedding is None:
        raise LookupError(f"{type(module).__name__} has no token embedding, so positions cannot be told; use `all`")
    *encoder, decoder = language_paths(module)
    two = bool(encoder) and "encoder" in encoder[0].split(".") and "decoder" in decoder.split(".")
    read, reader = Sequence(image_token, grows=not two), encoder[0] if two else decoder
    with ExitStack() as attached:
        attached.enter_context(before(module, embedding, lambda args, kwargs: read.saw_tokens(args[0])))
        attached.enter_context(before(module, reader, lambda args, kwargs: read.saw_call(kwargs)))
        yield Columns({reader: read, decoder: Written()} if two else {decoder: read})


def _last_valid(mask: Tensor | None) -> Tensor | None:
    """Return the last unpadded column of each row, or None where every row ends with a token."""
    if mask is None or bool(mask[:, -1].all()):
        return None
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
