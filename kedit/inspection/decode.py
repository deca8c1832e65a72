"""What neurons write, in words: their value vectors through the model's own final norm and output matrix."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kedit.internals.unembedding import Unembedding
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Concept

AT_ONCE = 128
"""Neurons whose logits over all words are held at once."""


@dataclass(frozen=True)
class Decoded:
    """A neuron and the words it speaks for, the strongest first."""

    neuron: NeuronId
    words: tuple[str, ...]
    """Those whose logits it raises most when it fires, through the final norm."""
    raw: tuple[str, ...]
    """The same without the norm (Pan et al. 2023)."""
    opposite: tuple[str, ...]
    """Those that it raises most, through the norm, with an activation of the other sign."""
    below: bool = False
    """Whether it fires below zero: the words are those of its negated value vector."""

    def names(self, concept: Concept) -> bool:
        """Return whether one of the words that it raises is a word for `concept`."""
        return any(concept.mentioned_in(word) for word in self.words)

    def to_json(self) -> dict[str, object]:
        """Return the decoding as plain data."""
        directions = {"words": self.words, "raw": self.raw, "opposite": self.opposite}
        return {"layer": self.neuron.layer, "index": self.neuron.index, "fires": self.fires} | {
            name: list(words) for name, words in directions.items()
        }

    @property
    def fires(self) -> str:
        """On which side of zero it fires."""
        return side(self.below)


def side(below: bool) -> str:
    """Return on which side of zero a neuron fires, in words."""
    return "below zero" if below else "above zero"


@torch.no_grad()
def decode(model: MLLM, neurons: NeuronSet, k: int = 10, below: Collection[NeuronId] = ()) -> list[Decoded]:
    """Return the `k` strongest words of each neuron, in the order of the set.

    A value vector is the column of the output projection that a neuron's activation multiplies, so the words of those
    that fire `below` zero are the ones of the negated column. At `act` and `pre` in a gated block the gate's partner
    still scales it, which changes no ranking but may change its sign.

    Raises:
        ValueError: `k` is not positive, or the neurons are outside the language model.
        UnembeddingError: The model has no output matrix.
    """
    if k < 1:
        raise ValueError(f"`k` is a number of words, 1 or more, got {k}")
    if not neurons:
        return []
    if neurons.scope != "language":
        raise ValueError(f"neurons of scope `{neurons.scope}` do not write into the stream that becomes words")
    unembedding, site = Unembedding.of(model.module), model.site(neurons.site)
    ids, decoded = list(neurons), list[Decoded]()
    for some in (ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)):
        signed = [site.value_vector(model.module, one) * (-1 if one in below else 1) for one in some]
        vectors = torch.stack(signed).to(unembedding.weight.device)
        told = {
            "words": unembedding.logits(vectors),
            "raw": unembedding.logits(vectors, raw=True),
            "opposite": unembedding.logits(-vectors),
        }
        listed = {name: _strongest(model, logits, k) for name, logits in told.items()}
        decoded += [
            Decoded(one, **{name: words[number] for name, words in listed.items()}, below=one in below)
            for number, one in enumerate(some)
        ]
    return decoded


@torch.no_grad()
def strongest_words(model: MLLM, neurons: NeuronSet, k: int) -> dict[NeuronId, tuple[str, ...]]:
    """Return the `k` words that each neuron raises most, through the final norm: `Decoded.words` alone, on one line.

    Raises:
        ValueError: The neurons are outside the language model.
        UnembeddingError: The model has no output matrix.
    """
    if neurons.scope != "language":
        raise ValueError(f"neurons of scope `{neurons.scope}` do not write into the stream that becomes words")
    unembedding, site, ids = Unembedding.of(model.module), model.site(neurons.site), list(neurons)
    words: dict[NeuronId, tuple[str, ...]] = {}
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        vectors = torch.stack([site.value_vector(model.module, one) for one in some]).to(unembedding.weight.device)
        listed = _strongest(model, unembedding.logits(vectors), k)
        words |= {one: tuple(map(_on_one_line, row)) for one, row in zip(some, listed, strict=True)}
    return words


@torch.no_grad()
def mean_words(model: MLLM, neurons: NeuronSet, k: int = 4) -> tuple[str, ...]:
    """Return the `k` words that the mean of the neurons' value vectors raises most, without the final norm.

    NAM's semantic relevance (Fang et al., NeurIPS 2024): the words of U w, averaged over the neurons.

    Raises:
        ValueError: There is no neuron.
        UnembeddingError: The model has no output matrix.
    """
    if not neurons:
        raise ValueError("no neuron, so nothing that it would say")
    unembedding, site = Unembedding.of(model.module), model.site(neurons.site)
    mean = torch.stack([site.value_vector(model.module, one) for one in neurons]).float().mean(0, keepdim=True)
    (words,) = _strongest(model, unembedding.logits(mean.to(unembedding.weight.device), raw=True), k)
    return tuple(map(_on_one_line, words))


def _on_one_line(word: str) -> str:
    """Return a token's text without the space around it; what is no word is quoted, and written out."""
    plain = word.strip()
    return plain if plain.isprintable() and any(map(str.isalnum, plain)) else repr(word)


def _strongest(model: MLLM, logits: Tensor, k: int) -> list[tuple[str, ...]]:
    best = logits.topk(min(k, logits.shape[-1]), dim=-1).indices.tolist()
    return [tuple(model.words(row)) for row in best]


def decoding_rows(decoded: Sequence[Decoded], shown: int = 6) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and the rows of a table of `decoded`, with the `shown` strongest words in each direction."""
    header = ("layer", "neuron", "fires", "words", "raw", "opposite direction")
    rows = [
        (*map(str, one.neuron), one.fires, *(", ".join(some[:shown]) for some in (one.words, one.raw, one.opposite)))
        for one in decoded
    ]
    return header, rows
