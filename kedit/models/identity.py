"""What a model is: a digest of all that decides what it says, and a proof that its weights are as they were."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedit.fingerprints import of_libraries
from kedit.models.mllm import MLLM
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
    module, processor = model.module, getattr(model, "processor", None)
    own = {one.name: getattr(model, one.name) for one in fields(model)} if is_dataclass(model) else dict[str, Any]()
    about = {
        "kind": [type(one).__qualname__ for one in (model, module, processor)],
        "settings": {name: repr(value) for name, value in sorted(own.items()) if name not in OF_THEIR_OWN},
        "device": sorted({tensor.device.type for _, tensor in _tensors(module)}),
        "config": _told(getattr(module, "config", None)),
        "generation": _told(getattr(module, "generation_config", None)),
        "processor": _of_processor(processor),
        "libraries": of_libraries("torch", "transformers", "tokenizers"),
        "weights": weights or weights_digest(module),
    }
    return digest(about)


def weights_digest(module: nn.Module) -> str:
    """Return SHA-256 over every parameter and buffer: name, shape, type and bytes.

    Raises:
        UnhashableWeightsError: A tensor is not in memory.
    """
    tensors = list(_tensors(module))
    for name, tensor in tensors:
        if tensor.is_meta:
            raise UnhashableWeightsError(f"the weight `{name}` is not in memory (offloaded), so it cannot be hashed")
    # Hashing lets go of the interpreter's lock, so that several tensors are read at a time.
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_of_tensor, [tensor for _, tensor in tensors]))
    return digest([[name, one] for (name, _), one in zip(tensors, digests, strict=True)])


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


@torch.no_grad()
def _of_tensor(tensor: Tensor) -> str:
    whole = tensor.detach().contiguous().reshape(-1)
    step = max(1, AT_ONCE // max(1, whole.element_size()))
    parts = (whole[start : start + step].cpu().view(torch.uint8).numpy().data for start in range(0, len(whole), step))
    return digest({"shape": list(tensor.shape), "type": str(tensor.dtype)}, *(bytes(part) for part in parts))


def _told(configuration: Any) -> Any:
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
    tokenizer = getattr(processor, "tokenizer", processor)
    about: dict[str, Any] = {"template": getattr(processor, "chat_template", None)}
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # Its latest call decided on padding and truncation, which is no part of what it is.
        told = json.loads(fast.to_str())
        about["tokenizer"] = digest({key: value for key, value in told.items() if key not in ("padding", "truncation")})
    elif hasattr(tokenizer, "get_vocab"):
        about["tokenizer"] = digest(sorted(tokenizer.get_vocab().items()))
    about["special"] = repr(getattr(tokenizer, "special_tokens_map", None))
    if processor is not tokenizer and hasattr(processor, "to_dict"):
        about["settings"] = json.loads(json.dumps(processor.to_dict(), sort_keys=True, default=repr))
    return about
