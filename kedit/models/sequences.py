"""A batch of prompts and the first tokens of their answers, as the inputs of one call."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Architecture = Literal["decoder", "encoder-decoder", "encoder"]
"""Where an answer stands: behind its prompt, in a sequence of its own, or in place of the prompt's masks."""
LEARNED_POSITIONS = re.compile(r"decoder\.(.+\.)?(embed_positions|position_embeddings?|wpe)$")
"""What makes a decoder's columns absolute: shifted by padding on the left they mean something else."""


def architecture(module: nn.Module) -> Architecture:
    """Return how `module` writes, as its configuration and its class say."""
    described = getattr(module, "config", None)
    text = getattr(described, "text_config", None)
    if getattr(described, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        return "encoder-decoder"
    return "decoder" if hasattr(module, "generate") else "encoder"


def onward(
    encoded: Mapping[str, Tensor], prefixes: Sequence[tuple[int, ...]], pad: int, *, answer_type: int = 0
) -> dict[str, Tensor]:
    """Return the inputs with each prefix behind its prompt, padded on the left: the last column predicts.

    `answer_type` is what the model's token types say of an answer.
    """
    inputs, mask = dict(encoded), encoded["attention_mask"]
    # A sound may happen to have as many frames as its prompt has tokens.
    for key in [key for key, value in inputs.items() if value.shape == mask.shape and "feature" not in key]:
        old = inputs[key]
        rows = [
            [*row[keep.bool()].tolist(), *_tail(key, prefix, answer_type)]
            for row, keep, prefix in zip(old, mask, prefixes, strict=True)
        ]
        inputs[key] = _padded(rows, pad if key == "input_ids" else 0, old)
    return inputs


def apart(
    encoded: Mapping[str, Tensor], prefixes: Sequence[tuple[int, ...]], start: int, pad: int
) -> dict[str, Tensor]:
    """Return the encoder's inputs, and the decoder's: its first token and each prefix, padded on the left."""
    like = encoded["input_ids"]
    rows = [[start, *prefix] for prefix in prefixes]
    said = {
        "decoder_input_ids": _padded(rows, pad, like),
        "decoder_attention_mask": _padded([[1] * len(row) for row in rows], 0, like),
    }
    return {**encoded, **said}


def filled(encoded: Mapping[str, Tensor], prefixes: Sequence[tuple[int, ...]], mask: int) -> dict[str, Tensor]:
    """Return the inputs with each prefix in place of the first masks of its prompt.

    Raises:
        ValueError: No mask is left in a prompt, so that nothing is predicted.
    """
    ids = encoded["input_ids"].clone()
    for number, (row, prefix) in enumerate(zip(ids, prefixes, strict=True)):
        places = (row == mask).nonzero()[:, 0]
        if len(places) <= len(prefix):
            raise ValueError(
                f"a masked language model predicts at a mask: prompt {number} has {len(places)} and an answer of "
                f"{len(prefix)} tokens is to be put there; write at least {len(prefix) + 1}"
            )
        row[places[: len(prefix)]] = torch.tensor(prefix, dtype=ids.dtype, device=ids.device)
    return {**encoded, "input_ids": ids}


def columns(mask: Tensor) -> Tensor:
    """Return the number of each token of its row, `[batch, pos]`, padding left out; at padding 0.

    Models with learned positions need them, and only their `generate` works them out.
    """
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def refuse_ragged(module: nn.Module, prefixes: Sequence[tuple[int, ...]], name: str) -> None:
    """Raise a ValueError where padding the answers would move them to other positions of the decoder."""
    lengths = sorted({len(prefix) for prefix in prefixes})
    learned = [path for path, _ in module.named_modules() if LEARNED_POSITIONS.search(path)]
    if len(lengths) > 1 and learned:
        raise ValueError(
            f"`{name}` learned its positions one by one (`{learned[0]}`), so that answers of {lengths[0]} to "
            f"{lengths[-1]} tokens cannot be padded to one length; read those of one length at a time"
        )


def refuse_two_sequences(module: nn.Module, name: str) -> None:
    """Raise a ValueError, before anything is run, for a model in whose neurons nothing can be located."""
    if architecture(module) == "encoder-decoder":
        raise ValueError(
            f"`{name}` ({type(module).__name__}) is an encoder-decoder, whose neurons cannot be located: those of the "
            "encoder see the prompt and those of the decoder the answer, so that no positions are common to all "
            "layers; edits of neurons that are known work"
        )


def _padded(rows: Sequence[Sequence[int]], filler: int, like: Tensor) -> Tensor:
    width = max(map(len, rows), default=0)
    padded = [[filler] * (width - len(row)) + list(row) for row in rows]
    return torch.tensor(padded, dtype=like.dtype, device=like.device)


def _tail(key: str, prefix: tuple[int, ...], answer_type: int) -> Iterable[int]:
    """Return what a per-token input holds at the prefix: its ids, or that they are an answer's plain text."""
    if key == "input_ids":
        return prefix
    return [{"attention_mask": 1, "token_type_ids": answer_type}.get(key, 0)] * len(prefix)
