"""One row for each method: its neurons, what editing them did, and how sure it is to differ from the reference."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kedit.evaluation.statistics import Measured, bootstrap_mean, holm, permutation_pvalue, share_difference
from kedit.neurons import NeuronSet
from kedit.pipelines.comparison.choices import OWN, Budget, Choices, Method
from kedit.pipelines.comparison.effects import FIGURES, NATS, Effect, Trial
from kedit.pipelines.comparison.scoring import Failed, Scores

TESTED = ("mention_drop", "kept")
COST = ("forwards", "backwards", "seconds")


@dataclass(frozen=True)
class Difference:
    """How a method differs from the reference on the same samples: the method's mean less the reference's."""

    difference: Measured
    p: float
    """Two-sided, of the paired sign-flip test."""
    adjusted: float
    """The same by Holm's method over all methods of the table."""

    def to_json(self) -> dict[str, Any]:
        """Return the test as plain data."""
        return {"difference": self.difference.to_json(), "p": self.p, "p_holm": self.adjusted}


@dataclass(frozen=True, eq=False)
class Row:
    """One method at one budget for one concept; a failed one says why."""

    concept: str
    budget: str
    method: str
    sets: tuple[NeuronSet, ...] = ()
    """Its neurons; of a random method, one set for each seed."""
    effect: Effect | None = None
    cost: Mapping[str, float] | None = None
    why: str | None = None
    note: str = ""
    drawn: bool = False
    """Whether its neurons are random."""
    extent: str = ""
    """For how many concepts the language broke, of the mean over several."""
    tests: Mapping[str, Difference] | None = None
    """For each of `TESTED`, the comparison with the reference; None for the reference itself."""

    @property
    def neurons(self) -> float:
        """How many neurons were edited, the mean over the sets."""
        return sum(map(len, self.sets)) / len(self.sets) if self.sets else 0.0

    @property
    def weakest(self) -> str | None:
        """The retention measure that `retention` is; None where it differs between concepts."""
        return self.effect.weakest if self.effect else None

    @property
    def by_seed(self) -> tuple[float, ...]:
        """The mention_drop of each random set; nothing of a method that is not random."""
        return self.effect.by_seed if self.effect else ()

    @property
    def broken(self) -> str | None:
        """What is wrong with the edited model's language; None if nothing is."""
        return self.effect.broken if self.effect else None

    @property
    def label(self) -> str:
        """The method, and whether what its edit did is none of its own."""
        return f"{self.method} (broken language{self.extent})" if self.broken else self.method

    def figure(self, name: str) -> Measured:
        """Return one of `FIGURES`, or why there is none."""
        return self.effect.figures[name] if self.effect else Measured.missing(self.why or "nothing was edited")

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {
            "concept": self.concept,
            "budget": self.budget,
            "method": self.method,
            **{name: self.figure(name).to_json() for name in FIGURES},
            "weakest_retention": self.weakest,
            "neurons": self.neurons,
            **(dict(self.cost) if self.cost else dict.fromkeys(COST)),
            **({"seeds": len(self.sets), "mention_drop_by_seed": list(self.by_seed)} if self.by_seed else {}),
            "tests": {name: test.to_json() for name, test in self.tests.items()} if self.tests else None,
            "why": self.why,
            "broken_language": self.broken,
            "note": self.note,
        }


def rows(choices: Choices, scores: Mapping[str, Sequence[Scores] | Failed], trial: Trial) -> Iterator[Row]:
    """Yield the row of every method at every budget; slow, as each new set of neurons is tried."""
    for budget in choices.budgets:
        size = budget_size(budget, choices, scores)
        for method in choices.methods:
            yield _row(method, str(budget), size, scores[method.name], trial)


def budget_size(budget: Budget, choices: Choices, scores: Mapping[str, Sequence[Scores] | Failed]) -> int | None:
    """Return how many neurons a method may name; None for its own number.

    Raises:
        ValueError: The method that sets the budget failed or selects nothing.
    """
    if isinstance(budget, int) or budget == OWN:
        return budget if isinstance(budget, int) else None
    found = scores[budget]
    if isinstance(found, Failed):
        raise ValueError(f"`{budget}` sets the budget, but it failed: {found.why}; set `budget` to a number")
    size = len(choices.method(budget).locators[0].select(found[0]))
    if not size:
        raise ValueError(f"`{budget}` sets the budget, but it selects no neuron; set `budget` to a number")
    return size


def picked(method: Method, size: int | None, scores: Sequence[Scores]) -> tuple[NeuronSet, ...]:
    """Return the neurons of each of the method's locators, `size` of them or its own number."""
    pairs = zip(method.locators, scores, strict=True)
    return tuple((one if size is None else one.limited(size)).select(found) for one, found in pairs)


def _row(method: Method, budget: str, size: int | None, scores: Sequence[Scores] | Failed, trial: Trial) -> Row:
    row = Row(trial.evaluation_set.concept.name, budget, method.name, note=method.remark, drawn=method.drawn)
    if isinstance(scores, Failed):
        return replace(row, why=scores.why)
    try:
        sets = picked(method, size, scores)
        effect = trial.effect(sets)
    except Exception as error:
        return replace(row, why=Failed.of(error).why)
    about = next(iter(scores[0].values())).provenance
    cost = {name: float(about[name]) if name == "seconds" else int(about[name]) for name in COST}
    return replace(row, sets=sets, effect=effect, cost=None if method.drawn else cost)


def with_tests(found: Sequence[Row], reference: str, seed: int) -> list[Row]:
    """Return the rows of one table with their tests against the reference, where both could be measured.

    The p-values of each figure are adjusted over the methods of the table.
    """
    base = next((row.effect for row in found if row.method == reference), None)
    others = [row for row in found if row.method != reference and row.effect is not None]
    if base is None:
        return list(found)
    tests: dict[str, dict[str, Difference]] = {row.method: {} for row in others}
    for name in TESTED:
        compared = [row for row in others if row.effect and row.effect.by_sample[name] and base.by_sample[name]]
        values = [(row.effect.by_sample[name], base.by_sample[name]) for row in compared if row.effect]
        p = [permutation_pvalue(*pair, seed=seed) for pair in values]
        for row, pair, one, adjusted in zip(compared, values, p, holm(p), strict=True):
            tests[row.method][name] = Difference(share_difference(*pair), one, adjusted)
    return [replace(row, tests=tests.get(row.method)) for row in found]


def ranked(found: Sequence[Row]) -> list[Row]:
    """Return rows from high to low selectivity; then those whose selectivity is missing, then the failed ones."""

    def rank(row: Row) -> tuple[bool, bool, float, float]:
        value, drop = (row.figure(name).value for name in ("selectivity", "mention_drop"))
        return row.effect is None, value is None, -(value or 0.0), -(drop or 0.0)

    return sorted(found, key=rank)


def mean_row(several: Sequence[Row]) -> Row:
    """Return the mean of one method's rows over concepts.

    The interval is a bootstrap over concepts; a concept without the figure is left out, and of one concept
    alone its own figures remain.
    """
    measured = [row for row in several if row.effect is not None]
    first = several[0]
    if not measured:
        return replace(first, concept="mean", why=first.why)
    figures = {name: _mean([row.figure(name) for row in measured], name not in NATS) for name in FIGURES}
    weakest = {row.effect.weakest for row in measured if row.effect}
    cost = None
    if measured[0].cost is not None:
        cost = {name: sum(row.cost[name] for row in measured if row.cost) / len(measured) for name in COST}
    broken = [row.concept for row in measured if row.broken]
    why = f"with the neurons of {', '.join(broken)}" if broken else None
    return replace(
        first,
        concept="mean",
        extent=f": {len(broken)} of {len(measured)}",
        sets=tuple(one for row in measured for one in row.sets),
        effect=Effect(figures, weakest.pop() if len(weakest) == 1 else None, {}, broken=why),
        cost=cost,
        why=None,
        tests=None,
    )


def _mean(several: Sequence[Measured], shares: bool) -> Measured:
    values = [one.value for one in several if one.value is not None]
    if len(values) == 1:
        return next(one for one in several if one.value is not None)
    return bootstrap_mean(values, shares=shares) if values else several[0]
