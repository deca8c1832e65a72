"""How a run or a sweep begins and ends: in which folder, who is told, and what is put together, also after failures."""

import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import build, mirrored, plain
from kedit.cli.errors import ConfigurationError, explained, quoted
from kedit.cli.jobs import FAILED, LOG, AtEnd, Begun, Refused, announce, code_of, said, tell_error, tell_offline
from kedit.cli.logs import logged
from kedit.cli.previous_runs import make_room
from kedit.cli.sweep_folder import alone, alone_in_run, begin, statuses
from kedit.results.run_folder import new_folder

logger = logging.getLogger(__name__)


class Sweeping(Callback):
    """Gives each run and each sweep a folder of its own, and tells the command what has begun.

    The command puts the results of a sweep together however it ends: Hydra itself calls nothing after one in which a
    job failed.
    """

    def on_run_start(self, config: DictConfig, **more: Any) -> None:
        """Begin a run in its folder, in which no other process may be, nor anything of an earlier run."""
        if config.hydra.output_subdir is None:  # the command has no run folder
            return
        with beginning(config, "run", lambda failed: []) as held:
            _name(config, "run")
            folder = Path(config.hydra.run.dir)
            held.enter_context(alone_in_run(folder))
            make_room(folder, config)

    def on_multirun_start(self, config: DictConfig, **more: Any) -> None:
        """Begin a sweep in its folder, in which no other process may be."""
        with beginning(config, "sweep", partial(end, config)) as held:
            _check_subfolders(config)
            _name(config, "sweep")
            held.enter_context(alone(Path(config.hydra.sweep.dir)))
            begin(config)


@contextmanager
def beginning(config: DictConfig, what: str, at_end: AtEnd) -> Iterator[ExitStack]:
    """Yield what a run or a sweep is to hold while it lasts, and tell the command that it has begun.

    Raises:
        Refused: It must not begin; the reason has been said.
    """
    held = ExitStack()
    try:
        if config.hydra.job.chdir:
            raise ConfigurationError(
                "`hydra.job.chdir=true`: kedit stays in the folder it is started in, from which paths such as "
                "`data.folder` are read, and writes into the run's folder all the same; leave it out"
            )
        yield held
    except Exception as error:
        held.close()
        raise Refused(tell_error(error, what)) from error
    announce(Begun(held, at_end, _resume(what, Path(config.hydra[what].dir))))


def _name(config: DictConfig, what: str) -> None:
    """Make the folder that is named after the time, under a name of its own where that is taken."""
    node = config.hydra[what]
    if not node.dir:
        raise ConfigurationError(f"`hydra.{what}.dir` is empty; leave it out for a folder named after the time")
    if "${now:" not in plain(node, resolve=False)["dir"]:
        return
    node.dir = str(new_folder(Path(node.dir)))
    # From these, each job of a sweep is composed anew.
    config.hydra.overrides.hydra.append(f"hydra.{what}.dir={quoted(node.dir)}")


def _check_subfolders(config: DictConfig) -> None:
    if (subdir := plain(config.hydra.sweep, resolve=False)["subdir"]) != "${hydra.job.num}":
        raise ConfigurationError(
            f"`hydra.sweep.subdir={subdir}`: the folder of a job is its number, by which a sweep goes on and is summed "
            "up; leave it out, leaderboard.csv says what each job was asked for"
        )


def _resume(what: str, folder: Path) -> str:
    """Return the command line that goes on in `folder`."""
    name = sys.argv[0] if sys.argv[0].startswith("kedit ") else shlex.join(["python", sys.argv[0]])
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith((f"hydra.{what}.dir=", "overwrite="))]
    value = str(folder) if re.fullmatch(r"[\w./-]+", str(folder), re.ASCII) else quoted(str(folder))
    return f"{name} {shlex.join([*arguments, f'hydra.{what}.dir={value}'])}"


def end(settings: DictConfig, failed: bool) -> list[int]:
    """Finish a sweep, of which a job is known to have failed or not, and return the exit codes of that."""
    folder = Path(settings.hydra.sweep.dir)
    try:
        with logged(None):
            put_together(settings, folder)
        tell_offline(folder)
    except Exception as error:
        with suppress(OSError), logged(folder / LOG):
            logger.info("the sweep could not be summed up", exc_info=True)
        return [said(code_of(error), f"no summary of {folder}: {explained(error)}")]
    found = statuses(folder).values()
    # Where some jobs are done, the command as such was right.
    return [FAILED] if (failed and "done" in found) or (not failed and set(found) - {"done"}) else []


def put_together(settings: DictConfig, folder: Path) -> None:
    """Put together what the jobs of `kedit run` left in `folder`; of other commands, nothing."""
    if settings.hydra.job.config_name != "run" or not folder.is_dir():
        return
    from kedit.cli.sweeping.summary import terminal, written

    with summing_up(settings, folder) as tracker:
        terminal(written(folder, tracker, page=settings.page))


@contextmanager
def summing_up(settings: DictConfig, folder: Path) -> Iterator[Any]:
    """Yield a tracker for what the jobs in `folder` come to together: one run more in their group."""
    common = OmegaConf.masked_copy(settings, [str(key) for key in settings if key != "hydra"])
    tracker = build(settings.tracker)
    if hasattr(tracker, "group"):
        group = tracker.group or os.environ.get("WANDB_RUN_GROUP") or folder.name
        tracker = replace(tracker, group=group, job_type="summary")
    with mirrored(tracker, common, folder):
        yield tracker
