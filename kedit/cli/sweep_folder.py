"""A sweep's folder: which jobs it has, and which of them are finished and need not run again."""

import json
import shutil
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

from kedit.cli.errors import ConfigurationError
from kedit.fingerprints import PACKAGE, of_files, of_libraries
from kedit.runs import write_atomic, write_json
from kedit.store import digest

T = TypeVar("T")

STOPPED = "STOPPED"
"""The file that tells the jobs to come that one has failed and the rest is not to run."""
PLAN = "sweep.json"
"""The file that lists the jobs."""
KEY = "KEY"
"""The file in the folder of a job that is done: what its results belong to, and what the job returned."""
ASIDE = ".STATUS"
"""The STATUS of a job that another sweep left, until this one comes to it and sees whether it fits."""
NO_MATTER = frozenset({"on_error", "store"})
"""Settings that change no result."""
LIBRARIES = (
    *("torch", "torchvision", "transformers", "tokenizers", "accelerate", "diffusers", "numpy", "pillow"),
    *("evaluate", "sacrebleu", "rouge-score", "pycocotools", "datasets", "opencv-python-headless"),
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
    for name in (KEY, "STATUS"):
        (folder / name).unlink(missing_ok=True)
    # What a job that was killed told W&B would be uploaded as a run of its own.
    shutil.rmtree(folder / "wandb", ignore_errors=True)
    if (Path(running.sweep.dir) / STOPPED).exists():
        return None
    returned = job(settings)
    if key is not None and key == _key(settings, running):  # nobody has changed the files meanwhile
        write_atomic(folder / KEY, json.dumps({"key": key, "returned": returned}))
    return returned


def _key(settings: DictConfig, running: DictConfig) -> str | None:
    """Return the key of a job; None where its settings cannot be resolved, of which it will tell itself."""
    try:
        told = OmegaConf.to_container(settings, resolve=True)
    except OmegaConfBaseException:
        return None
    assert isinstance(told, dict)
    return key_of(told, running)


def finished(folder: Path, key: str | None) -> dict[str, Any] | None:
    """Return what KEY says of the job in `folder`, if it is done and has this key."""
    try:
        done = (folder / "STATUS").read_text(encoding="utf-8") == "done\n"
        kept = json.loads((folder / KEY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if done and key is not None and isinstance(kept, dict) and kept.get("key") == key else None


def begin(settings: DictConfig) -> None:
    """Note in a sweep's folder which jobs it has; what another sweep left there does not count as done.

    Other sweepers than Hydra's own, such as optuna's, decide on their jobs as they go.

    Args:
        settings: The whole configuration that the jobs have in common, Hydra's part included.
    """
    folder, plan = Path(settings.hydra.sweep.dir), dict[str, Any]()
    if settings.hydra.runtime.choices["hydra/sweeper"] == "basic" and (jobs := _jobs(settings.hydra)):
        common = OmegaConf.to_container(
            OmegaConf.masked_copy(settings, [str(key) for key in settings if key != "hydra"])
        )
        plan = {"key": key_of(common, settings.hydra), "jobs": jobs}
    same = _in_common(_plan(folder), plan)
    for status in folder.glob("*/STATUS"):
        if status.parent.name.isdigit() and status.parent.name not in same:
            status.replace(status.with_name(ASIDE))
    (folder / STOPPED).unlink(missing_ok=True)
    if plan:
        write_json(folder / PLAN, plan)
    else:
        (folder / PLAN).unlink(missing_ok=True)


def _in_common(plan: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Return the names of the jobs that two plans both have."""
    if plan.get("key") != other.get("key"):
        return set()
    one, two = (
        [[word for word in job if word.partition("=")[0] not in NO_MATTER] for job in found.get("jobs", [])]
        for found in (plan, other)
    )
    return {str(number) for number, (job, same) in enumerate(zip(one, two, strict=False)) if job == same}


def _jobs(running: DictConfig) -> list[list[str]]:
    """Return the overrides of each job, as Hydra's own sweeper will make them; none where nobody can know them yet."""
    words = [f"{key}={values}" for key, values in (running.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*words, *running.overrides.task])
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
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"another process is working on this sweep in `{folder}`; wait for it, or name another folder with "
                "`hydra.sweep.dir`"
            ) from error
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
