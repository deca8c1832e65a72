"""The jobs of a sweep that no other job beats in both suppression and retention."""

from dataclasses import dataclass

from kedit.cli.sweeping.rows import Sweep
from kedit.evaluation.statistics import undominated

OBJECTIVES = ("mention_drop", "retention")


@dataclass(frozen=True)
class Pareto:
    """The Pareto set of a sweep, and how many finished jobs could not be in it."""

    jobs: tuple[int, ...]
    """The numbers of its jobs; jobs compete within their model and concept, and of equal ones all are in it."""
    unmeasured: int
    """Jobs without a value for one of the two."""
    doubtful: int
    """Jobs without evidence: random neurons do as much, or the model is broken, which suppresses everything."""


def pareto(sweep: Sweep) -> Pareto:
    """Return the jobs that no other job of the same model and concept beats in both mention_drop and retention.

    Jobs compete that have evidence, and those whose report is too old to say.
    """
    rivals: dict[tuple[str, str], dict[int, tuple[float, float]]] = {}
    unmeasured = doubtful = 0
    for row, result in sweep.done:
        drop, kept = (result.figures[name].value for name in OBJECTIVES)
        if drop is None or kept is None:
            unmeasured += 1
        elif result.evidence is False:
            doubtful += 1
        else:
            rivals.setdefault((result.model, result.concept), {})[row.number] = (drop, kept)
    best = [number for points in rivals.values() for number in _best(points)]
    return Pareto(tuple(sorted(best)), unmeasured, doubtful)


def _best(points: dict[int, tuple[float, float]]) -> list[int]:
    kept = undominated(list(points.values()))
    return [number for number, stays in zip(points, kept, strict=True) if stays]
