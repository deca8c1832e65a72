"""The queries and keys of a language model's attention, seen without changing what it computes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kedit.sites import decoder_path

CAPTURE = "kedit_capture"


@dataclass(frozen=True, eq=False)
class Attention:
    """One layer's queries and keys after the rotary embedding, each `[batch, head, pos, width]`."""

    query: Tensor
    key: Tensor
    scaling: float

    def rows(self, rows: slice) -> "Attention":
        """Return some of the samples."""
        return Attention(self.query[rows], self.key[rows], self.scaling)

    def logits(self) -> Tensor:
        """Return query times key, scaled, for each head: `[batch, head, pos, pos]`, 32-bit."""
        n_shared = self.query.shape[1] // self.key.shape[1]
        key = self.key.repeat_interleave(n_shared, dim=1)
        return self.query.float() @ key.float().transpose(-1, -2) * self.scaling


@contextmanager
def attending(module: nn.Module) -> Iterator[dict[int, Attention]]:
    """Yield a dict that each layer's queries and keys are put into as the language model runs.

    Works for every model whose attention goes through transformers' attention functions. The function that the
    model is configured with still does the work, so that the logits are unchanged to the bit.

    Raises:
        LookupError: The attention does not go through those functions.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    stack = module.get_submodule(decoder_path(module))
    config = getattr(stack, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if config is None or before is None:
        raise LookupError(f"{type(stack).__name__} does not say how its attention is implemented")
    own = set(stack.modules())
    seen: dict[int, Attention] = {}

    def capture(layer: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
        if layer in own:
            width = query.shape[-1]
            scaling = options.get("scaling")
            seen[int(layer.layer_idx)] = Attention(
                query.detach(), key.detach(), width**-0.5 if scaling is None else float(scaling)
            )
        return _function(layer, before)(layer, query, key, value, mask, **options)

    AttentionInterface.register(CAPTURE, capture)
    AttentionMaskInterface.register(CAPTURE, AttentionMaskInterface()[before])
    config._attn_implementation = CAPTURE
    try:
        yield seen
    finally:
        config._attn_implementation = before


def _function(layer: nn.Module, name: str) -> Callable[..., Any]:
    """Return the attention function called `name`; the eager one lives beside the layer's class."""
    from transformers import AttentionInterface

    known = AttentionInterface()
    home = sys.modules[type(layer).__module__]
    found: Callable[..., Any] = known[name] if name in known.keys() else home.eager_attention_forward  # noqa: SIM118, SIM401
    return found
