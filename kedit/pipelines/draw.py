"""Drawing: locate the neurons that write a concept into pictures, edit them, and measure what is drawn and said."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit import __version__
from kedit.data.found import Segmenter
from kedit.data.inpaint import Inpainter
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan, PatchPlan
from kedit.evaluation.drawings import Asked, DrawingReport, Effect, judge_drawings
from kedit.internals.sites import Site
from kedit.locate.drawn import Depicted, check_drawable, score_drawn
from kedit.locate.locator import Locator
from kedit.models.drawing import drawer
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores, NeuronSet, save_scores
from kedit.page import leave_page
from kedit.pipelines.artist import Artist, DrawingSet, Drawn, caption_of
from kedit.pipelines.display import display
from kedit.pipelines.given import as_inpainter, as_locator, as_plan, check_common, name_of_concept, require_model
from kedit.pipelines.locate import cost_part, locate_prepared, name_of, neuron_part, without_seconds
from kedit.pipelines.preparation import Counts, Prepared, prepare
from kedit.pipelines.saved import Saved
from kedit.pipelines.seers import Seer, seer_of
from kedit.plots import Drawing, Look, PictureRow, Style, draw_intervals, draw_layers, draw_pictures
from kedit.plots.style import BASELINE, CONTROL, EDITED, name
from kedit.progress import as_progress, run_stage
from kedit.results.reports import neurons_line
from kedit.results.run_folder import Run
from kedit.results.table import Table
from kedit.samples import Concept, Data, Progress, silent
from kedit.words import counted

IMAGE, TEXT, RANDOM, UNEDITED = "I-neurons", "T-neurons", "random neurons", "unedited"
LOOKS = {IMAGE: Look(EDITED), TEXT: Look(BASELINE, "s"), RANDOM: Look(CONTROL, "D")}
COUNTS = Counts(locate=24, target=30, retention=15, controls=3)
"""How many pictures are drawn if nobody says otherwise."""
N_SHOWN = 5
"""How many drawings of the concept the figure shows, beside one without it."""


@dataclass(frozen=True, eq=False, repr=False)
class DrawResult(Saved):
    """What was located in drawings, and what its edit did to drawings and captions; prints itself as a table."""

    model: str
    """The model's name."""
    locators: Mapping[str, str]
    """The names of what located the I- and the T-neurons."""
    operator: str
    site: Site
    asked: Asked
    scores: Mapping[str, NeuronScores]
    """Of the I-neurons, by stage."""
    sets: Mapping[str, NeuronSet]
    """The I-neurons and the T-neurons, which were edited."""
    depicted: Depicted
    """What the I-neurons were located with."""
    outputs: Mapping[str, Drawn]
    """What the model drew and said unedited, with each of `sets` edited, and with the first random set."""
    report: DrawingReport
    seed: int
    seconds: float

    @property
    def concept(self) -> str:
        """The name of the concept."""
        return self.asked.concept.name

    @property
    def neurons(self) -> NeuronSet:
        """The I-neurons."""
        return self.sets[IMAGE]

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        found = {"drawings": self._draw_pictures(), "layers": self._draw_layers()}
        return found if (effects := self._draw_effects()) is None else found | {"effects": effects}

    def table(self) -> Table:
        """Return what each edit did, a column for each, beside the random control."""
        arms = {**self.report.arms, **({RANDOM: self.report.control} if self.report.control else {})}
        sizes = {arm: f"{arm} ({len(some)})" for arm, some in self.sets.items()}
        sizes[RANDOM] = f"{RANDOM}, {counted(self.report.seeds, 'seed')}"
        rows = [
            (name(measure), *(one[measure] for one in figures), next(iter(figures))[measure].n)
            for part in ("suppression", "retention")
            for figures in [[getattr(one, part) for one in arms.values()]]
            for measure in figures[0]
        ]
        for beside in ("unasked", "reconstruction"):
            figures = [getattr(one, beside) for one in arms.values()]
            rows.append((name(beside), *figures, figures[0].n))
        title = f"`{self.concept}` in drawings and captions of {self.model}, {self.operator}"
        both = len(self.sets[IMAGE] & self.sets[TEXT]) if TEXT in self.sets else 0
        notes = (
            neurons_line(self.neurons, self.site.n_neurons),
            *([f"{both} of them are T-neurons as well"] if TEXT in self.sets else []),
            f"unedited, {self.report.before} of the drawings that were asked for it show it",
            self.report.verdict,
        )
        return Table(("", *(sizes[arm] for arm in arms), "n"), tuple(rows), title, notes)

    def to_json(self) -> dict[str, Any]:
        """Return what report.json holds; a function of what was asked, without times."""
        return {
            "kedit": __version__,
            "drawn_concept": self.concept,
            "model": self.model,
            "locators": dict(self.locators),
            "operator": self.operator,
            "neurons": neuron_part(self.neurons, self.site.n_neurons),
            "sets": {name: neuron_part(some, self.site.n_neurons) for name, some in self.sets.items()},
            **self.report.to_json(),
            "samples": {
                "located": len(self.depicted.drawings),
                "target": self.asked.n_target,
                "retention": len(self.asked.things) - self.asked.n_target,
                "captions": len(self.asked.objects),
            },
            "cost": cost_part(self.scores),
        }

    def save_in(self, run: Run, *, figures: bool | Style = True, page: bool = True) -> None:
        """Leave scores, neurons, drawings, report and figures in the folder of a run that is open."""
        run.save_file("scores.safetensors", lambda path: save_scores(without_seconds(self.scores), path))
        run.save_json("neurons.json", self.neurons.to_json())
        if TEXT in self.sets:
            run.save_json("neurons_text.json", self.sets[TEXT].to_json())
        run.save_jsonl("drawings.jsonl", self._rows())
        run.save_json("report.json", self.to_json())
        if figures:
            run.save_figures(self.figures, figures)
        run.save_text("report.md", self._markdown(run.figures))
        run.save_json("timing.json", {"seconds": round(self.seconds, 3)})
        if page:
            leave_page(run)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return display(self.report.verdict, [self.table()], self._draw_pictures())

    def _rows(self) -> list[dict[str, Any]]:
        """Return what each drawing was asked for and shows, a row for each prompt and then for each caption."""
        prompts, n = self.outputs[UNEDITED].drawings.prompts, self.asked.n_target
        rows: list[dict[str, Any]] = [
            {
                "prompt": prompt,
                "group": "target" if place < n else "retention",
                "asked": sorted(self.asked.things[place]),
                **{name: sorted(one.outcome.seen[place]) for name, one in self.outputs.items()},
            }
            for place, prompt in enumerate(prompts)
        ]
        captions = zip(*(one.outcome.captions for one in self.outputs.values()), strict=True)
        shown = zip(self.asked.objects, captions, strict=True)
        return rows + [
            {"group": "caption", "shows": sorted(what), **dict(zip(self.outputs, one, strict=True))}
            for what, one in shown
        ]

    def _markdown(self, figures: Sequence[str]) -> str:
        """Return report.md."""
        table = self.table()
        pictures = (f"![{Path(figure).stem}]({figure})" for figure in figures)
        return "\n\n".join([f"# {self.concept} in {self.model}", table.markdown(), *pictures]) + "\n"

    def _draw_pictures(self) -> Drawing:
        """Draw some drawings unedited and under each edit; those that show the concept are framed."""
        n, concept = self.asked.n_target, self.concept
        order = sorted(range(n), key=lambda place: concept not in self.outputs[UNEDITED].outcome.seen[place])[:N_SHOWN]
        order += range(n, min(n + 1, len(self.asked.things)))
        prompts = self.outputs[UNEDITED].drawings.prompts
        rows = [
            PictureRow(
                prompts[place],
                {arm: one.drawings.images[place] for arm, one in self.outputs.items()},
                framed=frozenset(arm for arm, one in self.outputs.items() if concept in one.outcome.seen[place]),
            )
            for place in order
        ]
        return draw_pictures(rows, title=f"{self.report.judgement.title} (framed: it is there)")

    def _draw_layers(self) -> Drawing:
        """Draw in which layers the I- and the T-neurons are, and those that are both."""
        sets = dict(self.sets)
        if TEXT in sets and (both := sets[IMAGE] & sets[TEXT]):
            sets["both"] = both
        counts = {name: {layer: len(some) for layer, some in one.by_layer().items()} for name, one in sets.items()}
        return draw_layers(counts, self.site.widths)

    def _draw_effects(self) -> Drawing | None:
        """Draw what each edit did; None where nothing could be measured."""
        arms: dict[str, Effect] = dict(self.report.arms)
        if self.report.control is not None:
            arms[RANDOM] = self.report.control
        panels = {
            heading: {
                name(measure): [(getattr(one, part)[measure], LOOKS[arm]) for arm, one in arms.items()]
                for measure in getattr(self.report.main, part)
            }
            for heading, part in (("suppressed: share", "suppression"), ("kept: share", "retention"))
        }
        if all(one.value is None for rows in panels.values() for row in rows.values() for one, _ in row):
            return None
        looks = {arm: LOOKS[arm] for arm in arms}
        return draw_intervals(panels, looks, title=self.report.judgement.title, zoom=True, numbers=True)


def draw(
    model: MLLM,
    data: Data,
    concept: str | Concept,
    *,
    locate: Locator | str = "nam_image",
    words: Locator | str | None = "nam",
    edit: Operator | EditPlan | None = None,
    segment: Segmenter | None = None,
    inpaint: Inpainter | str | None = None,
    counts: Counts | None = None,
    temperature: float = 1.0,
    guidance: float | None = None,
    seed: int = 0,
    progress: Progress | bool = True,
) -> DrawResult:
    """Locate the neurons that draw a concept, edit them, and measure what is drawn, and what is said of true pictures.

    Example:
        result = kedit.draw(kedit.load("scenes_draw"), kedit.Scenes(), "star")

    Args:
        model: A model that draws; its weights are not touched.
        data: Where prompts (the captions of its pictures) and pictures come from.
        concept: The name of a concept that the data knows.
        locate: Scores neurons on drawings of the concept, or the name of a shipped locator that can.
        words: Locates as many T-neurons by the word in captions, to be edited beside; None for none.
        edit: An operator, at all positions, or a plan that limits it; zeroing if None.
        segment: Finds things in drawings by their names; the picture world has a finder of its own.
        inpaint: Paints the concept out for the T-neurons, as in `kedit.run`.
        counts: How many pictures; 24 to locate with, 30 with the concept, 15 near, 15 far, 3 random sets if None.
        temperature: Of the drawings; 0 takes the likeliest code.
        guidance: How strongly a drawing follows its prompt; None for the model's own way.
        seed: Of the prompts, the drawings, the random sets and the bootstrap.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept, or kedit no such locator.
        TypeError: Something is of another kind than what is asked for.
        ValueError: The model draws no pictures, no drawing shows the concept, or an option does not fit.
    """
    check_common(data, seed, counts, Counts)
    called, locator, painter = name_of_concept(data, concept), as_locator(locate), as_inpainter(inpaint)
    check_drawable(locator)
    worded, plan = None if words is None else as_locator(words), as_plan(edit)
    check(plan)
    require_model(model)
    drawer(model).check_ready()
    seer, show = seer_of(data, segment), as_progress(progress)
    prepared = prepare(data, called, painter, counts or COUNTS, seed=seed, progress=show)
    return draw_prepared(
        model, prepared, locator, worded, plan, seer, controls=(counts or COUNTS).controls, temperature=temperature,
        guidance=guidance, seed=seed, progress=show,
    )  # fmt: skip


def check(plan: EditPlan) -> None:
    """Raise a ValueError where an edit needs pictures that drawings do not have."""
    if isinstance(plan, PatchPlan):
        raise ValueError("`edit=patch` needs counterfactual pictures, which drawings have not; use `edit=zero`")


def draw_prepared(
    model: MLLM,
    prepared: Prepared,
    locator: Locator,
    words: Locator | None,
    plan: EditPlan,
    seer: Seer,
    *,
    controls: int = 3,
    temperature: float = 1.0,
    guidance: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> DrawResult:
    """Do what `draw` does with pictures that are prepared, and a judge of drawings; see there."""
    began, concept, site = time.perf_counter(), prepared.evaluation_set.concept, model.site(locator.site)
    artist = Artist(model, seer, temperature, guidance, seed, progress)
    shown = artist.depicted([caption_of(pair.sample) for pair in prepared.pairs], concept)
    scores = score_drawn(model, locator, shown, progress=progress)
    sets, names = {IMAGE: locator.select(scores)}, {IMAGE: name_of(locator)}
    if words is not None and len(sets[IMAGE]):
        found = locate_prepared(model, prepared, words.limited(len(sets[IMAGE])), progress=progress)
        sets[TEXT], names[TEXT] = found.neurons, found.locator
    random = [sets[IMAGE].layer_matched(site.widths, seed + n) for n in range(controls)]
    operator = plan.operator_for(model, prepared.pairs, progress=progress)
    evaluation_set = DrawingSet.of(prepared.evaluation_set)
    edits = {name: plan.edit(some, operator, name) for name, some in sets.items()}
    edits |= {f"control {n}": plan.edit(some, operator, f"control {n}") for n, some in enumerate(random)}
    outputs = {UNEDITED: artist.outputs(evaluation_set, None)} | {
        name: artist.outputs(evaluation_set, one) for name, one in edits.items()
    }
    report = run_stage(lambda: _judged(evaluation_set.asked, outputs, sets, seed), progress, "measures")
    kept = {name: outputs[name] for name in (UNEDITED, *sets)} | ({RANDOM: outputs["control 0"]} if controls else {})
    return DrawResult(
        model.name, names, repr(operator), site, evaluation_set.asked, scores, sets, shown, kept, report, seed,
        time.perf_counter() - began,
    )  # fmt: skip


def _judged(asked: Asked, outputs: Mapping[str, Drawn], sets: Mapping[str, NeuronSet], seed: int) -> DrawingReport:
    """Return what the edits of `sets` did beside all controls."""
    before, *others = (one.outcome for one in outputs.values())
    arms = dict(zip(sets, others, strict=False))
    return judge_drawings(asked, before, arms, others[len(sets) :], neurons=len(sets[IMAGE]), seed=seed)
