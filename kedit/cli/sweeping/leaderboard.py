"""The jobs of a sweep as a ranked table in three formats: equal reports give equal bytes."""

from collections.abc import Iterator, Sequence
from typing import Any

from kedit.cli.sweeping.overrides import shown
from kedit.cli.sweeping.pareto import Pareto
from kedit.cli.sweeping.results import FIGURES, Result
from kedit.cli.sweeping.rows import Row, Sweep
from kedit.evaluation.statistics import Measured, two_places
from kedit.results.table import Table
from kedit.words import counted

ASKED = ("concept", "model", "locator", "operator", "positions")
OUTCOME = ("weakest_retention", "fluency_passed", "beats_control", "p", "pareto", "same_neurons_as")
HEADER = (
    *("number", "status", "why", "overrides", *ASKED, "neurons"),
    *(f"{name}{part}" for name in FIGURES for part in ("", "_low", "_high", "_n")),
    *OUTCOME,
)
"""The columns of leaderboard.csv; one `swept.<name>` follows for each setting that differs between jobs."""
INTERVALS = (
    "In brackets are 95 % intervals over samples, of one job alone: Wilson's where each sample is a yes or a no, a "
    "percentile bootstrap elsewhere; selectivity's joins the ends of mention_drop's and retention's. The first of many "
    "jobs owes part of its rank to luck with these samples: measure it again with another `seed` before quoting it."
)


def ranked(sweep: Sweep) -> list[tuple[Row, Result]]:
    """Return the jobs that have a result, from high to low selectivity, then mention_drop, then by number.

    Those without evidence come behind, and last those without a selectivity.
    """

    def rank(one: tuple[Row, Result]) -> tuple[bool, bool, float, float, int]:
        row, result = one
        selectivity, drop = (result.figures[name].value for name in ("selectivity", "mention_drop"))
        known = selectivity is not None
        return known, result.evidence is not False, selectivity or 0.0, -1.0 if drop is None else drop, -row.number

    return sorted(sweep.done, key=rank, reverse=True)


def best(sweep: Sweep) -> tuple[Row, Result] | None:
    """Return the most selective job whose edit did what it is for; None if there is none."""
    convincing = (one for one in ranked(sweep) if one[1].evidence is not False)
    return next((one for one in convincing if one[1].figures["selectivity"].value is not None), None)


def n_level(sweep: Sweep) -> int:
    """Return how many other jobs with evidence are as selective as the `best`, to two places."""
    if (first := best(sweep)) is None:
        return 0
    found = [one.figures["selectivity"].value for _, one in sweep.done if one.evidence is not False]
    highest = first[1].figures["selectivity"].value or 0.0
    return sum(value is not None and two_places(value) == two_places(highest) for value in found) - 1


def flat(sweep: Sweep, front: Pareto) -> Table:
    """Return leaderboard.csv as a table: one line for each job, by number."""
    same, names = sweep.same_neurons(), list(sweep.keys.values())
    cells = [_flat_row(row, front, same) + [row.swept.get(name) for name in names] for row in sweep.rows]
    return Table((*HEADER, *(f"swept.{name}" for name in names)), tuple(map(tuple, cells)))


def _flat_row(row: Row, front: Pareto, same: dict[int, int]) -> list[Any]:
    cells: list[Any] = [row.number, row.status, row.why, " ".join(row.overrides)]
    if (result := row.result) is None:
        return cells + [None] * (len(HEADER) - len(cells))
    cells += [*(getattr(result, name) for name in ASKED), result.neurons]
    for one in result.figures.values():
        cells += [one.value, one.low, one.high, one.n]
    cells += [result.weakest, result.fluent, result.evidence, result.p]
    return [*cells, row.number in front.jobs, same.get(row.number)]


def as_csv(sweep: Sweep, front: Pareto) -> str:
    """Return leaderboard.csv."""
    return flat(sweep, front).csv()


def as_json(sweep: Sweep, front: Pareto) -> dict[str, Any]:
    """Return the content of leaderboard.json."""
    same = sweep.same_neurons()
    return {
        "swept": {name: key for key, name in sweep.keys.items()},
        "counts": {"jobs": len(sweep.rows), "done": len(sweep.done), **_undone(sweep)},
        "ranking": [row.number for row, _ in ranked(sweep)],
        "pareto": {"jobs": front.jobs, "left_out": {"not_measured": front.unmeasured, "no_evidence": front.doubtful}},
        "jobs": [_nested(row, front, same) for row in sweep.rows],
    }


def _nested(row: Row, front: Pareto, same: dict[int, int]) -> dict[str, Any]:
    told: dict[str, Any] = {"number": row.number, "status": row.status, "why": row.why}
    told |= {"overrides": row.overrides, "swept": row.swept}
    if (result := row.result) is None:
        return told
    return {
        **told,
        **{name: getattr(result, name) for name in ASKED},
        "neurons": result.neurons,
        "same_neurons_as": same.get(row.number),
        **{name: one.to_json() for name, one in result.figures.items()},
        "weakest_retention": result.weakest,
        "fluency": {"passed": result.fluent, "why": result.broken},
        "beats_control": {"mention_drop": result.evidence, "p": result.p},
        "pareto": row.number in front.jobs,
    }


def as_markdown(sweep: Sweep, front: Pareto, figures: Sequence[str], lacking: Sequence[str]) -> str:
    """Return leaderboard.md.

    Args:
        sweep: The jobs.
        front: Their Pareto set.
        figures: Paths of the figures, relative to the page.
        lacking: For each figure that was not drawn, a sentence that says why.
    """
    blocks = [f"# {headline(sweep)}", *constants(sweep), *_findings(sweep, front)]
    blocks += [
        _table(sweep, front).markdown(),
        f"n: {', '.join(f'{name} {n}' for name, n in sample_counts(sweep).items()) or 'none'}.",
        INTERVALS,
    ]
    blocks += [*(f"![{one}]({one})" for one in figures), *lacking]
    return "\n\n".join(block for block in blocks if block) + "\n"


def headline(sweep: Sweep) -> str:
    """Return how many jobs there are, and what became of them."""
    counts = [f"{len(sweep.done)} done", *(f"{count} {status}" for status, count in _undone(sweep).items())]
    return f"Leaderboard of {counted(len(sweep.rows), 'job')}: {', '.join(counts)}"


def numbered(jobs: Sequence[int]) -> str:
    """Return the jobs' numbers in words: `job 2`, or `jobs 2, 3`."""
    return f"job{'s' * (len(jobs) != 1)} {', '.join(map(str, jobs))}" if jobs else "none"


def constants(sweep: Sweep) -> list[str]:
    """Return a line of what all finished jobs have in common, if any has finished."""
    fixed = {name: values[0] for name in ASKED if len(values := _values(sweep, name)) == 1}
    return [", ".join(f"{name} `{value}`" for name, value in fixed.items() if value is not None)] if fixed else []


def _values(sweep: Sweep, name: str) -> list[Any]:
    return list(dict.fromkeys(getattr(result, name) for _, result in sweep.done))


def _undone(sweep: Sweep) -> dict[str, int]:
    found = [row.status for row in sweep.undone]
    return {status: count for status in ("failed", "damaged", "running", "missing") if (count := found.count(status))}


def _findings(sweep: Sweep, front: Pareto) -> Iterator[str]:
    if not sweep.done:
        yield "**No job has a result.**"
        return
    if (first := best(sweep)) is None:
        yield "**No evidence**: no job's edit does what it is for beyond its random control, with its language intact."
    else:
        row, result = first
        asked = f" ({shown(row.swept)})" if row.swept else ""
        tied = f", and {level} more as high" if (level := n_level(sweep)) else ""
        value = result.figures["selectivity"]
        yield f"**Highest selectivity**: job {row.number}{asked}{tied}, {value}, {result.summary}."
    several = [name for name in ("model", "concept") if len(_values(sweep, name)) > 1]
    within = f" within each {' and '.join(several)}" if several else ""
    left = [(front.unmeasured, "could not be measured"), (front.doubtful, "are no evidence")]
    out = ", ".join(f"{count} {why}" for count, why in left if count)
    yield f"**Pareto set** of mention_drop and retention{within}: {numbered(front.jobs)}." + (
        f" Left out: {out}." if out else ""
    )


def _table(sweep: Sweep, front: Pareto) -> Table:
    names, same = list(sweep.keys.values()), sweep.same_neurons()
    differing = [name for name in ASKED if name not in names and len(_values(sweep, name)) > 1]
    header = ["job", *names, *differing, "neurons", "mention_drop", "retention", "weakest", "others", "substitutions"]
    header += ["selectivity", "control drop", "control retention", "beats control", "notes"]
    lines = []
    for row, result in ranked(sweep):
        asked = [row.swept.get(name, "-") for name in names] + [str(getattr(result, name)) for name in differing]
        lines.append([str(row.number), *asked, *_cells(result), "; ".join(_notes(row, result, front, same))])
    for row in sweep.undone:
        asked = [row.swept.get(name, "-") for name in names]
        lines.append([str(row.number), *asked, *[""] * (len(header) - len(names) - 2), f"{row.status}: {row.why}"])
    return Table(tuple(header), tuple(map(tuple, lines)))


def _cells(result: Result) -> list[str]:
    one = {name: format_interval(figure) for name, figure in result.figures.items()}
    cells = [str(result.neurons), one["mention_drop"], one["retention"], result.weakest or "-", one["others"]]
    cells += [one["substitutions"], one["selectivity"], one["control_mention_drop"], one["control_retention"]]
    return [*cells, format_beats(result)]


def format_interval(one: Measured) -> str:
    """Return a value with its interval, or "n/a"."""
    return "n/a" if one.value is None else str(one)


def format_value(one: Measured) -> str:
    """Return a value without its interval, or "n/a"."""
    return "n/a" if one.value is None else two_places(one.value)


def format_beats(result: Result) -> str:
    """Return whether the random control was beaten, which a broken model does not, with p."""
    if result.evidence is None:
        return "-"
    return ("yes" if result.evidence else "no") + ("" if result.p is None else f", p = {result.p:.2g}")


def _notes(row: Row, result: Result, front: Pareto, same: dict[int, int]) -> Iterator[str]:
    if row.number in front.jobs:
        yield "Pareto set"
    if row.number in same:
        yield f"same neurons as job {same[row.number]}"
    if result.fluent is False:
        yield f"broken language: {result.broken or 'no reason given'}"


def sample_counts(sweep: Sweep) -> dict[str, str]:
    """Return how many samples are behind each figure, such as `24`, or `20 to 24` where jobs differ."""
    told = {}
    for name in FIGURES:
        counts = {one.n for _, result in sweep.done if (one := result.figures[name]).value is not None}
        if counts:
            told[name] = f"{min(counts)}" + (f" to {max(counts)}" if len(counts) > 1 else "")
    return told
