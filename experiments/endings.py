"""How a sweep begins and ends: who waits for it is told, and its results are put together, also after failures."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from experiments.commands import code_of, said, sweeping
from experiments.complaints import explained
from experiments.sweeps import alone, begin


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
            # Hydra would make a warning of anything else and go on.
            raise SystemExit(said(code_of(error), explained(error))) from error
        sweeping(config, held)


def ended(settings: DictConfig, folder: Path) -> None:
    """Put together what the jobs of `kedit run` or `kedit locate` left in `folder`; of other recipes, nothing."""
    recipe = settings.hydra.job.config_name
    if recipe not in ("run", "locate") or not folder.is_dir():
        return
    from experiments.merging import groups_of, merge
    from experiments.sweeping.summary import terminal, written

    if recipe == "run":
        with summing_up(settings, folder) as tracker:
            terminal(written(folder, tracker))
    elif any(groups_of(folder)):
        with summing_up(settings, folder) as tracker:
            merge(folder, tracker)


@contextmanager
def summing_up(settings: DictConfig, folder: Path) -> Iterator[Any]:
    """Yield a tracker for what the jobs in `folder` come to together: one run more in their group."""
    from experiments.app import build
    from experiments.commands import mirrored

    common = OmegaConf.masked_copy(settings, [str(key) for key in settings if key != "hydra"])
    tracker = build(settings.tracker)
    if hasattr(tracker, "group"):
        tracker = replace(tracker, group=tracker.group or folder.name, job_type="summary")
    with mirrored(tracker, common, folder):
        yield tracker
