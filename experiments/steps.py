"""The steps of the main job that join the rooms of the library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from experiments.pairs import paired
from kedit.data.inpaint import Inpainter
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan
from kedit.evaluation.exam import Exam, Transcript
from kedit.evaluation.metrics import TextEncoder, corpus_scores
from kedit.locate.locator import Locator
from kedit.models.memory import announce
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet
from kedit.samples import Concept, Counterfactual, Data, Progress, Sample, find_concept


class Parts(NamedTuple):
    """What the configuration chose, before a model is there."""

    data: Data
    inpaint: Inpainter
    locator: Locator
    plan: EditPlan


def language_only(locator: Any, command: str) -> None:
    """Raise a ValueError if the locator looks outside the language model, where `command` has nothing to show."""
    scope = getattr(locator, "scope", "language")
    if scope != "language":
        raise ValueError(f"`kedit {command}` shows the language model's neurons, and `locate.scope` is `{scope}`")


class Asked(NamedTuple):
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


class Told(NamedTuple):
    """What the model said unedited, edited, and with each random set edited instead."""

    before: Transcript
    after: Transcript
    controls: list[Transcript]


@dataclass(frozen=True, eq=False)
class Located:
    """The scores, the neurons that each stage left, and the pairs they come from."""

    scores: dict[str, NeuronScores]
    stages: dict[str, NeuronSet]
    pairs: list[Counterfactual]
    captions: list[Generated]
    skipped: dict[str, int]

    @property
    def neurons(self) -> NeuronSet:
        """What passed the last stage."""
        return list(self.stages.values())[-1]

    @property
    def sample_counts(self) -> dict[str, Any]:
        """How many pairs were used and why the others were not, as report.json has it."""
        return {"located": len(self.pairs) - self.skipped["caption_does_not_name_it"], "skipped": self.skipped}

    @property
    def cost(self) -> dict[str, float]:
        """What scoring took, as report.json has it."""
        return cost_part(self.scores)


def questioned(parts: Parts, name: str, counts: DictConfig, seed: int) -> Asked:
    """Return what the edit of the concept called `name` is judged on, and the pairs to locate it with."""
    data = parts.data
    concept = find_concept(data.concepts, str(name))
    split = data.split(concept, locate=counts.locate, target=counts.target, retention=counts.retention, seed=seed)
    exam = Exam(concept, data.concepts, split.target, split.near, split.far, data.questions)
    pairs = paired(parts.inpaint, split.locate, concept)
    return Asked(exam, pairs.made, {**split.skipped, **pairs.skipped})


def usable(model: MLLM, pairs: Sequence[Counterfactual], progress: Progress) -> Usable:
    """Return the pairs whose counterfactual the model's caption no longer names the concept in."""
    captions = model.caption([pair.sample.image for pair in pairs], progress=progress)
    painted = model.caption([pair.image for pair in pairs], progress=progress)
    still = [pair.concept.mentioned_in(caption.text) for pair, caption in zip(pairs, painted, strict=True)]
    kept = [number for number, names in enumerate(still) if not names]
    if not kept:
        raise ValueError(
            f"the model names `{pairs[0].concept.name}` in all {len(pairs)} counterfactual pictures: the inpainting "
            "does not remove it"
        )
    return Usable([pairs[number] for number in kept], [captions[number] for number in kept], sum(still))


def locate(model: MLLM, locator: Locator, pairs: Sequence[Counterfactual], progress: Progress) -> Located:
    """Locate with the pairs whose original names the concept and whose counterfactual does not."""
    found = usable(model, pairs, progress)
    some = found.pairs[: model.batch_size]
    announce(model, model.site(locator.site), model.forced([pair.sample.image for pair in some], [()] * len(some)))
    scores = locator.score(model, found.pairs, captions=found.captions, progress=progress)
    unnamed = int(next(iter(scores.values())).provenance["skipped"])
    skipped = {"counterfactual_names_it": found.still_named, "caption_does_not_name_it": unnamed}
    return Located(scores, locator.select_each(scores), found.pairs, found.captions, skipped)


def interview(
    model: MLLM,
    exam: Exam,
    plan: EditPlan,
    operator: Operator,
    neurons: NeuronSet,
    controls: Sequence[NeuronSet],
    progress: Progress,
) -> Told:
    """Return what the model says unedited, with `neurons` edited, and with each of the `controls` edited."""
    named = model.caption([sample.image for sample in exam.target], progress=progress)
    before = transcript(model, exam, named, progress, target=named)
    edited = []
    for number, chosen in enumerate((neurons, *controls)):
        name = f"control {number}" if number else exam.concept.name
        with plan.edit(chosen, operator, name).applied(model):
            edited.append(transcript(model, exam, named, progress))
    return Told(before, edited[0], edited[1:])


def transcript(
    model: MLLM,
    exam: Exam,
    named: Sequence[Generated],
    progress: Progress,
    *,
    target: Sequence[Generated] | None = None,
) -> Transcript:
    """Return what the model says now; `target` are its captions of the target samples, if they are known already.

    `named` are the unedited captions of the target samples, after whose words log-probabilities are taken.
    """
    told = [target] if target is not None else []
    for part in (exam.target, exam.near, exam.far)[len(told) :]:
        told.append(model.caption([sample.image for sample in part], progress=progress))
    captions = [tuple(one.text for one in part) for part in told]
    answers = tuple(model.answer(exam.questions, progress=progress))
    return Transcript(*captions, answers, logprobs(model, exam.concept, exam.target, named))


@torch.no_grad()
def logprobs(
    model: MLLM, concept: Concept, samples: Sequence[Sample], captions: Sequence[Generated]
) -> tuple[float, ...]:
    """Return the log-probability (nats) of the concept's word after the caption's own words; NaN where not named."""
    found = torch.full((len(samples),), torch.nan, dtype=torch.float64)
    named = [
        (number, mention)
        for number, caption in enumerate(captions)
        if (mention := model.mention(caption, concept)) is not None
    ]
    for start in range(0, len(named), model.batch_size):
        chunk = named[start : start + model.batch_size]
        batch = model.forced([samples[number].image for number, _ in chunk], [mention.prefix for _, mention in chunk])
        spread = model.logits(batch)[:, -1].double().log_softmax(-1)
        for row, (number, mention) in zip(spread, chunk, strict=True):
            found[number] = row[mention.word[0]].item()
    return tuple(found.tolist())


def corpus_part(told: Told, encoder: TextEncoder) -> dict[str, dict[str, float]]:
    """Return how alike the edited and the unedited captions are as whole corpora, by `evaluate`'s metrics.

    Published tables give corpus figures; the rest of the report is by sample, as intervals need it.
    """
    groups = {
        "target": (told.after.target, told.before.target),
        "retention": (told.after.retention, told.before.retention),
    }
    with TemporaryDirectory() as scratch:
        return {
            name: corpus_scores(after, before, cache_dir=Path(scratch), encoder=encoder)
            for name, (after, before) in groups.items()
            if after
        }


def cost_part(scores: Mapping[str, NeuronScores]) -> dict[str, float]:
    """Return what scoring took, as the "cost" part of report.json has it."""
    about = next(iter(scores.values())).provenance
    passes = {"forwards": int(about["forwards"]), "backwards": int(about["backwards"])}
    return passes | {"locate_seconds": float(about["seconds"])}


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
