"""A sweep's folder: which jobs it has, which of them are finished, and whether it is the one that was asked for."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.complaints import ConfigurationError
from kedit.fingerprints import PACKAGE, of_files, of_libraries
from kedit.paths import home
from kedit.runs import write_atomic, write_json
from kedit.store import digest

logger = logging.getLogger(__name__)

STOPPED = "STOPPED"
"""The file that tells the jobs to come that one has failed and the rest is not to run."""
KEY = "KEY"
"""The file in a job's folder that says what its results belong to."""
_awaited: ContextVar[list[DictConfig] | None] = ContextVar("awaited", default=None)
"""The settings of the sweeps that have begun; None where nobody waits for them."""


@contextmanager
def awaited() -> Iterator[list[DictConfig]]:
    """Yield the settings of the sweeps that begin meanwhile, as `sweeping` tells of them."""
    settings: list[DictConfig] = []
    token = _awaited.set(settings)
    try:
        yield settings
    finally:
        _awaited.reset(token)


def sweeping(settings: DictConfig) -> None:
    """Tell whoever waits that a sweep has begun."""
    if (begun_sweeps := _awaited.get()) is not None:
        begun_sweeps.append(settings)


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep and their folder; a job's folder is named by its number."""

    folder: Path
    key: str
    """The digest of all that the jobs have in common: settings, code, libraries, files that are named."""
    jobs: tuple[tuple[str, ...], ...]
    """The overrides of each job."""
    resume: bool = True

    def prepared(self) -> list[int]:
        """Write what the sweep is into its folder and return the numbers of the jobs to run, with clean folders."""
        pending = [number for number in range(len(self.jobs)) if not (self.resume and self.is_finished(number))]
        if len(pending) < len(self.jobs):
            done = f"{len(self.jobs) - len(pending)} of {len(self.jobs)} jobs are finished"
            sys.stderr.write(f"kedit: going on in {self.folder}: {done}; `hydra.sweeper.resume=false` starts afresh\n")
        self._write()
        for number in pending:
            (self.folder / str(number) / "STATUS").unlink(missing_ok=True)
            # What a job that was killed told W&B would be uploaded as a run of its own.
            shutil.rmtree(self.folder / str(number) / "wandb", ignore_errors=True)
            write_atomic(self.folder / str(number) / KEY, self.job_key(number))
        return pending

    def is_finished(self, number: int) -> bool:
        """Return whether a job is done and its results belong to this sweep."""
        try:
            status = (self.folder / str(number) / "STATUS").read_text(encoding="utf-8")
            key = (self.folder / str(number) / KEY).read_text(encoding="utf-8")
        except OSError:
            return False
        return status == "done\n" and key == self.job_key(number)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from working on the same folder; a process that is killed does not.

        Raises:
            ConfigurationError: Another process is at it.
        """
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigurationError(
                    f"another process is working on this sweep in `{self.folder}`; wait for it, or name another "
                    "folder with `hydra.sweep.dir`"
                ) from error
            yield

    def job_key(self, number: int) -> str:
        """Return the digest of all that decides a job."""
        return digest([self.key, self.jobs[number]])

    @cached_property
    def identity(self) -> str:
        """The digest of the whole sweep."""
        return digest([self.key, self.jobs])

    def _write(self) -> None:
        (self.folder / STOPPED).unlink(missing_ok=True)
        write_json(self.folder / "sweep.json", {"identity": self.identity, "jobs": self.jobs})


def begun(settings: DictConfig, jobs: Sequence[Sequence[str]], *, anywhere: bool, resume: bool) -> Sweep:
    """Return the sweep that the settings ask for, in the folder where it was begun if there is one.

    Args:
        settings: The whole configuration that the jobs have in common, Hydra's part included.
        jobs: The overrides of each.
        anywhere: Whether an earlier folder beside the one that the settings name will do.
        resume: Whether finished jobs count.
    """
    folder = Path(settings.hydra.sweep.dir)
    found = Sweep(folder, common_key(settings), tuple(map(tuple, jobs)), resume)
    if not (anywhere and resume) or folder.exists():
        return found
    earlier = [path.parent for path in folder.parent.parent.glob("*/*/sweep.json") if _is_of(path, found.identity)]
    return Sweep(max(earlier), found.key, found.jobs) if earlier else found


def common_key(settings: DictConfig) -> str:
    """Return the digest of what all jobs have in common: settings, recipes and configuration, libraries, files."""
    told = OmegaConf.to_container(settings, resolve=False)
    assert isinstance(told, dict)
    running = told.pop("hydra")
    own = sorted(path for part in (PACKAGE, home() / "experiments", home() / "conf") for path in _sources(part))
    folders = [one["path"] for one in running["runtime"]["config_sources"] if one["schema"] == "file"]
    theirs = sorted(path for one in folders if Path(one) != home() / "conf" for path in Path(one).rglob("*.yaml"))
    about = {
        "recipe": running["job"]["config_name"],
        "settings": told,
        "sources": [str(path) for path in (*own, *theirs)],
        "libraries": of_libraries("torch", "transformers", "numpy", "evaluate"),
        "files": of_files(_texts(told)),
    }
    return digest(about, *(path.read_bytes() for path in (*own, *theirs)))


def statuses(folder: Path) -> dict[str, str]:
    """Return the STATUS of each job of the sweep that was begun, by the name of its folder."""
    found = {path.parent.name: path.read_text(encoding="utf-8").strip() for path in folder.glob("*/STATUS")}
    try:
        jobs = range(len(json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["jobs"]))
    except FileNotFoundError:
        return found
    # A larger sweep may have been here before.
    return {name: told for name, told in found.items() if name.isdigit() and int(name) in jobs}


def _is_of(path: Path, identity: str) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("identity") == identity)
    except (OSError, ValueError, AttributeError):
        return False


def _sources(folder: Path) -> Iterator[Path]:
    return (path for suffix in ("*.py", "*.yaml") for path in folder.rglob(suffix))


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for inner in node.values():
            yield from _texts(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _texts(inner)
