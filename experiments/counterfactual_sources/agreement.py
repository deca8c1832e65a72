"""What one model makes of one source's pictures: is the concept gone, which neurons, and what editing them does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from experiments.counterfactual_sources.painting import Painted
from kedit.inspection.overlap import rank_correlation
from kedit.locate.locator import Locator
from kedit.locate.selection import TopK
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet
from kedit.pipelines.comparison.effects import Effect, Trial
from kedit.pipelines.raw_outputs import captions_of, rows
from kedit.results.cache import NO_CACHE, Cache, of_pairs
from kedit.samples import Counterfactual, Progress, silent

AGREEMENT = ("neurons", "first_stage", "ranks")


@dataclass(frozen=True, eq=False)
class Found:
    """One source's outcome for one concept."""

    source: str
    removed: Sequence[bool]
    """For each picture whose original the caption names the concept in: whether that of the painted one does not."""
    left: frozenset[str] = frozenset()
    """The samples whose painted picture's caption still names the concept."""
    n_pairs: int = 0
    """How many pairs locating used."""
    scores: Mapping[str, NeuronScores] | None = None
    stages: Mapping[str, NeuronSet] | None = None
    effect: Effect | None = None
    why: str = ""
    """Why there are no neurons."""

    @property
    def neurons(self) -> NeuronSet | None:
        """What passed the last stage."""
        return list(self.stages.values())[-1] if self.stages else None


@dataclass(frozen=True, eq=False)
class Examiner:
    """Locates and edits with the pictures of each source."""

    model: MLLM
    locator: Locator
    cache: Cache = NO_CACHE
    progress: Progress = silent

    def found(self, painted: Painted, trial: Trial) -> Found:
        """Return what follows from one source's pictures; `trial` edits the neurons on held-out pictures."""
        before, after = self._captions(painted.pairs)
        named = [pair.concept.mentioned_in(one.text) for pair, one in zip(painted.pairs, before, strict=True)]
        still = [pair.concept.mentioned_in(one.text) for pair, one in zip(painted.pairs, after, strict=True)]
        told = list(zip(painted.pairs, before, named, still, strict=True))
        removed = [not names for _, _, there, names in told if there]
        left = frozenset(pair.sample.id for pair, _, _, names in told if names)
        used = [(pair, old) for pair, old, there, names in told if there and not names]
        if not used:
            return Found(painted.source, removed, left, why="no pair has the concept named in the original alone")
        scores = self._scores([pair for pair, _ in used], [old for _, old in used])
        found = Found(painted.source, removed, left, len(used), scores, self.locator.select_each(scores))
        assert found.neurons is not None
        return replace(found, effect=trial.effect([found.neurons]))

    def _captions(self, pairs: Sequence[Counterfactual]) -> tuple[list[Generated], list[Generated]]:
        """Return the captions of the originals and of the painted pictures."""

        def ask() -> list[Any]:
            sides = ([pair.sample.image for pair in pairs], [pair.image for pair in pairs])
            return [rows(self.model.caption(images, progress=self.progress)) for images in sides]

        content = self.cache.json("generations", "captions of both sides", lambda: {"pairs": of_pairs(pairs)}, ask)
        before, after = map(captions_of, content)
        return before, after

    def _scores(self, pairs: Sequence[Counterfactual], captions: Sequence[Generated]) -> dict[str, NeuronScores]:
        return self.cache.scores(
            self.locator,
            lambda: {"pairs": of_pairs(pairs), "captions": rows(captions)},
            lambda: self.locator.score(self.model, pairs, captions=captions, progress=self.progress),
        )


def agreement(reference: Found, other: Found, top: int) -> dict[str, float] | None:
    """Return how alike the neurons of two sources are, from 0 (ranks: -1) to 1; None where one found none.

    `neurons`: Jaccard overlap of what passed the last stage. `first_stage`: that of the `top` neurons of the first
    stage. `ranks`: Spearman's correlation of the last stage's scores over the reference's candidates, the neurons that
    passed the stage before it (all neurons if there is none).
    """
    if not (reference.scores and reference.stages and other.scores and other.stages):
        return None
    names = list(reference.stages)
    own, theirs = reference.scores, other.scores
    last = [own[names[-1]], theirs[names[-1]]]
    if len(names) > 1:
        last = [_among(one, reference.stages[names[-2]]) for one in last]
    return {
        "neurons": reference.stages[names[-1]].jaccard(other.stages[names[-1]]),
        "first_stage": TopK(top)(own[names[0]]).jaccard(TopK(top)(theirs[names[0]])),
        "ranks": rank_correlation(*last),
    }


def _among(scores: NeuronScores, candidates: NeuronSet) -> NeuronScores:
    """Return the scores of `candidates` alone; the others are NaN."""
    kept = torch.full_like(scores.values, torch.nan)
    for layer, index in candidates:
        kept[layer, index] = scores.values[layer, index]
    return replace(scores, values=kept)
