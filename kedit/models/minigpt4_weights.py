"""What the weights of MiniGPT-4's original files are called in its module of kedit."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]

IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.projection",
    "attn.qkv": "self_attn.qkv",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
QFORMER = "Qformer.bert."


class Placed(NamedTuple):
    """One weight: its name in the module, the file it is from, its name there, and itself."""

    key: str
    part: str
    source: str
    value: Tensor

    def misfit(self, expected: Mapping[str, torch.Size]) -> str:
        """Return what is wrong with it, in words."""
        found = f"`{self.source}` of `{self.part}` is {list(self.value.shape)}"
        if self.key not in expected:
            return f"{found}, and the model has no place for it"
        return f"{found}, expected {list(expected[self.key])}"


def home(key: str) -> str:
    """Return which file should hold the weight called `key` in the module."""
    if key.startswith("language_projection"):
        return "checkpoint"
    in_vision = key.startswith("vision_model.") and not key.startswith("vision_model.post_layernorm")
    return "vision" if in_vision else "qformer"


def vision_weights(weights: Weights, n_blocks: int) -> Iterator[Placed]:
    """Yield the weights of the first `n_blocks` blocks of EVA-ViT and of what lies before them."""
    top = {
        "cls_token": "embeddings.class_embedding",
        "pos_embed": "embeddings.position_embedding",
        "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
        "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    }
    names = {old: f"vision_model.{new}" for old, new in top.items()}
    for number in range(n_blocks):
        old_block, new_block = f"blocks.{number}.", f"vision_model.encoder.layers.{number}."
        names |= {
            f"{old_block}{old}.{one}": f"{new_block}{new}.{one}"
            for old, new in IN_BLOCK.items() for one in ("weight", "bias")
        }  # fmt: skip
        query, value = (weights.get(f"{old_block}attn.{one}_bias") for one in "qv")
        if query is not None and value is not None:
            # The keys have no bias: it would add the same to all of a query's attention.
            whole = torch.cat([query, torch.zeros_like(query), value])
            yield Placed(f"{new_block}self_attn.qkv.bias", "vision", f"{old_block}attn.q_bias", whole)
    yield from (Placed(new, "vision", old, weights[old]) for old, new in names.items() if old in weights)


def qformer_weights(weights: Weights) -> Iterator[Placed]:
    """Yield the queries, the norm after the vision tower, and the Q-Former's weights."""
    yield Placed("query_tokens", "qformer", "query_tokens", weights["query_tokens"])
    starts = {
        "ln_vision.": "vision_model.post_layernorm.",
        f"{QFORMER}embeddings.LayerNorm.": "qformer.layernorm.",
        f"{QFORMER}encoder.": "qformer.encoder.",
    }
    for old, value in weights.items():
        # A layer's `intermediate` and `output`, which read text in BLIP-2's first stage, are not used here.
        if re.match(rf"{re.escape(QFORMER)}encoder\.layer\.\d+\.(intermediate|output)\.", old):
            continue
        for start, new in starts.items():
            if old.startswith(start):
                key = new + old.removeprefix(start).replace("attention.self.", "attention.attention.")
                yield Placed(key, "qformer", old, value)
