"""What a command does with its configuration: build what it names, refuse what is wrong; threads, mirrored runs."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf

from kedit.cli.errors import ConfigurationError, explained, one_line
from kedit.paths import conf_dir

# A study's own `config.yaml` lies beside its code and finds kedit's groups by this name.
OmegaConf.register_new_resolver("kedit.conf", lambda: f"file://{conf_dir()}", replace=True)

T = TypeVar("T")
logger = logging.getLogger(__name__)


def build(node: Any) -> Any:
    """Instantiate a configuration whose every `_target_` is kedit's own."""
    from hydra.utils import instantiate

    for key in sorted(OmegaConf.missing_keys(node)):
        raise ConfigurationError(f"`{key}` has no value; give it as `{key}=...`")
    for target in _targets(node):
        if not _is_ours(target):
            raise ConfigurationError(f"`_target_` must start with `kedit.`, got `{target}`")
    with misuse():
        return instantiate(node, _convert_="all")


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
            shown = "null" if found is None else found
            raise ConfigurationError(f"`{key}` is a whole number, {smallest} or more{null}; got {shown}")


def sweep_folder() -> Path | None:
    """Return the folder of the sweep that the job belongs to, or None."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir)


def bar(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """Yield `items` with a progress bar on standard error; silent where that is no terminal."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=what, disable=None, leave=False, dynamic_ncols=True, delay=0.5)


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


def plain(node: Any) -> dict[str, Any]:
    """Return a configuration as plain data, resolved."""
    data = OmegaConf.to_container(node, resolve=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


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


def _is_ours(target: str) -> bool:
    if not target.startswith("kedit."):
        return False
    try:
        found = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"there is no `_target_` `{target}`: {one_line(str(error))}") from error
    # A name may lead out again: `kedit.runs.os.system` is not kedit's.
    return str(getattr(found, "__module__", "")).startswith("kedit.")
