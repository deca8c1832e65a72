"""What a sweep costs beside as many runs alone: processes of their own, as a user would start them."""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.costs.ratios import Ratio, spread
from experiments.costs.rows import Row
from kedit.cli.verify import differing_files
from kedit.paths import conf_dir
from kedit.samples import Progress, silent

RESAMPLES = 2000
SWEEP_TARGET = 0.05
"""A sweep of 100 points takes at most a 20th of the time of 100 runs."""


def sweeping(
    folder: Path, words: Sequence[str], singles: int, seed: int, progress: Progress = silent, clock: str = "wall"
) -> list[Row]:
    """Return the rows of a sweep with a fresh store, of some of its points as runs without one, and of it again.

    Args:
        folder: Where everything is left.
        words: The sweep, as words behind `kedit run -m`.
        singles: How many of its points are run alone; all would take hours.
        seed: Which.
        progress: Shows the runs go by.
        clock: `wall`, or `cpu` for the processor's seconds, which a busy machine hardly stretches.

    Raises:
        RuntimeError: A command failed; the message has its last line.
    """
    swept = folder / "sweep"
    run_sweep = ["run", "-m", *words, f"hydra.sweep.dir={swept}"]
    whole = _seconds(run_sweep, folder / "store", clock)
    again = _seconds(run_sweep, folder / "store", clock)
    nothing = _seconds(["run", "--help"], folder / "store", clock)
    jobs = json.loads((swept / "sweep.json").read_text(encoding="utf-8"))["jobs"]
    alone, differ = list[float](), list[str]()
    chosen = random.Random(seed).sample(range(len(jobs)), min(singles, len(jobs)))
    for number in progress(chosen, len(chosen), "runs alone"):
        place = folder / "alone" / str(number)
        alone.append(_seconds(["run", *jobs[number], "store=null", f"hydra.run.dir={place}"], folder / "none", clock))
        differ += [f"{number}/{name}" for name in differing_files(swept / str(number), place)]
    task, n = f"a sweep of {len(jobs)} points", len(jobs)
    expected = statistics.fmean(alone) * n
    note = f"expected from {len(alone)} of them, drawn at random; {len(differ)} of their files differ from the sweep's"
    each = max(0.0, again - nothing) / n
    return [
        Row(task, f"{n} runs, no store", "s", expected, _times(spread(alone), n), note=note),
        Row(task, "sweep", "s", whole, ratio=_ratio(whole, alone, n, seed), against=f"{n} runs, no store",
            target=SWEEP_TARGET),
        Row(task, "sweep again, for each finished job", "ms", 1000 * each, note="beside the start of the command"),
    ]  # fmt: skip


def _seconds(words: Sequence[str], store: Path, clock: str) -> float:
    """Return how long a command takes, by one of the `CLOCKS`."""
    environment: Mapping[str, str] = os.environ | {"KEDIT_STORE": str(store), "PYTHONPATH": str(conf_dir().parent)}
    now = time.perf_counter if clock == "wall" else _children
    began = now()
    done = subprocess.run([sys.executable, "-m", "kedit", *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"`kedit {' '.join(words)}` ended with {done.returncode}: {last}")
    return now() - began


def _children() -> float:
    """Return the processor's seconds of all commands that have ended."""
    used = os.times()
    return used.children_user + used.children_system


def _times(ends: tuple[float, float], n: int) -> tuple[float, float]:
    return ends[0] * n, ends[1] * n


def _ratio(whole: float, alone: Sequence[float], n: int, seed: int) -> Ratio:
    """Return the sweep's share of the time of `n` runs, with an interval over the runs that were timed."""
    draws = random.Random(seed)
    shares = sorted(whole / (n * statistics.fmean(draws.choices(alone, k=len(alone)))) for _ in range(RESAMPLES))
    low, high = shares[round(0.025 * RESAMPLES)], shares[round(0.975 * RESAMPLES) - 1]
    return Ratio(whole / (n * statistics.fmean(alone)), low, high)
