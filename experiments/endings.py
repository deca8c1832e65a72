"""How a sweep begins and ends: who waits for it is told, and its results are put together, also after failures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.commands import sweeping


class Sweeping(Callback):
    """Tells the command that a sweep has begun, so that it can put the results together however the sweep ends.

    Hydra itself calls nothing after a sweep in which a job failed.
    """

    def on_multirun_start(self, config: DictConfig, **more: Any) -> None:
        """Remember the sweep's settings; its folder may still be another one in the end."""
        sweeping(config)


def ended(settings: DictConfig, folder: Path) -> None:
    """Put together what the jobs of `kedit run` or `kedit locate` left in `folder`; of other recipes, nothing."""
    if settings.hydra.job.config_name == "locate" and folder.is_dir():
        shards_ended(settings, folder)
    if settings.hydra.job.config_name != "run" or not folder.is_dir():
        return
    from experiments.app import build
    from experiments.commands import mirrored
    from experiments.sweeping.summary import terminal, written

    common = OmegaConf.masked_copy(settings, [str(key) for key in settings if key != "hydra"])
    tracker = build(settings.tracker)
    if hasattr(tracker, "group"):
        tracker = replace(tracker, group=tracker.group or folder.name, job_type="summary")
    with mirrored(tracker, common, folder):
        terminal(written(folder, tracker))


def shards_ended(settings: DictConfig, folder: Path) -> None:
    """Merge the parts in `folder`, if its jobs were shards."""
    from experiments.app import build
    from experiments.merging import groups_of, merge

    if any(groups_of(folder)):
        merge(folder, build(settings.tracker))
