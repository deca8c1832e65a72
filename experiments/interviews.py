"""What the model says unedited and edited, and what is measured on it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from experiments.recall import FORGETFUL, Recall, of_edit, of_encoder, of_exam
from experiments.transcripts import captions_of, plain, rows, transcript_of
from kedit.edit.operators import Operator
from kedit.edit.plan import EditPlan
from kedit.evaluation.exam import Exam, Transcript
from kedit.evaluation.measure import measure
from kedit.evaluation.metrics import Similarity, TextEncoder, corpus_scores
from kedit.models.mllm import MLLM, Generated, Mention
from kedit.neurons import NeuronSet
from kedit.samples import Concept, Progress, Sample


class Told(NamedTuple):
    """What the model said unedited, edited, and with each random set edited instead."""

    before: Transcript
    after: Transcript
    controls: list[Transcript]


def interview(
    model: MLLM,
    exam: Exam,
    plan: EditPlan,
    operator: Operator,
    neurons: NeuronSet,
    controls: Sequence[NeuronSet],
    progress: Progress,
    recall: Recall = FORGETFUL,
) -> Told:
    """Return what the model says unedited, with `neurons` edited, and with each of the `controls` edited."""

    def ask() -> dict[str, Any]:
        named = model.caption([sample.image for sample in exam.target], progress=progress)
        return {"named": rows(named), "told": plain(transcript(model, exam, named, progress, target=named))}

    unedited = recall.json("generations", "unedited", lambda: {"exam": of_exam(exam)}, ask)
    named, sets = captions_of(unedited["named"]), (neurons, *controls)

    def edited(places: Sequence[int]) -> list[dict[str, Any]]:
        told = []
        for place in places:
            name = f"control {place}" if place else exam.concept.name
            with plan.edit(sets[place], operator, name).applied(model):
                told.append(plain(transcript(model, exam, named, progress)))
        return told

    about = {"exam": of_exam(exam)} if recall.store else {}
    abouts = [{**about, **of_edit(plan, operator, one)} for one in sets]
    after = [transcript_of(told) for told in recall.many("generations", "edited", abouts, edited)]
    return Told(transcript_of(unedited["told"]), after[0], after[1:])


def measured(
    exam: Exam, told: Told, similarity: Similarity, neurons: int, seed: int, recall: Recall = FORGETFUL
) -> dict[str, Any]:
    """Return what the edit did, as the parts of report.json that are measured on what was told."""

    def about() -> dict[str, Any]:
        texts = [plain(one) for one in (told.before, told.after, *told.controls)]
        encoder = of_encoder(similarity.encoder) if similarity.encoder else None
        return {"exam": of_exam(exam), "told": texts, "encoder": encoder, "neurons": neurons, "seed": seed}

    def make() -> dict[str, Any]:
        result = measure(exam, *told, similarity, neurons=neurons, seed=seed)
        corpus = corpus_part(told, similarity.encoder) if similarity.encoder else {}
        return {**result.to_json(), "corpus": corpus}

    found: dict[str, Any] = recall.json("report", "measured", about, make)
    return found


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
    """Return the log-probability (nats) of the concept's word after the caption's own words; NaN where not named.

    Rows of one batch are of equal length: with padding, the last bits would depend on the batch.
    """
    found = torch.full((len(samples),), torch.nan, dtype=torch.float64)
    by_length: dict[int, list[tuple[int, Mention]]] = {}
    for number, caption in enumerate(captions):
        if (mention := model.mention(caption, concept)) is not None:
            by_length.setdefault(len(mention.prefix), []).append((number, mention))
    for named in by_length.values():
        for start in range(0, len(named), model.batch_size):
            some = named[start : start + model.batch_size]
            batch = model.forced([samples[number].image for number, _ in some], [one.prefix for _, one in some])
            spread = model.logits(batch)[:, -1].double().log_softmax(-1)
            for row, (number, mention) in zip(spread, some, strict=True):
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
