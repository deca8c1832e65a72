"""The words that each neuron raises and lowers most, over the whole vocabulary: two index tables of a model.

They cost one product of the output matrix and the value vectors of a layer, and depend on the model alone. Who knows
which model it is keeps them for later (`keeping`); locating itself knows no store.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from kedit.internals.unembedding import FinalNorm, Unembedding

ENTRIES_AT_ONCE = 1 << 26
"""How many products of a word and a neuron are in memory at a time."""

Keep = Callable[[Mapping[str, Any], Callable[[], bytes]], bytes]
"""Returns what was kept under a description in JSON's terms, or what the function makes, which is kept."""


def make_anew(_: Mapping[str, Any], make: Callable[[], bytes]) -> bytes:
    """Keep nothing."""
    return make()


def in_memory() -> Keep:
    """Return what keeps the tables of one model for as long as it lives."""
    held: dict[str, bytes] = {}

    def keep(about: Mapping[str, Any], make: Callable[[], bytes]) -> bytes:
        key = json.dumps(about, sort_keys=True)
        if key not in held:
            held[key] = make()
        return held[key]

    return keep


_keep: ContextVar[Keep] = ContextVar("keep", default=make_anew)
"""What the scorers that run now keep their tables in."""


@contextmanager
def keeping(keep: Keep) -> Iterator[None]:
    """Let scorers find the tables of a model in `keep`, which must be of this model alone, while this lasts."""
    token = _keep.set(keep)
    try:
        yield
    finally:
        _keep.reset(token)


@torch.no_grad()
def strongest_words(unembedding: Unembedding, values: Tensor, norm: FinalNorm = "none") -> Tensor:
    """Return the token that each neuron raises most, and the one that it lowers most: `[2, neuron]`, on the CPU.

    A neuron's strongest word, argmax over p of `a * (U_p . w)` (Fang et al., NeurIPS 2024, equation 7), is the first
    for an activation above zero and the second for one below. Of words with the same product the first counts.

    Args:
        unembedding: The output matrix, all of whose rows are the vocabulary.
        values: The value vectors w of a layer, `[neuron, d_model]`, 32-bit.
        norm: What of the final norm a word's direction is weighed with.
    """
    n_words, n_neurons = len(unembedding.weight), len(values)
    best = values.new_full((2, n_neurons), -torch.inf)
    tokens = torch.zeros(2, n_neurons, dtype=torch.long, device=values.device)
    step = max(1, ENTRIES_AT_ONCE // n_neurons)
    for start in range(0, n_words, step):
        some = range(start, min(start + step, n_words))
        raised = unembedding.directions(some, norm).to(values.device) @ values.T
        most, least = raised.max(0), raised.min(0)
        highest = torch.stack([most.values, -least.values])
        places = torch.stack([most.indices, least.indices])
        tokens = torch.where(highest > best, places + start, tokens)
        best = torch.maximum(highest, best)
    return tokens.cpu()


def kept_words(about: Mapping[str, Any], make: Callable[[], Tensor]) -> Tensor:
    """Return the tables of a layer, `[2, neuron]`, as `keeping` knows them, or made."""
    from safetensors.torch import load, save

    content = _keep.get()(about, lambda: save({"words": make().to(torch.int32)}))
    return load(content)["words"].long()
