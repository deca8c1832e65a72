"""What a command does with its configuration: build what it names, refuse what is wrong; threads, mirrored runs."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf, read_write

from kedit.cli.errors import ConfigurationError, explained, one_line, written
from kedit.figure_style import Style
from kedit.paths import conf_dir

# A study's own `config.yaml` lies beside its code and finds kedit's groups by this name.
OmegaConf.register_new_resolver("kedit.conf", lambda: f"file://{conf_dir()}", replace=True)

T = TypeVar("T")
logger = logging.getLogger(__name__)

TEXTS = frozenset({"concept", "folder", "path", "adapter", "language", "concepts_file", "questions_file", "scores",
                   "subset", "synonyms", "pope_question"})  # fmt: skip
"""Last parts of the settings that are a text, which is not empty."""
SWITCHES = frozenset({"figures", "titles", "share_passes", "crowds", "control", "download", "trust_remote_code",
                      "chair", "pope", "page"})  # fmt: skip
"""Last parts of the settings that are true or false."""
READ_AS = {"int": "a number", "float": "a number", "bool": "true or false", "NoneType": "nothing"}
"""What a value is called that Hydra read as a type of Python's."""
OF_MODELS = {"model.batch_size": 1, "model.max_new_tokens": 1}
"""The settings that are whole numbers wherever a model is chosen, and the least of each."""
FILES = {"scores": "", "evaluate.synonyms": "",
         **{f"data.{name}": "data.folder" for name in ("index", "concepts_file", "questions_file")},
         **{f"data.{name}": "data.folder" for name in ("instances", "captions")}}  # fmt: skip
"""The settings that name a file, and those that name the folder it lies in."""

MOVED = {
    "kedit.locate.auto.Auto": "kedit.locate.fdr.selector.FDRSelector",
    "kedit.locate.mmneuron.DomainEntropy": "kedit.locate.domain_entropy.DomainEntropy",
}
"""Where what runs of 0.7 and before kept as a `_target_` is now."""


def build(node: Any) -> Any:
    """Instantiate a configuration whose every `_target_` is kedit's own, under its name of now or of 0.7."""
    from hydra.utils import instantiate

    if not isinstance(node, DictConfig):
        raise ConfigurationError(f"`{node}` is nothing that can be built: a mapping with a `_target_` is")
    refuse_missing(node)
    node = _with_names_of_now(node)
    for target in _targets(node):
        if not _is_ours(target):
            raise ConfigurationError(f"`_target_` must start with `kedit.`, got `{target}`")
    with misuse():
        return instantiate(node, _convert_="all")


def refuse_missing(node: DictConfig) -> None:
    """Refuse settings of which one has to be given and is not."""
    for key in sorted(OmegaConf.missing_keys(node)):
        raise ConfigurationError(f"`{key}` has no value; give it as `{key}=...`")


@contextmanager
def misuse() -> Iterator[None]:
    """Turn what is wrong with a value the user gave into a `ConfigurationError`."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (ValueError, LookupError, TypeError, OSError, HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(explained(error)) from error


def whole_numbers(settings: DictConfig, least: Mapping[str, int], optional: Iterable[str] = ()) -> None:
    """Refuse settings that are not whole numbers from `least` on; those of `optional` may be null."""
    for key, smallest in least.items():
        found = OmegaConf.select(settings, key)
        if found is None and key in optional:
            continue
        if not isinstance(found, int) or isinstance(found, bool) or found < smallest:
            null = " or null" if key in optional else ""
            shown = "null" if found is None else "nothing" if found == "" else found
            raise ConfigurationError(f"`{key}` is a whole number, {smallest} or more{null}; got {shown}")


def texts(settings: DictConfig, lists: Sequence[str] = ()) -> None:
    """Refuse a text that Hydra read as something else, and a folder in the place of a file.

    Args:
        settings: The job's.
        lists: The texts that may be several.
    """
    from hydra.core.hydra_config import HydraConfig

    for word in HydraConfig.get().overrides.task:
        key, _, given = word.lstrip("+").partition("=")
        if key not in lists and not key.startswith("~"):
            _check_word(key, OmegaConf.select(settings, key), given)
    for key, within in FILES.items():
        folder = OmegaConf.select(settings, within, default=None, throw_on_missing=False) if within else None
        value = OmegaConf.select(settings, key, default=None)
        if isinstance(value, str) and (path := Path(folder or ".", value)).is_dir():
            raise ConfigurationError(f"`{key}` is a file, and `{path}` is a folder{_inside(key, value, path)}")


def _check_word(key: str, value: Any, given: str) -> None:
    name = key.rpartition(".")[2]
    if name in SWITCHES and not isinstance(value, bool | DictConfig):
        raise ConfigurationError(f"`{key}` is true or false; got {given}")
    if name not in TEXTS:
        return
    if value == "":
        raise ConfigurationError(f"`{key}` is empty; give it as `{key}=...`")
    # A concept may be called 7; other texts may be left out.
    if not (isinstance(value, str) or (str(value) == given if name == "concept" else value is None)):
        read = READ_AS.get(type(value).__name__, "a list or a mapping")
        way = f"write it in quotes: {written(key, given)}"
        raise ConfigurationError(f"`{key}` is a text, and {given} was read as {read}; {way}")


def figure_style(settings: DictConfig) -> Style | bool:
    """Return how the figures are to be drawn: a `Style`, or False for none.

    Raises:
        ConfigurationError: There is no such format or width.
    """
    asked = settings.get("figures", True)
    if isinstance(asked, bool):
        return asked
    try:
        return Style(**plain(asked))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(str(error).replace("`", "`figures.", 1)) from error


def _inside(key: str, value: str, path: Path) -> str:
    kinds = ("*.safetensors",) if key == "scores" else ("*.jsonl", "*.json")
    files = sorted(file.name for kind in kinds for file in path.glob(kind))
    return f"; in it: `{key}={Path(value) / files[0]}`" if files else ""


def sweep_folder() -> Path | None:
    """Return the folder of the sweep that the job belongs to, or None."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir)


def use_threads(count: int | None) -> None:
    """Let PyTorch use `count` CPU threads; None leaves the choice to it, or shares them out among jobs at once."""
    import torch

    from kedit.cli.launching import cpus_here, threads_for, workers_of

    if count is None and sweep_folder() is not None:
        from hydra.core.hydra_config import HydraConfig

        workers = workers_of(plain(HydraConfig.get()), cpus_here())
        count = threads_for(workers, cpus_here(), None) if workers > 1 else None
    if count is not None:
        torch.set_num_threads(count)


@contextmanager
def mirrored(tracker: Any, settings: DictConfig, folder: Path) -> Iterator[None]:
    """Tell `tracker` that a run begins and how it ends."""
    tracker.start(folder.name, plain(settings), folder)
    try:
        yield
    except BaseException as error:
        tracker.finish(failed=one_line(f"{type(error).__name__}: {error}"))
        raise
    tracker.finish()


def plain(node: Any, *, resolve: bool = True) -> dict[str, Any]:
    """Return a configuration as plain data, resolved or as it was written."""
    data = OmegaConf.to_container(node, resolve=resolve)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def without_hydra(settings: DictConfig) -> DictConfig:
    """Return a whole configuration without Hydra's part of it."""
    return OmegaConf.masked_copy(settings, [str(key) for key in settings if key != "hydra"])


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in node:
            if key == "_target_":
                yield str(node[key])
            elif not OmegaConf.is_missing(node, str(key)):
                yield from _targets(node[key])
    elif isinstance(node, ListConfig):
        for item in node:
            yield from _targets(item)


def _with_names_of_now(node: DictConfig) -> DictConfig:
    """Return a configuration in which no `_target_` has moved: itself, or a copy that has its parent."""
    if MOVED.keys().isdisjoint(_targets(node)):
        return node
    copied = deepcopy(node)
    with read_write(copied):
        _rename_targets(copied)
    return copied


def _rename_targets(node: Any) -> None:
    if isinstance(node, DictConfig):
        for key in node:
            if key == "_target_":
                node[key] = MOVED.get(node[key], node[key])
            elif not OmegaConf.is_missing(node, str(key)):
                _rename_targets(node[key])
    elif isinstance(node, ListConfig):
        for item in node:
            _rename_targets(item)


def _is_ours(target: str) -> bool:
    if not target.startswith("kedit."):
        return False
    try:
        found = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"there is no `_target_` `{target}`: {one_line(str(error))}") from error
    # A name may lead out again: `kedit.results.run_folder.os.system` is not kedit's.
    return str(getattr(found, "__module__", "")).startswith("kedit.")
