"""The queries and keys of a language model's attention, seen without changing what it computes."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kedit.internals.sites import decoder_path

CAPTURE = "kedit_capture_"
"""What the name of an attention function begins with while it is watched; its own name follows."""


@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's queries and keys after the rotary embedding, each `[batch, head, pos, width]`."""

    query: Tensor
    key: Tensor
    scaling: float
    mask: Tensor | None = None
    """What the model hides, as its attention function got it: true or 0 where a query may look; None is causal."""
    softcap: float | None = None

    def rows(self, rows: slice) -> "Attention":
        """Return some of the samples."""
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[rows]
        return Attention(self.query[rows], self.key[rows], self.scaling, mask, self.softcap)

    def logits(self) -> Tensor:
        """Return query times key, scaled, for each head and without a mask: `[batch, head, pos, pos]`, 32-bit."""
        n_shared = self.query.shape[1] // self.key.shape[1]
        key = self.key.repeat_interleave(n_shared, dim=1)
        scaled = self.query.float() @ key.float().transpose(-1, -2) * self.scaling
        return scaled if self.softcap is None else (scaled / self.softcap).tanh() * self.softcap

    def allowed(self) -> Tensor:
        """Return which query (a row) may look at which key: `[batch or 1, 1, pos, pos]`."""
        n_positions = self.query.shape[2]
        causal = torch.ones(1, 1, n_positions, n_positions, dtype=torch.bool, device=self.query.device).tril()
        if self.mask is None:
            return causal
        if self.mask.ndim == 2:
            return causal & self.mask[:, None, None, :n_positions].bool()
        mask = self.mask[..., :n_positions]
        return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


@dataclass(frozen=True, eq=False)
class _Watch:
    """Whose attention is seen, and what was seen of it, by layer."""

    owners: frozenset[nn.Module]
    seen: dict[int, Attention] = field(default_factory=dict)


class _Watches(threading.local):
    """Who watches in this thread; others run the model unseen."""

    def __init__(self) -> None:
        self.open: list[_Watch] = []


@dataclass
class _Held:
    """A configuration whose attention function is watched."""

    settings: Any
    before: str
    n_watches: int = 0


_watches = _Watches()
_held: dict[int, _Held] = {}
_lock = threading.Lock()


@contextmanager
def attending(module: nn.Module) -> Iterator[dict[int, Attention]]:
    """Yield a dict that each layer's queries and keys are put into as the language model runs in this thread.

    Works for every model whose attention goes through transformers' attention functions; the dict stays empty for
    others. The function that the model is configured with still does the work, so that the logits are unchanged to the
    bit. Watches nest, and several threads may watch one model.

    Raises:
        LookupError: The model does not say which attention function it uses.
    """
    stack = module.get_submodule(decoder_path(module))
    owners = frozenset(stack.modules())
    settings = {id(one): one for one in (getattr(owner, "config", None) for owner in owners) if implementation(one)}
    if not settings:
        raise LookupError(
            f"{type(stack).__name__} does not say how its attention is implemented (its configuration has no "
            "`_attn_implementation`); use what needs no attention scores"
        )
    watch = _Watch(owners)
    with ExitStack() as held:
        for one in settings.values():
            held.enter_context(_redirected(one))
        _watches.open.append(watch)
        try:
            yield watch.seen
        finally:
            _watches.open.remove(watch)


@contextmanager
def _redirected(settings: Any) -> Iterator[None]:
    """Let a configuration name our attention function until the last of those who ask for it has left."""
    key = id(settings)
    with _lock:
        # A copy of a model that was made while it was watched still names our function.
        held = _held.setdefault(key, _Held(settings, settings._attn_implementation.removeprefix(CAPTURE)))
        held.n_watches += 1
        if held.n_watches == 1:
            # A dict with the empty key alone leaves the configurations inside this one as they are.
            settings._attn_implementation = {"": _registered(held.before)}
    try:
        yield
    finally:
        with _lock:
            held.n_watches -= 1
            if not held.n_watches:
                del _held[key]
                if settings._attn_implementation == CAPTURE + held.before:
                    settings._attn_implementation = {"": held.before}


def _registered(before: str) -> str:
    """Make transformers know a function that watches the one called `before`; return its name.

    It stays known, so that a copy of a model made meanwhile runs on. It holds a name and no model.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    name, masks = CAPTURE + before, AttentionMaskInterface()
    AttentionInterface.register(name, partial(_attend, before))
    if before in masks:
        AttentionMaskInterface.register(name, masks[before])
    return name


def _attend(
    before: str, layer: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *rest: Any, **options: Any
) -> Any:
    """Show the call to who watches the layer, and let the function called `before` do it."""
    number = getattr(layer, "layer_idx", None)
    for watch in _watches.open:
        if layer in watch.owners and number is not None and query.shape[2] == key.shape[2]:
            scaling = options.get("scaling")
            watch.seen[int(number)] = Attention(
                query.detach(),
                key.detach(),
                query.shape[-1] ** -0.5 if scaling is None else float(scaling),
                mask.detach() if isinstance(mask, Tensor) else None,
                options.get("softcap"),
            )
    return _function(layer, before)(layer, query, key, value, mask, *rest, **options)


def implementation(settings: Any) -> str | None:
    """Return the name of the attention function that a configuration asks for, if it does."""
    found = getattr(settings, "_attn_implementation", None)
    return found if isinstance(found, str) else None


def _function(layer: nn.Module, name: str) -> Callable[..., Any]:
    """Return the attention function called `name`; the eager one lives beside the layer's class."""
    from transformers import AttentionInterface

    eager: Any = getattr(sys.modules[type(layer).__module__], "eager_attention_forward", None)
    found: Callable[..., Any] = AttentionInterface().get_interface(name, eager)
    return found
