"""A sweep over thresholds: the concepts are scored once, and each distinct set of neurons is measured once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kedit import __version__
from kedit.arguments import require
from kedit.data.inpaint import Inpainter
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan
from kedit.evaluation.statistics import Measured, undominated
from kedit.evaluation.texts import TextEncoder
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import Selector
from kedit.models.encoder import OwnLayers
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores, NeuronSet
from kedit.notebook import Shown
from kedit.page import leave_page
from kedit.pipelines.display import display
from kedit.pipelines.given import as_inpainter, as_locator, as_plan, check_common, names_of_concepts
from kedit.pipelines.locate import check_model
from kedit.pipelines.preparation import Counts, Prepared, prepare
from kedit.pipelines.readable import readable
from kedit.pipelines.run import RunResult, check, run_prepared
from kedit.plots import Drawing, Style, Trial, draw_doses, draw_pareto
from kedit.plots.trials import varied
from kedit.progress import as_progress
from kedit.results.cache import Cache
from kedit.results.run_folder import result_folder
from kedit.results.table import Cell, Table
from kedit.samples import Concept, Data, Progress

Scores = Mapping[str, NeuronScores]
"""Of each stage."""


@dataclass(frozen=True, eq=False)
class SweepRow:
    """One point of a sweep: what was asked for, and what editing the neurons did."""

    concept: str
    select: Mapping[str, Selector]
    """The selector of each stage that was swept over."""
    run: RunResult
    """Of these neurons; rows with the same neurons share it, and its earlier stages are those of the first."""


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult(Shown):
    """What each threshold chose and what editing that did; prints itself in a terminal and in a notebook."""

    rows: tuple[SweepRow, ...]
    """By concept, then as the selectors were given, those of the last stage changing fastest."""

    @property
    def best(self) -> SweepRow | None:
        """The row of the highest selectivity that beats its random control; None if none does.

        The first of many owes part of its rank to luck: measure it again with another seed.
        """
        convincing = [row for row in self.rows if row.run.report.has_evidence]
        return max(convincing, key=lambda row: row.run.report.selectivity.value or 0.0, default=None)

    @cached_property
    def front(self) -> frozenset[int]:
        """The numbers of the rows that no other row of their concept beats in both mention_drop and retention.

        A row without evidence is not among them.
        """
        rivals: dict[str, dict[int, tuple[float, float]]] = {}
        for number, row in enumerate(self.rows):
            drop, kept = (one.value for one in _figures(row.run))
            if drop is not None and kept is not None and row.run.report.has_evidence:
                rivals.setdefault(row.concept, {})[number] = (drop, kept)
        stays = [zip(points, undominated(list(points.values())), strict=True) for points in rivals.values()]
        return frozenset(number for pairs in stays for number, stay in pairs if stay)

    @property
    def distinct(self) -> dict[int, RunResult]:
        """What was measured, by the number of the first row that chose these neurons."""
        first: dict[RunResult, int] = {}
        for number, row in enumerate(self.rows):
            first.setdefault(row.run, number)
        return {number: run for run, number in first.items()}

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        if (pareto := self._draw_pareto()) is None:
            return {}
        trials = self._trials
        if not varied(trials):
            return {"pareto": pareto}
        title = f"What more neurons change: {self._about()}, {len(self.rows)} points"
        return {"pareto": pareto, "dose": draw_doses(trials, title=title)}

    @property
    def _trials(self) -> list[Trial]:
        return [_trial(number, row, number in self.front) for number, row in enumerate(self.rows)]

    def _draw_pareto(self) -> Drawing | None:
        """Draw suppression against retention; None where no row has both."""
        trials, title = self._trials, f"Suppression against retention: {self._about()}, {len(self.rows)} points"
        return draw_pareto(trials, title=title) if any(one.place for one in trials) else None

    def table(self) -> Table:
        """Return a row for each point; equal neurons have equal figures."""
        stages, figures = self.rows[0].select, ("mention_drop", "retention", "selectivity")
        title = f"{self._about()} in {self.rows[0].run.model}"
        columns = ("concept", *stages, "neurons", *figures, "evidence")
        return Table(columns, tuple(map(_cells, self.rows)), title, self._notes())

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows of the table; `measured` is the number of the row whose folder has the report."""
        numbers = {run: number for number, run in self.distinct.items()}
        rows = zip(self.table().to_json(), self.rows, strict=True)
        return [{"kedit": __version__, **told, "measured": numbers[row.run]} for told, row in rows]

    def save(
        self, folder: str | Path, *, figures: bool | Style = True, page: bool = True, overwrite: bool = False
    ) -> Path:
        """Leave the table, the figures and a run's folder for each distinct set, with a STATUS, and return `folder`.

        The runs' folders have no figures, which would take a few seconds each: `row.run.save` draws them. `figures`
        is a `Style` for another format, width or no titles, False for none; `page` is whether to leave report.html,
        there and in the runs' folders. A finished run or sweep of another result stays, and is refused, unless
        `overwrite`.
        """
        table = self.table()
        with result_folder(folder, "leaderboard.json", self.to_json(), overwrite=overwrite) as run:
            for number, measured in self.distinct.items():
                measured.save(run.folder / str(number), figures=False, page=page, overwrite=overwrite)
            if figures:
                run.save_figures(self.figures, figures)
            run.save_json("leaderboard.json", self.to_json())
            run.save_text("leaderboard.csv", table.csv())
            run.save_text("leaderboard.md", table.markdown() + "\n")
            if page:
                leave_page(run)
        return Path(folder)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return display(self._notes()[-1], [self.table()], self._draw_pareto())

    def _about(self) -> str:
        return ", ".join(dict.fromkeys(row.concept for row in self.rows))

    def _notes(self) -> tuple[str, ...]:
        measured = f"{len(self.rows)} points choose {len(self.distinct)} distinct sets of neurons"
        if (best := self.best) is None:
            return measured, "No evidence: no row suppresses its concept beyond its random control."
        asked = ", ".join(f"{stage} {_brief(one)}" for stage, one in best.select.items())
        return measured, f"Most selective, {asked}: {best.run.report.verdict}"


def sweep(
    model: MLLM,
    data: Data,
    concepts: Sequence[str | Concept],
    select: Mapping[str, Selector | Sequence[Selector]],
    *,
    locate: Locator | str | None = None,
    edit: Operator | EditPlan | None = None,
    inpaint: Inpainter | str | None = None,
    encoder: TextEncoder | None = None,
    counts: Counts | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | bool = True,
) -> SweepResult:
    """Measure what every combination of selectors chooses; the scores do not depend on them and are taken once.

    Example:
        result = kedit.sweep(model, kedit.Scenes(), ["star"], {"gradcam": [kedit.RatioOfMax(r) for r in (0.1, 0.5)]})

    Args:
        model: The model; its weights are not touched.
        data: Where the pictures and the text-only questions come from.
        concepts: The names of concepts that the data knows.
        select: The selectors to try, by the name of the stage whose own they replace.
        locate: Scores, and selects in the stages that `select` does not name; two-stage filtering if None.
        edit: An operator, at all positions, or a plan that limits it; zeroing if None.
        inpaint: Paints the concept out of a picture; see `kedit.run`.
        encoder: Embeds texts for BERTScore; the model's own layers if None.
        counts: How many pictures and random controls to take.
        seed: Of the pictures drawn, the random controls and the bootstrap.
        store: The folder of results that later jobs may use again; if None, they last as long as the call.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept, or the locator no such stage.
        ValueError: There is nothing to sweep over, there are too few pictures, or an option does not fit.
    """
    check_common(data, seed, counts, Counts)
    locator, plan, counted, show = as_locator(locate, data), as_plan(edit), counts or Counts(), as_progress(progress)
    points, names = list(_points(locator, select, plan)), _names(data, concepts)
    ask = partial(prepare, data, inpaint=as_inpainter(inpaint), counts=counted, seed=seed, progress=show)
    drawn = [ask(name) for name in names]
    check_model(model, locator, drawn[0].medium)
    prepared = [readable(model, one) for one in drawn]
    if drawn[0].medium == "image":
        encoder = encoder or OwnLayers(model)  # type: ignore[arg-type]
    with _kept(store) as folder:
        cache = Cache.of_model(folder, model)

        def measure(one: Prepared, varied: Locator, scores: Scores | None) -> RunResult:
            return run_prepared(
                model, one, varied, plan, encoder=encoder, controls=counted.controls, scores=scores, seed=seed,
                cache=cache, progress=show,
            )  # fmt: skip

        return SweepResult(tuple(show(_rows(prepared, points, measure), len(prepared) * len(points), "points")))


def _names(data: Data, concepts: Sequence[str | Concept]) -> tuple[str, ...]:
    """Return what the concepts of a sweep are called; a ValueError says that they are no list, or an empty one."""
    if isinstance(concepts, str) or not concepts:
        raise ValueError(f"`concepts` is a list of names, at least one; got {concepts!r}")
    return names_of_concepts(data, concepts)


def _rows(
    prepared: Sequence[Prepared],
    points: Sequence[tuple[Mapping[str, Selector], Locator]],
    measure: Callable[[Prepared, Locator, Scores | None], RunResult],
) -> Iterator[SweepRow]:
    """Yield a row for each point of each concept, whose neurons are measured unless an earlier row has the same."""
    for one in prepared:
        scores: Scores | None = None
        measured: dict[NeuronSet, RunResult] = {}
        for asked, locator in points:
            run = None if scores is None else measured.get(locator.select(scores))
            if run is None:
                run = measure(one, locator, scores)
                scores = run.located.scores
                measured[run.neurons] = run
            yield SweepRow(run.concept, asked, run)


def _points(
    locator: Locator, select: Mapping[str, Selector | Sequence[Selector]], plan: EditPlan
) -> Iterator[tuple[dict[str, Selector], Locator]]:
    """Yield each combination of selectors, and the locator that has them and fits the `plan`."""
    require(select, Mapping, "select", "a list of selectors by the name of the stage that they are for")
    stages = getattr(locator, "stages", {})
    if unknown := [name for name in select if name not in stages]:
        raise LookupError(f"the locator has no stage `{unknown[0]}`; its stages: {', '.join(stages) or 'none'}")
    if not select or not all(select.values()):
        raise ValueError("`select` names at least one stage, each with at least one selector")
    several = [some if isinstance(some, Sequence) else (some,) for some in select.values()]
    for chosen in product(*several):
        asked = dict(zip(select, chosen, strict=True))
        own = {name: Stage(stage.scorer, asked.get(name, stage.select)) for name, stage in stages.items()}
        varied = replace(locator, stages=own)
        check(varied, plan, None)
        yield asked, varied


@contextmanager
def _kept(store: str | Path | None) -> Iterator[str | Path]:
    """Yield the folder of the results that the points share."""
    if store is not None:
        yield store
        return
    with TemporaryDirectory(prefix="kedit-") as folder:
        yield folder


def _cells(row: SweepRow) -> tuple[Cell, ...]:
    report, asked = row.run.report, map(_brief, row.select.values())
    return row.concept, *asked, len(row.run.neurons), *_figures(row.run), report.selectivity, report.has_evidence


def _figures(run: RunResult) -> tuple[Measured, Measured]:
    """Return mention_drop and retention."""
    return run.report.suppression["mention_drop"], run.report.retention["overall"]


def _trial(number: int, row: SweepRow, on_front: bool) -> Trial:
    report = row.run.report
    drop, kept = _figures(row.run)
    controls = report.control.suppression.get("mention_drop"), report.control.retention.get("overall")
    return Trial(
        row.run.locator, len(row.run.neurons), drop, kept, *controls, number=number, panel=row.concept,
        on_front=on_front, evidence=report.has_evidence, edited=row.run.neurons,
    )  # fmt: skip


def _brief(select: object) -> str:
    """Return a selector without what it leaves at the default, such as `Quantile(q=0.9)`."""
    if not is_dataclass(select):
        return repr(select)
    values = {one.name: getattr(select, one.name) for one in fields(select) if getattr(select, one.name) != one.default}
    return f"{type(select).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"
