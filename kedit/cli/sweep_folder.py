"""A sweep's folder: which jobs it has, and which of them are finished and need not run again."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kedit.cli.configuration import without_hydra
from kedit.cli.errors import ConfigurationError
from kedit.cli.previous_runs import ASIDE, NO_MATTER, other_settings, overwrites, refuse_to_replace_inputs
from kedit.fingerprints import OF_MODELS, PACKAGE, of_files, of_libraries
from kedit.results.run_folder import clear, is_finished, write_atomic, write_json
from kedit.store import digest

T = TypeVar("T")
logger = logging.getLogger(__name__)

STOPPED = "STOPPED"
"""The file that tells the jobs to come that one has failed and the rest is not to run."""
PLAN = "sweep.json"
"""The file that lists the jobs."""
KEY = "KEY"
"""The file in the folder of a job that is done: what its results belong to, and what the job returned."""
LIBRARIES = (
    *OF_MODELS,
    *("diffusers", "evaluate", "sacrebleu", "rouge-score", "pycocotools", "datasets", "opencv-python-headless"),
)


def key_of(settings: Any, running: DictConfig) -> str:
    """Return the digest of all that decides a job: settings, sources, libraries and the content of the input files.

    Args:
        settings: The job's, as plain data.
        running: Hydra's part of them.
    """
    wanted = {name: value for name, value in settings.items() if name not in NO_MATTER}
    about = {
        "recipe": running.job.config_name,
        "settings": json.dumps(wanted, default=str),
        "chosen": {group: option for group, option in running.runtime.choices.items() if group in settings},
        "files": of_files(wanted),
    }
    return digest(about | _code())


@cache
def _code() -> dict[str, Any]:
    """Return what tells kedit's sources, with the models that it ships, and the libraries.

    Taken once for a process: whoever edits a file meanwhile does not change the code that is running.
    """
    sources = of_files({"path": str(PACKAGE)})
    return {"sources": sources, "libraries": of_libraries(*LIBRARIES)}


def once(job: Callable[[DictConfig], T], settings: DictConfig) -> T | None:
    """Run a job of a sweep; where its folder holds what it would find, return at once what it returned then."""
    running: Any = HydraConfig.get()
    folder, key = Path(running.runtime.output_dir), _key(settings, running)
    with suppress(FileNotFoundError):
        (folder / ASIDE).replace(folder / "STATUS")
    if (kept := finished(folder, key)) is not None:
        from kedit.cli.sweeping.telling import tell_finished

        tell_finished(running)
        return kept["returned"]  # type: ignore[no-any-return]
    # The log goes on; what a job that was killed told W&B would be uploaded as a run of its own.
    clear(folder, keep=[".hydra", "kedit.log"])
    (folder / KEY).unlink(missing_ok=True)
    if (Path(running.sweep.dir) / STOPPED).exists():
        return None
    returned = job(settings)
    if key is not None and key == _key(settings, running):  # nobody has changed the files meanwhile
        write_atomic(folder / KEY, json.dumps({"key": key, "returned": returned}))
    return returned


def _key(settings: DictConfig, running: DictConfig) -> str | None:
    """Return the key of a job; None where its settings cannot be resolved, of which it will tell itself."""
    try:
        content = OmegaConf.to_container(settings, resolve=True)
    except OmegaConfBaseException:
        return None
    assert isinstance(content, dict)
    return key_of(content, running)


def finished(folder: Path, key: str | None) -> dict[str, Any] | None:
    """Return what KEY says of the job in `folder`, if it is done and has this key."""
    try:
        kept = json.loads((folder / KEY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    fits = key is not None and isinstance(kept, dict) and kept.get("key") == key
    return kept if fits and is_finished(folder) else None


def begin(settings: DictConfig) -> None:
    """Note in a sweep's folder which jobs it has; what another sweep left there does not count as done.

    Other sweepers than Hydra's own, such as optuna's, decide on their jobs as they go.

    Args:
        settings: The whole configuration that the jobs have in common, Hydra's part included.

    Raises:
        ConfigurationError: A finished job there had other settings, and `overwrite` is not set.
    """
    folder, plan = Path(settings.hydra.sweep.dir), dict[str, Any]()
    if settings.hydra.runtime.choices["hydra/sweeper"] == "basic" and (jobs := _jobs(settings.hydra)):
        common = OmegaConf.to_container(without_hydra(settings))
        plan = {"key": key_of(common, settings.hydra), "jobs": jobs}
    same = _in_common(_plan(folder), plan)
    _make_room(folder, settings, plan.get("jobs", []), same)
    for status in folder.glob("*/STATUS"):
        if status.parent.name.isdigit() and status.parent.name not in same:
            status.replace(status.with_name(ASIDE))
    (folder / STOPPED).unlink(missing_ok=True)
    if plan:
        write_json(folder / PLAN, plan)
    else:
        (folder / PLAN).unlink(missing_ok=True)


def _make_room(folder: Path, settings: DictConfig, jobs: list[list[str]], same: set[str]) -> None:
    """Remove the finished jobs in a sweep's folder that have other settings now, or that there are no longer."""
    planned, loader = (
        {str(number): arguments for number, arguments in enumerate(jobs)},
        GlobalHydra.instance().config_loader(),
    )
    olds = sorted(path for path in folder.glob("*") if path.name.isdigit())

    @cache
    def composed(number: str) -> DictConfig:
        return loader.load_sweep_config(settings, planned[number])

    if overwrites(settings) and olds:
        for asked in map(composed, planned) if planned else [settings]:
            refuse_to_replace_inputs(olds, asked)
    for old in olds:
        arguments, difference = planned.get(old.name), ""
        if arguments is not None and (old.name not in same or _arguments(old) != arguments):
            difference = other_settings(old, composed(old.name))
        elif not jobs:  # a search may choose other values of what it varies than it did before
            difference = other_settings(old, settings, but=_varied(settings.hydra))
        if difference and not overwrites(settings):
            raise ConfigurationError(
                f"`{old}` holds a finished job with other settings ({difference}); name another folder with "
                "`hydra.sweep.dir`, or replace it with `overwrite=true`"
            )
        if overwrites(settings) and (difference or (jobs and arguments is None)):
            with suppress(FileNotFoundError):
                (old / ASIDE).replace(old / "STATUS")
            clear(old)
            with suppress(OSError):  # the user has put something there
                old.rmdir()


def _varied(running: DictConfig) -> set[str]:
    """Return the keys that differ from job to job."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    swept = [one for one in parser.parse_overrides(list(running.overrides.task)) if one.is_sweep_override()]
    return {one.get_key_element().lstrip("+") for one in swept} | {str(key) for key in running.sweeper.params or {}}


def _arguments(folder: Path) -> list[str] | None:
    """Return the overrides of the run in `folder`."""
    try:
        return list(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    except Exception:  # YAML of any kind, or none
        return None


def _in_common(plan: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Return the names of the jobs that two plans both have."""
    if plan.get("key") != other.get("key"):
        return set()
    one, two = (
        [[argument for argument in job if argument.partition("=")[0] not in NO_MATTER] for job in found.get("jobs", [])]
        for found in (plan, other)
    )
    return {str(number) for number, (job, same) in enumerate(zip(one, two, strict=False)) if job == same}


def _jobs(running: DictConfig) -> list[list[str]]:
    """Return the overrides of each job, as Hydra's own sweeper will make them; none where nobody can know them yet."""
    arguments = [f"{key}={values}" for key, values in (running.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*arguments, *running.overrides.task])
    swept = [one for one in overrides if one.is_sweep_override()]
    # Hydra shuffles anew each time, and refuses what it cannot count.
    if not all(one.is_discrete_sweep() and not getattr(one.value(), "shuffle", False) for one in swept):
        return []
    values = dict[str, list[str]]()
    for one in overrides:
        key = one.get_key_element()
        several = one.sweep_string_iterator() if one in swept else [one.get_value_element_as_str()]
        values[key] = [f"{key}={value}" for value in several]
    return [list(job) for job in product(*values.values())]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from working on the same sweep; a process that is killed does not.

    Raises:
        ConfigurationError: Another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock, _locked(lock.fileno(), "sweep", folder):
        yield


@contextmanager
def alone_in_run(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same folder, which stays as it is.

    Raises:
        ConfigurationError: Another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with _locked(handle, "run", folder):
            yield
    finally:
        os.close(handle)


@contextmanager
def _locked(handle: int, what: str, folder: Path) -> Iterator[None]:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"another process is working on this {what} in `{folder}`; wait for it, or name another folder with "
            f"`hydra.{what}.dir`"
        ) from error
    except OSError as error:  # NFS locks no folder
        logger.info("cannot lock `%s`: %s", folder, error)
    yield


def statuses(folder: Path) -> dict[str, str]:
    """Return the STATUS of each job of the sweep that was begun, by the name of its folder."""
    found = {path.parent.name: path.read_text(encoding="utf-8").strip() for path in folder.glob("*/STATUS")}
    if not (plan := _plan(folder)):
        return found
    # A larger sweep may have been here before.
    return {name: told for name, told in found.items() if name.isdigit() and int(name) < len(plan["jobs"])}


def _plan(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
