"""Inpainting pipelines of diffusers: found, checked, loaded, and told apart by their files."""

import inspect
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from kedit.fingerprints import of_file
from kedit.store import digest

HERE = Path(__file__).parent
SHIPPED = ("scenes_inpainter",)
"""Pipelines that come with kedit: folders beside this file."""
NAME_ONE = "name one that does with `inpaint.pipeline`, such as StableDiffusionInpaintPipeline or FluxFillPipeline"
OURS = frozenset({"image", "mask_image", "prompt", "example_image"})
"""What a pipeline may insist on being given."""
READ = frozenset({".json", ".safetensors", ".txt", ".model"})


def pipeline_folder(path: str, *, download: bool) -> Path:
    """Return the folder of a pipeline.

    Args:
        path: A folder, the name of a shipped pipeline, or the id of one on the hub.
        download: Whether an id may be fetched; otherwise only the local cache is searched.

    Raises:
        FileNotFoundError: There is no such folder and no such pipeline in the cache.
        ValueError: It holds no pipeline.
    """
    folder = HERE / path if path in SHIPPED else Path(path).expanduser()
    if not folder.is_dir():
        folder = _fetched(path, download=download)
    _index(folder)
    return folder


def _fetched(path: str, *, download: bool) -> Path:
    if not path.startswith((".", "/", "~")) and path.count("/") == 1:
        from diffusers import DiffusionPipeline

        try:
            with quiet():
                return Path(DiffusionPipeline.download(path, local_files_only=not download, use_safetensors=True))
        except (OSError, ValueError) as error:
            why = f" ({str(error).splitlines()[0]})" if download else ""
            raise FileNotFoundError(
                f"no folder `{path}` and no pipeline of that name in the local cache{why}; "
                "set `inpaint.download=true` to fetch it from the hub"
            ) from error
    raise FileNotFoundError(f"no pipeline folder `{path}`; give the folder that has its `model_index.json`")


def _index(folder: Path) -> dict[str, Any]:
    """Return what `model_index.json` says; a ValueError if there is none."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"`{folder}` is no pipeline of diffusers: it has no `model_index.json`; give a folder that "
            "`save_pretrained` wrote or that was downloaded whole"
        ) from error
    except ValueError as error:
        raise ValueError(f"`{folder / 'model_index.json'}` cannot be read: {error}") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError(f"`{folder / 'model_index.json'}` does not name the class of a pipeline (`_class_name`)")
    return index


def pipeline_class(folder: Path, name: str | None) -> type[Any]:
    """Return the class that inpaints with the parts in `folder`.

    Args:
        folder: A pipeline's folder.
        name: The name of the class in diffusers; None takes the class that the folder names, if it inpaints, or else
            the inpainting class that diffusers has for the same parts.

    Raises:
        ValueError: There is no such class, or it is none that inpaints a picture by a mask and a text alone.
    """
    import diffusers

    given = name or str(_index(folder)["_class_name"])
    found = getattr(diffusers, given, None) if given in dir(diffusers) else None
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ValueError(f"diffusers {diffusers.__version__} has no pipeline `{given}`; {NAME_ONE}")
    if _inpaints(found):
        return found
    if name is not None:
        raise ValueError(f"`{given}` does not inpaint a picture by a mask and a text alone; {NAME_ONE}")
    return _inpainting_kin(given)


def _inpainting_kin(name: str) -> type[Any]:
    """Return the inpainting class of diffusers for the parts of another one."""
    from diffusers.pipelines.auto_pipeline import AUTO_INPAINT_PIPELINES_MAPPING, SUPPORTED_TASKS_MAPPINGS

    mappings: Any = SUPPORTED_TASKS_MAPPINGS
    families = [family for known in mappings for family, one in known.items() if one.__name__ == name]
    found = next(filter(None, map(AUTO_INPAINT_PIPELINES_MAPPING.get, families)), None)
    if found is None:
        raise ValueError(f"AutoPipelineForInpainting knows no way to inpaint with a `{name}`; {NAME_ONE}")
    if not _inpaints(found):
        raise ValueError(f"`{found.__name__}` does not inpaint a picture by a mask and a text alone; {NAME_ONE}")
    kind: type[Any] = found
    return kind


def _inpaints(pipeline: type[Any]) -> bool:
    """Return whether a pipeline paints a region of a picture given nothing that we do not have."""
    takes = inspect.signature(pipeline.__call__).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = {one.name for one in takes.values() if one.kind in kinds and one.default is one.empty} - {"self"}
    # A ControlNet's picture has a default and is needed nevertheless.
    return {"image", "mask_image"} <= set(takes) and needed <= OURS and "control_image" not in takes


def load_pipeline(folder: Path, kind: type[Any], *, device: str, dtype: str, variant: str | None) -> Any:
    """Return the pipeline in `folder` as a `kind`, on `device`.

    Raises:
        ValueError: Its files are missing, broken or pickles, or it has parts that are not of diffusers or transformers.
    """
    import torch
    from safetensors import SafetensorError

    moved = _moved_parts(folder, kind)
    options = {"local_files_only": True, "use_safetensors": True}
    try:
        with quiet():
            pipeline = kind.from_pretrained(
                folder, dtype=getattr(torch, dtype), variant=variant, **options, **dict.fromkeys(moved)
            )
            for name, part in moved.items():
                read = part.from_pretrained(folder / name, dtype=getattr(torch, dtype), **options)
                pipeline.register_modules(**{name: read})
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"the pipeline `{folder}` cannot be loaded as `{kind.__name__}`: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _moved_parts(folder: Path, kind: type[Any]) -> dict[str, type[Any]]:
    """Return the classes of the parts that diffusers no longer has where the folder says, as it has moved `kind`.

    Refuses parts of another package, which would have to be imported, and weights that are pickles.
    """
    import diffusers
    from diffusers import pipelines

    home, moved = import_module(kind.__module__.rpartition(".")[0]), {}
    for name, part in _index(folder).items():
        if not isinstance(part, list) or not part or part[0] is None:
            continue
        library, wanted = str(part[0]), str(part[-1])
        _refuse_pickles(folder / name)
        if hasattr(pipelines, library) or library == "transformers":
            continue
        if hasattr(home, wanted):
            moved[name] = getattr(home, wanted)
        elif library != "diffusers" or not hasattr(diffusers, wanted):
            raise ValueError(
                f"the part `{name}` of the pipeline `{folder}` is `{wanted}` of `{library}`; "
                "parts come from diffusers or transformers, other code is not run"
            )
    return moved


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"the weights `{folder / pickles[0]}` are a pickle, which is not loaded; "
            "save the pipeline again with `safe_serialization=True`"
        )


def files_digest(folder: Path) -> str:
    """Return a digest of a pipeline's files: of the name and the content of each; a file is read once."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in READ and file.is_file())
    return digest([[file.relative_to(folder).as_posix(), of_file(file)] for file in files])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers' bars and its advice to programmers away."""
    from diffusers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # The pipeline of RePaint calls its own deprecated method.
            warnings.filterwarnings("ignore", "The preprocess method is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
