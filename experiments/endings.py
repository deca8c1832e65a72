"""How a sweep begins and ends: who waits for it is told, and its results are put together, also after failures."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.app import sweeping


class Sweeping(Callback):
    """Tells the command that a sweep has begun, so that it can put the results together however the sweep ends.

    Hydra itself calls nothing after a sweep in which a job failed.
    """

    def on_multirun_start(self, config: DictConfig, **more: Any) -> None:
        """Remember the sweep's settings; its folder may still be another one in the end."""
        sweeping(config)


def ended(settings: DictConfig, folder: Path) -> None:
    """Put together what the jobs of `kedit run` left in `folder`; of other recipes, nothing."""
    if settings.hydra.job.config_name != "run" or not folder.is_dir():
        return
    from experiments.app import build, tracked
    from experiments.sweeping.leaderboard import written

    with tracked(build(settings.tracker), settings, folder) as tracker:
        written(folder, tracker)
