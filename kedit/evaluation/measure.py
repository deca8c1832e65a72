"""From what the model said before and after an edit to a report with intervals and a control."""

from collections.abc import Mapping, Sequence

from kedit.evaluation.answers import is_known
from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.evaluation.fluency import Fluency, Guard
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.report import JUDGED_BY, Control, EditReport, Figures
from kedit.evaluation.scores import Scores, pooled, reference_scores, retention_scores, suppression_scores
from kedit.evaluation.statistics import (
    Measured,
    bootstrap_mean,
    harmonic_mean,
    paired_difference,
    permutation_pvalue,
    share_difference,
)
from kedit.evaluation.verdict import Aim, Comparison

__all__ = ["EditReport", "EvaluationSet", "Outputs", "measure"]

METRICS = ("bleu", "bleu1", "bleu2", "bleu3", "bleu4", "rougeL", "bertscore")
SUPPRESSION = ("mention_drop", *METRICS, "substitutions", "logprob_drop", "logodds_drop")
RETENTION = ("objects", *METRICS, "text", "others", "text_about")
BY_DISTANCE = ("near_objects", "far_objects", "near_rougeL", "far_rougeL")

WEAKEST_OF = ("objects", "bleu", "rougeL", "bertscore", "text", "others")
"""The retention measures whose smallest is `overall`."""
WEAKEST_OF_TEXTS = ("near_objects", "far_objects")
"""The same where nothing but texts is asked: how a text goes on behind its answer is no knowledge to be kept."""

SIGNIFICANT = 0.05

NO_ENCODER = "no text encoder was given"
NO_RETENTION = "the evaluation set has no sample without the concept"
NO_QUESTIONS = "no text-only question was asked"
UNKNOWN = "the right answer to no text-only question is known"
NO_CONTROL = "no random control was run"
NO_LOGPROBS = "no log-probabilities were recorded, as under an edit of written tokens alone"
STRENGTHENS = "it is of suppression, and the edit is to strengthen the concept"
IN_NATS = ("logprob_drop", "logodds_drop")
_WHY_SUPPRESSION = {"bertscore": NO_ENCODER, "logprob_drop": NO_LOGPROBS, "logodds_drop": NO_LOGPROBS}
_WHY_RETENTION = {
    "objects": "no unedited caption of a sample without the concept rightly names an object",
    "others": "no unedited caption of a target sample rightly names another object",
    "text": "no text-only question that is not about the concept was answered right before the edit",
    "text_about": "no text-only question about the concept was answered right before the edit",
    "near_objects": "no unedited caption of a near sample rightly names an object",
    "far_objects": "no unedited caption of a far sample rightly names an object",
    "near_rougeL": "the evaluation set has no near sample",
    "far_rougeL": "the evaluation set has no far sample",
}


def measure(
    evaluation_set: EvaluationSet,
    before: Outputs,
    after: Outputs,
    controls: Sequence[Outputs],
    similarity: Similarity,
    *,
    guard: Guard | None = None,
    neurons: int | None = None,
    aim: Aim = "less",
    seed: int = 0,
) -> EditReport:
    """Return what the edit did to the model's texts.

    Args:
        evaluation_set: the held-out samples and questions.
        before: what the unedited model said.
        after: what the edited model said.
        controls: what it said under the same operator on layer-matched random neurons, one for each seed.
        similarity: compares edited texts with unedited ones.
        guard: what still counts as fluent.
        neurons: how many neurons the edit acts on, for the verdict.
        aim: what the edit is for, which the verdict follows.
        seed: of the bootstrap and of the permutation test.
    """
    for name, outputs in [("before", before), ("after", after), *_numbered(controls)]:
        outputs.check_fits(evaluation_set, name)
    suppressed = suppression_scores(evaluation_set, before, after, similarity)
    suppression = _suppression(suppressed, seed)
    kept = _retention(evaluation_set, retention_scores(evaluation_set, before, after, similarity), seed)
    retention = {**kept, **_references(evaluation_set, before, after, seed)}
    weakest, retention["overall"] = overall(evaluation_set, retention)
    fluency = (guard or Guard())(before, after)
    return EditReport(
        concept=evaluation_set.concept.name,
        suppression=suppression,
        retention=retention,
        weakest=weakest,
        selectivity=selectivity(suppression["mention_drop"], retention["overall"], fluency)
        if aim == "less"
        else Measured.missing(STRENGTHENS),
        fluency=fluency,
        control=_control(evaluation_set, before, controls, similarity, suppressed, aim, seed),
        encoder=similarity.encoder.name if similarity.encoder else None,
        neurons=neurons,
        aim=aim,
    )


def overall(evaluation_set: EvaluationSet, retention: Figures) -> tuple[str | None, Measured]:
    """Return the name and the figure of the weakest retention measure: a chain is as strong as its weakest link.

    Of measures with equal values, the one that is least sure (the smallest lower end) counts as the weakest.
    """
    names = WEAKEST_OF if evaluation_set.has_pictures else WEAKEST_OF_TEXTS
    measured = {name: retention[name] for name in names if retention[name].value is not None}
    if not measured:
        return None, Measured.missing("no retention measure could be taken")
    weakest = min(measured, key=lambda name: (measured[name].value or 0.0, measured[name].low or 0.0))
    return weakest, measured[weakest]


def selectivity(mention_drop: Measured, retained: Measured, fluency: Fluency) -> Measured:
    """Return the harmonic mean of suppression and retention; not measured if the fluency guard failed.

    The interval joins the ends of both intervals, which is conservative because the mean rises with each.
    """
    if not fluency.passed:
        return Measured.missing(f"the fluency guard failed: {fluency.why}")
    for name, figure in (("mention_drop", mention_drop), ("retention", retained)):
        if figure.value is None:
            return Measured.missing(f"{name} could not be measured: {figure.why}")
    low, value, high = (
        None if a is None or b is None else harmonic_mean(a, b)
        for a, b in (
            (mention_drop.low, retained.low),
            (mention_drop.value, retained.value),
            (mention_drop.high, retained.high),
        )
    )
    return Measured(value, low, high, min(mention_drop.n, retained.n))


def compare(
    edited: Sequence[float],
    by_seed: Sequence[Sequence[float]],
    *,
    shares: bool = True,
    nothing: str = "no target caption named the concept before the edit",
    seed: int = 0,
) -> Comparison:
    """Return whether what the edit did beats the random controls, `[seed][sample]`, on the same samples.

    To beat them, the paired difference from the controls' mean must have an interval above 0 and a
    sign-flip p of at most 0.05, and no single control may reach the edit: a random set that happens to
    do as much is a counterexample whatever the mean says.

    Each guards against what the others miss: an edit's outcomes are 0 or 1 and the controls' mean is not, so
    their difference is skewed, and the sign-flip test alone calls up to a tenth of null edits significant. Without
    `shares`, the values may be any numbers; `nothing` is why there may be no sample.
    """
    if not by_seed or not edited:
        why = NO_CONTROL if not by_seed else nothing
        return Comparison(False, Measured.missing(why), None)
    control = [sum(values) / len(values) for values in zip(*by_seed, strict=True)]
    difference = share_difference(edited, control) if shares else paired_difference(edited, control, seed=seed)
    p = permutation_pvalue(edited, control, seed=seed)
    above_each = all(sum(edited) > sum(values) for values in by_seed)
    return Comparison((difference.low or 0.0) > 0 and p <= SIGNIFICANT and above_each, difference, p)


def _control(
    evaluation_set: EvaluationSet,
    before: Outputs,
    controls: Sequence[Outputs],
    similarity: Similarity,
    edited: Scores,
    aim: Aim,
    seed: int,
) -> Control:
    suppressed = [suppression_scores(evaluation_set, before, control, similarity) for control in controls]
    drops = [run["mention_drop"] for run in suppressed]
    own, *others = (_aimed_at(run, aim) for run in (edited, *suppressed))
    comparison = compare(own, others, shares=aim == "less", seed=seed)
    if not controls:
        missing = Measured.missing(NO_CONTROL)
        nothing = dict.fromkeys((*RETENTION, *BY_DISTANCE, "overall"), missing)
        return Control(0, dict.fromkeys(SUPPRESSION, missing), nothing, (), comparison)
    retained = pooled([retention_scores(evaluation_set, before, control, similarity) for control in controls])
    retention = _retention(evaluation_set, retained, seed)
    retention["overall"] = overall(evaluation_set, retention)[1]
    means = tuple(sum(drop) / len(drop) for drop in drops if drop)
    return Control(len(controls), _suppression(pooled(suppressed), seed), retention, means, comparison)


def _aimed_at(scores: Scores, aim: Aim) -> list[float]:
    """Return what an edit is judged by, more being better; nothing where it was not recorded."""
    drops = scores.get(JUDGED_BY[aim], [])
    return drops if aim == "less" else [-drop for drop in drops]


def _suppression(scores: Scores, seed: int) -> dict[str, Measured]:
    nothing = "no target caption named the concept before the edit" if not scores["mention_drop"] else ""
    whys = {name: nothing or _WHY_SUPPRESSION.get(name, "") for name in SUPPRESSION}
    return _summary(scores, SUPPRESSION, whys, seed)


def _retention(evaluation_set: EvaluationSet, scores: Scores, seed: int) -> dict[str, Measured]:
    metric = NO_RETENTION if not evaluation_set.retention else NO_ENCODER
    whys = {name: _WHY_RETENTION.get(name, metric) for name in RETENTION + BY_DISTANCE}
    if not any(map(is_known, evaluation_set.questions)):
        whys |= dict.fromkeys(("text", "text_about"), UNKNOWN if evaluation_set.questions else NO_QUESTIONS)
    return _summary(scores, RETENTION + BY_DISTANCE, whys, seed)


def _references(evaluation_set: EvaluationSet, before: Outputs, after: Outputs, seed: int) -> dict[str, Measured]:
    scores = {
        "references_before": reference_scores(evaluation_set, before),
        "references_after": reference_scores(evaluation_set, after),
    }
    whys = dict.fromkeys(scores, "no sample without the concept has reference captions")
    return _summary(scores, tuple(scores), whys, seed)


def _summary(scores: Scores, names: Sequence[str], whys: Mapping[str, str], seed: int) -> dict[str, Measured]:
    return {
        name: bootstrap_mean(scores[name], shares=name not in IN_NATS, seed=seed)
        if scores.get(name)
        else Measured.missing(whys[name])
        for name in names
    }


def _numbered(controls: Sequence[Outputs]) -> list[tuple[str, Outputs]]:
    return [(f"control {number}", control) for number, control in enumerate(controls)]
