"""One row for each source: how much it removes, how well its neurons agree, what editing them does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.counterfactual_sources.agreement import AGREEMENT, Found, agreement
from experiments.counterfactual_sources.painting import Painted
from kedit.evaluation.statistics import Measured, bootstrap_mean, paired_difference

EFFECT = ("mention_drop", "retention", "selectivity")
FIGURES = ("removed", *AGREEMENT, *EFFECT)
DIFFERENCES = ("mention_drop", "retention")
"""What is also compared with the reference, concept by concept."""

Concepts = Mapping[str, Mapping[str, Found]]
"""What was found of each concept by each source."""


@dataclass(frozen=True, eq=False)
class Row:
    """One source on one model, over all concepts."""

    model: str
    source: str
    figures: Mapping[str, Measured]
    """`FIGURES`: `removed` over pictures, with a Wilson interval; the others over concepts, by bootstrap."""
    differences: Mapping[str, Measured]
    """`DIFFERENCES` less the reference's, paired by concept, with a bootstrap interval over concepts."""
    pairs: float
    """How many pairs locating used, the mean over concepts."""
    size: float
    """How many neurons were located, likewise."""
    seconds: float
    """For painting one picture."""
    skipped: int
    """How many pictures the source could not paint."""
    whys: Mapping[str, str]
    """The concepts that could not be located, and why."""

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return {
            "model": self.model,
            "source": self.source,
            **{name: one.to_json() for name, one in self.figures.items()},
            "against_reference": {name: one.to_json() for name, one in self.differences.items()},
            "pairs": self.pairs,
            "neurons_located": self.size,
            "seconds_a_picture": self.seconds,
            "skipped": self.skipped,
            "not_located": dict(self.whys),
        }


def row(model: str, painted: Sequence[Painted], reference: str, concepts: Concepts, *, top: int, seed: int = 0) -> Row:
    """Return the row of a source, compared with `reference`; `painted` is what it made of each concept."""
    source = painted[0].source
    own = [one[source] for one in concepts.values()]
    removed = [float(gone) for one in own for gone in one.removed]
    figures = {"removed": bootstrap_mean(removed) if removed else Measured.missing("no caption named the concept")}
    alike = [agreement(one[reference], one[source], top) for one in concepts.values()] if source != reference else []
    for name in AGREEMENT:
        values = [one[name] for one in alike if one is not None]
        figures[name] = _mean(values, "it is the reference" if source == reference else "nothing located", seed)
    for name in EFFECT:
        figures[name] = _mean([value for one in own if (value := _effect(one, name)) is not None], "not edited", seed)
    located = [one for one in own if one.neurons is not None]
    return Row(
        model,
        source,
        figures,
        {name: _difference(concepts, source, reference, name, seed) for name in DIFFERENCES},
        sum(one.n_pairs for one in own) / len(own),
        sum(len(one.neurons or ()) for one in located) / max(len(located), 1),
        sum(one.seconds for one in painted) / len(painted),
        sum(one.skipped for one in painted),
        {name: one[source].why for name, one in concepts.items() if one[source].why},
    )


def _difference(concepts: Concepts, source: str, reference: str, name: str, seed: int) -> Measured:
    if source == reference:
        return Measured.missing("it is the reference")
    both = [(_effect(one[source], name), _effect(one[reference], name)) for one in concepts.values()]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    return paired_difference([a for a, _ in known], [b for _, b in known], seed=seed)


def _effect(found: Found, name: str) -> float | None:
    return found.effect.figures[name].value if found.effect else None


def _mean(values: Sequence[float], why: str, seed: int) -> Measured:
    return bootstrap_mean(values, seed=seed) if values else Measured.missing(why)
