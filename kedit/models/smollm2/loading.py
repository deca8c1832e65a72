"""The two models of this room, ready to use."""

from pathlib import Path
from typing import Any

from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.shipped import unreadable
from kedit.models.smollm2.language import fetch, language_folder
from kedit.models.smollm2.scenes import PROMPT, scenes_folder


def load_language(*, download: bool = False, **how: Any) -> HuggingFaceMLLM:
    """Load SmolLM2-135M-Instruct alone: it reads text.

    Args:
        download: Whether to fetch it where it is not kept yet.
        how: See `kedit.load`.

    Raises:
        NotFetchedError: It was not fetched.
    """
    folder = fetch() if download else language_folder()
    return load(folder, **{"name": "smollm2"} | how)


def load_scenes(language: str | None = None, *, download: bool = False, **how: Any) -> HuggingFaceMLLM:
    """Load the model that describes the picture world with SmolLM2.

    Args:
        language: A folder with, or the hub id of, other weights of the same language model; figures of the card do not
            hold for them.
        download: Whether to fetch what is not kept yet.
        how: See `kedit.load`.

    Raises:
        NotFetchedError: The language model was not fetched.
        ValueError: `language` is another model.
    """
    if language is None and download:
        fetch()
    folder = scenes_folder(None if language is None else _kept(language, download))
    return load(folder, **{"name": "smollm2_scenes", "prompt": PROMPT} | how)


def _kept(language: str, download: bool) -> Path:
    """Return the folder of a language model on this machine."""
    if Path(language).expanduser().is_dir():
        return Path(language).expanduser()
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.jinja"]
    try:
        return Path(snapshot_download(language, local_files_only=not download, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise unreadable(language, str(error)) from error
