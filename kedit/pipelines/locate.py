"""Locating: the scores of what is prepared, what is chosen by them, and what that leaves."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kedit import __version__
from kedit.data.inpaint import Inpainter
from kedit.internals.sites import Site
from kedit.locate.choosing import Choosing, check_choice, check_pairs, choose_neurons
from kedit.locate.fdr.result import FDRResult
from kedit.locate.fdr.selector import FDRSelector
from kedit.locate.locator import Locator, refuse_drawn_regions
from kedit.locate.shards import who_scores
from kedit.models.memory import announce
from kedit.models.mllm import MLLM, Generated
from kedit.models.sequences import refuse_two_sequences
from kedit.neurons import NeuronScores, NeuronSet, ids_from, ids_to, save_scores
from kedit.page import leave_page
from kedit.pipelines.display import display
from kedit.pipelines.given import as_inpainter, as_locator, check_common, name_of_concept, require_model
from kedit.pipelines.naming import NamedNeurons, name_neurons
from kedit.pipelines.preparation import Counts, Prepared, Usable, prepare, usable
from kedit.pipelines.provenance import ScoresError, check_marks, marks, signed
from kedit.pipelines.raw_outputs import rows
from kedit.pipelines.readable import readable
from kedit.pipelines.saved import Saved
from kedit.plots import Drawing, Style, draw_layers, draw_scores
from kedit.progress import as_progress
from kedit.prompts import Medium
from kedit.results.cache import NO_CACHE, Cache, of_pairs
from kedit.results.reports import neurons_line
from kedit.results.run_folder import Run
from kedit.results.table import Table
from kedit.samples import Concept, Data, Pair, Progress, silent


def language_only(locator: Any, command: str) -> None:
    """Raise a ValueError if the locator looks outside the language model, where `command` has nothing to show."""
    scope = getattr(locator, "scope", "language")
    if scope != "language":
        raise ValueError(f"`kedit {command}` shows the language model's neurons, and `locate.scope` is `{scope}`")


@dataclass(frozen=True, eq=False)
class Located:
    """The scores, the neurons that each stage left, and the pairs they come from."""

    scores: dict[str, NeuronScores]
    stages: dict[str, NeuronSet]
    widths: Mapping[int, int]
    """The number of neurons of each layer that was looked at."""
    skipped: dict[str, int]
    pairs: Sequence[Pair] = ()
    """None where scores of several jobs were merged."""
    captions: Sequence[Generated] = ()
    fdr_result: FDRResult | None = None
    """What the tests found, where tests chose the neurons."""
    named: NamedNeurons = field(default_factory=NamedNeurons)
    """The neurons by name, with their scores and words."""

    @property
    def neurons(self) -> NeuronSet:
        """What passed the last stage."""
        return list(self.stages.values())[-1]

    @property
    def provenance(self) -> Mapping[str, str]:
        """What all stages' scores have in common: model, concept, target, samples."""
        return next(iter(self.scores.values())).provenance

    @property
    def used(self) -> list[tuple[Pair, Generated]]:
        """The pairs that the scores rest on, and the captions of their originals."""
        ids = set(ids_from(self.provenance["samples"]))
        return [both for both in zip(self.pairs, self.captions, strict=True) if both[0].sample.id in ids]

    @property
    def neurons_line(self) -> str:
        """How many neurons there are and in which layers, for people."""
        return neurons_line(self.neurons, sum(self.widths.values()))

    @property
    def figures(self) -> dict[str, Drawing]:
        """In which layers the neurons are and, of several stages, how each scores them; by name."""
        drawn = {"layers": self.draw_layers()}
        return drawn | ({"scores": draw_scores(self.scores, self.stages)} if len(self.scores) > 1 else {})

    def draw_layers(self) -> Drawing:
        """Draw in which layers the neurons are."""
        counts = [{layer: len(some) for layer, some in one.by_layer().items()} for one in self.stages.values()]
        return draw_layers({"": counts[-1]}, self.widths, candidates=counts[0] if len(counts) > 1 else None)

    @property
    def sample_counts(self) -> dict[str, Any]:
        """How many pairs were used and why the others were not, as report.json has it."""
        return {"located": int(self.provenance["n_samples"]), "skipped": self.skipped}

    @property
    def cost(self) -> dict[str, int]:
        """The passes that scoring and testing take, as report.json has them."""
        taken = cost_part(self.scores)
        if (tests := self.fdr_result) is None:
            return taken
        return {name: count + getattr(tests, name) for name, count in taken.items()}


@dataclass(frozen=True, eq=False, repr=False)
class LocateResult(Saved):
    """The neurons of a concept, the scores behind them, and how they were taken; prints and saves itself."""

    FILE = "locate.json"

    locator: str
    """The locator's name."""
    selectors: Mapping[str, str]
    """What chose in each stage; empty for a locator that selects by itself."""
    located: Located
    skipped: Mapping[str, int]
    """How many pictures could not be used, by the reason."""
    seconds: float
    """How long captions, scores and choosing took."""

    @property
    def neurons(self) -> NeuronSet:
        """The neurons that were located."""
        return self.located.neurons

    @property
    def scores(self) -> dict[str, NeuronScores]:
        """The scores of each stage."""
        return self.located.scores

    @property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name; one shows itself in a notebook, and `save(path)` writes it."""
        return self.located.figures

    def table(self) -> Table:
        """Return for each stage how many neurons it kept, and by what."""
        about, rows = self.located.provenance, self._stages().items()
        title = f"`{about['concept']}` in {about['model']} by {self.locator}: {about['n_samples']} samples"
        cells = [(name, row["count"], row["highest"], row["select"]) for name, row in rows]
        columns = ("stage", "neurons", "highest score", "chosen by")
        return Table(columns, tuple(cells), title, (self.located.neurons_line, *self.located.named.lines))

    def to_json(self) -> dict[str, Any]:
        """Return what locate.json holds; a function of what was asked, without times."""
        about, counts = self.located.provenance, self.located.sample_counts
        return {
            "kedit": __version__,
            "concept": about["concept"],
            "model": about["model"],
            "locator": self.locator,
            "target": about["target"],
            "stages": self._stages(),
            "neurons": neuron_part(self.neurons, sum(self.located.widths.values())),
            "samples": counts | {"skipped": {**self.skipped, **counts["skipped"]}, "ids": ids_from(about["samples"])},
            "cost": self.located.cost,
        }

    def save_in(self, run: Run, *, figures: bool | Style = True, page: bool = True) -> None:
        """Leave scores, neurons, locate.json and figures in the folder of a run that is open."""
        leave(self.located, run)
        run.save_json("locate.json", self.to_json())
        if figures:
            run.save_figures(self.figures, figures)
        # Of merged scores, nobody knows how long they took.
        scoring = {"locate_seconds": float(known)} if (known := self.located.provenance.get("seconds")) else {}
        run.save_json("timing.json", {**scoring, "seconds": round(self.seconds, 3)})
        if page:
            leave_page(run)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return display(self.located.neurons_line, [self.table()], self.located.draw_layers())

    def _stages(self) -> dict[str, dict[str, Any]]:
        """Return the "stages" part of locate.json; a set that several others make up has no scores of its own."""
        found: dict[str, dict[str, Any]] = {}
        for name, kept in self.located.stages.items():
            scores = self.scores.get(name)
            known = scores.values[scores.values.isfinite()].tolist() if scores is not None else []
            found[name] = {
                "scorer": scores.method if scores is not None else None,
                "select": self.selectors.get(name),
                "highest": max(known, default=None),
                "count": len(kept),
            }
        return found


def locate_neurons(
    model: MLLM,
    data: Data,
    concept: str | Concept,
    *,
    locate: Locator | str | None = None,
    select: Choosing | None = None,
    inpaint: Inpainter | str | None = None,
    counts: Counts | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | bool = True,
) -> LocateResult:
    """Locate the neurons of a concept, without an edit: those that `kedit.run` with the same arguments edits.

    Example:
        result = kedit.locate_neurons(kedit.load("scenes"), kedit.Scenes(), "star")

    Args:
        model: The model; its weights are not touched.
        data: Where the pictures come from.
        concept: The name of a concept that the data knows.
        locate: Scores and selects, or the name of a shipped locator; two-stage filtering with its default thresholds
            if None.
        select: Chooses in place of the locator's own last selector.
        inpaint: Paints the concept out of a picture, or the name of a way to; see `kedit.run`.
        counts: How many pictures to locate with; the other counts do not matter.
        seed: Of the pictures drawn.
        store: The folder of results that later jobs may use again; None computes everything.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept.
        ValueError: There are too few pictures, the model cannot be located in, or an option does not fit.
    """
    check_common(data, seed, counts, Counts)
    locator, name, painter = as_locator(locate, data), name_of_concept(data, concept), as_inpainter(inpaint)
    check_choice(select, locator)
    require_model(model)
    only_locating = replace(counts or Counts(), target=1, retention=0)
    show = as_progress(progress)
    prepared = prepare(data, name, painter, only_locating, seed=seed, progress=show)
    cache = Cache.of_model(store, model)
    return locate_prepared(model, prepared, locator, select=select, cache=cache, progress=show)


def locate_prepared(
    model: MLLM,
    prepared: Prepared,
    locator: Locator,
    *,
    select: Choosing | None = None,
    scores: Mapping[str, NeuronScores] | None = None,
    cache: Cache = NO_CACHE,
    name: str = "",
    progress: Progress = silent,
) -> LocateResult:
    """Do what `locate_neurons` does with pairs that are prepared; see there.

    Args:
        model: The model.
        prepared: What `prepare` returned.
        locator: Scores and selects.
        select: Chooses in place of the locator's own last selector.
        scores: Scores of the same pictures that were taken before.
        cache: What is known from before.
        name: What to call the locator; its stages if empty.
        progress: Shows how far it is.
    """
    began = time.perf_counter()
    check_pairs(select, locator, prepared.pairs)
    check_model(model, locator, prepared.medium)
    prepared = readable(model, prepared)
    located = locate(
        model, locator, prepared.pairs, progress, cache, select, prepared.evaluation_set.vocabulary, scores
    )
    seconds = time.perf_counter() - began
    return LocateResult(name or name_of(locator), selectors_of(locator, select), located, prepared.skipped, seconds)


def check_model(model: MLLM, locator: Locator, medium: Medium = "image") -> Site:
    """Return where the neurons are; a ValueError or LookupError says why none can be located in the model.

    `medium` is that of the samples to locate with.
    """
    require_model(model)
    refuse_drawn_regions(locator)
    model.require(medium)
    if medium == "text":
        refuse_image_tokens(locator)
    refuse_two_sequences(model.module, model.name)
    return site_of(model, locator)


def refuse_image_tokens(locator: object) -> None:
    """Raise a ValueError if a stage of `locator` looks at image tokens, of which texts have none."""
    for name, stage in getattr(who_scores(locator), "stages", {}).items():
        if getattr(stage.scorer, "positions", None) == "image":
            raise ValueError(
                f"stage `{name}` looks at image tokens, and the data are texts, which have none; let it look where the "
                "answer is predicted (`positions=target`)"
            )


def site_of(model: MLLM, locator: Locator) -> Site:
    """Return where a locator looks for neurons in a model."""
    return model.site(locator.site, getattr(locator, "scope", "language"))


def name_of(locator: Locator) -> str:
    """Return what to call a locator: by its stages, or by its class."""
    stages: Sequence[str] = tuple(getattr(locator, "stages", ()))
    return "two_stage" if tuple(stages) == ("difference", "gradcam") else "+".join(stages) or type(locator).__name__


def selectors_of(locator: Locator, select: Choosing | None = None) -> dict[str, str]:
    """Return what chooses in each stage of `locator`, `select` in place of its last or, if it tests, of all."""
    own = {name: repr(stage.select) for name, stage in getattr(locator, "stages", {}).items()}
    replaced = list(own) if isinstance(select, FDRSelector) else list(own)[-1:] if select is not None else []
    return own | dict.fromkeys(replaced, repr(select))


def locate(
    model: MLLM,
    locator: Locator,
    pairs: Sequence[Pair],
    progress: Progress,
    cache: Cache = NO_CACHE,
    select: Choosing | None = None,
    words: Sequence[Concept] = (),
    given: Mapping[str, NeuronScores] | None = None,
) -> Located:
    """Locate with the pairs whose original names the concept and whose counterfactual does not.

    Args:
        model: The model, unedited.
        locator: Scores, and selects unless `select` does.
        pairs: Pictures with and without the concept.
        progress: Shows the batches go by.
        cache: What is known from before.
        select: Chooses in place of the locator's own selectors; see `kedit.locate.choosing`.
        words: What the data can name, for tests against distractor words.
        given: Scores of the same pairs that somebody else took, such as `kedit locate`.

    Raises:
        ValueError: No pair is usable.
        ScoresError: `given` are scores of something else.
    """
    found = usable(model, pairs, progress, cache)
    if given is not None:
        check_given(given, model, locator, found, cache)
    scores = dict(given or _scores(model, locator, found, progress, cache))
    unnamed = int(next(iter(scores.values())).provenance["skipped"])
    skipped = {"counterfactual_names_it": found.still_named, "caption_does_not_name_it": unnamed}
    with cache.keeping_words():
        choice = choose_neurons(
            select, model, locator, found.pairs, scores, captions=found.captions, words=words, progress=progress
        )
    site = site_of(model, locator)
    named = name_neurons(list(choice.stages.values())[-1], scores, model, site)
    return Located(
        scores, choice.stages, site.widths, skipped, found.pairs, found.captions, choice.fdr_result, named
    )  # fmt: skip


def _scores(
    model: MLLM, locator: Locator, found: Usable, progress: Progress, cache: Cache
) -> Mapping[str, NeuronScores]:
    """Return the scores of the usable pairs, found in the store or taken."""

    def score() -> Mapping[str, NeuronScores]:
        some = found.pairs[: model.batch_size]
        asked = [pair.sample.asked(model.prompt) for pair in some]
        announce(model, model.site(locator.site), model.read(asked, [()] * len(asked)))
        with cache.keeping_words():
            return locator.score(model, found.pairs, captions=found.captions, progress=progress)

    pictures = of_pairs(found.pairs)
    scores = cache.scores(locator, lambda: {"pairs": pictures, "captions": rows(found.captions)}, score)
    return signed(scores, marks(model, locator, pictures, cache))


def check_given(
    given: Mapping[str, NeuronScores], model: MLLM, locator: Locator, found: Usable, cache: Cache = NO_CACHE
) -> None:
    """Raise a ScoresError unless `given` are the scores that `locator` would give the pairs."""
    check_scorers(given, locator)
    about = next(iter(given.values()))
    pairs = zip(found.pairs, found.captions, strict=True)
    named = ids_to(pair.sample.id for pair, told in pairs if model.mention(told, pair.concept) is not None)
    asked = {"model": model.name, "concept": found.pairs[0].concept.name, "samples": named}
    asked |= {"target": repr(locator.target), "site": locator.site, "scope": locator.scope}
    for key, wants in asked.items():
        has = about.provenance.get(key, getattr(about, key, None))
        if has != wants and not (key == "samples" and locator.target.on_missing == "force"):
            raise ScoresError(f"`scores` are of another {key}, `{has:.60}`; the run asks for `{wants:.60}`")
    check_marks(about.provenance, marks(model, locator, of_pairs(found.pairs), cache), "`scores`")


def check_scorers(given: Mapping[str, NeuronScores], locator: Any) -> None:
    """Raise a ScoresError unless the scorers of `locator` made the scores `given`."""
    wanted = {name: repr(stage.scorer) for name, stage in getattr(locator, "stages", {}).items()}
    if {name: one.method for name, one in given.items()} != wanted:
        text = ", ".join(f"{name}: {one.method}" for name, one in given.items())
        raise ScoresError(f"the scores are of {text}; `locate` asks for {wanted or type(locator).__name__}")


def leave(located: Located, run: Run) -> None:
    """Leave the scores and the neurons in the folder of a run, and what tests found."""
    run.save_file("scores.safetensors", lambda path: save_scores(without_seconds(located.scores), path))
    run.save_json("neurons.json", located.neurons.to_json())
    run.save_text("neurons.csv", located.named.table().csv())
    if (tests := located.fdr_result) is not None:
        run.save_json("significance.json", tests.to_json())
        run.save_file("pvalues.safetensors", lambda path: save_scores(tests.pvalues, path))


def cost_part(scores: Mapping[str, NeuronScores]) -> dict[str, int]:
    """Return the passes that scoring takes, as the "cost" part of report.json has them."""
    about = next(iter(scores.values())).provenance
    return {"forwards": int(about["forwards"]), "backwards": int(about["backwards"])}


def without_seconds(scores: Mapping[str, NeuronScores]) -> dict[str, NeuronScores]:
    """Return the scores without the time that they took: equal runs leave equal files."""
    return {name: replace(one, provenance=_timeless(one.provenance)) for name, one in scores.items()}


def _timeless(provenance: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in provenance.items() if key != "seconds"}


def neuron_part(neurons: NeuronSet, n_neurons: int) -> dict[str, Any]:
    """Return the "neurons" part of report.json."""
    by_layer = {str(layer): len(indices) for layer, indices in neurons.by_layer().items()}
    return {
        "count": len(neurons),
        "share": len(neurons) / n_neurons,
        "by_layer": by_layer,
        "site": neurons.site,
        "scope": neurons.scope,
    }
