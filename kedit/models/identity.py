"""What a model is: a digest of all that decides what it says, and a proof that its weights are as they were."""

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from datetime import date
from typing import Any

import torch
from torch import Tensor, nn

from kedit.fingerprints import OF_MODELS, of_libraries
from kedit.models.attention import implementation
from kedit.models.mllm import MLLM
from kedit.settings import of_module, of_settings
from kedit.store import digest

OF_THEIR_OWN = ("module", "processor")
"""Fields of a model that have a digest of their own."""
NOTED = ("architectures", "dtype", "transformers_version")
"""What saving a model notes in its configuration; class, weights and libraries are told by themselves."""
AT_ONCE = 1 << 26
"""Bytes of a tensor that are taken off its device at a time."""


class UnhashableWeightsError(ValueError):
    """The weights are not in memory, as those that were offloaded to disk."""


def identity(model: MLLM, weights: str | None = None) -> str:
    """Return the digest of the weights, the architecture, the processor, the prompt and the libraries.

    The batch size is a part of it, since it moves the last digits of scores. Two processes that load the same files get
    the same digest.

    Args:
        model: The model, unedited.
        weights: What `weights_digest` says of it, if that is known.

    Raises:
        UnhashableWeightsError: Some weights are not in memory.
    """
    module = model.module
    about = {
        "reading": _reading(model, ()),
        "device": sorted({tensor.device.type for _, tensor in _tensors(module)}),
        "attention": sorted({str(implementation(getattr(part, "config", None))) for part in module.modules()}),
        "libraries": of_libraries(*OF_MODELS),
        "weights": weights or weights_digest(module),
    }
    return digest(about)


def reading_digest(model: MLLM) -> str:
    """Return the digest of how a model reads a picture: its parts, configuration, processor and prompt.

    Its weights have their own; its name, its batch size and the length of its answers are left out.
    """
    return digest(_reading(model, ("name", "batch_size", "max_new_tokens")))


def _reading(model: MLLM, without: Collection[str]) -> dict[str, Any]:
    module, processor = model.module, getattr(model, "processor", None)
    own = {one.name: getattr(model, one.name) for one in fields(model)} if is_dataclass(model) else dict[str, Any]()
    return {
        "kind": [type(one).__qualname__ for one in (model, module, processor)],
        "settings": {name: of_settings(one) for name, one in own.items() if name not in (*OF_THEIR_OWN, *without)},
        "parts": of_module(module),
        "config": _describe(getattr(module, "config", None)),
        "generation": _describe(getattr(module, "generation_config", None)),
        "processor": _of_processor(processor),
    }


def weights_digest(module: nn.Module) -> str:
    """Return SHA-256 over every parameter and buffer, and what else is saved: name, shape, type and bytes.

    Raises:
        UnhashableWeightsError: A tensor is not in memory.
    """
    tensors = list(_tensors(module))
    for name, tensor in tensors:
        if tensor.is_meta:
            raise UnhashableWeightsError(f"the weight `{name}` is not in memory (offloaded), so it cannot be hashed")
    # Hashing lets go of the interpreter's lock, so that several tensors are read at a time.
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(tensor_digest, [tensor for _, tensor in tensors]))
    return digest([[name, one] for (name, _), one in zip(tensors, digests, strict=True)])


def known_weights(module: nn.Module) -> str:
    """Return what `weights_digest` does; an empty text where a tensor is not in memory."""
    try:
        return weights_digest(module)
    except UnhashableWeightsError:
        return ""


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer, and what is saved beside them, as the weights of 8-bit layers."""
    held = dict([*module.named_parameters(), *module.named_buffers()])
    yield from held.items()
    known = set(map(id, held.values()))
    for name, value in module.state_dict(keep_vars=True).items():
        for number, one in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(one, Tensor) and id(one) not in known:
                yield f"{name} {number}", one


@torch.no_grad()
def tensor_digest(tensor: Tensor) -> str:
    """Return SHA-256 of a tensor's shape, type and bytes."""
    tensor = tensor.dequantize() if tensor.is_quantized else tensor
    whole = tensor.detach().contiguous().reshape(-1)
    step = max(1, AT_ONCE // max(1, whole.element_size()))
    parts = (whole[start : start + step].cpu().view(torch.uint8).numpy().data for start in range(0, len(whole), step))
    return digest({"shape": list(tensor.shape), "type": str(tensor.dtype)}, *(bytes(part) for part in parts))


def _describe(configuration: Any) -> Any:
    """Return a configuration of transformers as plain data."""
    if configuration is None:
        return None
    told = {
        key: value for key, value in configuration.to_dict().items() if not key.startswith("_") and key not in NOTED
    }
    return json.loads(json.dumps(told, sort_keys=True, default=repr))


def _of_processor(processor: Any) -> Any:
    if processor is None:
        return None
    about: dict[str, Any] = {"template": getattr(processor, "chat_template", None)}
    if "strftime_now" in str(about["template"]):
        about["date"] = date.today().isoformat()  # which such a template writes into every prompt
    if hasattr(processor, "get_vocab"):
        return about | {"tokenizer": _of_tokenizer(processor)}
    held: dict[str, Any] = getattr(processor, "__dict__", {})
    parts = {name: part for name, part in held.items() if hasattr(part, "get_vocab")}
    about["tokenizer"] = {name: _of_tokenizer(part) for name, part in parts.items()}
    if hasattr(processor, "to_dict"):
        return about | {"settings": json.loads(json.dumps(processor.to_dict(), sort_keys=True, default=repr))}
    others = {name: one for name, one in held.items() if name not in parts}
    told = {name: _describe(one) if hasattr(one, "to_dict") else of_settings(one) for name, one in others.items()}
    return about | {"settings": told}


def _of_tokenizer(tokenizer: Any) -> dict[str, Any]:
    about = {name: repr(getattr(tokenizer, name, None)) for name in ("chat_template", "special_tokens_map")}
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # Its latest call decided on padding and truncation, which is no part of what it is.
        content = json.loads(fast.to_str())
        about["made"] = digest({key: value for key, value in content.items() if key not in ("padding", "truncation")})
    elif hasattr(tokenizer, "get_vocab"):
        about["made"] = digest(sorted(tokenizer.get_vocab().items()))
    return about
