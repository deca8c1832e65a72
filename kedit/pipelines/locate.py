"""Locating: the pictures and questions of a concept, the usable pairs, the scores and what is chosen by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kedit.data.inpaint import Inpainter, usual_inpainter
from kedit.data.pairs import counterfactuals
from kedit.evaluation.exam import Exam
from kedit.locate.auto import Auto
from kedit.locate.choosing import chosen_by
from kedit.locate.locator import Locator
from kedit.locate.selection import Selector
from kedit.locate.significant import Significant
from kedit.models.memory import announce
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet, save_scores
from kedit.pipelines.transcripts import captions_of, rows
from kedit.results.cache import FORGETFUL, Recall, of_pairs
from kedit.runs import Run
from kedit.samples import Concept, Counterfactual, Data, Progress, find_concept, silent


def language_only(locator: Any, command: str) -> None:
    """Raise a ValueError if the locator looks outside the language model, where `command` has nothing to show."""
    scope = getattr(locator, "scope", "language")
    if scope != "language":
        raise ValueError(f"`kedit {command}` shows the language model's neurons, and `locate.scope` is `{scope}`")


@dataclass(frozen=True)
class Counts:
    """How many pictures a job takes, and how many random controls."""

    locate: int = 24
    """Pictures of the concept to locate with."""
    target: int = 60
    """Held-out pictures of it, on which suppression is measured."""
    retention: int = 60
    """Pictures without it: so many with a thing of its kind, and as many without."""
    controls: int = 5
    """Layer-matched random sets beside the located one."""

    def __post_init__(self) -> None:
        for name, least in (("locate", 1), ("target", 1), ("retention", 0), ("controls", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` is {least} or more, got {getattr(self, name)}")


class ScoresError(ValueError):
    """Scores that were given are of something else than what is asked for."""


class Prepared(NamedTuple):
    """What an edit is judged on, what it is located with, and what the data set passed over."""

    exam: Exam
    pairs: list[Counterfactual]
    skipped: dict[str, int]
    """How many pictures cannot be used, or not be painted, by the reason."""


class Usable(NamedTuple):
    """The pairs that locating may use, and the model's captions of their originals."""

    pairs: list[Counterfactual]
    captions: list[Generated]
    still_named: int
    """How many pairs were left out, since the caption of the counterfactual names the concept."""


@dataclass(frozen=True, eq=False)
class Located:
    """The scores, the neurons that each stage left, and the pairs they come from."""

    scores: dict[str, NeuronScores]
    stages: dict[str, NeuronSet]
    pairs: list[Counterfactual]
    captions: list[Generated]
    skipped: dict[str, int]
    significant: Significant | None = None
    """What the tests found, where tests chose the neurons."""

    @property
    def neurons(self) -> NeuronSet:
        """What passed the last stage."""
        return list(self.stages.values())[-1]

    @property
    def sample_counts(self) -> dict[str, Any]:
        """How many pairs were used and why the others were not, as report.json has it."""
        return {"located": len(self.pairs) - self.skipped["caption_does_not_name_it"], "skipped": self.skipped}

    @property
    def cost(self) -> dict[str, int]:
        """The passes that scoring and testing take, as report.json has them."""
        taken = cost_part(self.scores)
        if (tests := self.significant) is None:
            return taken
        return {name: count + getattr(tests, name) for name, count in taken.items()}


def prepare(
    data: Data,
    concept: str,
    inpaint: Inpainter | None,
    counts: Counts,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Prepared:
    """Return what an edit of the concept called `concept` is judged on, and the pairs to locate it with.

    Without an inpainter, the data set draws each picture anew where it can, and else the region is filled with the
    mean colour around it.

    Raises:
        LookupError: The data has no such concept.
        ValueError: It has too few pictures, or none can be painted.
    """
    found = find_concept(data.concepts, concept)
    split = data.split(found, locate=counts.locate, target=counts.target, retention=counts.retention, seed=seed)
    exam = Exam(found, data.concepts, split.target, split.near, split.far, data.questions)
    pairs = counterfactuals(inpaint or usual_inpainter(split.locate), split.locate, found, progress=progress)
    return Prepared(exam, pairs.made, {**split.skipped, **pairs.skipped})


def usable(model: MLLM, pairs: Sequence[Counterfactual], progress: Progress, recall: Recall = FORGETFUL) -> Usable:
    """Return the pairs whose counterfactual the model's caption no longer names the concept in."""

    def ask() -> dict[str, Any]:
        captions = model.caption([pair.sample.image for pair in pairs], progress=progress)
        painted = model.caption([pair.image for pair in pairs], progress=progress)
        return {"captions": rows(captions), "painted": rows(painted)}

    told = recall.json("generations", "captions of the pairs", lambda: {"pairs": of_pairs(pairs)}, ask)
    captions, painted = captions_of(told["captions"]), captions_of(told["painted"])
    still = [pair.concept.mentioned_in(caption.text) for pair, caption in zip(pairs, painted, strict=True)]
    kept = [number for number, names in enumerate(still) if not names]
    if not kept:
        raise ValueError(
            f"the model names `{pairs[0].concept.name}` in all {len(pairs)} counterfactual pictures: the inpainting "
            "does not remove it"
        )
    return Usable([pairs[number] for number in kept], [captions[number] for number in kept], sum(still))


def locate(
    model: MLLM,
    locator: Locator,
    pairs: Sequence[Counterfactual],
    progress: Progress,
    recall: Recall = FORGETFUL,
    select: Selector | Auto | None = None,
    words: Sequence[Concept] = (),
    given: Mapping[str, NeuronScores] | None = None,
) -> Located:
    """Locate with the pairs whose original names the concept and whose counterfactual does not.

    Args:
        model: The model, unedited.
        locator: Scores, and selects unless `select` does.
        pairs: Pictures with and without the concept.
        progress: Shows the batches go by.
        recall: What is known from before.
        select: Chooses in place of the locator's own selectors; see `kedit.locate.choosing`.
        words: What the data can name, for tests against wrong words.
        given: Scores of the same pairs that somebody else took, such as `kedit locate`.

    Raises:
        ValueError: No pair is usable.
        ScoresError: `given` are scores of something else.
    """
    found = usable(model, pairs, progress, recall)

    def score() -> Mapping[str, NeuronScores]:
        some = found.pairs[: model.batch_size]
        announce(model, model.site(locator.site), model.forced([pair.sample.image for pair in some], [()] * len(some)))
        return locator.score(model, found.pairs, captions=found.captions, progress=progress)

    if given is not None:
        check_given(given, model, locator, found)
    about = {"pairs": of_pairs(found.pairs), "captions": rows(found.captions)} if recall.store else {}
    scores = dict(given or recall.scores(locator, lambda: about, score))
    unnamed = int(next(iter(scores.values())).provenance["skipped"])
    skipped = {"counterfactual_names_it": found.still_named, "caption_does_not_name_it": unnamed}
    choice = chosen_by(
        select, model, locator, found.pairs, scores, captions=found.captions, words=words, progress=progress
    )
    return Located(scores, choice.stages, found.pairs, found.captions, skipped, choice.significant)


def check_given(given: Mapping[str, NeuronScores], model: MLLM, locator: Locator, found: Usable) -> None:
    """Raise a ScoresError unless `given` are the scores that `locator` would give the pairs."""
    wanted = {name: repr(stage.scorer) for name, stage in getattr(locator, "stages", {}).items()}
    if {name: one.method for name, one in given.items()} != wanted:
        told = ", ".join(f"{name}: {one.method}" for name, one in given.items())
        raise ScoresError(f"`scores` are of {told}; `locate` asks for {wanted or type(locator).__name__}")
    about = next(iter(given.values()))
    pairs = zip(found.pairs, found.captions, strict=True)
    named = ",".join(pair.sample.id for pair, told in pairs if model.mention(told, pair.concept) is not None)
    asked = {"model": model.name, "concept": found.pairs[0].concept.name, "samples": named}
    asked |= {"target": repr(locator.target), "site": locator.site, "scope": locator.scope}
    for key, wants in asked.items():
        has = about.provenance.get(key, getattr(about, key, None))
        if has != wants and not (key == "samples" and locator.target.on_missing == "force"):
            raise ScoresError(f"`scores` are of another {key}, `{has:.60}`; the run asks for `{wants:.60}`")


def leave(located: Located, run: Run) -> None:
    """Leave the scores and the neurons in the folder of a run, and what tests found."""
    run.save_file("scores.safetensors", lambda path: save_scores(without_seconds(located.scores), path))
    run.save_json("neurons.json", located.neurons.to_json())
    if (tests := located.significant) is not None:
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
