"""What a comparison found, in tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from experiments.comparison.matrix import Matrix
from experiments.comparison.rows import Row, mean_row, ranked, with_tests
from kedit.neurons import NeuronSet


@dataclass(frozen=True, eq=False)
class Table:
    """The methods at one budget for one concept, or their mean over concepts; the best first."""

    concept: str
    budget: str
    rows: Sequence[Row]
    parts: Sequence["Table"] = ()
    """The tables that this one is the mean of."""

    def overlap(self) -> dict[str, dict[str, float]]:
        """Return the Jaccard overlap of each two methods' neurons, the mean over concepts."""
        if self.parts:
            return _means([part.overlap() for part in self.parts])
        there = [row for row in self.rows if row.effect is not None]
        return {one.method: {other.method: overlap(one.sets, other.sets) for other in there} for one in there}

    def layers(self) -> dict[str, dict[str, float]]:
        """Return how many neurons each method has in each layer, the mean over its sets and over concepts."""
        if self.parts:
            return _means([part.layers() for part in self.parts])
        return {row.method: _by_layer(row.sets) for row in self.rows if row.effect is not None}


@dataclass(eq=False)
class Outcome:
    """The rows so far, and what was asked."""

    about: Mapping[str, Any]
    reference: str
    seed: int
    widths: Mapping[int, int] = field(default_factory=dict)
    """The number of neurons of each layer."""
    rows: list[Row] = field(default_factory=list)
    matrix: Matrix | None = None
    interrupted: bool = False
    seconds: float = 0.0
    """What the comparison took so far, since it was started or resumed."""

    @cached_property
    def tables(self) -> list[Table]:
        """One table for each concept and budget, in the order asked for."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.concept, row.budget), []).append(row)
        return [Table(*key, ranked(with_tests(rows, self.reference, self.seed))) for key, rows in groups.items()]

    @cached_property
    def means(self) -> list[Table]:
        """The mean over concepts at each budget, where there are several concepts."""
        if len({row.concept for row in self.rows}) < 2:
            return []
        groups: dict[str, dict[str, list[Row]]] = {}
        for row in self.rows:
            groups.setdefault(row.budget, {}).setdefault(row.method, []).append(row)
        parts = {budget: [table for table in self.tables if table.budget == budget] for budget in groups}
        return [
            Table("mean", budget, ranked([mean_row(rows) for rows in methods.values()]), parts[budget])
            for budget, methods in groups.items()
        ]

    @property
    def shown(self) -> list[Table]:
        """The tables that figures show: the means over concepts, or those of the one concept."""
        return self.means or self.tables

    @property
    def last(self) -> Table:
        """The table of the last budget."""
        return self.shown[-1]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            **self.about,
            "reference": self.reference,
            "complete": not self.interrupted,
            "seconds": self.seconds,
            "tables": [_json(one) for one in (*self.tables, *self.means)],
            "matrix": self.matrix.to_json() if self.matrix else None,
        }

    def neurons(self) -> dict[str, Any]:
        """Return each method's neurons by concept and budget; a list of sets for a random method."""
        found: dict[str, Any] = {}
        for row in self.rows:
            sets = [one.to_json() for one in row.sets]
            if sets:
                place = found.setdefault(row.concept, {}).setdefault(row.budget, {})
                place[row.method] = sets[0] if len(sets) == 1 else sets
        return found


def overlap(a: Sequence[NeuronSet], b: Sequence[NeuronSet]) -> float:
    """Return the mean Jaccard overlap over all pairs of sets; a method overlaps itself fully.

    Neurons at different sites are different neurons.
    """
    if a is b:
        return 1.0
    pairs = [(one, other) for one in a for other in b]
    return sum(one.jaccard(other) if one.site == other.site else 0.0 for one, other in pairs) / len(pairs)


def _by_layer(sets: Sequence[NeuronSet]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in sets:
        for layer, indices in one.by_layer().items():
            found[str(layer)] = found.get(str(layer), 0.0) + len(indices) / len(sets)
    return found


def _means(several: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the mean of each number over the tables that have its row; a missing number counts as zero."""
    found: dict[str, dict[str, float]] = {}
    for row in dict.fromkeys(name for one in several for name in one):
        there = [one[row] for one in several if row in one]
        columns = dict.fromkeys(name for one in there for name in one)
        found[row] = {name: sum(one.get(name, 0.0) for one in there) / len(there) for name in columns}
    return found


def _json(table: Table) -> dict[str, Any]:
    return {
        "concept": table.concept,
        "budget": table.budget,
        "rows": [row.to_json() for row in table.rows],
        "overlap": table.overlap(),
        "layers": table.layers(),
    }
