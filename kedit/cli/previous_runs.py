"""What a folder that is asked for holds already: a run of the same settings, of others, or none."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kedit.cli.configuration import misuse, plain, without_hydra
from kedit.cli.errors import ConfigurationError
from kedit.results.run_folder import check_own, clear, is_finished, is_the_users, may_go

NO_MATTER = frozenset({"on_error", "progress", "store", "overwrite", "page"})
"""Settings that change no result."""
ASIDE = ".STATUS"
"""The STATUS of a job that another sweep left, until this one comes to it and sees whether it fits."""
OF_RUNS = frozenset({"scores", "merge", "adapter"})
"""Settings that may name the folder of a run, whose results are read."""
SHOWN = 4
"""How many of the settings that differ are told."""


def settings_of(run: Path) -> DictConfig:
    """Return the configuration of a finished run of `kedit run`, without Hydra's part.

    Raises:
        ConfigurationError: It is none.
    """
    if (run / "multirun.yaml").is_file():
        raise ConfigurationError(f"`{run}` is a sweep: give one of its jobs, such as `{run / '0'}`")
    if not (run / "report.json").is_file() or not is_finished(run):
        raise ConfigurationError(f"`{run}` is no finished run of `kedit run`")
    if (command := OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.job.config_name) != "run":
        raise ConfigurationError(f"`{run}` is no finished run of `kedit run`, but of `kedit {command}`")
    settings = OmegaConf.load(run / ".hydra" / "config.yaml")
    assert isinstance(settings, DictConfig)
    return settings


def make_room(folder: Path, settings: DictConfig) -> None:
    """Remove what an earlier run left in `folder`, unless that is done and had other settings.

    Args:
        folder: Where a run is about to begin.
        settings: All that the run is asked for, Hydra's part included.

    Raises:
        ConfigurationError: It is, and `overwrite` is not set; or files that no run left would be replaced.
    """
    if not overwrites(settings) and (difference := other_settings(folder, settings)):
        raise ConfigurationError(
            f"`{folder}` holds a finished run with other settings ({difference}); name another folder with "
            "`hydra.run.dir`, or replace it with `overwrite=true`"
        )
    refuse_to_replace_inputs([folder], settings)
    with misuse():
        check_own(folder, ASIDE)
    clear(folder)


def overwrites(settings: DictConfig) -> bool:
    """Return the setting `overwrite`."""
    wanted = OmegaConf.select(settings, "overwrite", default=False)
    if not isinstance(wanted, bool):
        raise ConfigurationError(f"`overwrite` is true or false; got {wanted}")
    return wanted


def other_settings(folder: Path, settings: DictConfig, but: Iterable[str] = ()) -> str:
    """Return how the settings of the finished run in `folder` differ from these; nothing where it fits, or is not.

    Args:
        folder: The run's.
        settings: All that is asked for now, Hydra's part included.
        but: Keys, of settings or of choices, that may differ.
    """
    if not (is_finished(folder) or _text(folder / ASIDE) == "done\n"):
        return ""
    try:
        had = OmegaConf.load(folder / ".hydra" / "config.yaml")
        of_hydra = OmegaConf.load(folder / ".hydra" / "hydra.yaml")
        chose: dict[str, Any] = {"command": of_hydra.hydra.job.config_name, **of_hydra.hydra.runtime.choices}
    except Exception:  # YAML of any kind, or none
        return "which, nobody knows"
    chooses = {"command": settings.hydra.job.config_name, **settings.hydra.runtime.choices}
    asked = without_hydra(settings)
    may = tuple(but)
    # As written, since what an interpolation comes to is no setting.
    before, now = (plain(one, resolve=False) for one in (had, asked))
    differing = _differing(before, now, chose, chooses)
    lines = [line for key, line in differing if key not in may and not key.startswith(tuple(f"{one}." for one in may))]
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def _differing(
    had: Mapping[str, Any], asked: Mapping[str, Any], chose: Mapping[str, Any], chooses: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield each choice, and each setting of what was chosen alike, that differs, and how."""
    groups = [name for name in sorted({*chose, *chooses}) if name in {*had, *asked, "command"}]
    changed = [name for name in groups if chose.get(name) != chooses.get(name)]
    for name in changed:
        yield name, f"`{name}` was {chose.get(name)}, is {chooses.get(name)}"
    if "command" in changed:
        return
    before, after = dict(_leaves(had)), dict(_leaves(asked))
    for key in sorted({*before, *after}):
        if key.partition(".")[0] in {*changed, *NO_MATTER} or before.get(key, ...) == after.get(key, ...):
            continue
        was, now = (_shown(leaves[key]) if key in leaves else "not there" for leaves in (before, after))
        yield key, f"`{key}` was {was}, is {now}"


def _leaves(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(settings, Mapping) and settings:
        for key, value in settings.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, settings


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def refuse_to_replace_inputs(folders: Iterable[Path], settings: DictConfig) -> None:
    """Raise a ConfigurationError where the settings name something that is to be removed from the folders of runs."""
    holding = [one.resolve() for one in folders if (one / "STATUS").exists() and not is_the_users(one)]
    if not holding:
        return
    for key, value in _leaves(_resolved(settings)):
        if key.partition(".")[0] in NO_MATTER:
            continue
        for text in value if isinstance(value, list) else [value]:
            path = _existing(text) if isinstance(text, str) else None
            if path is not None and any(_is_removed_with(folder, key, path) for folder in holding):
                why = f"`{text}` is read by this run and would be replaced by it"
                raise ConfigurationError(f"{why}; name another folder")


def _resolved(settings: DictConfig) -> Any:
    """Return the settings of a job as plain data; as they are written where that is not known yet."""
    try:
        values = plain(settings)
    except OmegaConfBaseException:
        values = plain(settings, resolve=False)
    return {key: value for key, value in values.items() if key != "hydra"}


def _existing(text: str) -> Path | None:
    """Return the path that a text is, if there is something."""
    try:
        path = Path(text).expanduser().resolve()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # a text that is no path
        return None


def _is_removed_with(folder: Path, key: str, path: Path) -> bool:
    """Return whether a setting names a folder's results, or something that goes with them."""
    if path == folder:
        return key.rpartition(".")[2] in OF_RUNS
    return path.is_relative_to(folder) and may_go(path.relative_to(folder).parts[0])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
