"""Whether a processor or tokenizer belongs to a module, as far as both tell."""

from typing import Any

from torch import nn

from kedit.stacks import named_by_model


def refuse_misfit(module: nn.Module, processor: Any, name: str) -> None:
    """Raise a ValueError where the two cannot belong together, or the module writes no words.

    A tokenizer may know fewer tokens than the model has rows, since rows are often rounded up.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if not callable(tokenizer) or not hasattr(tokenizer, "all_special_ids"):
        raise ValueError(f"`{name}` needs a processor or a tokenizer of transformers, got {type(processor).__name__}")
    _refuse_wordless(module, name)
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
