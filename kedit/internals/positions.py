"""Which positions of a sequence a forward pass computes, and what they hold."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from kedit.internals.hooks import before
from kedit.internals.sites import embedding_path, language_paths

Positions = Literal["all", "image", "text", "image_end", "last"]
"""Where an edit acts: everywhere, on image tokens, on the rest, behind pictures, or from the last prompt token on.

`image_end` is the column right behind each picture, which `text` holds as well. Families that mark a picture's end
(Janus, Emu3, Qwen-VL, Gemma 3) mark it there; of others it is the first word behind it.

An encoder-decoder reads as one sequence, the decoder's columns behind the encoder's: `last` is the last token that the
encoder reads and every token of the decoder.
"""
Phase = Literal["both", "prefill", "decode"]
"""When an edit acts: on the prompt (`prefill`; what an encoder reads), on generated tokens (`decode`; all of a decoder
that has an encoder), or on both.

A prompt that is fed in parts is refused where that shows; a last part of one token looks like a generated one.
"""


GUESSES = "the first call on an empty cache asks for several logits (`logits_to_keep`), as for guesses"


def image_token(module: nn.Module) -> int | None:
    """Return the id of the token that stands for a piece of a picture, as the model's configuration names it.

    None where the sequence holds no picture: in a text model, and where some layers look at it from outside (Llama 3.2
    Vision), whose one token for it says only where it belongs.
    """
    described = getattr(module, "config", None)
    found = getattr(described, "image_token_id", None)
    looking = getattr(getattr(described, "text_config", None), "cross_attention_layers", None)
    return found if isinstance(found, int) and not looking else None


def behind_pictures(images: Tensor, before: Tensor | bool = False) -> Tensor:
    """Return the columns right behind a picture: what ends a row within one is none of them.

    Args:
        images: True at image tokens, `[batch, pos]`.
        before: Whether the column before the first one holds an image token, `[batch, 1]`.
    """
    edge = torch.zeros_like(images[:, :1])
    previous = torch.cat([edge | before, images[:, :-1]], dim=1)
    following_one = torch.cat([images[:, 1:], edge], dim=1)
    return previous & ~images & ~following_one


def check_span(positions: str, phase: str) -> None:
    """Raise a ValueError unless both are among the names above."""
    for key, value, allowed in (("positions", positions, get_args(Positions)), ("phase", phase, get_args(Phase))):
        if value not in allowed:
            raise ValueError(f"`{key}` is one of {', '.join(allowed)}, got {value!r}")


class Span(Protocol):
    """The columns that the current call of a stack of blocks computes."""

    def where(self, positions: Positions, phase: Phase, n_rows: int, layer: object = None) -> Tensor:
        """Return the mask of the positions to act on, `[batch, pos]`; there are `n_rows` of them in all.

        Args:
            positions: Which of them by content.
            phase: Which of them by age.
            n_rows: The number of positions of the whole batch in the activations at hand.
            layer: Who asks. A layer that asks twice in one call is computed again, as gradient checkpointing does.

        Raises:
            ValueError: The positions of the call are unknown.
        """
        ...


@dataclass(eq=False)
class _Call:
    """What the decoder calls of one thread say of where their columns stand."""

    tokens: Tensor | None = None
    """The token ids of the latest call, `[batch, pos]`."""
    whole: Tensor | None = None
    """Those that the model around the decoder was called with."""
    outer: Tensor | None = None
    """The mask of that call, which some models make another of before their decoder sees it (Gemma 3, PaliGemma)."""
    several: bool = False
    """Whether that call is to give several logits."""
    guesses: bool = False
    """Whether the call begins a generation and is to give several logits: its last tokens may be guesses."""
    prompt: Tensor | None = None
    """Those of the call that began the sequence; None before there was one."""
    last: Tensor | None = None
    """The column of each row's last prompt token, `[batch]`; None where that is the prompt's last column."""
    mask: Tensor | None = None
    """True at tokens, false at padding, `[batch, pos]`; None where nobody tells."""
    opaque: bool = False
    """Whether the model was called with a mask that does not tell padding from tokens."""
    numbers: Tensor | None = None
    """The `position_ids` that the call was made with."""
    cached: int | None = None
    """The number of columns in the cache that the call was made with; None without a cache."""
    start: int = 0
    end: int = 0
    settled: bool = True
    unclear: str = ""
    """Why nobody can tell where the prompt ends; empty where it can be told."""
    asked: set[object] = field(default_factory=set)
    """The layers that this call has reached."""
    pending: bool = False
    """Whether a backward pass may compute the layers of a call again."""
    moved_on: bool = False
    """Whether there was another call since then."""
    replayed: bool = False


class Sequence:
    """The columns that the current decoder call computes, counted from the first token of the sequence.

    Columns mean the same with a key-value cache, where a call computes only the new ones, and without. They
    are columns of the padded batch: left padding shifts no column. The prompt is what the first call of a generation
    computes. A call without a cache that repeats the prompt's tokens and is one longer than the call before it
    continues that generation, unless the sequence is an encoder's, which never `grows`: so of prompts that are read
    without a cache and grow by a token, each needs a `with` of its own.

    The cache is whatever argument of the call tells how many columns it holds, whatever its name. Mask and position
    numbers are compared with that; a call on which they contradict it has no known offset. Each thread that runs the
    model has a sequence of its own.
    """

    def __init__(self, image_token: int | None, *, grows: bool = True) -> None:
        self.image_token, self.grows = image_token, grows
        self._calls: dict[int, _Call] = {}

    def saw_model(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Take note of the token ids of the whole model: some embed padding in place of image tokens (Gemma 4)."""
        call = self._calls.setdefault(threading.get_ident(), _Call())
        call.whole = _if_matrix(named.get("input_ids", given[0] if given else None))
        if isinstance(mask := named.get("attention_mask"), Tensor):
            call.outer = mask
        call.several = call.several or (isinstance(kept := named.get("logits_to_keep"), int) and kept > 1)

    def saw_tokens(self, tokens: Tensor) -> None:
        """Take note of the token ids of a call, `[batch, pos]`; the codes of pictures, a mere list, are no sequence."""
        if tokens.ndim == 2:
            call = self._calls.setdefault(threading.get_ident(), _Call())
            if call.whole is not None and call.whole.shape == tokens.shape:
                tokens = call.whole.to(tokens.device)
            call.tokens, call.settled = tokens, False

    def saw_call(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Take note of the arguments of a decoder call."""
        call = self._calls.setdefault(threading.get_ident(), _Call())
        if call.settled:
            # Tokens that an earlier call has used up say nothing of a call with embeddings of its own.
            call.tokens = None
        if isinstance(tokens := named.get("input_ids"), Tensor):
            # Encoders and decoders may have an embedding of their own beside the one that the model names.
            self.saw_tokens(tokens)
        call.cached = _cached_columns([*given, *named.values()])
        own, width = _if_matrix(named.get("attention_mask")), 0 if call.tokens is None else call.tokens.shape[1]
        call.mask = own
        if own is None and call.outer is not None and call.outer.shape[-1] == width + (call.cached or 0):
            call.mask = _if_matrix(call.outer)
        # With a static cache `generate` makes such a mask of its own, of prompts that are padded on the left.
        call.opaque = own is None and call.outer is not None and call.outer.ndim != 2 and call.cached is None
        call.guesses, call.several = call.cached == 0 and call.several, False
        call.whole = call.outer = None
        call.numbers = named.get("position_ids")
        if call.replayed:
            call.pending = call.moved_on = call.replayed = False
        call.moved_on = call.moved_on or call.pending
        call.pending = call.pending or torch.is_grad_enabled()
        call.asked.clear()

    def where(self, positions: Positions, phase: Phase, n_rows: int, layer: object = None) -> Tensor:
        """Return the mask of the positions to act on: `[batch, pos]`; see `Span.where`.

        Raises:
            ValueError: The call was not made with token ids, or on a cache that was filled before the edit, or nothing
                tells where its columns stand, so that its positions are unknown.
        """
        call = self._current()
        tokens = _expand(call.tokens, n_rows)
        self._settle(call, tokens)
        _note(call, layer)
        if call.prompt is None:
            raise ValueError(
                f"the cache held {call.start} columns before the edit began: edits by position need the whole "
                "generation, from its prompt on, inside `with`"
            )
        if call.unclear and (positions in ("last", "image_end") or phase != "both"):
            raise ValueError(
                f"{call.unclear}, so that the prompt's end is unknown: generate without that, or edit at `positions` "
                "all, image or text in phase both"
            )
        if positions == "last" and call.opaque and tokens.shape[0] > 1:
            raise ValueError(
                "the model was called with a mask that does not tell padding from tokens, so that a row's last token "
                "is unknown: call it with a mask of `[batch, pos]`, or edit at other positions"
            )
        columns = torch.arange(call.start, call.end, device=tokens.device).expand_as(tokens)
        n_prompt = call.prompt.shape[1]
        if positions == "all":
            mask = columns >= 0
        elif positions == "last":
            mask = columns >= (n_prompt - 1 if call.last is None else call.last[:, None])
        else:
            no_image = torch.zeros_like(tokens, dtype=torch.bool)
            images = no_image if self.image_token is None else tokens == self.image_token
            if positions == "image_end":
                begun = call.start == n_prompt and self.image_token is not None
                mask = behind_pictures(images, call.prompt[:, -1:] == self.image_token if begun else False)
            else:
                mask = images if positions == "image" else ~images
        if phase == "prefill":
            return mask & (columns < n_prompt)
        return mask & (columns >= n_prompt) if phase == "decode" else mask

    def _current(self) -> _Call:
        """Return the call that this thread is in; a backward pass, in a thread of its own, repeats the only one."""
        mine = self._calls.get(threading.get_ident())
        if mine is not None:
            return mine
        if len(self._calls) > 1:
            raise ValueError(
                f"{len(self._calls)} threads ran the model, and another computes its layers again: whose positions "
                "these are is unknown; edit at all positions, or use one thread"
            )
        return next(iter(self._calls.values()), _Call())

    def _settle(self, call: _Call, tokens: Tensor) -> None:
        """Decide once for each call whether it starts a new sequence."""
        if call.settled:
            return
        call.settled, call.start = True, call.cached or 0
        contradiction = self._contradiction(call, tokens)
        if call.start == 0 and not contradiction and not self._continues(call, tokens):
            call.prompt, call.last = tokens, _last_valid(call.mask)
            call.unclear = _packed(call.numbers, call.mask) or GUESSES * call.guesses
        elif contradiction:
            call.unclear = contradiction
            call.prompt = tokens if call.prompt is None and not call.start else call.prompt
        elif call.start and (tokens.shape[1] > 1 or call.start < call.end):
            call.unclear = (
                f"the model was called with {tokens.shape[1]} columns behind {call.start} cached ones: guesses "
                "(assisted decoding, prompt lookup) or a prompt in parts"
            )
        call.end = call.start + tokens.shape[1]

    def _contradiction(self, call: _Call, tokens: Tensor) -> str:
        """Return what speaks against the call's columns beginning at `call.start`; empty if nothing does."""
        n, masked = tokens.shape[1], None if call.mask is None else call.mask.shape[1]
        behind = f"behind {call.start} cached ones" if call.cached is not None else "without a cache"
        if masked is not None and masked != call.start + n:
            return f"the model was called with {n} columns {behind} and a mask of {masked}"
        if call.cached is not None:
            return ""
        told = call.mask is not None or isinstance(call.numbers, Tensor)
        # Some models, such as PaliGemma, count from 1.
        if isinstance(call.numbers, Tensor) and call.numbers.numel() and (first := int(call.numbers.min())) > 1:
            return f"the model was called with {n} columns {behind} whose positions begin at {first}"
        if self.grows and n == 1 and call.end > 1 and not told:
            return f"the model was called with 1 column {behind}, a mask or positions, after a call of {call.end}"
        return ""

    def _continues(self, call: _Call, tokens: Tensor) -> bool:
        prompt = call.prompt
        if (
            not self.grows
            or call.cached is not None
            or prompt is None
            or tokens.shape[0] != prompt.shape[0]
            or tokens.shape[1] != call.end + 1
        ):
            return False
        return torch.equal(tokens[:, : prompt.shape[1]], prompt)


class Written:
    """The columns of a decoder behind its encoder: all of them are generated text."""

    def where(self, positions: Positions, phase: Phase, n_rows: int, layer: object = None) -> Tensor:
        """Return the mask of the positions to act on: `[1, n_rows]`."""
        return torch.full((1, n_rows), not positions.startswith("image") and phase != "prefill")


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
def following(module: nn.Module, image_token: int | None, *, this_thread_only: bool = False) -> Iterator[Columns]:
    """Yield the columns, up to date whenever a block of the language model runs.

    Args:
        module: The model, called with token ids.
        image_token: The id of the image token in the input; None when there is none.
        this_thread_only: Whether calls in other threads are left alone.
    """
    embedding = embedding_path(module)
    if embedding is None:
        raise LookupError(f"{type(module).__name__} has no token embedding, so positions cannot be told; use `all`")
    *encoder, decoder = language_paths(module)
    two = bool(encoder) and "encoder" in encoder[0].split(".") and "decoder" in decoder.split(".")
    read, reader = Sequence(image_token, grows=not two), encoder[0] if two else decoder
    parts = reader.split(".")
    around = [".".join(parts[:end]) for end in range(len(parts))]
    calls: list[tuple[str, Callable[..., None]]] = [(path, read.saw_model) for path in around]
    calls += [(embedding, lambda args, kwargs: read.saw_tokens(args[0])), (reader, read.saw_call)]
    with ExitStack() as watched:
        for path, see in calls:
            watched.enter_context(before(module, path, see, this_thread_only=this_thread_only))
        yield Columns({reader: read, decoder: Written()} if two else {decoder: read})


def _cached_columns(values: Iterable[Any]) -> int | None:
    """Return how many columns the key-value cache among the arguments of a call holds; None where there is none.

    A cache is known by what it does: it tells its length (`get_seq_length`), as every `Cache` of transformers does.

    Raises:
        ValueError: There are several, of different lengths.
    """
    lengths = {int(one.get_seq_length()) for one in values if callable(getattr(one, "get_seq_length", None))}
    if len(lengths) > 1:
        raise ValueError(f"the model was called with caches of {sorted(lengths)} columns: edit at all positions")
    return next(iter(lengths), None)


def _expand(seen: Tensor | None, n_rows: int) -> Tensor:
    """Return the tokens of a call, a row for each of its beams where the model embedded them only once."""
    if seen is not None and seen.numel() and n_rows % seen.numel() == 0:
        return seen.repeat_interleave(n_rows // seen.numel(), dim=0)
    found = "no tokens" if seen is None else f"{seen.numel()} tokens"
    raise ValueError(
        f"the decoder runs on {n_rows} positions and the embedding saw {found}: edits by position need "
        "a model that is called with token ids"
    )


def _note(call: _Call, layer: object) -> None:
    """Take note that a layer computes; one that computes again in a backward pass must belong to this very call."""
    if layer is None:
        return
    if layer in call.asked:
        call.replayed = True
        if call.moved_on:
            raise ValueError(
                "a layer is computed again (gradient checkpointing) after the model was called once more, so that its "
                "positions are unknown: call `backward` after each call, and what needs no gradient in `no_grad`"
            )
    call.asked.add(layer)


def _packed(numbers: Any, mask: Tensor | None) -> str:
    """Return why a row may hold more than one sequence, as its position numbers fall; empty where they do not."""
    # Qwen-VL and its kin number the columns along several axes, time first.
    counted = _if_matrix(numbers[0] if isinstance(numbers, Tensor) and numbers.ndim == 3 else numbers)
    if counted is None or counted.shape[1] < 2:
        return ""
    falls = counted[:, 1:] < counted[:, :-1]
    if mask is not None:
        falls = falls & mask[:, 1:].bool() & mask[:, :-1].bool()
    return "the positions begin anew within a row, as where sequences are packed into one" if bool(falls.any()) else ""


def _if_matrix(value: Any) -> Tensor | None:
    return value if isinstance(value, Tensor) and value.ndim == 2 else None


def _last_valid(mask: Tensor | None) -> Tensor | None:
    """Return the last unpadded column of each row, or None where every row ends with a token."""
    if mask is None or bool(mask[:, -1].all()):
        return None
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
