"""What EleutherAI's unmodified code returns for a small GPT-2 and a small BERT, and the two models."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent / "fixtures" / "knowledge_neurons_tiny"


@cache
def golden_model(name: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    kind = AutoModelForCausalLM if name == "gpt2" else AutoModelForMaskedLM
    return kind.from_pretrained(GOLDEN / name).eval().requires_grad_(False)


@cache
def meta(name: str) -> dict[str, Any]:
    found = json.loads((GOLDEN / "meta.json").read_text())[name]
    assert isinstance(found, dict)
    return found


@cache
def expected() -> dict[str, Tensor]:
    return load_file(GOLDEN / "expected.safetensors")


def reference(name: str, names: Sequence[object]) -> Tensor:
    return torch.stack([expected()[f"{name}.ig20.{one}"] for one in names])
