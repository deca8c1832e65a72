"""The jobs of a sweep that no other job beats in both suppression and retention."""

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.sweeping.rows import Sweep

OBJECTIVES = ("mention_drop", "retention")


@dataclass(frozen=True)
class Pareto:
    """The Pareto set of a sweep, and how many finished jobs could not be in it."""

    jobs: tuple[int, ...]
    """The numbers of its jobs; jobs compete within their model and concept, and of equal ones all are in it."""
    unmeasured: int
    """Jobs without a value for one of the two."""
    broken: int
    """Jobs whose fluency guard failed: a broken model suppresses everything."""


def pareto(sweep: Sweep) -> Pareto:
    """Return the jobs that no other job of the same model and concept beats in both mention_drop and retention."""
    rivals: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    unmeasured = broken = 0
    for row, result in sweep.done:
        drop, kept = (result.figures[name].value for name in OBJECTIVES)
        if drop is None or kept is None:
            unmeasured += 1
        elif result.fluent is False:
            broken += 1
        else:
            rivals.setdefault((result.model, result.concept), {})[row.number] = (drop, kept)
    best = [number for points in rivals.values() for number in _best(points)]
    return Pareto(tuple(sorted(best)), unmeasured, broken)


def _best(points: dict[int, tuple[float, float]]) -> list[int]:
    kept = undominated(list(points.values()))
    return [number for number, stays in zip(points, kept, strict=True) if stays]


def undominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point whether no other is at least as high in both coordinates and higher in one."""
    order = sorted(range(len(points)), key=lambda number: points[number], reverse=True)
    stays = [False] * len(points)
    highest, holder = float("-inf"), None
    for number in order:
        # From high to low in the first coordinate, a point stays if it is the highest so far in the second.
        if points[number][1] > highest or points[number] == holder:
            stays[number], holder, highest = True, points[number], points[number][1]
    return stays
