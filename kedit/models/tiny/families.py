"""The families that a tiny model can be built of, and the one way to build it."""

from difflib import get_close_matches
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from kedit.models.huggingface import HuggingFaceMLLM

FAMILIES = MappingProxyType({"llava": "kedit.models.tiny.llava:llava"})
"""The function that makes a family's module and its processor, from its own classes in transformers."""


def tiny(
    family: str,
    *,
    seed: int = 0,
    prompt: str = "Describe this image.",
    batch_size: int = 4,
    max_new_tokens: int = 8,
) -> HuggingFaceMLLM:
    """Return a model of `family` with random weights; a LookupError names the nearest families.

    The weights are of a size that lets every layer matter, which transformers' own initialization does not.
    """
    if family not in FAMILIES:
        near = get_close_matches(family, FAMILIES, cutoff=0.4) or sorted(FAMILIES)
        raise LookupError(f"no tiny model of family `{family}`; nearest: {', '.join(near)}")
    with torch.random.fork_rng():
        module, processor = resolve_name(FAMILIES[family])()
    fill(module, seed)
    mute(module, processor)
    module.requires_grad_(False)
    return HuggingFaceMLLM(module, processor, f"tiny-{family}", prompt, batch_size, max_new_tokens)


@torch.no_grad()
def fill(module: nn.Module, seed: int) -> None:
    """Write random numbers into every weight: matrices keep the size of what they map, scales are about one."""
    generator = torch.Generator().manual_seed(seed)
    for path, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(_scaled(path, noise).to(weight.dtype))


def _scaled(path: str, noise: Tensor) -> Tensor:
    if noise.ndim >= 2:
        return noise / noise[0].numel() ** 0.5 if "embed" not in path else noise * 0.5
    return noise * 0.1 if path.endswith("bias") else 1 + noise * 0.1


@torch.no_grad()
def mute(module: nn.Module, processor: Any) -> None:
    """Let the model say no special token, as a trained one would not: a logit of zero is never the highest."""
    head = module.get_output_embeddings()  # type: ignore[operator]
    tokenizer = getattr(processor, "tokenizer", processor)
    if head is not None:
        head.weight[tokenizer.all_special_ids] = 0
