"""Adapters of peft that are given as models: put onto the model that they were trained on, and merged into it."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kedit.internals.wrappers import refuse_virtual_tokens
from kedit.models.checkpoints import shared_copy
from kedit.models.shipped import BrokenModelError, located, unreadable

logger = logging.getLogger(__name__)

DESCRIPTION, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OF_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Adapter:
    """An adapter as its folder describes it."""

    folder: str
    base: str
    """The folder or the id of the model that it was trained on."""
    revision: str | None
    kind: str
    """What peft calls it, such as `LORA`."""

    @classmethod
    def at(cls, folder: str, *, download: bool = False) -> "Adapter | None":
        """Return the adapter at `folder`, a folder or the id of a model on the hub; None where there is a model.

        Raises:
            FileNotFoundError: It is incomplete, or its model is not at hand.
            ValueError: It needs peft, has virtual tokens, or a whole model lies beside it.
        """
        described = _described(folder, download=download)
        if described is None:
            return None
        base, kind = described.get("base_model_name_or_path"), str(described.get("peft_type"))
        if not base:
            raise BrokenModelError(
                f"`{folder}` is an adapter ({kind}) whose `{DESCRIPTION}` names no model that it was trained on; write "
                "its folder there as `base_model_name_or_path`"
            )
        _check_readable(folder, described)
        try:
            return cls(_fetched(folder, download=download), located(base), described.get("revision"), kind)
        except FileNotFoundError as error:
            raise BrokenModelError(f"`{folder}` is an adapter ({kind}) of `{base}`: {error}") from error

    @classmethod
    def beside(cls, folder: str) -> "Adapter | None":
        """Return the adapter in `folder` for a model that is at hand, whatever it says of its own; None if none is."""
        described = _described(folder, download=False)
        if described is None:
            return None
        _check_readable(folder, described)
        base = str(described.get("base_model_name_or_path"))
        return cls(_fetched(folder, download=False), base, None, str(described.get("peft_type")))

    def holds_processor(self, *, with_media: bool) -> bool:
        """Return whether a whole processor, or a tokenizer, was saved beside the adapter."""
        folder = Path(self.folder)
        read = not with_media or any((folder / name).is_file() for name in OF_PROCESSORS)
        return read and (folder / "tokenizer_config.json").is_file()

    def merged(self, module: Any, *, quantized: bool = False) -> Any:
        """Return `module` with the adapter merged into its weights; put onto them where they are `quantized`.

        Raises:
            ValueError: A weight of the adapter is not in its files, or its kind cannot be merged.
        """
        with _strict_peft():
            try:
                adapted = self._put_around(module)
                if quantized:
                    return adapted.get_base_model()
                whole = adapted.merge_and_unload()
            except (AttributeError, NotImplementedError) as error:
                raise ValueError(
                    f"an adapter of the kind {self.kind} cannot be merged; load it with peft and `wrap` it"
                ) from error
        logger.info("merged the adapter `%s` (%s) into `%s`", self.folder, self.kind, self.base)
        return whole

    def around(self, module: Any) -> Any:
        """Return a copy of `module` that shares its weights, with the adapter in it, as PEFT users have it.

        Raises:
            ValueError: A weight of the adapter is not in its files.
        """
        wanted = {name: one.requires_grad for name, one in module.named_parameters()}
        try:
            with _strict_peft():
                return self._put_around(shared_copy(module)).get_base_model()
        finally:
            # PEFT freezes what it stands around, which is the model's own.
            for name, one in module.named_parameters():
                one.requires_grad_(wanted[name])

    def _put_around(self, module: Any) -> Any:
        peft: Any = import_module("peft")
        return peft.PeftModel.from_pretrained(module, self.folder, local_files_only=True)


@contextmanager
def _strict_peft() -> Iterator[None]:
    """Turn what PEFT only warns of, a weight that is not in an adapter's files, into a ValueError."""
    with warnings.catch_warnings():
        # What peft asks transformers for by its old name is nothing that a user could change.
        warnings.simplefilter("ignore", FutureWarning)
        # Without them peft would go on with what the adapter was before it was trained.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        # Whoever merges such an adapter hears of it as an error.
        warnings.filterwarnings("ignore", message=".*lora_bias=True.* merging LoRA weights won't be possible")
        try:
            yield
        except UserWarning as warning:
            raise ValueError(f"{warning!s:.200}") from warning


def _check_readable(folder: str, described: Mapping[str, Any]) -> None:
    """Raise a ValueError where an adapter has virtual tokens, or peft is not there to load it."""
    kind = str(described.get("peft_type"))
    refuse_virtual_tokens(described.get("num_virtual_tokens"), kind)
    if find_spec("peft") is None:
        raise ValueError(
            f"`{folder}` is an adapter ({kind}) of `{described.get('base_model_name_or_path')}`, which the package "
            "`peft` loads, and it is not installed: `pip install peft`; or merge it where peft is "
            "(`merge_and_unload`), save the whole model and give that folder"
        )


def _described(folder: str, *, download: bool) -> Mapping[str, Any] | None:
    """Return what the adapter's own file says; None where there is none. A hub id is looked up in the cache, too."""
    from transformers.utils.peft_utils import find_adapter_config_file

    path = Path(folder) / DESCRIPTION
    if not Path(folder).is_dir():
        try:
            found = find_adapter_config_file(folder, local_files_only=not download)
        except (OSError, ValueError):  # no such id: reading the model says so
            found = None
        if found is None:
            return None
        path = Path(found)
    if not path.is_file():
        return None
    if Path(folder).is_dir() and any(Path(folder).glob("model*.safetensors")):
        raise ValueError(
            f"`{folder}` holds a whole model and an adapter (`{DESCRIPTION}`), and nothing says whether the one is in "
            "the other; move one of them away"
        )
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise unreadable(folder, f"`{DESCRIPTION}` is no JSON ({error})") from error
    return described if isinstance(described, Mapping) else {}


def _fetched(folder: str, *, download: bool) -> str:
    """Return the folder in which the adapter's weights lie as safetensors; a FileNotFoundError says there are none."""
    if not Path(folder).is_dir():
        hub: Any = import_module("huggingface_hub")
        wanted = ["*.json", WEIGHTS, "*.model", "*.txt", "*.jinja"]
        folder = hub.snapshot_download(folder, allow_patterns=wanted, local_files_only=not download)
    if not (Path(folder) / WEIGHTS).is_file():
        raise FileNotFoundError(f"there is no `{WEIGHTS}` in `{folder}`; others may be pickles, which run code")
    return folder
