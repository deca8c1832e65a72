"""What a job of a sweep says when it is through: one line, with the time that the others will take."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kedit.cli.configuration import plain
from kedit.cli.launching import cpus_here, workers_of
from kedit.cli.sweeping.overrides import settings, short_keys, swept_by_job
from kedit.cli.sweeping.progress import job_line, time_left
from kedit.cli.sweeping.results import Result

durations: dict[Path, list[float]] = {}
"""Seconds of the jobs of each sweep that ran in this process."""


def tell(running: DictConfig, report: dict[str, Any], seconds: float) -> None:
    """Print the line of a job that is done.

    Args:
        running: Hydra's part of the configuration.
        report: The content of its report.json.
        seconds: What it took.
    """
    sweep, number = Path(running.sweep.dir).absolute(), running.job.num
    total, swept = _asked(running, sweep, number)
    durations.setdefault(sweep, []).append(seconds)
    # This job's STATUS says `running` yet.
    finished = 1 + sum(path.read_text(encoding="utf-8") == "done\n" for path in sweep.glob("*/STATUS"))
    left = time_left(finished, total, durations[sweep], workers_of(plain(running), cpus_here()))
    print(job_line(number + 1, total, swept, Result.of(report).summary, seconds, left), flush=True)


def tell_finished(running: DictConfig) -> None:
    """Print the line of a job that an earlier process has finished."""
    total, swept = _asked(running, Path(running.sweep.dir), running.job.num)
    print(job_line(running.job.num + 1, total, swept, "finished before"), flush=True)


def _asked(running: DictConfig, sweep: Path, number: int) -> tuple[int, dict[str, str]]:
    """Return how many jobs there will be, and what this one was asked for."""
    if (sweep / "sweep.json").is_file():
        jobs = swept_by_job(json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["jobs"])
        return len(jobs), jobs[number]
    # Another sweeper, such as optuna's, decides on its jobs as it goes and leaves no list of them.
    asked, names = settings(running.overrides.task), short_keys(list(running.sweeper.get("params") or {}))
    total = running.sweeper.get("n_trials") or number + 1
    return total, {name: asked[key] for key, name in names.items() if key in asked}
