"""How a sweep begins and ends: who waits for it is told, and its results are put together, also after failures."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import build, mirrored
from kedit.cli.errors import explained
from kedit.cli.jobs import FAILED, LOG, RefusedSweep, code_of, said, sweeping, tell_offline
from kedit.cli.logs import logged
from kedit.cli.sweep_folder import alone, begin, statuses

logger = logging.getLogger(__name__)


class Sweeping(Callback):
    """Notes which jobs a sweep has, and tells the command, which puts the results together however the sweep ends.

    Hydra itself calls nothing after a sweep in which a job failed.
    """

    def on_multirun_start(self, config: DictConfig, **more: Any) -> None:
        """Begin in the sweep's folder, in which no other process may be."""
        held = ExitStack()
        try:
            held.enter_context(alone(Path(config.hydra.sweep.dir)))
            begin(config)
        except Exception as error:
            held.close()
            raise RefusedSweep(said(code_of(error), explained(error))) from error
        sweeping(held, partial(end, config))


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
        terminal(written(folder, tracker))


@contextmanager
def summing_up(settings: DictConfig, folder: Path) -> Iterator[Any]:
    """Yield a tracker for what the jobs in `folder` come to together: one run more in their group."""
    common = OmegaConf.masked_copy(settings, [str(key) for key in settings if key != "hydra"])
    tracker = build(settings.tracker)
    if hasattr(tracker, "group"):
        tracker = replace(tracker, group=tracker.group or folder.name, job_type="summary")
    with mirrored(tracker, common, folder):
        yield tracker
