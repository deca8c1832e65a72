"""`against=grid`: what `select` chooses, beside the best of a grid of thresholds.

The best point is chosen on one half of the held-out samples and both are judged on the other: the best of a
hundred looks better than it is on what it was chosen on.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig

from experiments.false_discoveries.judging import Judge, value
from kedit.cli.configuration import build, misuse
from kedit.cli.errors import ConfigurationError
from kedit.cli.pairs import inpainter, prepared
from kedit.cli.sharing import loaded
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.report import EditReport
from kedit.locate.choosing import check_choice, check_pairs
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import Quantile
from kedit.neurons import NeuronSet
from kedit.pipelines.locate import locate
from kedit.progress import show_progress
from kedit.results.table import Table

HEADER = ("concept", "chosen by", "neurons", "selectivity", "mention drop", "retention", "above points of the grid")
OWN, BEST = "the locator's own", "the best of the grid"


@dataclass(frozen=True, eq=False)
class Row:
    """What one way of choosing thresholds came to for one concept, on the half that judges."""

    concept: str
    by: str
    neurons: int
    report: EditReport
    beaten: float
    """The share of the grid's points that do worse on the half that chooses."""

    def cells(self) -> list[str]:
        """Return the row of the table."""
        figures = (self.report.selectivity, self.report.suppression["mention_drop"], self.report.retention["overall"])
        return [self.concept, self.by, str(self.neurons), *map(str, figures), f"{self.beaten:.0%}"]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "concept": self.concept,
            "by": self.by,
            "neurons": self.neurons,
            "selectivity": self.report.selectivity.to_json(),
            "mention_drop": self.report.suppression["mention_drop"].to_json(),
            "retention": self.report.retention["overall"].to_json(),
            "above": self.beaten,
        }


def grid(cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Choose thresholds in every way for every concept, and report what editing the neurons does."""
    data, locator, plan = build(cfg.data), build(cfg.locate), build(cfg.edit)
    inpaint, select, points = inpainter(cfg), build(cfg.select), locators(locator, cfg)
    with misuse():
        check_choice(select, locator)
        asked = [prepared(data, name, inpaint, cfg.evaluate, cfg.seed) for name in cfg.grid.concepts]
        for one in asked:
            check_pairs(select, locator, one.pairs)
    model, by = loaded(cfg.model), chosen_name()
    rows: list[Row] = []
    for one in asked:
        with misuse():
            located = locate(model, locator, one.pairs, show_progress, select=select, words=data.concepts)
        sets = {by: located.neurons, OWN: locator.select(located.scores)}
        on_grid = [point.select(located.scores) for point in points]
        operator = plan.operator_for(model, located.pairs, progress=show_progress)
        halves = [Judge.of(model, half, plan, operator, cfg) for half in split(one.evaluation_set)]
        rows += judged(one.evaluation_set.concept.name, sets, on_grid, *halves)
    report(rows, cfg, kept, tracker)


def locators(locator: Any, cfg: DictConfig) -> list[Locator]:
    """Return the locator with every pair of quantiles for its two stages."""
    quantiles = isinstance(locator, Locator) and [isinstance(one.select, Quantile) for one in locator.stages.values()]
    if quantiles != [True, True]:
        raise ConfigurationError("`against=grid` moves the quantiles of two stages; `locate=two_stage` has them")
    (first, one), (last, two) = locator.stages.items()
    with misuse():
        return [
            replace(
                locator,
                stages={
                    first: Stage(one.scorer, replace(one.select, q=low)),
                    last: Stage(two.scorer, replace(two.select, q=high)),
                },
            )
            for low in cfg.grid.first
            for high in cfg.grid.last
        ]


def split(evaluation_set: EvaluationSet) -> Iterator[EvaluationSet]:
    """Yield the half of an evaluation set that chooses and the one that judges."""
    for start in (0, 1):
        parts = {name: getattr(evaluation_set, name)[start::2] for name in ("target", "near", "far")}
        yield replace(evaluation_set, **parts)


def judged(
    concept: str, sets: dict[str, NeuronSet], on_grid: Sequence[NeuronSet], chooses: Judge, judges: Judge
) -> Iterator[Row]:
    """Yield a row for each of the `sets` and for the best of the grid."""
    first = {neurons: value(one) for neurons, one in chooses.reports([*on_grid, *sets.values()]).items()}
    best = max(on_grid, key=lambda neurons: (first[neurons], -len(neurons)))
    named = sets | {BEST: best}
    second = judges.reports(list(named.values()))
    for by, neurons in named.items():
        beaten = sum(first[point] < first[neurons] for point in on_grid) / len(on_grid)
        yield Row(concept, by, len(neurons), second[neurons], beaten)


def chosen_name() -> str:
    """Return the name of the file of conf/select."""
    from hydra.core.hydra_config import HydraConfig

    return f"select={HydraConfig.get().runtime.choices['select']}"


def report(rows: Sequence[Row], cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Write the table, mirror it to the tracker, and print it."""
    n_points = len(cfg.grid.first) * len(cfg.grid.last)
    about = (
        f"The best of {n_points} points by selectivity on one half of the held-out samples; every figure is of the "
        "other half, with a 95 % interval. The last column is of the first half: how many of the points do worse there."
    )
    cells = [row.cells() for row in rows]
    page = f"{Table(HEADER, tuple(cells)).markdown()}\n\n{about}\n"
    kept.save_json("grid.json", {"about": about, "rows": [row.to_json() for row in rows]})
    kept.save_text("grid.md", page)
    tracker.table("grid", HEADER, cells)
    sys.stdout.write(f"{page}files: {kept.folder}\n")
