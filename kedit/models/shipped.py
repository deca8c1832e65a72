"""Where a model lies: among those that come with kedit, in a folder, or under its id on the hub."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kedit.models.smollm2.language import language_folder
from kedit.models.smollm2.scenes import PROMPT as DESCRIBE
from kedit.models.smollm2.scenes import scenes_folder

HERE = Path(__file__).parent
SHIPPED = ("scenes", "scenes_draw", "scenes_plain", "scenes_soft")
SCENES = "smollm2_scenes"
FETCHED = {"smollm2": language_folder, SCENES: scenes_folder}
"""The models that `kedit fetch` keeps, and what says in which folder."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
"""Files of weights that can run code when they are read."""
ASKED: dict[str, dict[str, Any]] = {
    # They have seen no other prompt.
    **{key: {"prompt": "describe the picture .", "batch_size": 128, "max_new_tokens": 28} for key in SHIPPED},
    SCENES: {"prompt": DESCRIBE, "batch_size": 16, "max_new_tokens": 28},
    "smollm2": {"batch_size": 16, "max_new_tokens": 28},
}
"""How these models are asked, unless somebody says otherwise, in a notebook as by a command."""


class BrokenModelError(FileNotFoundError):
    """A model is not there, or not all of it."""


def located(path: str, *, language: str | None = None, download: bool = False) -> str:
    """Return the folder of a shipped model, another folder, or a hub id as it is.

    Args:
        path: What the model is called, or where it lies.
        language: Other weights for the language model of `smollm2_scenes`: a folder or a hub id.
        download: Whether `language` may be fetched from the hub.

    Raises:
        ValueError: `language` is given for another model.
        FileNotFoundError: There is no such folder, it is a file, or its weights cannot be read.
    """
    if language is not None:
        if path != SCENES:
            raise ValueError(f"`language` takes other weights for the language model of `{SCENES}`, not of `{path}`")
        return str(scenes_folder(language, download=download))
    if path.startswith("~"):
        path = str(Path(path).expanduser())
    if path in SHIPPED:
        if not (HERE / path).is_dir():
            raise FileNotFoundError(
                f"the model `{path}` did not come with this copy of kedit: no folder `{HERE / path}`"
            )
        return str(HERE / path)
    if path in FETCHED and not Path(path).is_dir():
        return str(FETCHED[path]())
    if Path(path).is_dir():
        if (Path(path) / "neurons.json").is_file() and (Path(path) / "STATUS").is_file():
            raise BrokenModelError(
                f"`{path}` is the folder of a run, whose edit is no weights yet: `kedit export {path} to=lora` (or "
                "`to=merged`) makes some of it"
            )
        _refuse_pickles(Path(path))
        return path
    if Path(path).is_file():
        raise FileNotFoundError(
            f"`{path}` is a file; a model is a folder with `config.json`, its weights as safetensors and its "
            f"processor's or tokenizer's files: give `{Path(path).parent}` if they lie beside it"
        )
    if path.startswith((".", "/")):
        raise FileNotFoundError(f"no model folder `{path}`; shipped models: {', '.join(SHIPPED)}")
    return path


def unreadable(path: str, reason: str) -> BrokenModelError:
    """Return the error for a model that is not there or is broken, in one line."""
    first = next((line.strip() for line in reason.splitlines() if line.strip()), "no reason given")
    if Path(path).is_dir():
        return BrokenModelError(f"the folder of model `{path}` is incomplete or broken: {first}")
    near = get_close_matches(path, SHIPPED, n=1)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return BrokenModelError(
        f"{hint}no folder `{path}` and no model of that name in the local cache; shipped models: {', '.join(SHIPPED)}. "
        "Set `model.download=true` to fetch it from the hub"
    )


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickles and not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"the folder of model `{folder}` has its weights as pickles (`{pickles[0]}`), which run code when they are "
            "read, and none as safetensors; where you trust them, save the model once more with "
            "`save_pretrained`, which writes safetensors"
        )
