"""The main job: locate a concept's neurons, edit them, and measure what the edit did."""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kedit import __version__
from kedit.data.inpaint import Inpainter
from kedit.data.pope import Pope
from kedit.edit.operators import Operator, aim
from kedit.edit.plan import EditPlan, check_plan
from kedit.evaluation.chair import ChairReport, ObjectWords, object_words
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.literature import editing_terms, terms_json
from kedit.evaluation.pope import PopeReport
from kedit.evaluation.report import EditReport
from kedit.evaluation.scores import text_counts
from kedit.evaluation.statistics import Measured
from kedit.evaluation.texts import TextEncoder
from kedit.internals.sites import Site
from kedit.locate.choosing import Choosing, check_choice
from kedit.locate.locator import Locator
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores, NeuronSet
from kedit.page import Materials, leave_page, picture_uri
from kedit.pipelines.benchmarks import chair_table, pope_table, take_benchmarks
from kedit.pipelines.display import display
from kedit.pipelines.firing import cards_of
from kedit.pipelines.given import (
    as_inpainter,
    as_locator,
    as_plan,
    as_pope,
    check_common,
    name_of_concept,
    require_model,
)
from kedit.pipelines.heat_maps import HeatMaps
from kedit.pipelines.locate import Located, check_model, leave, locate_prepared, neuron_part, site_of
from kedit.pipelines.outputs import EditOutputs, collect_outputs, measure_outputs, similarity_of
from kedit.pipelines.preparation import Counts, Prepared, prepare
from kedit.pipelines.readable import readable
from kedit.pipelines.saved import Saved
from kedit.plots import CaptionRow, Drawing, Style, draw_before_after, draw_effects, draw_heatmaps, style
from kedit.progress import as_progress, run_stage
from kedit.results.cache import NO_CACHE, Cache
from kedit.results.reports import report_markdown
from kedit.results.run_folder import Run
from kedit.results.table import Cell, Table
from kedit.samples import AnySample, Concept, Data, Progress, Sample, TextSample, silent
from kedit.words import counted

N_SHOWN = 4
"""How many pictures of the concept the figures show."""
N_EXAMPLES = 3
"""How many captions before and after the edit report.md shows."""
PICTURED = {"target": (9, 3), "near": (4, 2), "far": (4, 2)}
"""How many captions of each group the page shows beside their pictures: of those that changed, and of the others."""
EFFECTS = {
    "suppression": ("mention_drop", "substitutions"),
    "retention": ("objects", "others", "text", "bleu", "rougeL", "bertscore"),
}
"""The figures of the table of results, by their part of the report."""
OF_TEXTS = {
    "suppression": ("mention_drop", "substitutions"),
    "retention": ("near_objects", "far_objects", "text_about"),
}
"""The same where texts were asked."""
TEXT_NAMES = {
    "mention_drop": "paraphrases no longer answered right (T-generality)",
    "substitutions": "another fact's answer in their place",
    "near_objects": "neighbours still answered right (T-locality)",
    "far_objects": "other facts still answered right (T-locality)",
    "text_about": "prompts located with still answered right (1 - T-reliability)",
}
"""What the measures are called there."""


class CaptionChange(NamedTuple):
    """What the model said before and after the edit, about one picture or question."""

    id: str
    group: str
    """`target`, `near`, `far` or `text`."""
    before: str
    after: str


class BeforeAfter(Saved):
    """What a model said before and after an edit, and what was measured on it: of a run, and of any other edit."""

    evaluation_set: EvaluationSet
    outputs: EditOutputs
    report: EditReport
    seconds: Mapping[str, float]
    chair: ChairReport | None
    pope: PopeReport | None

    @property
    def concept(self) -> str:
        """The name of the edited concept."""
        return self.evaluation_set.concept.name

    @property
    def captions(self) -> list[CaptionChange]:
        """What the model said before and after, for each picture and question in the order of the evaluation set."""
        before, after, rows = self.outputs.before, self.outputs.after, list[CaptionChange]()
        for group in ("target", "near", "far"):
            told = zip(getattr(self.evaluation_set, group), getattr(before, group), getattr(after, group), strict=True)
            rows += [CaptionChange(_id(sample), group, old, new) for sample, old, new in told]
        asked = zip(self.evaluation_set.questions, before.answers, after.answers, strict=True)
        return rows + [CaptionChange(question.text, "text", old, new) for question, old, new in asked]

    @property
    def examples(self) -> list[CaptionChange]:
        """A few rows of `captions` that show what the edit does."""
        changed = [row for row in self.captions if row.group == "target" and row.before != row.after]
        return (changed or self.captions)[:N_EXAMPLES]

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        suppresses, found = self.report.has_evidence and self.report.aim == "less", dict[str, Drawing]()
        if self.evaluation_set.has_pictures:
            title = None if suppresses else self.report.judgement.title
            found["before_after"] = draw_before_after(self._caption_rows(), title=title)
        return found if (effects := self._draw_effects()) is None else found | {"effects": effects}

    def effect_rows(self) -> list[tuple[Cell, ...]]:
        """Return suppression and retention of the edit, beside the random control's, as rows of a table."""
        control, report = self.report.control, self.report
        rows: list[tuple[Cell, ...]] = [
            (f"{part}: {style.name(self._name(measure))}", figure, getattr(control, part).get(measure), figure.n)
            for part, measures in self._measures.items()
            for measure in measures
            if (figure := getattr(report, part)[measure])
        ]
        return [*rows, ("selectivity", report.selectivity, None, report.selectivity.n)]

    @abstractmethod
    def table(self) -> Table:
        """Return suppression and retention of the edit, beside the random control's."""

    @property
    def tables(self) -> list[Table]:
        """The table of suppression and retention, and those of CHAIR and POPE where they were asked for."""
        chair = [chair_table(self.chair)] if self.chair else []
        return [self.table(), *chair, *([pope_table(self.pope, self.concept)] if self.pope else [])]

    def benchmarks_json(self) -> dict[str, Any]:
        """Return CHAIR and POPE where they were asked for, and what the literature calls the measures."""
        taken = {"chair": self.chair, "pope": self.pope}
        known = {name: one.to_json() for name, one in taken.items() if one is not None}
        return known | {"literature": terms_json(editing_terms(self.report, self.pope))}

    def save_in(self, run: Run, *, figures: bool | Style = True, page: bool = True) -> None:
        """Leave captions, report and figures in the folder of a run that is open."""
        run.save_jsonl("captions.jsonl", [row._asdict() for row in self.captions])
        run.save_json("report.json", self.to_json())
        if figures:
            run.save_figures(self.figures, figures)
        examples = [row._asdict() for row in self.examples]
        more = {"examples": examples, "figures": run.figures, "tables": [one.markdown() for one in self.tables[1:]]}
        run.save_text("report.md", report_markdown(self.to_json() | more))
        run.save_json("timing.json", {name: round(value, 3) for name, value in self.seconds.items()})
        if page:
            leave_page(run, self._materials)

    def __str__(self) -> str:
        examples = "\n".join(f"  before: {row.before}\n  after:  {row.after}" for row in self.examples)
        return "\n".join([*map(str, self.tables), examples])

    def _repr_html_(self) -> str:
        examples = Table(("before", "after"), tuple((row.before, row.after) for row in self.examples))
        return display(self.report.verdict, (*self.tables, examples), self._draw_effects())

    def _draw_effects(self) -> Drawing | None:
        """Draw what the edit did beside its control; None where nothing could be measured."""
        suppression, retention = (self._effects(part) for part in EFFECTS)
        if not suppression and not retention:
            return None
        return draw_effects(suppression, retention, title=self.report.judgement.title)

    def _materials(self) -> Materials:
        """Return what the page needs beside the other files."""
        samples = (*self.evaluation_set.target, *self.evaluation_set.near, *self.evaluation_set.far)
        rows = [(place, row) for place, row in enumerate(self.captions) if row.group != "text"]
        shown: list[int] = []
        for group, (n_changed, n_same) in PICTURED.items():
            changed = [place for place, row in rows if row.group == group and row.before != row.after]
            same = [place for place, row in rows if row.group == group and row.before == row.after]
            shown += changed[:n_changed] + same[:n_same]
        pictures = [(place, sample) for place in shown if isinstance(sample := samples[place], Sample)]
        return Materials(captions={place: picture_uri(sample.image) for place, sample in pictures})

    def _effects(self, part: str) -> dict[str, tuple[Measured, Measured]]:
        """Return each effect of the edit beside the control's, for `suppression` or `retention`."""
        edited, control = getattr(self.report, part), getattr(self.report.control, part)
        return {self._name(name): (edited[name], control[name]) for name in self._measures[part] if name in control}

    @property
    def _measures(self) -> dict[str, tuple[str, ...]]:
        return EFFECTS if self.evaluation_set.has_pictures else OF_TEXTS

    def _name(self, measure: str) -> str:
        """Return what tables and figures call a measure, where its own name does not say it."""
        return measure if self.evaluation_set.has_pictures else TEXT_NAMES[measure]

    def _caption_rows(self) -> list[CaptionRow]:
        evaluation_set, before, after = self.evaluation_set, self.outputs.before, self.outputs.after
        told = zip(evaluation_set.target, before.target, after.target, strict=True)
        changed = sorted(told, key=lambda row: row[1] == row[2])[:N_SHOWN]
        kept = zip(evaluation_set.near[:2], before.near[:2], after.near[:2], strict=True)
        return [
            CaptionRow(one.image, old, new, evaluation_set.concept)
            for one, old, new in (*changed, *kept)
            if isinstance(one, Sample)
        ]


@dataclass(frozen=True, eq=False, repr=False)
class RunResult(BeforeAfter):
    """What was located, what the edit did, and how sure that is; prints itself in a terminal and in a notebook."""

    model: str
    """The model's name."""
    locator: str
    """The locator's name."""
    operator: str
    positions: str
    site: Site
    evaluation_set: EvaluationSet
    """The held-out pictures and questions."""
    located: Located
    outputs: EditOutputs
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
    chair: ChairReport | None = None
    """CHAIR of the captions, if it was asked for."""
    pope: PopeReport | None = None
    """POPE, if it was asked for."""

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
            *(f"random control, {counted(self.report.control.seeds, 'seed')}", "n"),
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
            **self.benchmarks_json(),
            "corpus": self.corpus,
            "samples": {
                **self.located.sample_counts,
                "skipped": {**self.located.skipped, **self.skipped},
                "target": len(self.evaluation_set.target),
                "retention": len(self.evaluation_set.retention),
                "text": text_counts(self.evaluation_set, self.outputs.before),
            },
            "cost": self.located.cost,
            "heat_maps": self.heat_maps.measures,
        }

    def save_in(self, run: Run, *, figures: bool | Style = True, page: bool = True) -> None:
        """Leave the same in the folder of a run that is open."""
        leave(self.located, run)
        super().save_in(run, figures=figures, page=page)

    def _materials(self) -> Materials:
        """Return what the page needs beside the other files."""
        cards = cards_of(self.heat_maps.model, self.located, self.heat_maps.fired)
        return replace(super()._materials(), cards=cards, why=str(self.heat_maps.measures.get("why", "")))


def run(
    model: MLLM,
    data: Data,
    concept: str | Concept,
    *,
    locate: Locator | str | None = None,
    edit: Operator | EditPlan | None = None,
    select: Choosing | None = None,
    inpaint: Inpainter | str | None = None,
    encoder: TextEncoder | None = None,
    counts: Counts | None = None,
    scores: Mapping[str, NeuronScores] | None = None,
    chair: bool | str | Path | ObjectWords = False,
    pope: bool | Pope = False,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | bool = True,
) -> RunResult:
    """Locate the neurons of a concept, edit them, and measure suppression and retention on held-out pictures.

    Example:
        result = kedit.run(kedit.load("scenes"), kedit.Scenes(), "star")

    Args:
        model: The model; its weights are not touched.
        data: Where the pictures and the text-only questions come from, or the texts (`kedit.Prompts`).
        concept: The name of a concept that the data knows.
        locate: Scores and selects, or the name of a shipped locator; two-stage filtering if None.
        edit: An operator, at all positions, or a plan that limits it; zeroing if None.
        select: Chooses in place of the locator's own last selector.
        inpaint: Paints the concept out, or `mean`, `blur` or `exact`; None is `exact` where the data can, else `mean`.
        encoder: Embeds texts for BERTScore; the model's own layers if None.
        counts: How many pictures and random controls to take.
        scores: Scores of the same pictures that were taken before.
        chair: Whether to take CHAIR of the captions, by kedit's own words; or the file of synonyms to take it by.
        pope: Whether to ask POPE's questions; or how.
        seed: Of the pictures drawn, the random controls and the bootstrap.
        store: The folder of results that later jobs may use again; None computes everything.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept, or kedit nothing of a name that was given.
        TypeError: Something is of another kind than what is asked for.
        ValueError: There are too few pictures, the model cannot be located in, or an option does not fit.
    """
    check_common(data, seed, counts, Counts)
    locator, plan, counted = as_locator(locate, data), as_plan(edit), counts or Counts()
    name, painter, asked = name_of_concept(data, concept), as_inpainter(inpaint), as_pope(pope)
    check(locator, plan, select)
    words = object_words(chair, data.concepts)
    require_model(model)
    show = as_progress(progress)
    prepared = prepare(data, name, painter, counted, seed=seed, pope=asked, progress=show)
    return run_prepared(
        model, prepared, locator, plan, select=select, encoder=encoder, controls=counted.controls, scores=scores,
        words=words, seed=seed, cache=Cache.of_model(store, model), progress=show,
    )  # fmt: skip


def _id(sample: AnySample) -> str:
    """Return what a row about a sample is called: a text is a name of its own."""
    return sample.text if isinstance(sample, TextSample) else sample.id


def check(locator: Locator, plan: EditPlan, select: Choosing | None) -> None:
    """Raise a ValueError where what was chosen does not fit together, which needs no model to tell."""
    check_choice(select, locator)
    check_plan(plan, locator.site, getattr(locator, "scope", "language"))


def run_prepared(
    model: MLLM, prepared: Prepared, locator: Locator, plan: EditPlan, *, select: Choosing | None = None,
    encoder: TextEncoder | None = None, controls: int = 5, scores: Mapping[str, NeuronScores] | None = None,
    words: ObjectWords | None = None, seed: int = 0, cache: Cache = NO_CACHE, name: str = "",
    keep: Callable[[Located], object] | None = None, progress: Progress = silent,
) -> RunResult:  # fmt: skip
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
        words: Which words name which object, for CHAIR; None leaves it out.
        seed: Of the random controls and the bootstrap.
        cache: What is known from before.
        name: Of the locator; its stages if empty.
        keep: Called with what was located before the longer part, so that an interrupted job leaves it.
        progress: Shows how far it is.
    """
    began = time.perf_counter()
    check_model(model, locator, prepared.medium)
    prepared, site = readable(model, prepared), site_of(model, locator)
    found = locate_prepared(model, prepared, locator, select=select, scores=scores, cache=cache, name=name,
                            progress=progress)  # fmt: skip
    evaluation_set, located = prepared.evaluation_set, found.located
    if keep is not None:
        keep(located)
    operator = plan.operator_for(model, located.pairs, progress=progress)
    edit = plan.edit(located.neurons, operator, evaluation_set.concept.name)
    edits = edit.with_random(site.widths, range(seed, seed + controls))
    outputs = collect_outputs(model, evaluation_set, edits, progress, cache)
    measures = partial(measure_outputs, evaluation_set, outputs, similarity_of(model, encoder, prepared.medium),
                       len(located.neurons), seed, cache, aim=aim(operator))  # fmt: skip
    report, corpus = run_stage(measures, progress, "measures")
    chair, pope = take_benchmarks(model, prepared, outputs, words, edits, seed, progress, cache)
    heat_maps = HeatMaps(model, site, located, cache)
    run_stage(lambda: heat_maps.measures, progress, "heat maps")  # part of what the job takes
    return RunResult(
        model.name, found.locator, repr(operator), plan.positions, site, evaluation_set, located, outputs, report,
        corpus, heat_maps, found.skipped, {"locate_seconds": found.seconds, "seconds": time.perf_counter() - began},
        plan.phase, chair, pope,
    )  # fmt: skip
