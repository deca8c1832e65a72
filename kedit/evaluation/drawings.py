"""What an edit did to what a model draws, and to what it says of true pictures: shares with intervals and a control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kedit.evaluation.fluency import Fluency
from kedit.evaluation.measure import compare, selectivity
from kedit.evaluation.report import Figures, as_json
from kedit.evaluation.scores import Scores, pooled
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.evaluation.verdict import Comparison, Judged, Verdict, judge
from kedit.samples import Concept, mentioned
from kedit.words import counted

SUPPRESSION = ("drawing_drop", "caption_drop")
RETENTION = ("drawn_others", "drawn_objects", "valid", "caption_others")
WHY = {
    "drawing_drop": "no unedited drawing shows the concept it was asked for",
    "caption_drop": "no unedited caption names the concept",
    "drawn_others": "no unedited drawing of the concept shows another thing it was asked for",
    "drawn_objects": "no unedited drawing without the concept shows a thing it was asked for",
    "valid": "nothing tells whether a drawing is whole",
    "unasked": "every unedited drawing without the concept in its prompt shows it, or there is none",
    "caption_others": "no unedited caption rightly names another object",
}
BROKEN = 0.75
"""The share of the whole drawings that has to stay whole; with fewer, a concept that is gone proves nothing."""


@dataclass(frozen=True)
class Asked:
    """What drawings were asked for, and pictures that captions are about."""

    concept: Concept
    things: tuple[frozenset[str], ...]
    """The names of the concepts in each prompt: first those with the concept, then those without."""
    n_target: int
    """How many prompts name the concept."""
    objects: tuple[frozenset[str], ...] = ()
    """The names of the concepts in each captioned picture, which shows the concept."""
    vocabulary: tuple[Concept, ...] = ()
    """What captions may name."""


@dataclass(frozen=True)
class Outcome:
    """What a model drew and said, unedited or under one edit, as a judge saw it."""

    seen: tuple[frozenset[str], ...]
    """The names of the concepts in each drawing, among those asked for and the concept."""
    valid: tuple[bool | None, ...]
    """Whether each drawing is whole; None where nothing tells."""
    error: tuple[float, ...] | None
    """How far each drawing is from what the VQ tokenizer makes of it, mean over channels in [0, 1].

    None where the model has no VQ tokenizer.
    """
    captions: tuple[str, ...] = ()


def drawing_scores(asked: Asked, before: Outcome, after: Outcome) -> Scores:
    """Return one number for each sample that counts, which the asked and the unedited model alone settle.

    `drawing_drop`: of the drawings that showed the concept, 1 if it is gone. `drawn_others`: the share of their other
    things that are drawn still. `drawn_objects`: the same of drawings without the concept. `valid`: of those that
    were whole, 1 if they still are. `unasked`: of those that did not show the concept, 1 if they do now.
    `caption_drop` and `caption_others`: as mention_drop and others of captions.
    """
    name, n = asked.concept.name, asked.n_target
    kept = [_kept(wanted - {name}, *both) for wanted, *both in zip(asked.things, before.seen, after.seen, strict=True)]
    scores: Scores = {
        "drawing_drop": [float(name not in now) for was, now in _pairs(before.seen, after.seen, n) if name in was],
        "drawn_others": [one for one in kept[:n] if one is not None],
        "drawn_objects": [one for one in kept[n:] if one is not None],
        "valid": [float(bool(now)) for was, now in zip(before.valid[n:], after.valid[n:], strict=True) if was],
    }
    scores["unasked"] = [
        float(name in now) for was, now in zip(before.seen[n:], after.seen[n:], strict=True) if name not in was
    ]
    said = list(zip(asked.objects, before.captions, after.captions, strict=True))
    others = [one for one in asked.vocabulary if one.name != name]
    scores["caption_drop"] = [
        float(not asked.concept.mentioned_in(now)) for _, was, now in said if asked.concept.mentioned_in(was)
    ]
    words = [_kept(shown - {name}, mentioned(others, was), mentioned(others, now)) for shown, was, now in said]
    scores["caption_others"] = [one for one in words if one is not None]
    return scores


def _pairs(
    before: Sequence[frozenset[str]], after: Sequence[frozenset[str]], n: int
) -> list[tuple[frozenset[str], frozenset[str]]]:
    return list(zip(before[:n], after[:n], strict=True))


def _kept(wanted: frozenset[str], before: frozenset[str], after: frozenset[str]) -> float | None:
    """Return which share of what was wanted and there before is there after; None where nothing was."""
    known = wanted & before
    return len(known & after) / len(known) if known else None


@dataclass(frozen=True)
class Effect:
    """What one edit did."""

    suppression: Figures
    retention: Figures
    reconstruction: Measured
    """How far a drawing is from what the VQ tokenizer makes of it, less the same before the edit."""
    unasked: Measured
    """Of the drawings that neither asked for the concept nor showed it, the share that shows it now."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "suppression": as_json(self.suppression),
            "retention": as_json(self.retention),
            "reconstruction": self.reconstruction.to_json(),
            "unasked": self.unasked.to_json(),
        }

    @property
    def overall(self) -> Measured:
        """The weakest of the retention figures."""
        known = [one for one in self.retention.values() if one.value is not None]
        return min(known, key=lambda one: (one.value or 0.0, one.low or 0.0)) if known else Measured.missing(
            "no retention measure could be taken"
        )  # fmt: skip


@dataclass(frozen=True, repr=False)
class DrawingReport(Judged):
    """What the edit of the I-neurons did beside that of the T-neurons and of random ones."""

    concept: str
    before: Measured
    """Of the drawings that were asked for the concept, the share that show it unedited."""
    arms: Mapping[str, Effect]
    """By what was edited; the first is what the verdict is about."""
    control: Effect | None
    """The same operator on layer-matched random neurons: each sample's mean over the seeds."""
    seeds: int
    comparison: Comparison
    """Of the first arm's `drawing_drop` with the control's."""
    neurons: int

    @property
    def main(self) -> Effect:
        """What the edit of the first arm did."""
        return next(iter(self.arms.values()))

    @property
    def selectivity(self) -> Measured:
        """The harmonic mean of the first arm's `drawing_drop` and its weakest retention."""
        return selectivity(self.main.suppression["drawing_drop"], self.main.overall, self._whole)

    @property
    def _whole(self) -> Fluency:
        """Whether the drawings are whole, told as the guard of captions is."""
        share = self.main.retention["valid"]
        broken = share.value is not None and share.value < BROKEN
        return Fluency({}, not broken, f"only {share} of the whole drawings stay whole" if broken else None)

    @property
    def judgement(self) -> Verdict:
        """Whether the edit does what it is for, and how one knows."""
        drop, caption = (self.main.suppression[name] for name in SUPPRESSION)
        beside = self.control.suppression["drawing_drop"] if self.control else Measured.missing("no control was run")
        p = "" if self.comparison.p is None else f", p = {self.comparison.p:.2g}"
        figures = (
            f"{drop} of {drop.n} drawings lose it, {beside} with random neurons ({counted(self.seeds, 'seed')}{p})"
        )
        kept = f"; retention {self.main.overall} at its weakest; captions of it lose the word in {caption}"
        nothing = WHY["drawing_drop"] if drop.value is None else None
        if nothing is None and not self._whole.passed:
            nothing = f"the drawings are broken, {self._whole.why}"
        return judge(
            f"The edit takes `{self.concept}` out of drawings",
            f"No evidence that the edit takes `{self.concept}` out of drawings",
            nothing=nothing,
            neurons=self.neurons,
            fluency=Fluency(),
            seeds=self.seeds,
            comparison=self.comparison,
            change=f"a drawing_drop of {drop}",
            beside=figures + kept,
        )

    def __str__(self) -> str:
        return self.verdict

    def to_json(self) -> dict[str, Any]:
        """Return the part of report.json that evaluation knows."""
        return {
            "drawings": {name: one.to_json() for name, one in self.arms.items()},
            "drawn_before": self.before.to_json(),
            "selectivity": self.selectivity.to_json(),
            "control": {
                "seeds": self.seeds,
                "drawings": self.control.to_json() if self.control else None,
                "beats_control": {
                    "drawing_drop": self.has_evidence,
                    "difference": self.comparison.difference.to_json(),
                    "p": self.comparison.p,
                },
            },
            "evidence": self.has_evidence,
            "verdict": self.verdict,
        }


def judge_drawings(
    asked: Asked,
    before: Outcome,
    arms: Mapping[str, Outcome],
    controls: Sequence[Outcome],
    *,
    neurons: int,
    seed: int = 0,
) -> DrawingReport:
    """Return what edits did to what a model draws, and to what it says of true pictures.

    Args:
        asked: What was to be drawn and described.
        before: What the unedited model did.
        arms: What it did under each edit; the first is judged against the controls.
        controls: What it did with random neurons edited instead, for each seed.
        neurons: How many neurons the first edit acts on.
        seed: Of the bootstrap and of the permutation test.

    Raises:
        ValueError: Outcomes are not of what was asked.
    """
    numbered = {f"control {number}": one for number, one in enumerate(controls)}
    for name, one in {"before": before, **arms, **numbered}.items():
        if not len(one.seen) == len(one.valid) == len(asked.things) or len(one.captions) != len(asked.objects):
            raise ValueError(
                f"`{name}` has {len(one.seen)} drawings and {len(one.captions)} captions; {len(asked.things)} and "
                f"{len(asked.objects)} were asked for"
            )
    if not arms:
        raise ValueError("there is no edit to judge")
    every = {name: drawing_scores(asked, before, one) for name, one in arms.items()}
    random = [drawing_scores(asked, before, one) for one in controls]
    first = next(iter(every.values()))["drawing_drop"]
    showed = [float(asked.concept.name in one) for one in before.seen[: asked.n_target]]
    control = None
    if controls:
        control = _effect(pooled(random), before.error, _mean_error(controls), seed)
    return DrawingReport(
        asked.concept.name,
        bootstrap_mean(showed, seed=seed),
        {name: _effect(scores, before.error, arms[name].error, seed) for name, scores in every.items()},
        control,
        len(controls),
        compare(first, [one["drawing_drop"] for one in random], nothing=WHY["drawing_drop"], seed=seed),
        neurons,
    )


def _mean_error(outcomes: Sequence[Outcome]) -> list[float] | None:
    """Return each drawing's mean over some outcomes; None where nothing is known."""
    errors = [one.error for one in outcomes if one.error is not None]
    return [sum(some) / len(some) for some in zip(*errors, strict=True)] if errors else None


def _effect(scores: Scores, was: Sequence[float] | None, now: Sequence[float] | None, seed: int) -> Effect:
    figures = {
        name: bootstrap_mean(scores[name], seed=seed) if scores[name] else Measured.missing(WHY[name])
        for name in (*SUPPRESSION, *RETENTION, "unasked")
    }
    worse = [b - a for a, b in zip(was or (), now or (), strict=True)]
    return Effect(
        {name: figures[name] for name in SUPPRESSION},
        {name: figures[name] for name in RETENTION},
        bootstrap_mean(worse, shares=False, seed=seed)
        if worse
        else Measured.missing("the model draws without a VQ tokenizer"),
        figures["unasked"],
    )
