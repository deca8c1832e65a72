"""What a comparison leaves and says: tables in three formats, figures, the tracker, and one table in the terminal."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.comparison.choices import RANDOM
from experiments.comparison.effects import FIGURES
from experiments.comparison.outcome import Outcome, Table
from experiments.comparison.rows import COST, TESTED, Row
from experiments.show import tell_figures
from kedit.evaluation.statistics import Measured, two_places
from kedit.plots import Trial, draw_doses, draw_layers, draw_matrix, draw_ranking
from kedit.reports import csv_text, markdown_table
from kedit.runs import Run
from kedit.tracking import Tracker

RANKED = ("mention_drop", "retention", "selectivity")
"""The figures that are drawn: all of them shares."""
TERMINAL = (
    *("method", "mention_drop", "retention", "weakest", "selectivity", "logprob", "subst."),
    *("neurons", "passes", "s", "p (drop)"),
)
FOOTNOTES = (
    "mention_drop, substitutions and logprob_drop (nats) are of held-out pictures of the concept whose unedited "
    "caption names it; retention is the weakest measure of what must stay, which is named beside it; selectivity is "
    "the harmonic mean of mention_drop and retention. In brackets are 95 % intervals over samples; of random neurons "
    "each sample counts with its mean over the seeds. Intervals of a mean over concepts are over concepts.",
    "forwards, backwards and seconds are what locating takes for one method alone, in passes of one sample; where "
    "methods share passes, a method's seconds are its part of theirs, a backward counting as two forwards.",
    "p is two-sided, of a paired sign-flip test against the reference on the same samples, adjusted by Holm's method "
    "over the methods of the table; `kept` is the share of a picture's other objects that are still named.",
)


def everything(outcome: Outcome, run: Run, tracker: Tracker) -> None:
    """Write the tables and figures, tell the tracker, and print the best table."""
    run.save_json("compare.json", outcome.to_json())
    run.save_json("neurons.json", outcome.neurons())
    columns, cells = flat([*outcome.tables, *outcome.means])
    run.save_text("compare.csv", csv_text(columns, cells))
    draw(outcome, run)
    run.save_text("compare.md", page(outcome, run.figures))
    tracker.log(dict(metrics(outcome)))
    tracker.table("compare", columns, cells)
    tell_figures(tracker, run)
    terminal(outcome, run)


def flat(tables: Sequence[Table]) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and the cells of all tables as one, numbers as numbers."""
    columns = ["concept", "budget", "method"]
    columns += [f"{name}{part}" for name in FIGURES for part in ("", "_low", "_high", "_n")]
    columns += ["weakest_retention", "neurons", *COST]
    columns += [f"{name}_{part}" for name in TESTED for part in ("difference", "p", "p_holm")] + ["why", "note"]
    return columns, [_flat_row(row) for table in tables for row in table.rows]


def _flat_row(row: Row) -> list[Any]:
    cells: list[Any] = [row.concept, row.budget, row.method]
    for name in FIGURES:
        one = row.figure(name)
        cells += [one.value, one.low, one.high, one.n]
    cells += [row.effect.weakest if row.effect else None, row.neurons]
    cells += [row.cost[name] if row.cost else None for name in COST]
    for name in TESTED:
        test = (row.tests or {}).get(name)
        cells += [test.difference.value, test.p, test.adjusted] if test else [None] * 3
    return [*cells, row.why, row.note]


def page(outcome: Outcome, figures: Sequence[str]) -> str:
    """Return the comparison as a page in Markdown."""
    blocks = [f"# Locating methods on {outcome.about['model']}"]
    if outcome.interrupted:
        blocks.append("**Interrupted: these are the methods that were done.**")
    for table in (*outcome.means, *outcome.tables):
        blocks += [f"## {heading(table)}", markdown_table(*markdown(table, outcome.reference))]
    notes = {row.method: row.note for table in outcome.tables for row in table.rows if row.note}
    blocks += [f"`{name}`: {note}." for name, note in notes.items()]
    blocks += list(FOOTNOTES)
    if outcome.matrix and outcome.matrix.drops:
        blocks += ["## What one concept's neurons do to the others", specificity(outcome)]
        drops = outcome.matrix.drops
        names = list(next(iter(drops.values())))
        cells = [[row, *(shown(found[name], interval=False) for name in names)] for row, found in drops.items()]
        blocks.append(markdown_table(["edited", *names], cells))
        blocks += [f"`{name}` has no row: {why}" for name, why in outcome.matrix.why.items()]
    return "\n\n".join([*blocks, *(f"![{one}]({one})" for one in figures)]) + "\n"


def heading(table: Table) -> str:
    """Return what a table is of."""
    concept = f"the mean of {len(table.parts)} concepts" if table.parts else f"`{table.concept}`"
    if table.budget == "own":
        return f"{concept}, each method's own number of neurons"
    sizes = sorted({math.ceil(row.neurons) for row in table.rows if row.method == table.budget})
    own = f" ({sizes[0]})" if sizes and not table.parts else ""
    budget = (
        f"as many neurons as `{table.budget}` selects{own}" if not table.budget.isdigit() else f"{table.budget} neurons"
    )
    return f"{concept}, {budget}, n = {max((row.figure('mention_drop').n for row in table.rows), default=0)}"


def markdown(table: Table, reference: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of a table for reading."""
    header = ["method", *FIGURES, "neurons", *COST, *(f"{name}: p" for name in TESTED)]
    return header, [_cells(row, reference) for row in table.rows]


def _cells(row: Row, reference: str) -> list[str]:
    if row.effect is None:
        return [row.method, f"not measured: {row.why}", *[""] * (len(FIGURES) + len(COST) + len(TESTED))]
    cells = [f"**{row.method}**" if row.method == reference else row.method]
    cells += [shown(row.figure(name)) + _n(row, name) for name in FIGURES]
    cells[2] += f" ({row.effect.weakest})" if row.effect.weakest else ""
    cells += [f"{row.neurons:g}" if row.neurons % 1 == 0 else f"{row.neurons:.1f}"]
    cells += [f"{row.cost[name]:,.{int(name == 'seconds')}f}" if row.cost else "-" for name in COST]
    return cells + [p_shown(row, name) for name in TESTED]


def _n(row: Row, name: str) -> str:
    return f", n={row.figure(name).n}" if row.figure(name).value is not None else ""


def p_shown(row: Row, name: str) -> str:
    """Return the adjusted p-value and the difference that it is of."""
    test = (row.tests or {}).get(name)
    return f"{test.adjusted:.2g} ({round(test.difference.value, 2) + 0.0:+.2f})" if test else "-"


def shown(one: Measured, *, interval: bool = True) -> str:
    """Return a figure and its interval, or "n/a"."""
    if one.value is None:
        return "n/a"
    return str(one) if interval else two_places(one.value)


def specificity(outcome: Outcome) -> str:
    """Return in a sentence how much more a concept's own word suffers than the others'."""
    assert outcome.matrix is not None
    own, others, gap = outcome.matrix.own, outcome.matrix.others, outcome.matrix.specificity
    if gap.value is None:
        return f"Specificity was not measured: {gap.why}."
    return f"Specificity {gap}: own word lost {own}, other words {others}, n = {gap.n} edited concepts."


def metrics(outcome: Outcome) -> Iterator[tuple[str, float]]:
    """Yield each figure of the last table under `method/figure`, and the specificity."""
    for row in outcome.last.rows:
        for name in FIGURES:
            if (value := row.figure(name).value) is not None:
                yield f"{row.method}/{name}", value
    if outcome.matrix and outcome.matrix.specificity.value is not None:
        yield "specificity", outcome.matrix.specificity.value


def draw(outcome: Outcome, run: Run) -> None:
    """Draw the ranking, the overlap, the layers, the dose response and the matrix."""
    last, reference = outcome.last, outcome.reference
    where = heading(last)
    ranking = {row.method: {name: row.figure(name) for name in RANKED} for row in last.rows}
    finding = f"{_best(last)}{where}"
    run.save_figure("methods.png", draw_ranking(ranking, title=finding, marked=reference, faded=RANDOM).save)
    if overlap := last.overlap():
        drawn = draw_matrix(
            overlap, title=_nearest(overlap, reference), what="neurons in common (Jaccard)", notes=[where]
        )
        run.save_figure("overlap.png", drawn.save)
        counts = {name: {int(layer): n for layer, n in found.items()} for name, found in last.layers().items()}
        title = f"Where each method finds its neurons; {where}"
        run.save_figure("layers.png", draw_layers(counts, outcome.widths, title=title, marked=reference).save)
    if len(outcome.shown) > 1 and len({table.concept for table in outcome.shown}) == 1:
        doses = [
            Trial(row.method, other.neurons, other.figure("mention_drop"), other.figure("retention"))
            for row in last.rows
            if row.effect is not None
            for table in outcome.shown
            for other in table.rows
            if other.method == row.method
        ]
        title = f"What more neurons change; {where.partition(',')[0]}"
        run.save_figure("dose.png", draw_doses(doses, title=title).save)
    if outcome.matrix and outcome.matrix.drops:
        cells = {row: {name: one.value for name, one in found.items()} for row, found in outcome.matrix.drops.items()}
        sides = {"rows": "concept whose neurons are edited", "columns": "concept whose pictures are captioned"}
        n = [one.n for found in outcome.matrix.drops.values() for one in found.values()]
        notes = [f"n = {min(n)} to {max(n)} pictures a cell"]
        drawn = draw_matrix(cells, title=specificity(outcome), what="captions that lose the word", notes=notes, **sides)
        run.save_figure("matrix.png", drawn.save)


def _best(table: Table) -> str:
    """Return which method is the most selective, as the beginning of a title."""
    values = {row.method: row.figure("selectivity").value for row in table.rows}
    top = max((value for value in values.values() if value is not None), default=None)
    if top is None:
        return ""
    first, *others = [name for name, value in values.items() if value is not None and top - value < 0.005]
    tied = f" (with {len(others)} more)" if others else ""
    return f"`{first}`{tied} is the most selective, {top:.2f}; "


def _nearest(overlap: dict[str, dict[str, float]], reference: str) -> str:
    others = {name: share for name, share in overlap.get(reference, {}).items() if name != reference}
    if not others:
        return "Overlap (Jaccard) of the methods' neurons"
    nearest = max(others, key=lambda name: others[name])
    return f"`{nearest}` is nearest to `{reference}`: overlap (Jaccard) {others[nearest]:.2f}"


def terminal(outcome: Outcome, run: Run) -> None:
    """Print the tables of the last budget and the specificity."""
    from rich.console import Console

    console = Console()
    console.width = max(console.width, 166)
    for table in (*outcome.tables, *outcome.means):
        console.print(_rich(table, outcome.reference))
        for row in table.rows:
            if row.effect is None:
                console.print(f"  {row.method}: not measured: {row.why}", highlight=False, markup=False)
    if outcome.matrix:
        console.print(specificity(outcome), highlight=False, markup=False)
    if outcome.interrupted:
        console.print("interrupted: these are the methods that were done", highlight=False)
    console.print(f"files: {run.folder}", highlight=False, markup=False, soft_wrap=True)


def _rich(table: Table, reference: str) -> Any:
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid(title=escape(heading(table)), title_justify="left", padding=(0, 1))
    for name in TERMINAL:
        grid.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in table.rows:
        if row.effect is None:
            # On a line of its own below: a reason is longer than any column.
            continue
        cost = row.cost or {}
        cells = [
            row.method,
            *(escape(shown(row.figure(name))) for name in ("mention_drop", "retention")),
            row.effect.weakest or "",
            escape(shown(row.figure("selectivity"))),
            *(shown(row.figure(name), interval=False) for name in ("logprob_drop", "substitutions")),
            f"{row.neurons:.4g}",
            f"{cost['forwards']:g}+{cost['backwards']:g}" if cost else "-",
            f"{cost['seconds']:.1f}" if cost else "-",
            p_shown(row, "mention_drop").partition(" ")[0],
        ]
        grid.add_row(*cells, style="bold" if row.method == reference else None)
    return grid
