"""Whether a processor or tokenizer belongs to a module, as far as both tell."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import nn

from kedit.internals.block_stacks import named_by_model

logger = logging.getLogger(__name__)

CLASS_TOKENS = frozenset({"class_embedding", "cls_token"})
"""What vision towers call the token that they put before a picture's patches."""


def refuse_misfit(module: nn.Module, processor: Any, name: str) -> None:
    """Raise a ValueError where the two cannot belong together, or the module writes no words.

    A tokenizer may know fewer tokens than the model has rows, since rows are often rounded up.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if not callable(tokenizer) or not hasattr(tokenizer, "all_special_ids"):
        raise ValueError(f"`{name}` needs a processor or a tokenizer of transformers, got {type(processor).__name__}")
    _refuse_wordless(module, name)
    _refuse_nowhere(module, name)
    n_rows, n_tokens = _rows(module), len(tokenizer)
    kind = type(module).__name__
    if n_rows is not None and n_tokens > n_rows:
        raise ValueError(
            f"the tokenizer of `{name}` knows {n_tokens} tokens, and {kind} embeds {n_rows}: it is the tokenizer of "
            "another model, or tokens were added without `resize_token_embeddings`"
        )
    beyond = {key: one for key, one in _marks(module).items() if n_tokens <= one < (n_rows or 0)}
    for key, one in beyond.items():
        if one not in tokenizer.get_vocab().values():
            raise ValueError(
                f"`{key}` of {kind} is {one}, and the tokenizer of `{name}` knows {n_tokens} tokens, that one not "
                "among them: it is the tokenizer of another model"
            )
    _refuse_other_pictures(module, processor, name)
    for key, value in wrong_settings(module, processor).items():
        raise ValueError(
            f"`{key}` of the processor of `{name}` is {getattr(processor, key)!r}, and {type(module).__name__} needs "
            f"{value!r}, or the picture does not fill its tokens: set `processor.{key} = {value!r}`"
        )


def complete(module: nn.Module, processor: Any, name: str) -> None:
    """Set what a processor's files leave out, as older ones do, to what `module` needs, and say so."""
    for key, value in wrong_settings(module, processor).items():
        if not getattr(processor, key):
            logger.warning("the processor of `%s` says no `%s`: set to %r, as its model needs", name, key, value)
            setattr(processor, key, value)


def wrong_settings(module: nn.Module, processor: Any) -> dict[str, Any]:
    """Return what a processor has to know of the vision tower to count a picture's tokens, and has otherwise."""
    described: Any = getattr(module, "config", None)
    vision = getattr(described, "vision_config", None)
    side, patch = (getattr(vision, key, None) for key in ("image_size", "patch_size"))
    wanted: dict[str, Any] = {
        "vision_feature_select_strategy": getattr(described, "vision_feature_select_strategy", None),
        "num_query_tokens": getattr(described, "num_query_tokens", None),
    }
    if hasattr(processor, "num_additional_image_tokens"):
        # LLaVA's kind, which counts patches and class tokens by itself.
        wanted["patch_size"] = patch
        # A tower may have more than that one, such as registers, of which nothing tells.
        wanted["num_additional_image_tokens"] = processor.num_additional_image_tokens or int(_has_class_token(module))
    if isinstance(side, int) and isinstance(patch, int) and getattr(processor, "num_image_tokens", 0) is None:
        wanted["num_image_tokens"] = (side // patch) ** 2
    return {
        key: value
        for key, value in wanted.items()
        if value is not None and hasattr(processor, key) and getattr(processor, key) != value
    }


@contextmanager
def counting(processor: Any, name: str) -> Iterator[None]:
    """Say by which settings a processor counts a picture's tokens, where the model makes another number of them."""
    try:
        yield
    except ValueError as error:
        if "tokens do not match" not in str(error):
            raise
        known = {key: getattr(processor, key, None) for key in signature(type(processor).__init__).parameters}
        told = [f"{key}={value!r}" for key, value in known.items() if _is_count(key, value)]
        raise ValueError(
            f"{str(error).splitlines()[0]}; the processor of `{name}` counts a picture's tokens by "
            f"{', '.join(told) or 'its image processor'}, of which something is not what the model needs"
        ) from error


def _is_count(key: str, value: Any) -> bool:
    return isinstance(value, int | str | None) and not key.endswith(("_token", "chat_template", "kwargs"))


def _has_class_token(module: nn.Module) -> bool:
    return any(path.rpartition(".")[2] in CLASS_TOKENS for path, _ in module.named_parameters())


def _refuse_nowhere(module: nn.Module, name: str) -> None:
    """Raise where weights are not here, or not whole.

    They may be on the meta device without accelerate keeping their numbers elsewhere, or in pieces in several
    processes, where a neuron of one is another neuron of the other.
    """
    from accelerate.utils import has_offloaded_params

    nowhere = [path for path, weight in module.named_parameters() if weight.is_meta]
    if nowhere and not any(map(has_offloaded_params, module.modules())):
        raise ValueError(
            f"{len(nowhere)} weights of `{name}`, such as `{nowhere[0]}`, are on the meta device and hold no "
            "numbers; load the model without `init_empty_weights`, or with a `device_map`"
        )
    size = getattr(module, "tp_size", None)
    words: Any = getattr(named_by_model(module, "get_input_embeddings"), "weight", None)
    if (isinstance(size, int) and size > 1) or (words is not None and not words.numel()):
        raise ValueError(
            f"the weights of `{name}` are in pieces in several processes (tensor parallel, ZeRO 3 or FSDP): load the "
            "whole model in one process, with `device_map` if it needs several devices"
        )


def _refuse_wordless(module: nn.Module, name: str) -> None:
    if named_by_model(module, "get_output_embeddings") is None:
        raise ValueError(
            f"`{name}` is a {type(module).__name__}, which has no output matrix over its words "
            "(`get_output_embeddings()` gives none); give the whole model, such as a `...ForConditionalGeneration`, "
            "`...ForCausalLM` or `...ForMaskedLM`"
        )


def _rows(module: nn.Module) -> int | None:
    found = getattr(named_by_model(module, "get_input_embeddings"), "num_embeddings", None)
    return found if isinstance(found, int) else None


def _marks(module: nn.Module) -> dict[str, int]:
    """Return the tokens by which the model begins, ends and pads, as it names them."""
    described = getattr(module, "generation_config", None) or getattr(module, "config", None)
    found: dict[str, int] = {}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        named = getattr(described, key, None)
        for one in named if isinstance(named, list | tuple) else [named]:
            if isinstance(one, int):
                found[key] = max(one, found.get(key, one))
    return found


def _refuse_other_pictures(module: nn.Module, processor: Any, name: str) -> None:
    """Raise where the processor writes other image tokens than the model reads."""
    read = getattr(getattr(module, "config", None), "image_token_id", None)
    # Gemma 3's processor calls the mark in front of a picture so, and its tokenizer the one that stands for it.
    named = [getattr(one, "image_token_id", None) for one in (processor, getattr(processor, "tokenizer", None))]
    written = sorted({one for one in named if isinstance(one, int)})
    if isinstance(read, int) and written and read not in written:
        raise ValueError(
            f"the processor of `{name}` marks pictures with token {' or '.join(map(str, written))}, and "
            f"{type(module).__name__} looks for {read}: it is the processor of another model"
        )
