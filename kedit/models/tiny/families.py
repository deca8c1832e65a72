"""The families that a tiny model can be built of, and the one way to build it."""

import math
from difflib import get_close_matches
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from kedit.models.huggingface import HuggingFaceMLLM

LANGUAGE = (
    *("gpt2", "opt", "llama", "qwen3", "qwen3_moe", "mixtral", "gpt_oss", "gemma2", "phi3", "gpt_neox", "falcon"),
    *("t5", "bert"),
)
"""The families that read text alone."""
FAMILIES = MappingProxyType(
    {
        "llava": "kedit.models.tiny.llava:llava",
        "llava_next": "kedit.models.tiny.llava_next:llava_next",
        "llava_onevision": "kedit.models.tiny.llava_next:llava_onevision",
        "blip2": "kedit.models.tiny.blip2:blip2",
        "blip2_t5": "kedit.models.tiny.blip2:blip2_t5",
        "instructblip": "kedit.models.tiny.blip2:instructblip",
        "idefics3": "kedit.models.tiny.idefics:idefics3",
        "smolvlm": "kedit.models.tiny.idefics:smolvlm",
        "paligemma": "kedit.models.tiny.gemma:paligemma",
        "gemma3": "kedit.models.tiny.gemma:gemma3",
        "mllama": "kedit.models.tiny.mllama:mllama",
        "internvl": "kedit.models.tiny.internvl:internvl",
        "janus": "kedit.models.tiny.janus:janus",
        "emu3": "kedit.models.tiny.emu3:emu3",
        **{family: f"kedit.models.tiny.language:{family}" for family in LANGUAGE},
        "qwen2_vl": "kedit.models.tiny.qwen:qwen2_vl",
        "qwen2_5_vl": "kedit.models.tiny.qwen:qwen2_5_vl",
        "qwen3_vl": "kedit.models.tiny.qwen:qwen3_vl",
        "qwen2_audio": "kedit.models.tiny.qwen:qwen2_audio",
    }
)
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
    module.eval().requires_grad_(False)
    return HuggingFaceMLLM(module, processor, f"tiny-{family}", prompt, batch_size, max_new_tokens)


@torch.no_grad()
def fill(module: nn.Module, seed: int) -> None:
    """Write random numbers into every weight: matrices keep the size of what they map, scales are about one."""
    generator = torch.Generator().manual_seed(seed)
    for path, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(_scaled(path, noise).to(weight.dtype))


def _scaled(path: str, noise: Tensor) -> Tensor:
    if noise.ndim < 2:
        return noise * 0.1 if path.endswith("bias") else 1 + noise * 0.1
    if path.endswith("bias"):
        return noise * 0.1
    if "embed" in path:
        return noise * 0.5
    # The weights of experts lie behind each other; a convolution's are all summed over.
    fused = noise.ndim == 3 and "expert" in path
    n_in: int = noise.shape[-1] if fused else noise[0].numel()
    return noise / math.sqrt(n_in)


@torch.no_grad()
def mute(module: nn.Module, processor: Any) -> None:
    """Let the model say no special token, as a trained one would not: a logit of about zero is never the highest.

    The words that Emu3 writes pictures in keep a part of their weights, by which they differ from each other.
    """
    head = module.get_output_embeddings()  # type: ignore[operator]
    tokenizer = getattr(processor, "tokenizer", processor)
    codes = getattr(getattr(module, "vocabulary_mapping", None), "image_tokens", [])
    for weight in () if head is None else head.parameters():
        quiet = weight[codes] * 0.3
        weight[tokenizer.all_special_ids] = 0
        weight[codes] = quiet
