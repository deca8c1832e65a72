"""One number for each sample that a figure of the report is the mean of.

Which samples count is settled by the evaluation set and the unedited model alone, so that the edited model and every
control are scored on the same ones and may be compared sample by sample.
"""

import math
from collections.abc import Iterator, Sequence

from kedit.evaluation.answers import is_known, right
from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.texts import rouge_l
from kedit.samples import AnySample, Concept, mentioned

Scores = dict[str, list[float]]
"""For each figure, one number per sample that counts for it."""


CERTAIN = -1e-12
"""The log-probability that counts as certain: log-odds stop there, at 27.6 nats."""


def log_odds(logprob: float) -> float:
    """Return log(p / (1 - p)) in nats, from log p."""
    bounded = min(logprob, CERTAIN)
    return bounded - math.log(-math.expm1(bounded))


def suppression_scores(
    evaluation_set: EvaluationSet, before: Outputs, after: Outputs, similarity: Similarity
) -> Scores:
    """Return what became of the target captions that named the concept, one number for each of them.

    `mention_drop`: 1 if the concept is no longer named. `substitutions`: 1 if the caption now names an object
    that is neither in the picture nor in the unedited caption. `logprob_drop`: nats, of the whole word (the sum
    over its tokens); `logodds_drop`: the same of log(p / (1 - p)), which shows a gain, as a drop below zero, even
    where p is near 1. Each metric: 1 - similarity.
    """
    named = named_targets(evaluation_set, before)
    was, now = [before.target[i] for i in named], [after.target[i] for i in named]
    scores: Scores = {
        "mention_drop": [float(not evaluation_set.concept.mentioned_in(text)) for text in now],
        "substitutions": [
            float(
                bool(
                    mentioned(evaluation_set.others, after.target[i])
                    - mentioned(evaluation_set.others, before.target[i])
                    - shown
                )
            )
            for i in named
            for shown in [evaluation_set.target[i].objects]
        ],
    }
    if before.logprobs is not None and after.logprobs is not None:
        scores["logprob_drop"] = [before.logprobs[i] - after.logprobs[i] for i in named]
        scores["logodds_drop"] = [log_odds(before.logprobs[i]) - log_odds(after.logprobs[i]) for i in named]
    alike = similarity(now, was)
    return {**scores, **{metric: [1 - value for value in values] for metric, values in alike.items()}}


def retention_scores(evaluation_set: EvaluationSet, before: Outputs, after: Outputs, similarity: Similarity) -> Scores:
    """Return what stayed: numbers in [0, 1], 1 where nothing was lost.

    `objects` (with `near_objects` and `far_objects`): the share of a retention sample's objects that the
    unedited caption rightly named and the edited one still names. `others`: the same on target samples for the
    objects besides the concept. `text`: of the text-only questions that were answered right before, 1 if the answer
    is right still; `text_about`: for answers that name the concept, which are no part of retention. Each metric:
    similarity of the edited caption to the unedited one.
    """
    about, unrelated = _answers_kept(evaluation_set, before, after)
    near, far = (
        list(_objects_kept(evaluation_set.others, samples, was, now))
        for samples, was, now in (
            (evaluation_set.near, before.near, after.near),
            (evaluation_set.far, before.far, after.far),
        )
    )
    alike = similarity(after.retention, before.retention)
    return {
        "objects": near + far,
        "others": list(_objects_kept(evaluation_set.others, evaluation_set.target, before.target, after.target)),
        "text": unrelated,
        "text_about": about,
        **alike,
        "near_objects": near,
        "far_objects": far,
        "near_rougeL": alike["rougeL"][: len(evaluation_set.near)],
        "far_rougeL": alike["rougeL"][len(evaluation_set.near) :],
    }


def paired_scores(evaluation_set: EvaluationSet, before: Outputs, after: Outputs) -> Scores:
    """Return what methods are compared by, sample by sample.

    `mention_drop` as in `suppression_scores`; `kept`: the share of its other objects, rightly named before, that are
    named still, of every sample that has such.
    """
    kept = [
        share
        for group in ("target", "near", "far")
        for share in _objects_kept(
            evaluation_set.others, *(getattr(one, group) for one in (evaluation_set, before, after))
        )
    ]
    named = named_targets(evaluation_set, before)
    return {
        "mention_drop": [float(not evaluation_set.concept.mentioned_in(after.target[i])) for i in named],
        "kept": kept,
    }


def reference_scores(evaluation_set: EvaluationSet, outputs: Outputs) -> list[float]:
    """Return the ROUGE-L of each retention caption with the best of its sample's references, where it has any."""
    pairs = zip(outputs.retention, evaluation_set.retention, strict=True)
    return [rouge_l(text, sample.references) for text, sample in pairs if sample.references]


def named_targets(evaluation_set: EvaluationSet, before: Outputs) -> list[int]:
    """Return the indices of the target samples whose unedited caption names the concept."""
    return [i for i, text in enumerate(before.target) if evaluation_set.concept.mentioned_in(text)]


def pooled(runs: Sequence[Scores]) -> Scores:
    """Return the mean over `runs` of each sample's number; the figures must be those of the same samples."""
    return {
        name: [sum(values) / len(runs) for values in zip(*(run[name] for run in runs), strict=True)]
        for name in runs[0]
        if all(name in run for run in runs)
    }


def _objects_kept(
    others: Sequence[Concept], samples: Sequence[AnySample], before: Sequence[str], after: Sequence[str]
) -> Iterator[float]:
    for sample, was, now in zip(samples, before, after, strict=True):
        known = mentioned(others, was) & sample.objects
        if known:
            yield len(known & mentioned(others, now)) / len(known)


def _answers_kept(evaluation_set: EvaluationSet, before: Outputs, after: Outputs) -> tuple[list[float], list[float]]:
    """Return 1 for each answer that is right still, of those that were: those that name the concept, and the others."""
    about: list[float] = []
    unrelated: list[float] = []
    for question, was, now in zip(evaluation_set.questions, before.answers, after.answers, strict=True):
        if not right(question, was):
            continue
        names_it = evaluation_set.concept.mentioned_in(question.answer) or evaluation_set.concept.mentioned_in(was)
        (about if names_it else unrelated).append(float(right(question, now)))
    return about, unrelated


def text_counts(evaluation_set: EvaluationSet, before: Outputs) -> dict[str, int]:
    """Return how many text-only questions there are: answered right before the edit, wrong, or nobody knows."""
    known = [one for one in zip(evaluation_set.questions, before.answers, strict=True) if is_known(one[0])]
    n_right = sum(right(question, was) for question, was in known)
    unknown = len(evaluation_set.questions) - len(known)
    return {"right_before": n_right, "wrong_before": len(known) - n_right, "no_right_answer_known": unknown}
