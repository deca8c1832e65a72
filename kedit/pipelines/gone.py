"""Is it gone? What brings an edited concept back, and what of it was never taken away: never one number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit import __version__
from kedit.arguments import require, require_count
from kedit.edit.columns import check_edit
from kedit.edit.edit import Edit
from kedit.edit.relearning import Lessons
from kedit.fingerprints import of_sample
from kedit.models.mllm import MLLM
from kedit.pipelines.given import check_common, require_model
from kedit.pipelines.preparation import Counts, draw
from kedit.pipelines.raw_outputs import captions_of, rows
from kedit.pipelines.removal.asking import asked_answers, quantized_answers
from kedit.pipelines.removal.relearning import EDITED, NEVER, Relearned, relearned, relearning_answers
from kedit.pipelines.removal.seeing import Layers, depth_answer, probe_answers, probed
from kedit.pipelines.removal.subject import NO_NEVER, RANDOM, Answer, Subject
from kedit.plots import Curve, Drawing, Look, Style, draw_intervals, draw_lines
from kedit.plots.style import BASELINE, CONTROL
from kedit.plots.style import EDITED as BLUE
from kedit.progress import as_progress, run_stage
from kedit.results.cache import Cache
from kedit.results.run_folder import Run, write_json
from kedit.results.table import Table
from kedit.samples import Concept, Data, Progress, Sample, Split, find_concept

PROMPTS = ("a picture of", "the picture shows", "what is there ?")
"""Other ways to ask for a caption."""
LOOKS = {EDITED: Look(BLUE), NEVER: Look(BASELINE, "s", "--"), RANDOM: Look(CONTROL, "D", ":")}
FILE = "gone.json"
N_ELSEWHERE = 30
"""Pictures without the concept, of which half show something of its kind, that are asked in every curve."""
MEANINGS = (
    "depth score: what the word loses by the edited states, of what it loses by those of a model that never knew it",
    "selectivity of a linear probe: its accuracy in telling that the concept is shown, less that of a control task",
)


@dataclass(frozen=True, eq=False)
class Gone:
    """How gone a concept is: a row for each question, with its interval and its control; prints itself as a table."""

    model: str
    concept: str
    operator: str
    n_neurons: int
    lessons: Lessons
    answers: tuple[Answer, ...]
    curves: Mapping[str, Relearned]
    """Relearning, by arm."""
    layers: Layers
    """What a linear probe reads, by block."""
    never: str | None
    """What the never-knew model is called."""
    seed: int

    def table(self) -> Table:
        """Return a row for each question."""
        lines = [(one.question, one.edited, one.control, one.against, one.edited.n) for one in self.answers]
        title = f"Is `{self.concept}` gone from {self.model}? {self.operator} of {self.n_neurons} neurons"
        note = "1 in a row of shares means that it is there; no row is the answer by itself"
        notes = (note, *MEANINGS, *([] if self.never else [NO_NEVER]))
        return Table(("", "edited", "control", "the control", "n"), tuple(lines), title, notes)

    @property
    def figures(self) -> dict[str, Drawing]:
        """The relearning curves, and the shares of all other questions beside their controls."""
        found = {"relearning": self._draw_curves()}
        shares = {
            one.question: [(one.edited, LOOKS[EDITED]), (one.control, Look(CONTROL, "D"))]
            for one in self.answers
            if one.section != "relearning" and one.edited.value is not None
        }
        if shares:
            looks = {"edited": LOOKS[EDITED], "its control, see the table": Look(CONTROL, "D")}
            title = f"What still shows `{self.concept}` in {self.model}, and what does not"
            found["gone"] = draw_intervals({"": shares}, looks, title=title, numbers=True)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what gone.json holds; a function of what was asked, without times."""
        sections: dict[str, list[Any]] = {}
        for one in self.answers:
            sections.setdefault(one.section, []).append(one.to_json())
        return {
            "kedit": __version__,
            "concept": self.concept,
            "model": self.model,
            "operator": self.operator,
            "neurons": self.n_neurons,
            "never_knew": self.never or NO_NEVER,
            "lessons": {"pictures": self.lessons.pictures, "steps": self.lessons.steps, "rate": self.lessons.rate},
            "gone": sections,
            "curves": {name: self._curve(one) for name, one in self.curves.items()},
            "probe": [{name: one.to_json() for name, one in layer.items()} for layer in self.layers],
        }

    def save(self, folder: str | Path, *, figures: bool | Style = True) -> Path:
        """Leave gone.json, gone.md and the figures in `folder`, which may be that of the run; return it."""
        run = Run(Path(folder))
        if figures:
            run.save_figures(self.figures, figures)
        run.save_text("gone.md", self.table().markdown() + "\n")
        write_json(run.folder / FILE, self.to_json())
        return run.folder

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().html()

    def _curve(self, arm: Relearned) -> dict[str, Any]:
        parts = {"named": arm.named, "elsewhere": arm.elsewhere}
        return {name: [one.to_json() for one in curve.curve(seed=self.seed)] for name, curve in parts.items()}

    def _draw_curves(self) -> Drawing:
        places = list(range(len(self.lessons.steps)))
        panels: dict[str, dict[str, Curve]] = {"on held-out pictures of it": {}, "on pictures without it": {}}
        for name, arm in self.curves.items():
            for panel, curve in zip(panels.values(), (arm.named, arm.elsewhere), strict=True):
                panel[name] = Curve(places, curve.curve(seed=self.seed), LOOKS[name])
        ticks = [str(step) for step in self.lessons.steps]
        title = f"`{self.concept}` taught again to {self.model} on {self.lessons.pictures} captions"
        return draw_lines(
            panels, title=title, across="steps of fine-tuning", up=f"captions that say “{self.concept}”", columns=2,
            prepare=lambda axes: (axes.set_xticks(places, ticks), axes.set_ylim(-0.03, 1.03)),
        )  # fmt: skip


def gone(
    edit: Edit,
    model: MLLM,
    data: Data,
    concept: str | Concept,
    *,
    never_knew: MLLM | None = None,
    lessons: Lessons | None = None,
    counts: Counts | None = None,
    prompts: Sequence[str] = PROMPTS,
    controls: int = 2,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | bool = True,
) -> Gone:
    """Ask whether an edited concept is gone: what brings it back, and what of it was never taken away.

    Example:
        print(kedit.gone(kedit.Edit(result.neurons, kedit.Zero()), model, data, "star"))

    Args:
        edit: Zeroes or scales neurons everywhere, so that it can be written into weights.
        model: The model that the edit is for, as `load` and `wrap` return; it is not changed.
        data: Where the pictures come from: those that `kedit.run` draws with the same `counts` and `seed`.
        concept: The name of a concept that the data knows.
        never_knew: A model of the same kind that was trained without the concept; None leaves out what needs it.
        lessons: How the models are taught again.
        counts: How many pictures to draw.
        prompts: Other ways to ask for a caption.
        controls: How many layer-matched random sets are edited as well.
        seed: Of the pictures drawn, the random controls and the bootstrap.
        store: The folder of results that later jobs may use again; None computes everything.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept.
        TypeError: Something is of another kind than what is asked for.
        ValueError: The edit cannot be merged, the data holds texts, or no caption names the concept.
    """
    check_common(data, seed, counts, Counts)
    require_count(controls, "controls", 0)
    _check(edit, model, never_knew, lessons, prompts)
    found, taught = find_concept(data.concepts, concept), lessons or Lessons()
    split = draw(data, found, counts or Counts(), seed=seed)
    show, cache = as_progress(progress), Cache.of_model(store, model)
    subject = _subject(edit, model, data, found, split, taught, never_knew, controls, seed, cache, show)
    curves = relearned(subject, taught)
    answers = relearning_answers(curves, taught, seed) + quantized_answers(subject)
    answers += run_stage(lambda: asked_answers(subject, prompts), show, "other questions")
    answers.append(run_stage(lambda: depth_answer(subject), show, "depth"))
    layers = run_stage(lambda: probed(subject), show, "probes")
    return Gone(
        model.name, found.name, repr(edit.operator), len(edit.neurons), taught, (*answers, *probe_answers(layers)),
        curves, layers, never_knew.name if never_knew is not None else None, seed,
    )  # fmt: skip


def _check(edit: Edit, model: Any, never: Any, lessons: Lessons | None, prompts: Sequence[str]) -> None:
    require(edit, Edit, "edit", "an `Edit` of neurons, such as `Edit(result.neurons, Zero())`")
    require_model(model)
    if lessons is not None:
        require(lessons, Lessons, "lessons", "a `kedit.Lessons`, such as `kedit.Lessons()`")
    if never is not None:
        require_model(never)
    if isinstance(prompts, str):
        raise TypeError(f"`prompts` is a list of texts, got the text {prompts!r:.60}")
    check_edit(edit, "merged")


def _subject(
    edit: Edit, model: Any, data: Data, concept: Concept, split: Split, lessons: Lessons, never: Any, controls: int,
    seed: int, cache: Cache, show: Progress,
) -> Subject:  # fmt: skip
    """Return what is asked about: the pictures whose unedited caption names the concept, and those to teach with."""
    located, target, absent = (_pictures(some) for some in (split.locate, split.target, (*split.near, *split.far)))
    lessons_of = [(one, text) for one in located if (text := _naming(one, concept)) is not None][: lessons.pictures]
    if not lessons_of:
        raise ValueError(f"no caption of the data names `{concept.name}`, so there is nothing to teach it again with")
    prompts = [one.asked(model.prompt) for one in target]
    answers = cache.json(
        "gone", "captions", lambda: {"samples": [of_sample(one) for one in target]},
        lambda: rows(model.ask(prompts, progress=show, what="captions")),
    )  # fmt: skip
    named = [
        (one, said) for one, said in zip(target, captions_of(answers), strict=True) if concept.mentioned_in(said.text)
    ]
    if not named:
        raise ValueError(f"the unedited model names `{concept.name}` in none of {len(target)} pictures of it")
    widths = model.site(edit.neurons.site, edit.neurons.scope).widths
    _, *random = edit.with_random(widths, range(seed, seed + controls))
    kept, captions = zip(*named, strict=True)
    half = min(N_ELSEWHERE, len(absent)) // 2
    return Subject(
        model, edit, tuple(random), never, data, concept, tuple(lessons_of), kept, captions, (*located, *target),
        absent, (*absent[:half], *absent[len(absent) - half :]), seed, cache, show,
    )  # fmt: skip


def _naming(sample: Sample, concept: Concept) -> str | None:
    """Return the first caption of a picture that names the concept."""
    return next((text for text in sample.references if concept.mentioned_in(text)), None)


def _pictures(samples: Sequence[Any]) -> tuple[Sample, ...]:
    if not all(isinstance(one, Sample) for one in samples):
        raise ValueError("whether it is gone is asked about pictures, and the data holds texts")
    return tuple(samples)
