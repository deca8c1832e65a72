"""Contextual embeddings of texts, for BERTScore."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedit.internals.wrappers import evaluating
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.passes import declares, input_device
from kedit.models.prompting import reader
from kedit.models.sequences import architecture

KNOWN_BYTES = 1 << 28
"""How much of what it has encoded an encoder keeps for the next time that it is asked."""

READ_AT_ONCE = 16
"""How many texts an encoder reads in a pass."""


@dataclass(frozen=True, eq=False)
class OwnLayers:
    """The layers of a model's own language model, for models too small a world for a pretrained encoder."""

    model: HuggingFaceMLLM
    layer: int = -1
    """Which hidden state; -1 is the last one."""
    _known: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What reports call the encoder."""
        return f"{self.model.name}, hidden state {self.layer} of its language model"

    @property
    def specials(self) -> tuple[int, int]:
        """How many special tokens open and close each text."""
        return _specials(self.model.tokenizer)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Return one `[token, width]` for each text, special tokens included; one that was encoded before is free."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = _encode(self.model.module, self.model.tokenizer, new, self.layer)
        known = self._known | dict(zip(new, found, strict=True))
        size = sum(one.nbytes for one in known.values())
        self._known.clear()
        self._known.update(known if size <= KNOWN_BYTES else {})
        return [known[text] for text in texts]


@dataclass(frozen=True)
class FolderEncoder:
    """An encoder such as BERT from a local folder."""

    path: str
    layer: int

    def __post_init__(self) -> None:
        if not Path(self.path).is_dir():
            raise FileNotFoundError(f"no encoder folder `{self.path}` for BERTScore")

    @property
    def name(self) -> str:
        """What reports call the encoder."""
        return f"{Path(self.path).name}, hidden state {self.layer}"

    @property
    def specials(self) -> tuple[int, int]:
        """How many special tokens open and close each text."""
        return _specials(self._loaded[1])

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        module = AutoModel.from_pretrained(self.path, local_files_only=True).eval()
        return module, AutoTokenizer.from_pretrained(self.path, local_files_only=True)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Return one `[token, width]` for each text, special tokens included."""
        module, tokenizer = self._loaded
        return _encode(module, tokenizer, texts, self.layer)


def _encode(module: Any, tokenizer: Any, texts: Sequence[str], layer: int) -> list[Tensor]:
    """Return one `[token, width]` for each text; those of as many tokens are read together, so that none is padded."""
    by_length: dict[int, list[str]] = {}
    for text in dict.fromkeys(texts):
        by_length.setdefault(len(tokenizer(text, truncation=True).input_ids), []).append(text)
    encoded: dict[str, Tensor] = {}
    for alike in by_length.values():
        for start in range(0, len(alike), READ_AT_ONCE):
            chunk = alike[start : start + READ_AT_ONCE]
            inputs = tokenizer(chunk, return_tensors="pt", truncation=True).to(input_device(module))
            read = reader(module, inputs)
            if architecture(read) == "encoder-decoder":
                read = read.get_encoder()
            how = {"logits_to_keep": 1} if declares(read, "logits_to_keep") else {}
            with evaluating(module):
                states = read(**inputs, **how, output_hidden_states=True).hidden_states
            encoded |= zip(chunk, states[layer].float().cpu(), strict=True)
    return [encoded[text] for text in texts]


def _specials(tokenizer: Any) -> tuple[int, int]:
    marked = tokenizer("a", return_special_tokens_mask=True).special_tokens_mask
    word = marked.index(0)
    return word, sum(marked) - word
