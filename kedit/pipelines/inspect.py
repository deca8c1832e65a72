"""Look at what was located: what the neurons say, where they fire, how stable the set is."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from kedit import __version__
from kedit.data.inpaint import Inpainter, usual_inpainter
from kedit.evaluation.statistics import Measured
from kedit.evaluation.texts import TextEncoder
from kedit.inspection.decode import decoding_rows
from kedit.internals.sites import Site
from kedit.locate.locator import Locator
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet
from kedit.page import leave_page
from kedit.pipelines.display import display
from kedit.pipelines.firing import inspected
from kedit.pipelines.given import as_inpainter, as_locator, check_common, name_of_concept, require_model
from kedit.pipelines.locate import Located, language_only, leave, locate, name_of, neuron_part
from kedit.pipelines.looks import (
    HEAT,
    MOVED,
    OTHERS,
    REGION,
    SAMPLES,
    SENSE,
    STREAMS,
    WORDS,
    Depths,
    Each,
    Heat,
    Layers,
    Overlaps,
    Senses,
    Stability,
    Words,
    by_layer,
    decode_located,
    follow_heat,
    follow_streams,
    over_concepts,
    over_places,
    over_samples,
    read_words,
    tell_apart,
    zero_each,
)  # fmt: skip
from kedit.pipelines.preparation import Prepared, prepare, usable
from kedit.pipelines.provenance import check_marks, marks_of_model
from kedit.pipelines.readable import readable
from kedit.pipelines.run import RunResult
from kedit.pipelines.saved import Saved
from kedit.pipelines.subject import ClipScorer, Looks, Measure, NeuronRow, Subject, could_make, neuron_table
from kedit.plots import (
    Drawing,
    Style,
    draw_heatmaps,
    draw_layers,
    draw_matrix,
    draw_measures,
    draw_responses,
    draw_streams,
    draw_words,
)  # fmt: skip
from kedit.progress import as_progress, run_stage
from kedit.results.reports import neurons_line
from kedit.results.run_folder import Run
from kedit.results.table import Cell, Table
from kedit.samples import Concept, Data, Progress, pictured, silent

logger = logging.getLogger(__name__)

N_SHOWN = 4
"""How many pictures the figure of heat maps shows."""
COLUMNS = ("section", "measure", "located", "random, layer-matched", "difference", "n")
LEGEND = """\
- Of a neuron that fires below zero in pictures of the concept, the words are those of its negated value vector, and in
  heat maps and sensitivity its activations are turned round.
- words: the share of neurons with a word of the concept among those they raise most; their words against captions.
- heat maps: where the mean activation peaks, the pixels of at least half the peak against the region, and the chance
  that a pixel of the concept is hotter than one of another object.
- sensitivity: the chance that the set fires more at the image tokens of a picture with the concept than of one without.
- stability: the share of neurons in common with those located on other samples (split halves, a part of the samples
  and all, each two single pictures), with the image tokens in another order (region invariance), and one minus the
  share in common with other concepts (specificity); always of as many neurons.
- moved by zeroing: the mean absolute change over the layers of the cosine between a modality's mean state and the last
  token's, of its states and the text's mean, and of special and text tokens."""


@dataclass(frozen=True, eq=False, repr=False)
class Inspection(Saved):
    """What was seen of some neurons; prints itself in a terminal and in a notebook."""

    FILE = "inspect.json"

    model: str
    """The model's name."""
    locator: str
    """The locator's name, or `given`."""
    concept: Concept
    site: Site
    located: Located
    measures: tuple[Measure, ...]
    """Every figure beside that of random neurons, in order; one that could not be measured says why."""
    words: Words | None
    layers: Layers | None
    heat: Heat | None
    senses: Senses | None
    stability: Stability | None
    overlaps: Overlaps | None
    each: Each | None
    depths: Depths | None
    samples: Mapping[str, Any]
    """How many pictures were used, and why others were not."""
    seconds: float

    @property
    def neurons(self) -> NeuronSet:
        """The inspected neurons."""
        return self.located.neurons

    @property
    def rows(self) -> list[NeuronRow]:
        """What is known of each neuron alone, in the order of the set."""
        decoded = {one.neuron: (one.words, one.opposite) for one in self.words.decoded} if self.words else {}
        peaks = self.layers.peaks if self.layers else {}
        modality, heat = self.layers.modality if self.layers else {}, self.heat.peak_inside if self.heat else {}
        areas, held = self.senses.areas if self.senses else {}, self.stability.held if self.stability else {}
        losses, serves = self.each.losses if self.each else {}, self.overlaps.serves if self.overlaps else {}
        return [
            NeuronRow(
                *neuron, scores, *decoded.get(neuron, ((), ())), peaks.get(neuron), modality.get(neuron),
                heat.get(neuron), areas.get(neuron), held.get(neuron), losses.get(neuron), serves.get(neuron),
            )
            for neuron, scores in zip(self.neurons, self._scores, strict=True)
        ]  # fmt: skip

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        drawings: dict[str, Drawing] = {}
        if self.layers:
            earlier = list(self.located.stages)[:-1]
            drawings["layers"] = draw_layers(self.layers.counts, self.site.widths, earlier=earlier)
        if self.heat:
            drawings["heatmaps"] = draw_heatmaps(self.heat.rows[:N_SHOWN], concept=self.concept.name)
        if self.words and self.words.decoded:
            drawings["words"] = draw_words(self.rows, concept=self.concept.name)
        if self.senses:
            scale = "mean activation at image tokens"
            drawings["sensitivity"] = draw_responses(self.senses.responses, title=self._apart(), scale=scale)
        if self.overlaps and len(self.overlaps.concepts) > 1:
            drawings["concepts"] = self._draw_overlaps(self.overlaps)
        if self.depths:
            n = len(next(iter(self.depths.plain.convergence.values())))
            title = f"How the modalities' states come together in {n} pictures of `{self.concept.name}`"
            drawings["convergence"] = draw_streams(self.depths.plain, self.depths.zeroed, title=title)
        return drawings if (measures := self._draw_measures()) is None else drawings | {"measures": measures}

    def _draw_measures(self) -> Drawing | None:
        title = f"`{self.concept.name}`: {len(self.neurons)} located neurons beside random ones"
        return draw_measures(self._known, title=title) if self._known else None

    def table(self) -> Table:
        """Return every measure of the located neurons beside that of random ones."""
        rows = [
            (row.section, row.name, row.located, row.random, row.difference, row.located.n or None)
            for row in self.measures
        ]
        return Table(COLUMNS, tuple(rows), self._title(), (self._summary(),), fine=True)

    def neuron_table(self) -> Table:
        """Return the neurons, a row each."""
        return neuron_table(self.rows, tuple(self.located.scores), self._title())

    def to_json(self) -> dict[str, Any]:
        """Return what inspect.json holds."""
        sections: dict[str, Any] = {}
        for row in self.measures:
            sections.setdefault(row.section, {})[row.name] = row.to_json()
        return {
            "kedit": __version__,
            "concept": self.concept.name,
            "model": self.model,
            "locator": self.locator,
            "neurons": neuron_part(self.neurons, self.site.n_neurons),
            "measures": sections,
            "details": self._details(),
            "samples": dict(self.samples),
            "cost": (self.located.cost if self.located.scores else {}) | {"seconds": round(self.seconds, 2)},
            "rows": [row.to_json() for row in self.rows],
        }

    def save_in(self, run: Run, *, figures: bool | Style = True, page: bool = True) -> None:
        """Leave scores, neurons, words, inspect.json, the page and the figures in the folder of a run that is open."""
        leave_located(self.located, run)
        run.save_text("neurons.csv", self.neuron_table().csv())
        if self.words:
            note = f"The words that firing neurons of `{self.concept.name}` raise most; the strongest first."
            columns, rows = decoding_rows(self.words.decoded, shown=8)
            run.save_text("decode.md", f"{note}\n\n{Table(columns, tuple(rows)).markdown()}\n")
            run.save_json("decode.json", [one.to_json() for one in self.words.decoded])
        if figures:
            run.save_figures(self.figures, figures)
        run.save_json("inspect.json", self.to_json())
        run.save_text("inspect.md", self._markdown(run.figures))
        if page:
            decoded, fired = self.words.decoded if self.words else (), self.heat.fired if self.heat else None
            leave_page(run, lambda: inspected(self.located, decoded, fired))

    def __str__(self) -> str:
        """The measures under their sections, and below what could not be measured."""
        rows, missing, section = list[tuple[Cell, ...]](), [], ""
        for row in self.measures:
            if row.located.value is None:
                missing.append(f"no {row.name}: {row.located.why}")
                continue
            rows += [(row.section, "", "", "")] * (row.section != section)
            rows.append((f" {row.name}", row.located, row.random, row.located.n))
            section = row.section
        columns, notes = ("", "located", "random", "n"), (*missing, self._summary())
        return str(Table(columns, tuple(rows), self._title(), notes, fine=True))

    def _repr_html_(self) -> str:
        return display(self._summary(), (self.table(), self.neuron_table()), self._draw_measures())

    def _title(self) -> str:
        how = f"located by {self.locator}" if self.located.scores else "neurons as given"
        return f"{self.concept.name} in {self.model}, {how}"

    def _summary(self) -> str:
        return neurons_line(self.neurons, self.site.n_neurons)

    @property
    def _scores(self) -> list[dict[str, float | None]]:
        """For each neuron its score by stage; None where a stage gives none."""
        stages = {stage: scores.of(self.neurons).tolist() for stage, scores in self.located.scores.items()}
        columns = {stage: [None if value != value else value for value in some] for stage, some in stages.items()}
        return [{stage: values[at] for stage, values in columns.items()} for at in range(len(self.neurons))]

    @property
    def _known(self) -> dict[str, dict[str, tuple[Measured, Measured | None]]]:
        """The shares that have a value, by section; what a cosine moves by is too small to stand beside them."""
        known: dict[str, dict[str, tuple[Measured, Measured | None]]] = {}
        for row in self.measures:
            if row.located.value is not None and row.section != MOVED:
                known.setdefault(row.section, {})[row.name] = row.located, row.random
        return known

    def _apart(self) -> str:
        """Return the title of the figure of responses."""
        (first,) = [row for row in self.measures if row.name == SENSE[0]]
        whose = ("with the located neurons", "with random ones")
        areas = zip((first.located, first.random), whose, strict=True)
        text = " and ".join(f"{area.value:.2f} {name}" for area, name in areas if area)
        return f"Telling pictures of `{self.concept.name}` from others: AUROC {text}"

    def _draw_overlaps(self, overlaps: Overlaps) -> Drawing:
        names, rows = overlaps.concepts, zip(overlaps.concepts, overlaps.shared.tolist(), strict=True)
        apart = overlaps.measures[0].located.value or 0
        title = f"`{self.concept.name}` shares {100 * (1 - apart):.0f} % of its neurons with another, on average"
        cells = {a: {b: None if a == b else share for b, share in zip(names, row, strict=True)} for a, row in rows}
        notes = [f"n = {len(self.neurons)} neurons of each concept"]
        return draw_matrix(cells, title=title, what="share of neurons in common", notes=notes)

    def _details(self) -> dict[str, Any]:
        """Return what inspect.json holds beside the measures."""
        details: dict[str, Any] = {}
        if self.layers:
            details["layers"] = self.layers.counts
        if self.overlaps:
            details["overlaps"] = {"concepts": list(self.overlaps.concepts), "shared": self.overlaps.shared.tolist()}
        if self.depths and self.depths.steps:
            details["convergence"] = {
                name: [{"unedited": was.to_json(), "change_when_zeroed": moved.to_json()} for was, moved in steps]
                for name, steps in self.depths.steps.items()
            }
        return details

    def _markdown(self, figures: Sequence[str]) -> str:
        blocks = [
            f"# What was seen of {self._title()}"
            if not self.located.scores
            else f"# What `{self.locator}` located for {self.concept.name} in {self.model}",
            self._summary(),
            Table(COLUMNS, self.table().rows, fine=True).markdown(),
            "Figures are with their 95 % interval; a random figure without one is known exactly. `n` counts what the "
            "figure is a mean over: neurons, pictures, concepts, or random draws of samples or permutations.",
            LEGEND,
            self.depths.markdown() if self.depths else "",
            "The words of each neuron are in [decode.md](decode.md).",
            *(f"![{figure.removeprefix('figures/')}]({figure})" for figure in figures),
        ]
        return "\n\n".join(block for block in blocks if block) + "\n"


def inspect(
    model: MLLM,
    data: Data,
    concept: str | Concept,
    neurons: NeuronSet | RunResult | None = None,
    *,
    locate: Locator | str | None = None,
    inpaint: Inpainter | str | None = None,
    encoder: TextEncoder | None = None,
    clip: ClipScorer | None = None,
    looks: Looks | None = None,
    seed: int = 0,
    progress: Progress | bool = True,
) -> Inspection:
    """Look at the neurons of a concept: what they say, where they fire, how stable they are.

    Example:
        seen = kedit.inspect(model, data, "star", kedit.run(model, data, "star"))

    Args:
        model: The model; its weights are not touched.
        data: Where pictures come from.
        concept: The name of a concept that the data knows.
        neurons: What `run` returned for the same model and concept; a set, whose stability nothing can tell; or None to
            locate now.
        locate: Scores and selects, and did so in the run; two-stage filtering with its default thresholds if None.
        inpaint: Paints the concept out of a picture; see `run`.
        encoder: Embeds texts for BERTScore; the model's own layers if None.
        clip: Scores words against pictures; without it, that measure is left out.
        looks: How closely to look; the pictures of a `RunResult` are its own.
        seed: Of the pictures drawn, the random sets and the bootstrap.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept.
        ValueError: There are too few pictures, or what was given does not fit together.
    """
    check_common(data, seed, looks, Looks)
    counted, locator, painter = looks or Looks(), as_locator(locate), as_inpainter(inpaint)
    name, show = name_of_concept(data, concept), as_progress(progress)
    require_model(model)
    if neurons is not None and not isinstance(neurons, RunResult):
        neurons = NeuronSet.of(neurons)
    if isinstance(neurons, RunResult):
        _check_run(neurons, model, name, locator)
        prepared = Prepared(neurons.evaluation_set, list(neurons.located.pairs), {})
    else:
        if neurons is not None and locate is not None:
            raise ValueError("`locate` finds neurons where none are given; leave out `locate` or `neurons`")
        language_only(locator if neurons is None else neurons, "inspect")
        prepared = prepare(data, name, painter, counted.pictures, seed=seed, progress=show)
    return inspect_prepared(
        model, data, prepared, locator, neurons, inpaint=painter, encoder=encoder, clip=clip, looks=counted, seed=seed,
        progress=show,
    )  # fmt: skip


def inspect_prepared(
    model: MLLM,
    data: Data,
    prepared: Prepared,
    locator: Locator,
    neurons: NeuronSet | RunResult | None = None,
    *,
    inpaint: Inpainter | None = None,
    encoder: TextEncoder | None = None,
    clip: ClipScorer | None = None,
    looks: Looks,
    seed: int = 0,
    name: str = "",
    keep: Callable[[Located], object] | None = None,
    progress: Progress = silent,
) -> Inspection:
    """Do what `inspect` does with pictures that are prepared; see there.

    Args:
        model: The model.
        data: Where the pictures of other concepts come from.
        prepared: What `prepare` returned.
        locator: Scores and selects where `neurons` is None.
        neurons: A set or a run's result.
        inpaint: Paints the concept out of a picture.
        encoder: Embeds texts for BERTScore.
        clip: Scores words against pictures.
        looks: How closely to look.
        seed: Of the random sets and the bootstrap.
        name: What to call the locator; its stages if empty.
        keep: Called with what was located, before the longer part begins.
        progress: Shows how far it is.
    """
    began = time.perf_counter()
    pictured(prepared.pairs, "`kedit inspect`")
    prepared = readable(model, prepared)
    located = _located(model, locator, neurons, prepared, progress)
    if keep is not None:
        keep(located)
    is_given = isinstance(neurons, NeuronSet)
    subject = Subject(
        model, model.site(located.neurons.site), located, None if is_given else locator, prepared.evaluation_set, data,
        inpaint or usual_inpainter(prepared.evaluation_set.target), looks, seed, progress, encoder, clip,
    )  # fmt: skip
    named = neurons.locator if isinstance(neurons, RunResult) else "given" if is_given else name_of(locator)
    return _look(subject, name or named, began)


def _located(
    model: MLLM, locator: Locator, neurons: NeuronSet | RunResult | None, prepared: Prepared, progress: Progress
) -> Located:
    """Return what was located: in a run, now, or by somebody else, who leaves no scores."""
    if isinstance(neurons, RunResult):
        return neurons.located
    if neurons is None:
        return locate(model, locator, prepared.pairs, progress)
    pairs, captions, still_named = usable(model, prepared.pairs, progress)
    named = [model.mention(caption, pair.concept) for pair, caption in zip(pairs, captions, strict=True)]
    skipped = {"counterfactual_names_it": still_named, "caption_does_not_name_it": named.count(None)}
    return Located({}, {"given": neurons}, model.site(neurons.site).widths, skipped, pairs, captions)


def leave_located(located: Located, run: Run) -> None:
    """Leave scores and neurons in the folder of a run; neurons that were given have no scores."""
    if located.scores:
        leave(located, run)
    else:
        run.save_json("neurons.json", located.neurons.to_json())


def _check_run(result: RunResult, model: MLLM, concept: str, locator: Locator) -> None:
    """Raise a ValueError unless a run is of this model, concept and locator, and of the language model's neurons."""
    for what, has, asked in (("concept", result.concept, concept), ("model", result.model, model.name)):
        if has != asked:
            raise ValueError(f"the run is of the {what} `{has}`, and `{asked}` is to be inspected")
    check_marks(result.located.provenance, marks_of_model(model), "the neurons of the run")
    if not could_make(locator, result.located.scores):
        raise ValueError(f"the run located by `{result.locator}`; give the same locator as `locate`")
    language_only(result.neurons, "inspect")


class _Look(Protocol):
    """What a look returns."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The figures that it noted."""


L = TypeVar("L", bound=_Look)


def _look(subject: Subject, name: str, began: float) -> Inspection:
    """Take every look; what the model cannot give is a figure with the reason."""
    measures: list[Measure] = []

    def take(section: str, names: Sequence[str], look: Callable[[Subject], L]) -> L | None:
        return run_stage(lambda: _attempt(section, names, partial(look, subject), measures), subject.progress, section)

    words = take("words", WORDS, decode_located)
    if words is not None:
        words = take("words", WORDS, partial(read_words, decoded=words.decoded)) or words
    layers = take("layers", ("neurons by layer",), by_layer)
    heat = take("heat maps", HEAT, follow_heat)
    senses = take("sensitivity", SENSE, tell_apart)
    stability = take("stability", SAMPLES, over_samples)
    take("stability", REGION, over_places)
    overlaps = take("stability", OTHERS, over_concepts)
    each = take("each alone", (), zero_each)
    depths = take(MOVED, STREAMS, follow_streams)
    samples = {
        "located": len(subject.pairs),
        "skipped": subject.located.skipped,
        "target": len(subject.evaluation_set.target),
        "retention": len(subject.evaluation_set.retention),
    }
    return Inspection(
        subject.model.name, name, subject.concept, subject.site, subject.located, tuple(measures), words, layers, heat,
        senses, stability, overlaps, each, depths, samples, time.perf_counter() - began,
    )  # fmt: skip


def _attempt(section: str, names: Sequence[str], look: Callable[[], L], measures: list[Measure]) -> L | None:
    """Note what `look` sees, or under each name the reason why the model cannot give it."""
    try:
        seen = look()
        measures += seen.measures
    except (LookupError, ValueError, TypeError, NotImplementedError) as error:
        why = " ".join(str(error).split())
        logger.info("`%s` could not be measured: %s", section, why, exc_info=True)
        measures += [Measure(section, name, Measured.missing(why)) for name in names]
        return None
    return seen
