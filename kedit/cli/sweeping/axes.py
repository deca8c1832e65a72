"""What a sweep measured over the settings that are numbers: over one of them, or over two."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from kedit.cli.sweeping.rows import Row, Sweep
from kedit.evaluation.statistics import Measured
from kedit.plots import Grid

MEASURES = ("mention_drop", "retention", "selectivity")
NO_AXES = frozenset({"seed", "shard"})
"""First parts of settings whose numbers are names: what is measured is averaged over them."""


def numeric_keys(sweep: Sweep) -> list[str]:
    """Return the short names of the swept settings with at least two numbers, those with the most values first."""
    numbers = {
        name: {value for row in sweep.rows if _number(value := row.swept.get(name, "")) is not None}
        for key, name in sweep.keys.items()
        if key.partition(".")[0] not in NO_AXES
    }
    names = [name for name, values in numbers.items() if len(values) > 1]
    widest = sorted(names, key=lambda name: -len(numbers[name]))[:2]
    return [name for name in names if name in widest]


def ordered(values: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct values, numbers first and in their order, then words such as `null`."""
    key = {value: math.inf if (number := _number(value)) is None else number for value in dict.fromkeys(values)}
    return tuple(sorted(key, key=lambda value: (key[value], value)))


def grid(sweep: Sweep, names: tuple[str, str]) -> tuple[Grid, int]:
    """Return what was measured over two settings, and of up to how many jobs a value is the mean."""
    rows, columns = (ordered(row.swept.get(name, "-") for row in sweep.rows) for name in names)
    cells: dict[tuple[int, int], list[Row]] = {}
    for row in sweep.rows:
        at = (rows.index(row.swept.get(names[0], "-")), columns.index(row.swept.get(names[1], "-")))
        cells.setdefault(at, []).append(row)
    maps = {name: np.full((len(rows), len(columns)), np.nan) for name in (*MEASURES, "neurons")}
    # A place that no job was asked for is not one where a job failed.
    undone, doubtful = (np.zeros((len(rows), len(columns)), bool) for _ in range(2))
    for at, jobs in cells.items():
        results = [job.result for job in jobs if job.result is not None]
        undone[at] = len(results) < len(jobs)
        doubtful[at] = all(one.evidence is False for one in results)
        for name, values in maps.items():
            known = _values(jobs, name)
            values[at] = np.mean(known) if known else np.nan
    return Grid(names, rows, columns, maps, undone, doubtful), max(map(len, cells.values()))


def highest(found: Grid) -> str | None:
    """Return the highest selectivity of a grid and at how many points; None where nothing has one and evidence."""
    if not (where := found.best).any():
        return None
    return f"{found.maps['selectivity'][where].max():.2f}, at {where.sum()} of {where.size} points"


def line(sweep: Sweep, name: str) -> tuple[tuple[str, ...], dict[str, list[Measured]], int]:
    """Return the values of one setting, each measure over them, and of up to how many jobs a value is the mean.

    A mean of several jobs has no interval.
    """
    values = ordered(row.swept.get(name, "-") for row in sweep.rows)
    jobs = [[row for row in sweep.rows if row.swept.get(name, "-") == value] for value in values]
    measures = {measure: [_pooled(some, measure) for some in jobs] for measure in MEASURES}
    return values, measures, max(map(len, jobs))


def _pooled(jobs: Sequence[Row], measure: str) -> Measured:
    if len(jobs) == 1 and (result := jobs[0].result) is not None:
        return result.figures[measure]
    known = _values(jobs, measure)
    return Measured(float(np.mean(known)), None, None, 0) if known else Measured.missing("no job has a value")


def _values(jobs: Sequence[Row], name: str) -> list[float]:
    results = [job.result for job in jobs if job.result is not None]
    found = [one.neurons if name == "neurons" else one.figures[name].value for one in results]
    return [float(value) for value in found if value is not None]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
