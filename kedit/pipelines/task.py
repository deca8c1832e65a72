"""What a modality's neurons are worth: questions answered right before and after they are edited, and at random.

Beside `run`, which asks what the neurons of one concept do: a task has no concept, no counterfactual pictures and no
word whose mention could be counted, and its questions may be about a picture, a video, a sound or nothing.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from kedit import __version__
from kedit.arguments import require, require_count
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan, PatchPlan
from kedit.evaluation.answers import Match, check_match
from kedit.evaluation.task import TaskReport, judged
from kedit.internals.sites import Site
from kedit.locate.miner import Miner
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet, save_scores
from kedit.page import leave_page
from kedit.pipelines.display import display
from kedit.pipelines.given import as_locator, as_plan, require_model
from kedit.pipelines.locate import cost_part, neuron_part, without_seconds
from kedit.pipelines.outputs import speech
from kedit.pipelines.preparation import Counts
from kedit.pipelines.readable import readable_questions
from kedit.pipelines.saved import Saved
from kedit.plots import Drawing, Style, draw_answers, draw_layers
from kedit.progress import Batched, as_progress
from kedit.prompts import Prompt
from kedit.results.reports import neurons_line
from kedit.results.run_folder import Run
from kedit.results.table import Table
from kedit.samples import HasQuestions, Progress, Question, QuestionSplit, silent
from kedit.words import counted

N_EXAMPLES = 3
"""How many changed answers a page shows."""
COUNTS = Counts(target=40, retention=0)
"""How many questions are asked if nobody says otherwise."""
FORMER = {"locating": "locate", "evaluated": "target", "controls": "controls"}
"""The names that some counts had in kedit 0.5."""


class AnswerChange(NamedTuple):
    """What the model answered before and after the edit."""

    kind: str
    question: str
    answer: str
    """The right one."""
    before: str
    after: str


@dataclass(frozen=True, eq=False, repr=False)
class TaskResult(Saved):
    """What was located, and how many questions its edit costs; prints itself in a terminal and in a notebook."""

    model: str
    """The model's name."""
    locator: str
    """The locator's name."""
    operator: str
    positions: str
    match: Match
    site: Site
    scores: Mapping[str, NeuronScores]
    """By modality."""
    sets: Mapping[str, NeuronSet]
    """The neurons of each modality, and last those of all of them, which were edited."""
    question_split: QuestionSplit
    before: tuple[str, ...]
    """The unedited model's answers, in the order of `question_split.evaluate`."""
    after: tuple[str, ...]
    report: TaskReport
    seconds: float

    @property
    def neurons(self) -> NeuronSet:
        """The neurons that were edited."""
        return list(self.sets.values())[-1]

    @property
    def modalities(self) -> dict[str, NeuronSet]:
        """The neurons of each modality; some are of several."""
        *names, _ = self.sets
        return {name: self.sets[name] for name in names}

    @property
    def answers(self) -> list[AnswerChange]:
        """What the model answered to each question, before and after."""
        asked = zip(self.question_split.evaluate, self.before, self.after, strict=True)
        return [AnswerChange(question.kind, question.text, question.answer, old, new) for question, old, new in asked]

    @property
    def examples(self) -> list[AnswerChange]:
        """A few answers that the edit changes."""
        return [row for row in self.answers if row.before != row.after][:N_EXAMPLES]

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        counts = {layer: len(indices) for layer, indices in self.neurons.by_layer().items()}
        return {"layers": draw_layers({"": counts}, self.site.widths), "score": self._draw_score()}

    def table(self) -> Table:
        """Return the share of right answers, a row for each kind of question: before, after, at random."""
        report, n_seeds = self.report, len(self.report.by_seed)
        edit = f"{self.operator} of {len(self.neurons)} neurons"
        columns = ("", "unedited", edit, f"random control, {counted(n_seeds, 'seed')}", "n")
        rows = [(kind, was, report.after[kind], report.control[kind], was.n) for kind, was in report.before.items()]
        notes = (self._neurons_line(), report.verdict)
        return Table(columns, tuple(rows), f"right answers of {self.model}", notes)

    def to_json(self) -> dict[str, Any]:
        """Return what report.json holds."""
        n_neurons, asked = self.site.n_neurons, by_kind(self.question_split.evaluate)
        return {
            "kedit": __version__,
            "task": {"kinds": list(asked), "match": self.match},
            "model": self.model,
            "locator": self.locator,
            "operator": self.operator,
            "positions": self.positions,
            "neurons": neuron_part(self.neurons, n_neurons),
            "modalities": {name: neuron_part(some, n_neurons) for name, some in self.modalities.items()},
            **self.report.to_json(),
            "samples": self._samples(),
            "cost": cost_part(self.scores) | {"seconds": round(self.seconds, 2)},
        }

    def save_in(self, run: Run, *, figures: bool | Style = True, page: bool = True) -> None:
        """Leave scores, neurons, answers, report and figures in the folder of a run that is open."""
        leave_sets(self.scores, self.sets, run)
        run.save_jsonl("answers.jsonl", [row._asdict() for row in self.answers])
        run.save_json("report.json", self.to_json())
        if figures:
            run.save_figures(self.figures, figures)
        run.save_text("report.md", self._markdown(run.figures))
        if page:
            leave_page(run)

    def __str__(self) -> str:
        examples = [f"  {row.question}\n    before: {row.before}\n    after:  {row.after}" for row in self.examples]
        return "\n".join([str(self.table()), *examples])

    def _repr_html_(self) -> str:
        rows = tuple((row.question, row.before, row.after) for row in self.examples)
        tables = (self.table(), Table(("question", "before", "after"), rows))
        return display(self.report.verdict, tables, self._draw_score())

    def _draw_score(self) -> Drawing:
        """Draw the share of right answers by the kind of question."""
        report = self.report
        right = {kind: (was, report.after[kind], report.control[kind]) for kind, was in report.before.items()}
        return draw_answers(right, title=report.judgement.title)

    def _neurons_line(self) -> str:
        kinds = ", ".join(f"{name} {len(some)}" for name, some in self.modalities.items())
        return f"{neurons_line(self.neurons, self.site.n_neurons)}; by modality, some for several: {kinds}"

    def _samples(self) -> dict[str, Any]:
        """Return how many questions of each kind were used, and how many could not be."""
        located, evaluated = (by_kind(some) for some in (self.question_split.locate, self.question_split.evaluate))
        counts = {"located": located, "evaluated": evaluated}
        every = {name: {kind: len(some) for kind, some in kinds.items()} for name, kinds in counts.items()}
        return every | {"skipped": dict(self.question_split.skipped)}

    def _markdown(self, figures: Sequence[str]) -> str:
        """Return report.md."""
        table, lost = self.table(), self.report.lost
        examples = [(row.question, row.answer, row.before, row.after) for row in self.examples]
        shown = Table(("answers lost", "n"), ((lost, lost.n),)).texts[0]
        blocks = [
            f"# {', '.join(by_kind(self.question_split.evaluate))} in {self.model}",
            f"**{self.report.verdict}**",
            self._neurons_line(),
            Table(("right answers", *table.columns[1:]), table.rows).markdown(),
            f"**answers lost** {shown[0]} of those right before (n = {shown[1]})",
            *(
                f"**{name}** " + (", ".join(f"{key} {value}" for key, value in counts.items()) or "none")
                for name, counts in self._samples().items()
            ),
            Table(("question", "right", "before", "after"), tuple(examples)).markdown() if examples else "",
            *(f"![{Path(figure).stem}]({figure})" for figure in figures),
        ]
        return "\n\n".join(block for block in blocks if block) + "\n"


def task(
    model: MLLM,
    questions: HasQuestions | QuestionSplit,
    *,
    locate: Miner | str | None = None,
    edit: Operator | EditPlan | None = None,
    counts: Counts | None = None,
    match: Match = "contains",
    seed: int = 0,
    progress: Progress | bool = True,
    **former: int,
) -> TaskResult:
    """Locate the neurons of each modality on some questions, edit them, and judge the answers to others.

    Example:
        result = kedit.task(kedit.load("scenes"), kedit.Scenes())

    Args:
        model: The model; its weights are not touched.
        questions: A data set that has questions, or both halves of them.
        locate: Finds the neurons of each modality; MINER with its defaults if None.
        edit: An operator, at all positions, or a plan that limits it; zeroing if None.
        counts: How many questions of each kind to locate with (`locate`) and to evaluate on (`target`), and how many
            random controls; 24, 40 and 5 if None, and fewer where there are fewer.
        match: When an answer is right; see `kedit.evaluation.answers.Match`.
        seed: Of the questions drawn, the random sets and the bootstrap.
        progress: Shows how far it is; True in the library's own way, False not at all.
        former: The names of `counts` in kedit 0.5: `locating`, `evaluated`, `controls`.

    Raises:
        ValueError: There are too few questions, the model cannot read them, or an option does not fit.
    """
    require_count(seed, "seed", 0)
    require(
        questions, (QuestionSplit, HasQuestions), "questions", "a data set with questions, such as `kedit.Scenes()`"
    )
    locator, plan = Miner() if locate is None else as_locator(locate), as_plan(edit)
    if counts is not None:
        require(counts, Counts, "counts", "a `kedit.Counts`, such as `kedit.Counts()`")
    counted = _counted(counts or COUNTS, former)
    check(locator, plan, match)
    require_model(model)
    question_split = questions
    if not isinstance(question_split, QuestionSplit):
        question_split = question_split.split_questions(locate=counted.locate, evaluate=counted.target, seed=seed)
    show = as_progress(progress)
    return task_prepared(
        model, question_split, locator, plan, controls=counted.controls, match=match, seed=seed, progress=show
    )


def _counted(counts: Counts, former: Mapping[str, int]) -> Counts:
    """Return `counts` with what was given by a name of kedit 0.5."""
    if not former:
        return counts
    if unknown := former.keys() - FORMER.keys():
        raise TypeError(f"task() got an unexpected keyword argument '{min(unknown)}'")
    text = ", ".join(f"`{name}` is now `counts=Counts({FORMER[name]}=...)`" for name in former)
    warnings.warn(text, DeprecationWarning, stacklevel=3)
    given: dict[str, Any] = {FORMER[name]: number for name, number in former.items()}
    return replace(counts, **given)


def check(locator: object, plan: EditPlan, match: str, name: str = "") -> None:
    """Raise a ValueError where a task has no use for what was chosen, which needs no model to tell.

    `name` is what the user calls the locator.
    """
    if not isinstance(locator, Miner):
        raise ValueError(
            f"`locate={name or type(locator).__name__}` finds a concept in counterfactual pictures, which a task has "
            "not; use `miner`"
        )
    if isinstance(plan, PatchPlan):
        raise ValueError("`edit=patch` needs counterfactual pictures, which a task has not; use `edit=zero`")
    check_match(match)


def check_model(model: MLLM, locator: Miner, question_split: QuestionSplit) -> Site:
    """Return where the neurons are; a ValueError says which questions the model cannot take."""
    for some in (question_split.locate, question_split.evaluate):
        for kind in by_kind(some).values():
            model.read([kind[0].prompt], [()])  # What the model cannot take is said now, not after an hour.
    return model.site(locator.site)


def task_prepared(
    model: MLLM,
    question_split: QuestionSplit,
    locator: Miner,
    plan: EditPlan,
    *,
    controls: int = 5,
    match: Match = "contains",
    seed: int = 0,
    name: str = "",
    keep: Callable[[Mapping[str, NeuronScores], Mapping[str, NeuronSet]], object] | None = None,
    progress: Progress = silent,
) -> TaskResult:
    """Do what `task` does with questions that are drawn; see there.

    `name` is what to call the locator, and `keep` is called with the scores and the neurons before the longer part
    begins, so that an interrupted job leaves them.
    """
    began = time.perf_counter()
    question_split = readable_questions(model, question_split)
    site = check_model(model, locator, question_split)
    prompts = {kind: [question.prompt for question in some] for kind, some in by_kind(question_split.locate).items()}
    scores = locator.score_prompts(model, prompts, progress=progress)
    sets = locator.select_each(scores)
    if keep is not None:
        keep(scores, sets)
    neurons, operator = list(sets.values())[-1], plan.operator_for(model, [])
    asked = [question.prompt for question in question_split.evaluate]
    before = model.ask(asked, progress=progress)
    random = [neurons.layer_matched(site.widths, seed + number) for number in range(controls)]
    after, *at_random = _answers_edited(model, asked, plan, operator, (neurons, *random), progress)
    spoken = speech(model, asked, before, progress=progress)
    edited = speech(model, asked, after, before, spoken.surprise, progress=progress)
    controls_said = [[one.text for one in some] for some in at_random]
    report = judged(
        question_split.evaluate, spoken, edited, controls_said, neurons=len(neurons), match=match, seed=seed
    )
    return TaskResult(
        model.name, name or "miner", repr(operator), plan.positions, match, site, scores, sets, question_split,
        tuple(spoken.texts), tuple(edited.texts), report, time.perf_counter() - began,
    )  # fmt: skip


def _answers_edited(
    model: MLLM,
    prompts: Sequence[Prompt],
    plan: EditPlan,
    operator: Operator,
    sets: Sequence[NeuronSet],
    progress: Progress,
) -> list[list[Generated]]:
    """Return the answers with each of the `sets` edited: the located neurons first, then random ones."""
    answers, counted = [], Batched(enumerate(sets), [1] * len(sets), "neuron sets")
    for number, chosen in progress(counted, len(sets), "edited answers"):
        with plan.edit(chosen, operator, f"control {number - 1}" if number else "task").applied(model):
            answers.append(model.ask(prompts, progress=progress))
    return answers


def leave_sets(scores: Mapping[str, NeuronScores], sets: Mapping[str, NeuronSet], run: Run) -> None:
    """Leave the scores and the neurons, all of them and by modality, in the folder of a run."""
    run.save_file("scores.safetensors", lambda path: save_scores(without_seconds(scores), path))
    *modalities, every = sets
    run.save_json("neurons.json", sets[every].to_json())
    for name in modalities:
        run.save_json(f"neurons_{name}.json", sets[name].to_json())


def by_kind(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """Return the questions of each kind."""
    kinds: dict[str, list[Question]] = {}
    for question in questions:
        kinds.setdefault(question.kind, []).append(question)
    return kinds
