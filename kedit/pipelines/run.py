"""The main job: locate a concept's neurons, edit them, and measure what the edit did."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from kedit import __version__
from kedit.data.inpaint import Inpainter
from kedit.edit.operators import Operator, aim
from kedit.edit.plan import EditPlan, check_plan
from kedit.evaluation.exam import Exam
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.report import EditReport
from kedit.evaluation.scores import text_counts
from kedit.evaluation.statistics import Measured
from kedit.evaluation.texts import TextEncoder
from kedit.internals.sites import Site
from kedit.locate.auto import Auto
from kedit.locate.choosing import check_choice
from kedit.locate.locator import Locator
from kedit.locate.selection import Selector
from kedit.models.encoder import OwnLayers
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores, NeuronSet
from kedit.pipelines.given import as_inpainter, as_locator, as_plan, check_common, name_of_concept, require_model
from kedit.pipelines.heat_maps import HeatMaps
from kedit.pipelines.locate import Located, check_model, leave, locate_prepared, neuron_part, site_of
from kedit.pipelines.outputs import Told, interview, measured
from kedit.pipelines.preparation import Counts, Prepared, prepare
from kedit.pipelines.readable import readable
from kedit.plots import CaptionRow, Drawing, draw_before_after, draw_effects, draw_heatmaps, style
from kedit.progress import as_progress, run_stage
from kedit.results.cache import FORGETFUL, Recall
from kedit.results.reports import report_markdown
from kedit.results.run_folder import Run, result_folder
from kedit.results.table import Cell, Table
from kedit.samples import Concept, Data, Progress, silent

N_SHOWN = 4
"""How many pictures of the concept the figures show."""
N_EXAMPLES = 3
"""How many captions before and after the edit a page shows."""
EFFECTS = {
    "suppression": ("mention_drop", "substitutions"),
    "retention": ("objects", "others", "text", "bleu", "rougeL", "bertscore"),
}
"""The figures of the table of results, by their part of the report."""


class CaptionChange(NamedTuple):
    """What the model said before and after the edit, about one picture or question."""

    id: str
    group: str
    """`target`, `near`, `far` or `text`."""
    before: str
    after: str


class BeforeAfter(ABC):
    """What a model said before and after an edit, and what was measured on it: of a run, and of any other edit."""

    exam: Exam
    outputs: Told
    report: EditReport
    seconds: Mapping[str, float]

    @property
    def concept(self) -> str:
        """The name of the edited concept."""
        return self.exam.concept.name

    @property
    def captions(self) -> list[CaptionChange]:
        """What the model said before and after, for each picture and question in the order of the exam."""
        before, after, rows = self.outputs.before, self.outputs.after, list[CaptionChange]()
        for group in ("target", "near", "far"):
            told = zip(getattr(self.exam, group), getattr(before, group), getattr(after, group), strict=True)
            rows += [CaptionChange(sample.id, group, old, new) for sample, old, new in told]
        asked = zip(self.exam.questions, before.answers, after.answers, strict=True)
        return rows + [CaptionChange(question.text, "text", old, new) for question, old, new in asked]

    @property
    def examples(self) -> list[CaptionChange]:
        """A few rows of `captions` that show what the edit does."""
        changed = [row for row in self.captions if row.group == "target" and row.before != row.after]
        return (changed or self.captions)[:N_EXAMPLES]

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        verdict, suppresses = self.report.judgement.title, self.report.has_evidence and self.report.aim == "less"
        found = {"before_after": draw_before_after(self._caption_rows(), title=None if suppresses else verdict)}
        suppression, retention = (self._effects(part) for part in EFFECTS)
        if suppression or retention:
            found["effects"] = draw_effects(suppression, retention, title=verdict)
        return found

    def effect_rows(self) -> list[tuple[Cell, ...]]:
        """Return suppression and retention of the edit, beside the random control's, as rows of a table."""
        control, report = self.report.control, self.report
        rows: list[tuple[Cell, ...]] = [
            (f"{part}: {style.name(measure)}", figure, getattr(control, part).get(measure), figure.n)
            for part, measures in EFFECTS.items()
            for measure in measures
            if (figure := getattr(report, part)[measure])
        ]
        return [*rows, ("selectivity", report.selectivity, None, report.selectivity.n)]

    @abstractmethod
    def table(self) -> Table:
        """Return suppression and retention of the edit, beside the random control's."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what report.json holds; a function of what was asked, without times."""

    def save(self, folder: str | Path, *, figures: bool = True, overwrite: bool = False) -> Path:
        """Leave captions, report and figures in `folder`, of a run scores and neurons, too, with a STATUS; return it.

        A finished run of another result stays, and is refused, unless `overwrite`.
        """
        with result_folder(folder, "report.json", self.to_json(), overwrite=overwrite) as run:
            self.save_in(run, figures=figures)
        return Path(folder)

    def save_in(self, run: Run, *, figures: bool = True) -> None:
        """Leave the same in the folder of a run that is open."""
        run.save_jsonl("captions.jsonl", [row._asdict() for row in self.captions])
        run.save_json("report.json", self.to_json())
        if figures:
            run.save_figures(self.figures)
        examples = [row._asdict() for row in self.examples]
        run.save_text("report.md", report_markdown(self.to_json() | {"examples": examples, "figures": run.figures}))
        run.save_json("timing.json", {name: round(value, 3) for name, value in self.seconds.items()})

    def __str__(self) -> str:
        examples = "\n".join(f"  before: {row.before}\n  after:  {row.after}" for row in self.examples)
        return f"{self.table()}\n{examples}"

    def _repr_html_(self) -> str:
        rows = "".join(f"<li>{escape(row.before)}<br>{escape(row.after)}</li>" for row in self.examples)
        return f"{self.table().html()}<ul>{rows}</ul>"

    def _effects(self, part: str) -> dict[str, tuple[Measured, Measured]]:
        """Return each effect of the edit beside the control's, for `suppression` or `retention`."""
        edited, control = getattr(self.report, part), getattr(self.report.control, part)
        return {name: (edited[name], control[name]) for name in EFFECTS[part] if name in control}

    def _caption_rows(self) -> list[CaptionRow]:
        exam, before, after = self.exam, self.outputs.before, self.outputs.after
        words = (exam.concept.name, *exam.concept.words)
        told = zip(exam.target, before.target, after.target, strict=True)
        changed = sorted(told, key=lambda row: row[1] == row[2])[:N_SHOWN]
        kept = zip(exam.near[:2], before.near[:2], after.near[:2], strict=True)
        return [CaptionRow(sample.image, old, new, words) for sample, old, new in (*changed, *kept)]


@dataclass(frozen=True, eq=False)
class RunResult(BeforeAfter):
    """What was located, what the edit did, and how sure that is; prints itself in a terminal and in a notebook."""

    model: str
    """The model's name."""
    locator: str
    """The locator's name."""
    operator: str
    positions: str
    site: Site
    exam: Exam
    """The held-out pictures and questions."""
    located: Located
    outputs: Told
    """What the model said unedited, edited, and with each random set edited instead."""
    report: EditReport
    corpus: Mapping[str, Mapping[str, float]]
    """How alike edited and unedited captions are as whole corpora, by group and metric."""
    heat_maps: HeatMaps
    skipped: Mapping[str, int]
    """How many pictures could not be used, by the reason."""
    seconds: Mapping[str, float]
    """How long locating and the whole took."""
    phase: str = "both"
    """When the edit acts."""

    @property
    def neurons(self) -> NeuronSet:
        """The neurons that were located and edited."""
        return self.located.neurons

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        found = {**self.located.figures, **super().figures}
        if "why" not in self.heat_maps.measures:
            found["heatmaps"] = draw_heatmaps(self.heat_maps.rows[:N_SHOWN], concept=self.concept)
        return found

    def table(self) -> Table:
        """Return suppression and retention of the edit, beside the random control's."""
        columns = (
            *("", f"{self.operator} of {len(self.neurons)} neurons"),
            *(f"random control, {self.report.control.seeds} seeds", "n"),
        )
        notes = (self.located.neurons_line, *self.located.named.lines, self.report.verdict)
        return Table(columns, tuple(self.effect_rows()), f"{self.concept} in {self.model}", notes)

    def to_json(self) -> dict[str, Any]:
        """Return what report.json holds; a function of what was asked, without times."""
        return {
            "kedit": __version__,
            "concept": self.concept,
            "model": self.model,
            "locator": self.locator,
            "operator": self.operator,
            "positions": self.positions,
            "phase": self.phase,
            "neurons": neuron_part(self.neurons, self.site.n_neurons),
            **self.report.to_json(),
            "corpus": self.corpus,
            "samples": {
                **self.located.sample_counts,
                "skipped": {**self.located.skipped, **self.skipped},
                "target": len(self.exam.target),
                "retention": len(self.exam.retention),
                "text": text_counts(self.exam, self.outputs.before),
            },
            "cost": self.located.cost,
            "heat_maps": self.heat_maps.measures,
        }

    def save_in(self, run: Run, *, figures: bool = True) -> None:
        """Leave the same in the folder of a run that is open."""
        leave(self.located, run)
        super().save_in(run, figures=figures)


def run(
    model: MLLM,
    data: Data,
    concept: str | Concept,
    *,
    locate: Locator | str | None = None,
    edit: Operator | EditPlan | None = None,
    select: Selector | Auto | None = None,
    inpaint: Inpainter | str | None = None,
    encoder: TextEncoder | None = None,
    counts: Counts | None = None,
    scores: Mapping[str, NeuronScores] | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | bool = True,
) -> RunResult:
    """Locate the neurons of a concept, edit them, and measure suppression and retention on held-out pictures.

    Example:
        result = kedit.run(kedit.load("scenes"), kedit.Scenes(), "star")

    Args:
        model: The model; its weights are not touched.
        data: Where the pictures and the text-only questions come from.
        concept: The name of a concept that the data knows.
        locate: Scores and selects, or the name of a shipped locator; two-stage filtering with its default thresholds
            if None.
        edit: An operator, at all positions, or a plan that limits it; zeroing if None.
        select: Chooses in place of the locator's own last selector.
        inpaint: Paints the concept out of a picture, or `mean`, `blur` or `exact`. If None, the data set draws the
            picture anew where it can, and else the region is filled with the mean colour around it.
        encoder: Embeds texts for BERTScore; the model's own layers if None.
        counts: How many pictures and random controls to take.
        scores: Scores of the same pictures that were taken before.
        seed: Of the pictures drawn, the random controls and the bootstrap.
        store: The folder of results that later jobs may use again; None computes everything.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept, or kedit nothing of a name that was given.
        TypeError: Something is of another kind than what is asked for.
        ValueError: There are too few pictures, the model cannot be located in, or an option does not fit.
    """
    check_common(data, seed, counts, Counts)
    locator, plan, counted = as_locator(locate), as_plan(edit), counts or Counts()
    name, painter = name_of_concept(data, concept), as_inpainter(inpaint)
    check(locator, plan, select)
    require_model(model)
    show = as_progress(progress)
    prepared = prepare(data, name, painter, counted, seed=seed, progress=show)
    return run_prepared(
        model, prepared, locator, plan, select=select, encoder=encoder, controls=counted.controls, scores=scores,
        seed=seed, cache=Recall.of_model(store, model), progress=show,
    )  # fmt: skip


def check(locator: Locator, plan: EditPlan, select: Selector | Auto | None) -> None:
    """Raise a ValueError where what was chosen does not fit together, which needs no model to tell."""
    check_choice(select, locator)
    check_plan(plan, locator.site, getattr(locator, "scope", "language"))


def run_prepared(
    model: MLLM,
    prepared: Prepared,
    locator: Locator,
    plan: EditPlan,
    *,
    select: Selector | Auto | None = None,
    encoder: TextEncoder | None = None,
    controls: int = 5,
    scores: Mapping[str, NeuronScores] | None = None,
    seed: int = 0,
    cache: Recall = FORGETFUL,
    name: str = "",
    keep: Callable[[Located], object] | None = None,
    progress: Progress = silent,
) -> RunResult:
    """Do what `run` does with pictures and questions that are prepared; see there.

    Args:
        model: The model.
        prepared: What `prepare` returned.
        locator: Scores and selects.
        plan: The operator and where it acts.
        select: Chooses in place of the locator's own last selector.
        encoder: Embeds texts for BERTScore.
        controls: How many layer-matched random sets to edit as well.
        scores: Scores of the same pictures that were taken before.
        seed: Of the random controls and the bootstrap.
        cache: What is known from before.
        name: What to call the locator; its stages if empty.
        keep: Called with what was located, before the longer part begins, so that an interrupted job leaves it.
        progress: Shows how far it is.
    """
    began = time.perf_counter()
    check_model(model, locator)
    prepared = readable(model, prepared)
    found = locate_prepared(
        model, prepared, locator, select=select, scores=scores, cache=cache, name=name, progress=progress
    )
    exam, located, site = prepared.exam, found.located, site_of(model, locator)
    if keep is not None:
        keep(located)
    operator = plan.operator_for(model, located.pairs, progress=progress)
    random = [located.neurons.layer_matched(site.widths, seed + number) for number in range(controls)]
    told = interview(model, exam, plan, operator, located.neurons, random, progress, cache)
    similarity = Similarity(encoder or OwnLayers(model))  # type: ignore[arg-type]
    measures = partial(measured, exam, told, similarity, len(located.neurons), seed, cache, aim=aim(operator))
    report, corpus = run_stage(measures, progress, "measures")
    heat_maps = HeatMaps(model, site, located, cache)
    run_stage(lambda: heat_maps.measures, progress, "heat maps")  # part of what the job takes
    seconds = {"locate_seconds": found.seconds, "seconds": time.perf_counter() - began}
    return RunResult(
        model.name, found.locator, repr(operator), plan.positions, site, exam, located, told, report, corpus,
        heat_maps, found.skipped, seconds, plan.phase,
    )  # fmt: skip
