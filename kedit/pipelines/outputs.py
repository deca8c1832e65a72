"""What the model says unedited and edited, and what is measured on it."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kedit.edit.edit import Change
from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.evaluation.fluency import Speech
from kedit.evaluation.measure import measure
from kedit.evaluation.metrics import Similarity, corpus_scores
from kedit.evaluation.report import EditReport
from kedit.evaluation.texts import TextEncoder
from kedit.evaluation.verdict import Aim
from kedit.models.encoder import OwnLayers
from kedit.models.lengths import of_prompts
from kedit.models.mllm import MLLM, Generated
from kedit.models.surprise import surprises
from kedit.pipelines.raw_outputs import RawOutputs
from kedit.progress import Batched
from kedit.prompts import Medium, Prompt
from kedit.results.cache import NO_CACHE, Cache, of_encoder, of_evaluation_set
from kedit.samples import AnySample, Concept, Progress, silent


class EditOutputs(NamedTuple):
    """What the model said unedited, edited, and with each random set edited instead."""

    before: Outputs
    after: Outputs
    controls: list[Outputs]


def collect_outputs(
    model: MLLM,
    evaluation_set: EvaluationSet,
    edits: Sequence[Change],
    progress: Progress,
    cache: Cache = NO_CACHE,
) -> EditOutputs:
    """Return what the model says unedited, under the first edit, and under each of the others, the controls."""
    before = cached_unedited(model, evaluation_set, progress, cache)
    first, *others = (
        one.outputs(evaluation_set) for one in cached_edited(model, evaluation_set, edits, before, progress, cache)
    )
    return EditOutputs(before.outputs(evaluation_set), first, others)


def cached_unedited(
    model: MLLM, evaluation_set: EvaluationSet, progress: Progress, cache: Cache = NO_CACHE
) -> RawOutputs:
    """Return what the model says now, if it is not known from before."""
    about = {"evaluation_set": of_evaluation_set(evaluation_set)} if cache.store else {}
    content = cache.json(
        "generations", "unedited", lambda: about, lambda: unedited(model, evaluation_set, progress).to_json()
    )
    return RawOutputs.of(content)


def cached_edited(
    model: MLLM,
    evaluation_set: EvaluationSet,
    edits: Sequence[Change],
    before: RawOutputs,
    progress: Progress,
    cache: Cache = NO_CACHE,
) -> list[RawOutputs]:
    """Return what the model says under each edit, if it is not known from before; see `Cache.under_changes`."""

    def make(some: Sequence[Change]) -> list[dict[str, Any]]:
        return [one.to_json() for one in edited(model, evaluation_set, some, before, progress)]

    about = {"evaluation_set": of_evaluation_set(evaluation_set)} if cache.store else {}
    return [RawOutputs.of(one) for one in cache.under_changes("edited", about, edits, make)]


def unedited(model: MLLM, evaluation_set: EvaluationSet, progress: Progress) -> RawOutputs:
    """Return what the model says now."""
    prompts = _prompts(model, evaluation_set)
    texts = model.ask(prompts, progress=progress, what="captions")
    (spoken,) = logprobs(
        model, evaluation_set.concept, evaluation_set.target, texts[: len(evaluation_set.target)], [None]
    )
    captions = speech(model, prompts, texts[: len(evaluation_set.target + evaluation_set.retention)], progress=progress)
    return RawOutputs(tuple(texts), spoken, tuple(captions.surprise or ()), tuple(captions.cut or ()))


def edited(
    model: MLLM, evaluation_set: EvaluationSet, edits: Sequence[Change], before: RawOutputs, progress: Progress
) -> list[RawOutputs]:
    """Return what the model says under each edit, whose texts are compared with those `before`.

    Log-probabilities are taken after the words said before, but not under an edit that acts otherwise on words that
    are read than on those that it writes. The unedited model reads the captions that changed. An edit of no neurons
    leaves all as it was, and nothing is run for it.
    """
    prompts, named = _prompts(model, evaluation_set), before.texts[: len(evaluation_set.target)]
    acting, texts = [edit for edit in edits if edit.acts], []
    for edit in progress(Batched(acting, [1] * len(acting), "neuron sets"), len(acting), "edited captions"):
        drafts = before.texts if edit.teacher_forceable else None
        with edit.applied(model):
            texts.append(model.ask(prompts, drafts=drafts, progress=progress, what="captions of a set"))
    forced = [edit for edit in acting if edit.teacher_forceable]
    read = iter(logprobs(model, evaluation_set.concept, evaluation_set.target, named, forced))
    spoken = [next(read) if edit.teacher_forceable else () for edit in acting]
    changed = (_read_outputs(model, prompts, before, *one) for one in zip(texts, spoken, strict=True))
    return [next(changed) if edit.acts else before for edit in edits]


def _read_outputs(
    model: MLLM, prompts: Sequence[Prompt], before: RawOutputs, texts: Sequence[Generated], spoken: tuple[float, ...]
) -> RawOutputs:
    """Return what was said under an edit that no longer acts; the unedited model reads the captions that changed."""
    captions = texts[: len(before.surprise)]
    now = speech(model, prompts, captions, before.texts, before.surprise)
    return RawOutputs(tuple(texts), spoken, tuple(now.surprise or ()), tuple(now.cut or ()))


def speech(
    model: MLLM,
    prompts: Sequence[Prompt],
    texts: Sequence[Generated],
    before: Sequence[Generated] = (),
    known: Sequence[float | None] | None = None,
    *,
    progress: Progress = silent,
) -> Speech:
    """Return texts with what tells `model`, which must be unedited, whether they are language.

    Args:
        model: The model.
        prompts: What was asked; more than there are texts where the others are of no matter.
        texts: What was said.
        before: What it said itself; texts that are as they were need not be read.
        known: The surprise of those; None reads all texts.
        progress: Shows the batches.
    """
    places = range(len(texts))
    changed = [place for place in places if known is None or texts[place].tokens != before[place].tokens]
    asked, said = [prompts[place] for place in changed], [texts[place] for place in changed]
    read = dict(zip(changed, surprises(model, asked, said, progress=progress), strict=True))
    usual = [None] * len(texts) if known is None else known
    unlikely = [read.get(place, usual[place]) for place in places]
    cut = [len(text.tokens) >= model.max_new_tokens for text in texts]
    return Speech([text.text for text in texts], unlikely, cut)


def _prompts(model: MLLM, evaluation_set: EvaluationSet) -> list[Prompt]:
    samples = [sample.asked(model.prompt) for sample in (*evaluation_set.target, *evaluation_set.retention)]
    return [*samples, *(question.prompt for question in evaluation_set.questions)]


def similarity_of(model: MLLM, encoder: TextEncoder | None, medium: Medium) -> Similarity:
    """Return what compares texts: with `encoder`, or with the model's own layers where pictures are described.

    Short answers are right or wrong, and how alike they are is no matter.
    """
    return Similarity(encoder or (OwnLayers(model) if medium == "image" else None))  # type: ignore[arg-type]


def measure_outputs(
    evaluation_set: EvaluationSet,
    outputs: EditOutputs,
    similarity: Similarity,
    neurons: int | None,
    seed: int,
    cache: Cache = NO_CACHE,
    *,
    aim: Aim = "less",
) -> tuple[EditReport, dict[str, dict[str, float]]]:
    """Return what the edit did, and how alike the captions are as whole corpora."""

    def about() -> dict[str, Any]:
        encoder = of_encoder(similarity.encoder) if similarity.encoder else None
        texts = [repr(one) for one in (outputs.before, outputs.after, *outputs.controls)]
        asked = {"evaluation_set": of_evaluation_set(evaluation_set), "told": texts, "encoder": encoder}
        return asked | {"neurons": neurons, "seed": seed, "aim": aim}

    def make() -> dict[str, Any]:
        result = measure(evaluation_set, *outputs, similarity, neurons=neurons, aim=aim, seed=seed)
        corpus = corpus_part(outputs, similarity.encoder) if similarity.encoder else {}
        return {**result.to_json(), "corpus": corpus}

    found = cache.json("report", "measured", about, make)
    return EditReport.from_json(found, evaluation_set.concept.name, neurons), found["corpus"]


@torch.no_grad()
def logprobs(
    model: MLLM,
    concept: Concept,
    samples: Sequence[AnySample],
    captions: Sequence[Generated],
    edits: Sequence[Change | None],
) -> list[tuple[float, ...]]:
    """Return, under each edit, the log-probabilities (nats) of the concept's word after each caption's own words.

    That of a word of several tokens is the sum over them, each after those before it. NaN where a caption does not
    name the concept; an edit of None is the model as it is.
    """
    sums = torch.full((len(edits), len(samples)), torch.nan, dtype=torch.float64)
    mentions = {place: model.mention(caption, concept) for place, caption in enumerate(captions)}
    named = {place: mention for place, mention in mentions.items() if mention is not None}
    order, prompts = list(named), [samples[place].asked(model.prompt) for place in named]
    forced = [mention.prefix + mention.word[:-1] for mention in named.values()]
    for batch in of_prompts(model, prompts, list(map(len, forced))):
        places, words = [order[one] for one in batch], [named[order[one]].word for one in batch]
        rows = model.read([prompts[one] for one in batch], [forced[one] for one in batch])
        for number, edit in enumerate(edits):
            with edit.applied(model) if edit is not None else nullcontext():
                spread = model.logits(rows, max(map(len, words))).double().log_softmax(-1).cpu()
            pairs = zip(spread, words, strict=True)
            sums[number, places] = torch.stack([_of_last(row, word) for row, word in pairs])
    return [tuple(row) for row in sums.tolist()]


def _of_last(row: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return the sum of the `tokens`' log-probabilities, which the last columns of `row` `[pos, vocab]` are about."""
    return row[-len(tokens) :].gather(1, torch.tensor(tokens)[:, None]).sum()


def corpus_part(outputs: EditOutputs, encoder: TextEncoder) -> dict[str, dict[str, float]]:
    """Return how alike the edited and the unedited captions are as whole corpora, by `evaluate`'s metrics.

    Published tables give corpus figures; the rest of the report is by sample, as intervals need it.
    """
    groups = {
        "target": (outputs.after.target, outputs.before.target),
        "retention": (outputs.after.retention, outputs.before.retention),
    }
    with TemporaryDirectory() as scratch:
        return {
            name: corpus_scores(after, before, cache_dir=Path(scratch), encoder=encoder)
            for name, (after, before) in groups.items()
            if after
        }
