"""What a sweep leaves at its end, made from its job folders alone, so that it can be made again at any time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit.cli.sweeping import leaderboard
from kedit.cli.sweeping.leaderboard import format_interval, format_value, numbered, ranked
from kedit.cli.sweeping.pareto import Pareto, pareto
from kedit.cli.sweeping.results import Result
from kedit.cli.sweeping.rows import Row, Sweep, read
from kedit.page import PAGE, add_page
from kedit.results.run_folder import write_atomic, write_json
from kedit.results.tracking import Tracker

TABLES = ("leaderboard.csv", "leaderboard.json", "leaderboard.md")
MOST_ROWS = 12
MOST_REASONS = 3
WIDTH = 120
"""Columns where the output is no terminal."""


@dataclass(frozen=True, eq=False)
class Board:
    """The jobs of a sweep, their Pareto set, and the files that tell of them."""

    sweep: Sweep
    front: Pareto
    figures: tuple[str, ...]
    """Paths relative to the sweep's folder."""
    lacking: tuple[str, ...]
    """For each figure that was not drawn, a sentence that says why."""

    @property
    def complete(self) -> bool:
        """Whether every job has a result."""
        return not self.sweep.undone


def written(folder: str | Path, tracker: Tracker | None = None, *, page: bool = True) -> Board:
    """Write tables, figures and page of the sweep in `folder`, mirror them to `tracker`, and return what they tell.

    Equal reports give equal bytes, wherever and whenever they are summed up.

    Raises:
        ValueError: It is no folder of a sweep.
        RunFolderError: A file cannot be written.
    """
    from kedit.cli.sweeping.picture import draw

    sweep = read(folder)
    front = pareto(sweep)
    board = Board(sweep, front, *draw(sweep, front))
    write_atomic(sweep.folder / "leaderboard.csv", leaderboard.as_csv(sweep, front))
    write_json(sweep.folder / "leaderboard.json", leaderboard.as_json(sweep, front))
    write_atomic(sweep.folder / "leaderboard.md", leaderboard.as_markdown(sweep, front, board.figures, board.lacking))
    if page:
        add_page(sweep.folder)
    if tracker is not None:
        tell(tracker, board)
    return board


def tell(tracker: Tracker, board: Board) -> None:
    """Mirror the counts, the best job, the table and the figures."""
    tracker.log(dict(metrics(board)))
    table = leaderboard.flat(board.sweep, board.front)
    tracker.table("leaderboard", table.columns, table.rows)
    for figure in board.figures:
        tracker.figure(Path(figure).stem, board.sweep.folder / figure)


def metrics(board: Board) -> Iterator[tuple[str, float]]:
    """Yield how many jobs there are, and under `best/` the most selective one with evidence, if there is one."""
    yield "jobs", len(board.sweep.rows)
    yield "done", len(board.sweep.done)
    yield "without_result", len(board.sweep.undone)
    yield "pareto_jobs", len(board.front.jobs)
    if (first := leaderboard.best(board.sweep)) is not None:
        row, result = first
        yield "best/job", row.number
        yield "best/neurons", result.neurons
        for name in ("selectivity", "mention_drop", "retention"):
            if (value := result.figures[name].value) is not None:
                yield f"best/{name}", value


def terminal(board: Board) -> None:
    """Print what a person reads in ten seconds: the best jobs, those without a result, and where the files are."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    if board.sweep.done:
        console.print(table(board))
    else:
        console.print(leaderboard.headline(board.sweep), highlight=False, markup=False)
    for line in lines(board):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def table(board: Board) -> Any:
    """Return the best jobs by selectivity and those of the Pareto set, each set of neurons once."""
    from rich.box import SIMPLE
    from rich.table import Table

    names = list(board.sweep.keys.values())
    found = Table(title=leaderboard.headline(board.sweep), title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("job", *names, "neurons", "mention_drop", "retention", "selec-\ntivity", "control\ndrop", "p"):
        # Long names of settings break at their dots.
        found.add_column(name.replace(".", ".\n"), justify="right", overflow="fold")
    for row, result, others in chosen(board):
        mark = "*" if row.number in board.front.jobs else ""
        more = f"\n+{others} alike" if others else ""
        one = result.figures
        values = [format_interval(one[name]) for name in ("mention_drop", "retention")]
        values += [format_value(one[name]) for name in ("selectivity", "control_mention_drop")]
        asked = [row.swept.get(name, "-") for name in names]
        p = "-" if result.p is None else f"{result.p:.2g}"
        p += "\nno evidence" * (result.evidence is False)
        found.add_row(f"{row.number}{mark}{more}", *asked, str(result.neurons), *values, p)
    return found


def chosen(board: Board) -> list[tuple[Row, Result, int]]:
    """Return the jobs that the terminal shows, ranked, each with how many more have its neurons and its figures."""
    alike: dict[tuple[Any, ...], list[tuple[Row, Result]]] = {}
    for row, result in ranked(board.sweep):
        key = (row.neurons or row.number, result.model, result.locator, result.operator, result.summary)
        alike.setdefault(key, []).append((row, result))
    distinct = [(*jobs[0], len(jobs) - 1) for jobs in alike.values()]
    front = [one for one in distinct if one[0].number in board.front.jobs][: MOST_ROWS - 2]
    rest = [one for one in distinct if one not in front][: MOST_ROWS - len(front)]
    return [one for one in distinct if one in front or one in rest]


def lines(board: Board) -> Iterator[str]:
    """Yield what stands below the table."""
    sweep = board.sweep
    if sweep.done:
        yield from leaderboard.constants(sweep)
        n = leaderboard.sample_counts(sweep)
        text = ", ".join(f"{name} {n[name]}" for name in ("mention_drop", "retention") if name in n)
        yield f"* in the Pareto set of mention_drop and retention; p: against the random control; n: {text or 'none'}"
    reasons: dict[str, list[int]] = {}
    for row in sweep.undone:
        reasons.setdefault(f"{row.status}: {row.why}", []).append(row.number)
    for why, numbers in list(reasons.items())[:MOST_REASONS]:
        yield f"{numbered(numbers)} {why}"
    if more := [number for numbers in list(reasons.values())[MOST_REASONS:] for number in numbers]:
        yield f"{len(more)} more without a result; leaderboard.md says why"
    yield f"files: {sweep.folder} ({', '.join([*TABLES, *board.figures])})"
    if (page := sweep.folder / PAGE).is_file():
        yield f"page: {page}"
