"""One line for each job while a sweep runs, and how long the rest will take."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from kedit.cli.sweeping.overrides import shown
from kedit.progress import duration

RECENT = 20
"""Jobs that the estimate looks back on."""


def job_line(
    number: int,
    total: int,
    swept: Mapping[str, str],
    outcome: str,
    seconds: float | None = None,
    remaining: float | None = None,
) -> str:
    """Return the line for one job, such as `[ 12/100] gradcam.q=0.5   star: 14 neurons, ..., 0.4 s; 3 min left`.

    Args:
        number: Of the job, counted from 1.
        total: Jobs of the sweep.
        swept: The settings that differ between jobs, under short names.
        outcome: What became of it, such as `Result.summary` or `failed: why`.
        seconds: What it took; None is not told.
        remaining: Seconds until the end, as `time_left` estimates them; None and 0 are not told.
    """
    width = len(str(total))
    asked = f"{shown(swept)}   " if swept else ""
    took = "" if seconds is None else f", {duration(seconds)}"
    left = f"; {duration(remaining)} left" if remaining else ""
    return f"[{number:>{width}}/{total}] {asked}{' '.join(outcome.split())}{took}{left}"


def time_left(finished: int, total: int, durations: Sequence[float], workers: int = 1) -> float | None:
    """Return the seconds that the rest of a sweep will take, or None before any job has run.

    The mean of the last `RECENT` jobs, without the first of all, which loads the model. The mean and not the
    median: where most jobs are instant, since the store has their results, the median forgets the others and
    promises a 25th of the time that they take.

    Args:
        finished: Jobs that are done with, whether they ran or not.
        total: Jobs of the sweep.
        durations: Seconds of each job that ran in this process, in order. Jobs that were skipped because an
            earlier process had finished them do not belong here: they tell nothing about the rest.
        workers: Jobs that run at the same time.
    """
    usual = (durations[1:] or durations)[-RECENT:]
    return None if not usual else (total - finished) * fmean(usual) / workers
