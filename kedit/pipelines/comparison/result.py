"""What a comparison of locating methods found: rankings, tables, figures, and the files that it leaves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kedit.neurons import NeuronSet
from kedit.page import leave_page
from kedit.pipelines.comparison.effects import FIGURES
from kedit.pipelines.comparison.matrix import Matrix
from kedit.pipelines.comparison.rows import COST, TESTED, Row, mean_row, ranked, with_tests
from kedit.pipelines.display import display
from kedit.pipelines.saved import Saved
from kedit.plots import Drawing, Style, Trial, draw_doses, draw_layers, draw_matrix, draw_ranking
from kedit.results.run_folder import Run
from kedit.results.table import Cell, Table

INTERRUPTED = "interrupted: these are the methods that were done"
DRAWN = ("mention_drop", "retention", "selectivity")
"""The figures that are drawn: all of them shares."""
FOOTNOTES = (
    "mention_drop, substitutions and logprob_drop (nats) are of held-out pictures of the concept whose unedited "
    "caption names it; retention is the weakest measure of what must stay, which is named beside it; selectivity is "
    "the harmonic mean of mention_drop and retention. In brackets are 95 % intervals over samples; of random neurons "
    "each sample counts with its mean over the seeds. Intervals of a mean over concepts are over concepts; n is the "
    "number of samples, or of concepts, behind mention_drop / retention.",
    "passes (forwards + backwards, of one sample) and seconds are what locating takes for one method alone; where "
    "methods share passes, a method's seconds are its part of theirs, a backward counting as two forwards.",
    "p is two-sided, of a paired sign-flip test against the reference on the same samples (in brackets the "
    "difference), adjusted by Holm's method over the methods of the table; `kept` is the share of a picture's other "
    "objects that are still named.",
)


@dataclass(frozen=True, eq=False)
class Ranking:
    """The methods at one budget for one concept, or their mean over concepts; the best first."""

    concept: str
    budget: str
    rows: Sequence[Row]
    parts: Sequence["Ranking"] = ()
    """The rankings that this one is the mean of."""

    @property
    def title(self) -> str:
        """What the ranking is of."""
        concept = f"the mean of {len(self.parts)} concepts" if self.parts else f"`{self.concept}`"
        if self.budget == "own":
            return f"{concept}, each method's own number of neurons"
        sizes = [math.ceil(row.neurons) for row in self.rows if row.method == self.budget and not self.parts]
        own = f" ({sizes[0]})" if sizes and sizes[0] else ""
        fixed = self.budget.isdigit()
        budget = f"{self.budget} neurons" if fixed else f"as many neurons as `{self.budget}` selects{own}"
        return f"{concept}, {budget}, n = {max((row.figure('mention_drop').n for row in self.rows), default=0)}"

    @property
    def measured(self) -> list[Row]:
        """The rows of the methods that could be carried out."""
        return [row for row in self.rows if row.effect is not None]

    def overlap(self) -> dict[str, dict[str, float]]:
        """Return the Jaccard overlap of each two methods' neurons, the mean over concepts."""
        if self.parts:
            return _means([part.overlap() for part in self.parts], missing=None)
        rows = self.measured
        return {one.method: {other.method: overlap(one.sets, other.sets) for other in rows} for one in rows}

    def layers(self) -> dict[str, dict[str, float]]:
        """Return how many neurons each method has in each layer, the mean over its sets and over concepts."""
        if self.parts:
            return _means([part.layers() for part in self.parts], missing=0.0)
        return {row.method: _by_layer(row.sets) for row in self.measured}

    def table(self) -> Table:
        """Return what a reader wants to know of each method."""
        columns = ("method", "mention_drop", "retention", "weakest", "selectivity", "logprob_drop", "substitutions",
                   "n", "neurons", "passes", "seconds", *(f"p ({name})" for name in TESTED))  # fmt: skip
        notes = [f"{row.method}: not measured: {row.why}" for row in self.rows if row.effect is None]
        notes += [f"{row.method}: no evidence: broken language, {row.broken}" for row in self.measured if row.broken]
        return Table(columns, tuple(map(_cells, self.measured)), self.title, tuple(notes))

    def to_json(self) -> dict[str, Any]:
        """Return the ranking as plain data."""
        rows = [row.to_json() for row in self.rows]
        about = {"concept": self.concept, "budget": self.budget, "rows": rows}
        return {**about, "overlap": self.overlap(), "layers": self.layers()}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Saved):
    """What each method found and what editing it did; prints itself in a terminal and in a notebook."""

    FILE = "compare.json"

    about: Mapping[str, Any]
    """What was asked, as plain data."""
    reference: str
    """The method that the others are tested against."""
    seed: int
    widths: Mapping[int, int]
    """The number of neurons of each layer."""
    rows: Sequence[Row]
    """Each method at each budget for each concept."""
    matrix: Matrix | None = None
    """Which concept loses its word when another one's neurons are edited."""
    interrupted: bool = False
    seconds: float = 0.0

    @cached_property
    def tables(self) -> list[Ranking]:
        """One ranking for each concept and budget, in the order asked for."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.concept, row.budget), []).append(row)
        return [Ranking(*key, ranked(with_tests(rows, self.reference, self.seed))) for key, rows in groups.items()]

    @cached_property
    def means(self) -> list[Ranking]:
        """The mean over concepts at each budget, where there are several concepts."""
        if len({row.concept for row in self.rows}) < 2:
            return []
        groups: dict[str, dict[str, list[Row]]] = {}
        for row in self.rows:
            groups.setdefault(row.budget, {}).setdefault(row.method, []).append(row)
        return [
            Ranking("mean", budget, ranked([mean_row(rows) for rows in methods.values()]),
                    [one for one in self.tables if one.budget == budget])
            for budget, methods in groups.items()
        ]  # fmt: skip

    @property
    def shown(self) -> list[Ranking]:
        """The rankings that figures show: the means over concepts, or those of the one concept."""
        return self.means or self.tables

    @property
    def neurons(self) -> dict[str, dict[str, dict[str, NeuronSet | tuple[NeuronSet, ...]]]]:
        """Each method's neurons by concept and budget; a set for each seed of a random method."""
        sets: dict[str, Any] = {}
        for row in self.rows:
            if row.sets:
                place = sets.setdefault(row.concept, {}).setdefault(row.budget, {})
                place[row.method] = row.sets if len(row.sets) > 1 else row.sets[0]
        return sets

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        last, title = self.shown[-1], self.shown[-1].title
        figures = {"methods": self._draw_methods()}
        if shares := last.overlap():
            finding = _nearest(shares, self.reference)
            apart = {one: {k: None if k == one else share for k, share in row.items()} for one, row in shares.items()}
            figures["overlap"] = draw_matrix(apart, title=finding, what="neurons in common (Jaccard)", notes=[title])
            counts = {name: {int(layer): n for layer, n in one.items()} for name, one in last.layers().items()}
            where = f"Where each method finds its neurons; {title}"
            faded = [row.method for row in last.rows if row.drawn]
            figures["layers"] = draw_layers(counts, self.widths, title=where, marked=self.reference, faded=faded)
        if len(self.shown) > 1 and len({one.concept for one in self.shown}) == 1:
            figures["dose"] = self._doses(f"What more neurons change; {title.partition(',')[0]}")
        if self.matrix and self.matrix.drops:
            figures["matrix"] = _draw_matrix(self.matrix)
        return figures

    def table(self) -> Table:
        """Return all that was measured as one table: a row for each method, budget and concept, and their means."""
        tests = [f"{name}_{part}" for name in TESTED for part in ("difference", "p", "p_holm")]
        about, cost = ("concept", "budget", "method"), ("weakest_retention", "neurons", *COST)
        columns = (*about, *FIGURES, *cost, *tests, "why", "note")
        rows = tuple(_all_cells(row) for one in (*self.tables, *self.means) for row in one.rows)
        return Table(columns, rows, f"Locating methods on {self.about['model']}", FOOTNOTES)

    def to_json(self) -> dict[str, Any]:
        """Return what compare.json holds."""
        return {
            **self.about,
            "reference": self.reference,
            "complete": not self.interrupted,
            "seconds": self.seconds,
            "tables": [one.to_json() for one in (*self.tables, *self.means)],
            "matrix": self.matrix.to_json() if self.matrix else None,
        }

    def markdown(self, figures: Sequence[str] = ()) -> str:
        """Return the comparison as a page, with the figures at the given paths."""
        blocks = [f"# Locating methods on {self.about['model']}"]
        blocks += ["**Interrupted: these are the methods that were done.**"] * self.interrupted
        blocks += [one.table().markdown() for one in (*self.means, *self.tables)]
        remarks = {row.method: row.note for one in self.tables for row in one.rows if row.note}
        blocks += [f"The reference is `{self.reference}`.", *(f"`{name}`: {note}." for name, note in remarks.items())]
        blocks += [*FOOTNOTES, *([self.matrix.table().markdown()] if self.matrix else [])]
        return "\n\n".join([*blocks, *(f"![{one}]({one})" for one in figures)]) + "\n"

    def save_in(self, run: Run, *, figures: bool | Style = True, page: bool = True) -> None:
        """Leave tables, neurons and figures in the folder of a run that is open."""
        run.save_json("compare.json", self.to_json())
        run.save_json("neurons.json", _plain(self.neurons))
        run.save_text("compare.csv", self.table().csv())
        if figures:
            run.save_figures(self.figures, figures)
        run.save_text("compare.md", self.markdown(run.figures))
        if page:
            leave_page(run)

    def __str__(self) -> str:
        lines = [str(one.table()) for one in (*self.tables, *self.means)]
        lines += [self.matrix.finding] if self.matrix else []
        return "\n".join(lines + [INTERRUPTED] * self.interrupted)

    def _repr_html_(self) -> str:
        tables = [one.table() for one in (*self.tables, *self.means)]
        tables += [self.matrix.table()] if self.matrix else []
        return display(f"{INTERRUPTED}; " * self.interrupted + self._finding, tables, self._draw_methods())

    @property
    def _finding(self) -> str:
        """Which method is the most selective, and of what."""
        return f"{_best(self.shown[-1])}{self.shown[-1].title}"

    def _draw_methods(self) -> Drawing:
        """Draw what editing each method's neurons does."""
        ranking = self.shown[-1].rows
        rows = {row.label: {name: row.figure(name) for name in DRAWN} for row in ranking}
        marked = next((row.label for row in ranking if row.method == self.reference), self.reference)
        drawn = [row.label for row in ranking if row.drawn]
        return draw_ranking(rows, title=self._finding, marked=marked, faded=drawn)

    def _doses(self, title: str) -> Drawing:
        every = {row.method: row for row in self.shown[-1].measured}
        rows = [row for method in every for one in self.shown for row in one.measured if row.method == method]
        doses = [Trial(row.method, row.neurons, row.figure("mention_drop"), row.figure("retention")) for row in rows]
        return draw_doses(doses, title=title)


def overlap(a: Sequence[NeuronSet], b: Sequence[NeuronSet]) -> float:
    """Return the mean Jaccard overlap over all pairs of sets; a method overlaps itself fully.

    Neurons at different sites are different neurons.
    """
    if a is b:
        return 1.0
    pairs = [(one, other) for one in a for other in b]
    return sum(one.jaccard(other) if one.site == other.site else 0.0 for one, other in pairs) / len(pairs)


def _cells(row: Row) -> tuple[Cell, ...]:
    """Return a row as `Ranking.table` shows it."""
    figures = [row.figure(name) for name in FIGURES]
    drop, kept, *others = (one if one.value is not None else "n/a" for one in figures)
    n = f"{figures[0].n} / {figures[1].n}"
    cost = row.cost or {}
    tests = [(row.tests or {}).get(name) for name in TESTED]
    return (
        *(row.method, drop, kept, row.weakest, *others, n, round(row.neurons, 1)),
        *((f"{cost['forwards']:g} + {cost['backwards']:g}", f"{cost['seconds']:.1f}") if cost else (None, None)),
        *(f"{one.adjusted:.2g} ({round(one.difference.value or 0, 2) + 0.0:+.2f})" if one else None for one in tests),
    )


def _all_cells(row: Row) -> tuple[Cell, ...]:
    """Return a row as `Comparison.table` has it, numbers as numbers."""
    tests = [(row.tests or {}).get(name) for name in TESTED]
    return (
        *(row.concept, row.budget, row.method, *map(row.figure, FIGURES), row.weakest, row.neurons),
        *(row.cost[name] if row.cost else None for name in COST),
        *(part for one in tests for part in ((one.difference.value, one.p, one.adjusted) if one else (None,) * 3)),
        *(row.why, row.note),
    )


def _plain(neurons: Any) -> Any:
    """Return sets of neurons in whatever mappings as plain data."""
    if isinstance(neurons, Mapping):
        return {name: _plain(part) for name, part in neurons.items()}
    return [one.to_json() for one in neurons] if isinstance(neurons, tuple) else neurons.to_json()


def _by_layer(sets: Sequence[NeuronSet]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for one in sets:
        for layer, indices in one.by_layer().items():
            counts[str(layer)] = counts.get(str(layer), 0.0) + len(indices) / len(sets)
    return counts


def _means(several: Sequence[Mapping[str, Mapping[str, float]]], missing: float | None) -> dict[str, dict[str, float]]:
    """Return the mean of each number over the rankings that have its row; one that is `missing` counts so, or not."""
    means: dict[str, dict[str, float]] = {}
    for row in dict.fromkeys(name for one in several for name in one):
        there = [one[row] for one in several if row in one]
        columns = dict.fromkeys(name for one in there for name in one)
        for name in columns:
            found = [one.get(name, missing) for one in there]
            known = [value for value in found if value is not None]
            means.setdefault(row, {})[name] = sum(known) / len(known)
    return means


def _best(ranking: Ranking) -> str:
    """Return which method is the most selective, as the beginning of a title."""
    known = {row.method: value for row in ranking.rows if (value := row.figure("selectivity").value) is not None}
    if not known:
        return ""
    top = max(known.values())
    first, *others = [name for name, value in known.items() if top - value < 0.005]
    tied = f" (with {len(others)} more)" if others else ""
    return f"`{first}`{tied} is the most selective, {top:.2f}; "


def _nearest(shares: Mapping[str, Mapping[str, float]], reference: str) -> str:
    others = {name: share for name, share in shares.get(reference, {}).items() if name != reference}
    if not others:
        return "Overlap (Jaccard) of the methods' neurons"
    nearest = max(others, key=lambda name: others[name])
    return f"`{nearest}` is nearest to `{reference}`: overlap (Jaccard) {others[nearest]:.2f}"


def _draw_matrix(matrix: Matrix) -> Drawing:
    cells = {row: {name: one.value for name, one in drops.items()} for row, drops in matrix.drops.items()}
    counts = [one.n for drops in matrix.drops.values() for one in drops.values()]
    notes = [f"n = {min(counts)} to {max(counts)} pictures a cell"]
    return draw_matrix(
        cells, title=matrix.finding.rstrip("."), what="captions that lose the word", notes=notes,
        rows="concept whose neurons are edited", columns="concept whose pictures are captioned",
    )  # fmt: skip
