"""Models from a folder, and the ones that come with kedit."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kedit.models.huggingface import HuggingFaceMLLM

HERE = Path(__file__).parent
SHIPPED = ("scenes", "scenes_plain", "scenes_soft")


def load(
    path: str | Path,
    *,
    name: str | None = None,
    prompt: str = "Describe this image.",
    batch_size: int = 16,
    max_new_tokens: int = 40,
    download: bool = False,
) -> HuggingFaceMLLM:
    """Load an image-text-to-text model and its processor.

    Args:
        path: A folder, the name of a shipped model, or the id of a model on the hub.
        name: What reports call the model; by default the last part of `path`.
        prompt: What asks the model for a caption.
        batch_size: How many pictures are read at once.
        max_new_tokens: Where a caption ends at the latest.
        download: Whether a hub id may be fetched; otherwise only the local cache is searched.

    Raises:
        FileNotFoundError: There is no such folder and no such model in the local cache, or its files are broken.
    """
    folder = _located(str(path))
    module, processor = _read(folder, local_only=not download)
    module.requires_grad_(False)
    if module.dtype.itemsize < 4 and module.device.type == "cpu":
        module = module.float()
    return HuggingFaceMLLM(module, processor, name or Path(folder).name, prompt, batch_size, max_new_tokens)


def _read(folder: str, *, local_only: bool) -> tuple[Any, Any]:
    """Return the model and the processor in `folder`; a FileNotFoundError says what is wrong with it."""
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        with without_bars():
            processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=local_only)
            read: Any = AutoModelForImageTextToText.from_pretrained(
                folder, local_files_only=local_only, dtype="auto", output_loading_info=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise FileNotFoundError(_missing(folder, str(error))) from error
    module, loading = read
    if loading["missing_keys"]:
        # transformers would go on with random numbers in their place.
        lost = sorted(loading["missing_keys"])
        raise FileNotFoundError(_missing(folder, f"{len(lost)} weights are not in its files, such as `{lost[0]}`"))
    return module, processor


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


def _located(path: str) -> str:
    if path.startswith("~"):
        path = str(Path(path).expanduser())
    if path in SHIPPED and (HERE / path).is_dir():
        return str(HERE / path)
    if path in SHIPPED:
        raise FileNotFoundError(f"the model `{path}` did not come with this copy of kedit: no folder `{HERE / path}`")
    if Path(path).is_dir() or not path.startswith((".", "/", "~")):
        return path
    raise FileNotFoundError(f"no model folder `{path}`; shipped models: {', '.join(SHIPPED)}")


def _missing(path: str, reason: str) -> str:
    if Path(path).is_dir():
        return f"the folder of model `{path}` is incomplete or broken: {reason.splitlines()[0]}"
    return (
        f"no folder `{path}` and no model of that name in the local cache; shipped models: {', '.join(SHIPPED)}. "
        "Set `model.download=true` to fetch it from the hub"
    )
