"""An edit as an adapter of PEFT: a vector around each output projection (IA3), or a map of low rank beside it (LoRA).

IA3 multiplies what goes into a projection by a vector of ones, but for the edited neurons: exactly what the edit does.
LoRA adds B (A x): A picks the edited neurons, and B holds their columns times what the factor changes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kedit.edit.columns import Columns
from kedit.internals.weights import weight_of

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
BEFORE = "base_model.model"
"""What PEFT puts before the path of a module."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `max_lora_rank` of vLLM may be."""


def write_ia3(columns: Sequence[Columns], base: str | None, folder: Path) -> None:
    """Write an IA3 adapter into `folder`; the vectors are 32-bit, whatever the model is.

    Args:
        columns: What the edit does, none of it a constant.
        base: The folder or id of the model that it is for.
        folder: It is there.
    """
    # One expression that matches whole paths: a list would match every path that ends like one.
    paths = "|".join(re.escape(one.path) for one in columns)
    about = {"peft_type": "IA3", "target_modules": paths, "feedforward_modules": paths}
    _write(about | _common(columns, base), ia3_tensors(columns), folder)


def write_lora(columns: Sequence[Columns], module: nn.Module, base: str | None, folder: Path) -> None:
    """Write a LoRA adapter into `folder`, with a bias where the edit sets neurons to constants."""
    rank, biased = rank_of(columns), any(one.constants is not None for one in columns)
    about = {"peft_type": "LORA", "target_modules": [one.path for one in columns], "r": rank, "lora_alpha": rank}
    about |= {"lora_dropout": 0.0, "bias": "none", "lora_bias": biased}
    _write(about | _common(columns, base), lora_tensors(columns, module), folder)


def ia3_tensors(columns: Sequence[Columns]) -> dict[str, Tensor]:
    """Return the vector of each projection by its name in the file: `[1, d_ff]`."""
    vectors = {}
    for one in columns:
        vector = torch.ones(1, one.width)
        vector[0, one.indices] = one.factors
        vectors[f"{BEFORE}.{one.path}.ia3_l"] = vector
    return vectors


@torch.no_grad()
def lora_tensors(columns: Sequence[Columns], module: nn.Module) -> dict[str, Tensor]:
    """Return A `[rank, d_ff]`, B `[d_model, rank]` and perhaps B's bias `[d_model]` of each projection, 32-bit.

    A layer with fewer neurons than the rank has rows and columns of zeros, since servers take one rank alone.
    """
    rank, tensors = rank_of(columns), dict[str, Tensor]()
    for one in columns:
        at, k = f"{BEFORE}.{one.path}", len(one.indices)
        weight = weight_of(module.get_submodule(one.path), one.path).cpu()
        picked = weight[:, one.indices].float()
        down, up = torch.zeros(rank, one.width), torch.zeros(len(weight), rank)
        down[torch.arange(k), one.indices] = 1.0
        up[:, :k] = picked * (one.factors - 1.0)
        tensors |= {f"{at}.lora_A.weight": down, f"{at}.lora_B.weight": up}
        if one.constants is not None:
            tensors[f"{at}.lora_B.bias"] = picked @ one.constants
    return tensors


def rank_of(columns: Sequence[Columns]) -> int:
    """Return the rank that holds every layer's neurons: the most in one layer."""
    return max(len(one.indices) for one in columns)


def served_rank(rank: int) -> int | None:
    """Return the least `--max-lora-rank` of vLLM that takes a rank; None where none does."""
    return next((one for one in RANKS if one >= rank), None)


def _common(columns: Sequence[Columns], base: str | None) -> dict[str, Any]:
    transposed = any(one.transposed for one in columns)
    return {"base_model_name_or_path": base, "fan_in_fan_out": transposed, "inference_mode": True, "task_type": None}


def _write(about: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    (folder / CONFIG).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    save_file(dict(tensors), folder / TENSORS, metadata={"format": "pt"})
