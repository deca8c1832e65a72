"""How a sweep begins and ends: who waits for it is told, and its results are put together, also after failures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.app import build, mirrored
from experiments.sweeps import sweeping


class Sweeping(Callback):
    """Tells the command that a sweep has begun, so that it can put the results together however the sweep ends.

    Hydra itself calls nothing after a sweep in which a job failed.
    """

    def on_multirun_start(self, config: DictConfig, **more: Any) -> None:
        """Remember the sweep's settings, unless its sweeper does so itself when the jobs are known."""
        if not str(config.hydra.sweeper._target_).startswith("hydra_plugins.kedit_"):
            sweeping(config)


def ended(settings: DictConfig, folder: Path) -> None:
    """Put together what the jobs of `kedit run` left in `folder`; of other recipes, nothing."""
    if settings.hydra.job.config_name != "run" or not folder.is_dir():
        return
    from experiments.sweeping.summary import terminal, written

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
