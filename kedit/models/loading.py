"""A model from a folder or the hub, and one that is in memory already."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kedit.arguments import require
from kedit.internals.wrappers import bare
from kedit.models.adapters import DESCRIPTION, Adapter
from kedit.models.attention import implementation
from kedit.models.chat import Template, check_template
from kedit.models.fitting import complete, refuse_misfit
from kedit.models.frames import read_processor
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.placing import Bits, Placement
from kedit.models.shipped import ASKED, FETCHED, BrokenModelError, located, unreadable
from kedit.models.tasks import Task, TaskError, checked, chosen_task, loader

WITH_MEDIA: frozenset[Task] = frozenset({"image-text-to-text", "audio-text-to-text"})
"""The tasks whose models have a processor; the others have a tokenizer."""


def load(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    language: str | Path | None = None,
    task: Task | None = None,
    name: str | None = None,
    prompt: str | None = None,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    template: Template = "chat",
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    device_map: str | Mapping[str, Any] | None = None,
    max_memory: Mapping[Any, Any] | None = None,
    offload_folder: str | None = None,
    quantization: Bits | None = None,
    trust_remote_code: bool = False,
    download: bool = False,
) -> HuggingFaceMLLM:
    """Load a model that writes or completes text, and its processor or tokenizer; its weights are frozen.

    Args:
        path: A folder, the name of a model that is shipped or fetched, or a hub id; an adapter of peft is merged.
        adapter: The folder of an adapter of peft that is merged into the model at `path`.
        language: Other weights for the language model of `smollm2_scenes`: a folder or a hub id.
        task: `image-text-to-text`, `audio-text-to-text`, `seq2seq`, `causal` or `masked`; by default its own.
        name: What reports call the model; by default the last part of `path`.
        prompt: What asks for a caption; by default what a shipped model was trained with, or "Describe this image."
        batch_size: How many pictures are read at once; by default 8, or what suits a shipped model.
        max_new_tokens: Where a caption ends at the latest; by default 60, or what suits a shipped model.
        template: How a prompt is written: in the chat format (`chat`), or as it is, to be gone on with (`none`).
        device: See `Placement`, also for the next five.
        dtype: What the weights are computed in.
        device_map: Spreads the weights over devices, memory and disk.
        max_memory: How much of each `device_map` may fill.
        offload_folder: Where weights go that fit nowhere else.
        quantization: `8bit` or `4bit`.
        trust_remote_code: Whether Python code that lies with the model may be run.
        download: Whether a hub id may be fetched; otherwise only the local cache is searched.

    Raises:
        FileNotFoundError: There is no such folder and no such model in the local cache, or its files are broken.
        ValueError: The model is for another task, brings its own code, cannot be placed, or needs peft.
    """
    _check(path, task, template)
    stored = str(dtype).removeprefix("torch.")
    how = Placement(str(device), stored, device_map, max_memory, offload_folder, quantization).options()
    folder = located(str(path), language=None if language is None else str(language), download=download)
    called = name or (str(path) if path in FETCHED else _name_of(Path(folder)))
    source: dict[str, Any] = {"local_files_only": not download, "trust_remote_code": trust_remote_code}
    found = Adapter.at(folder, download=download) if adapter is None else _beside(adapter, folder)
    processor, module = _read_adapted(found, task, source, how) if found else _read(folder, task, source, how)
    complete(module.requires_grad_(False), processor, called)
    refuse_misfit(module, processor, called)
    asked = _asked(str(path), prompt=prompt, batch_size=batch_size, max_new_tokens=max_new_tokens)
    return HuggingFaceMLLM(module, processor, called, template=template, **asked)


def wrap(
    module: nn.Module,
    processor: Any,
    *,
    prompt: str | None = None,
    name: str | None = None,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    template: Template = "chat",
) -> HuggingFaceMLLM:
    """Return a model of yours as kedit sees it: the same object, not copied and not changed.

    Of a compiled model, of one that torch checkpoints as a whole, and of one of peft, the module inside is taken.

    It stays as it is: what is in training mode is put into evaluation mode for each pass and back, no weight is
    frozen, moved or cast, and edits are hooks that go when their `with` ends.

    Args:
        module: A model of transformers with a head over words.
        processor: Its processor, or for a model that reads text alone its tokenizer.
        prompt: What asks the model for a caption; by default "Describe this image."
        name: What reports call the model; by default the last part of what it was loaded from, or its class.
        batch_size: How many prompts are read at once; by default 8.
        max_new_tokens: Where an answer ends at the latest; by default 60.
        template: How a prompt is written; see `load`.

    Raises:
        ValueError: The module has no head over words, is spread over devices or holds no numbers; the processor is
            another model's, lacks a setting, or its tokenizer has no padding token.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"`module` is a model in memory, got {type(module).__name__}; `load` takes a folder or an id")
    module = bare(module)
    origin = getattr(getattr(module, "config", None), "name_or_path", "")
    called = name or Path(str(origin)).name or type(module).__name__
    refuse_misfit(module, processor, called)
    asked = _asked(prompt=prompt, batch_size=batch_size, max_new_tokens=max_new_tokens)
    return HuggingFaceMLLM(module, processor, called, template=template, **asked)


def _asked(path: str = "", **given: Any) -> dict[str, Any]:
    """Return how a model is asked: as is `given`, else as suits that at `path`; the rest is as the class has it."""
    return ASKED.get(path, {}) | {name: one for name, one in given.items() if one is not None}


def _name_of(folder: Path) -> str:
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _check(path: object, task: Task | None, template: Template) -> None:
    require(path, (str, Path), "path", "a folder, the name of a shipped model or an id; `wrap` takes a module")
    if task is not None:
        checked(task)
    check_template(template)


def check_at_hand(
    path: str | Path,
    *,
    language: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | Mapping[str, Any] | None = None,
) -> None:
    """Raise what `load` would, as far as it is known before anything is read: no such folder, no such device."""
    located(str(path), language=None if language is None else str(language), download=download)
    Placement(str(device), str(dtype).removeprefix("torch."), device_map).options()


def load_like(module: nn.Module, folder: str | Path, *, device: torch.device | None = None) -> nn.Module:
    """Return a model of the class of `module` with the weights in a folder, placed and computed in as that is.

    Args:
        module: A model of transformers; it is left alone.
        folder: Holds `config.json` and weights as safetensors; a processor need not be there.
        device: Where it goes instead; where `module` is spread over devices, so is the other if None.

    Raises:
        FileNotFoundError: There is no such folder, or its files are broken.
    """
    if not hasattr(type(module), "from_pretrained"):
        raise ValueError(f"{type(module).__name__} has no `from_pretrained`, so no folder of it can be read")
    how: dict[str, Any] = {"dtype": getattr(module, "dtype", torch.float32)}
    if name := implementation(getattr(module, "config", None)):
        how["attn_implementation"] = name
    if spread := device is None and hasattr(module, "hf_device_map"):
        how["device_map"] = "auto"
    place = located(str(folder))
    with _explained(place), without_bars():
        read: nn.Module = _weights(type(module), place, {"local_files_only": True}, how)
    return (read if spread else read.to(device or next(module.parameters()).device)).eval().requires_grad_(False)


def _beside(adapter: str | Path, base: str) -> Adapter:
    """Return the adapter in a folder, for a model that is given beside it; a ValueError says that there is none."""
    found = Adapter.beside(str(adapter))
    if found is None:
        raise ValueError(f"`{adapter}` is no folder of an adapter (`{DESCRIPTION}`); a whole model is given as `path`")
    return replace(found, base=base)


def _read_adapted(adapter: Adapter, task: Task | None, source: dict[str, Any], how: dict[str, Any]) -> tuple[Any, Any]:
    """Return the processor and the module of an adapter's model, with the adapter in it."""
    source = source | ({"revision": adapter.revision} if adapter.revision else {})
    try:
        processor, module = _read(adapter.base, task, source, how, adapter)
    except FileNotFoundError as error:
        raise BrokenModelError(f"`{adapter.folder}` is an adapter of `{adapter.base}`: {error}") from error
    with _explained(adapter.folder):
        return processor, adapter.merged(module, quantized="quantization_config" in how)


def _read(
    folder: str, task: Task | None, source: dict[str, Any], how: dict[str, Any], adapter: Adapter | None = None
) -> tuple[Any, Any]:
    """Return the processor, which is read first since it is small, and the module.

    An `adapter` may bring a processor of its own.
    """
    from transformers import AutoConfig

    with _explained(folder), without_bars():
        described: Any = AutoConfig.from_pretrained(folder, **source)
        kind = chosen_task(described, task, folder)
        reader = loader(kind, described)
        own = adapter is not None and adapter.holds_processor(with_media=kind in WITH_MEDIA)
        processor = _processor(adapter.folder if own and adapter else folder, kind, source, described)
        return processor, _weights(reader, folder, source, how)


def _weights(reader: Any, folder: str, source: dict[str, Any], how: dict[str, Any]) -> Any:
    module, loading = reader.from_pretrained(folder, **source, **how, use_safetensors=True, output_loading_info=True)
    if lost := sorted(loading["missing_keys"]):
        # transformers would go on with random numbers in their place.
        raise unreadable(folder, f"{len(lost)} weights are not in its files, such as `{lost[0]}`")
    return module


def _processor(folder: str, task: Task, source: dict[str, Any], described: Any) -> Any:
    """Return the processor or tokenizer; a tokenizer that cannot pad pads with its mark of an end."""
    from transformers import AutoTokenizer

    plain: Any = AutoTokenizer
    media = task in WITH_MEDIA
    found = read_processor(folder, described, **source) if media else plain.from_pretrained(folder, **source)
    tokenizer = getattr(found, "tokenizer", found)
    if task in WITH_MEDIA and tokenizer is found:
        # Without a processor's files transformers gives whatever part it finds.
        raise unreadable(folder, f"its processor for {task} is not there, only a {type(found).__name__}")
    if not tokenizer("picture", add_special_tokens=False).input_ids:
        # Without its files transformers makes a tokenizer that knows no word.
        raise unreadable(folder, f"its tokenizer's files are not there: a {type(tokenizer).__name__} knows no word")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return found


@contextmanager
def _explained(folder: str) -> Iterator[None]:
    """Say in one line what is wrong with the model in `folder`, where transformers says it at length."""
    from safetensors import SafetensorError

    try:
        yield
    except (BrokenModelError, TaskError):
        raise
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"`{folder}` does not fit on its device ({str(error).splitlines()[0]}); set `dtype=bfloat16`, "
            "`device_map=auto` or `quantization=8bit`"
        ) from error
    except ImportError as error:
        raise ValueError(f"`{folder}` needs a package that is not there: {_first_line(error)}") from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"the model `{folder}` brings Python code of its own, which kedit does not run; where you have read "
                "and trust it, set `trust_remote_code=true`"
            ) from error
        raise unreadable(folder, str(error)) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' progress bars away where nobody watches."""
    from transformers.utils import logging

    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
