"""A locator: named stages, each a scorer and a selector, the later ones choosing among the earlier ones' picks."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor

from kedit.locate.evidence import Case, OverSamples, Scorer, gather
from kedit.locate.selection import Selector
from kedit.locate.target import Target
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet, SiteName, stacked
from kedit.samples import Counterfactual, Progress, silent

logger = logging.getLogger(__name__)

VOTE_QUANTILE = 0.99
"""With `over_samples="vote"` a sample votes for the neurons above this quantile of its own scores."""


@dataclass(frozen=True)
class Stage:
    """One filter: how neurons are scored and which of them pass."""

    scorer: Scorer
    select: Selector


@dataclass(frozen=True)
class Locator:
    """Finds the neurons of a concept by one or several filters.

    Two-stage filtering (Sato and Takagi 2025) is `{difference, gradcam}`; a baseline is a locator of one stage.

    Example:
        locator = Locator({"difference": Stage(ActivationDifference(), Quantile(0.9)),
                           "gradcam": Stage(GradCAM(), RatioOfMax(0.1))})
        neurons = locator.select(locator.score(model, pairs))
    """

    stages: Mapping[str, Stage]
    site: SiteName = "mid"
    target: Target = field(default_factory=Target)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a locator needs at least one stage, got none")
        if self.site not in get_args(SiteName):
            raise ValueError(f"`site` is one of {', '.join(get_args(SiteName))}, got {self.site!r}")

    def score(
        self,
        model: MLLM,
        pairs: Sequence[Counterfactual],
        *,
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
    ) -> dict[str, NeuronScores]:
        """Score every neuron in every stage; slow, and independent of the selectors.

        Args:
            model: The model, unedited.
            pairs: Pictures with and without the concept.
            captions: The model's captions of the originals, if they are known already.
            progress: Shows the batches go by.

        Raises:
            ValueError: No pair is usable, since no caption names the concept.
        """
        began = time.perf_counter()
        site = model.site(self.site)
        cases = self.cases(model, pairs, captions, progress)
        scorers = {name: stage.scorer for name, stage in self.stages.items()}
        sums = {name: _Over(scorer.over_samples) for name, scorer in scorers.items()}
        n_batches = -(-len(cases) // model.batch_size)
        for layers in progress(gather(model, site, cases, self.target, scorers), n_batches, "locate"):
            for name, one in sums.items():
                one.add(stacked_batch(layers[name]))
        provenance = self._provenance(model, cases, len(pairs), time.perf_counter() - began)
        return {name: NeuronScores(sums[name].result(), repr(scorers[name]), self.site, provenance) for name in scorers}

    def select(self, scores: Mapping[str, NeuronScores]) -> NeuronSet:
        """Return the neurons that pass every stage; instant and pure."""
        return list(self.select_each(scores).values())[-1]

    def select_each(self, scores: Mapping[str, NeuronScores]) -> dict[str, NeuronSet]:
        """Return what is left after each stage. An empty result is a warning, not an error."""
        candidates: NeuronSet | None = None
        passed: dict[str, NeuronSet] = {}
        for name, stage in self.stages.items():
            if name not in scores:
                raise ValueError(f"no scores for stage `{name}`; there are {', '.join(scores) or 'none'}")
            if scores[name].n_invalid:
                logger.warning("stage `%s`: %d scores are not a number", name, scores[name].n_invalid)
            kept = stage.select(scores[name], candidates)
            if not kept and (candidates is None or candidates):
                ranked = scores[name].ranking(candidates)
                highest = f"{scores[name].of(ranked[:1]).item():.4g}" if ranked else "none"
                logger.warning(
                    "stage `%s` keeps no neuron with %r; its highest score is %s", name, stage.select, highest
                )
            candidates = passed[name] = kept
        return passed

    def cases(
        self,
        model: MLLM,
        pairs: Sequence[Counterfactual],
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
    ) -> list[Case]:
        """Return the usable pairs with their first mention; the others are skipped and logged."""
        if not pairs:
            raise ValueError("there is nothing to locate in: no counterfactual pairs")
        told = captions or model.caption([pair.sample.image for pair in pairs], progress=progress)
        if len(told) != len(pairs):
            raise ValueError(f"{len(pairs)} pairs need as many captions, got {len(told)}")
        force = self.target.on_missing == "force"
        found = [
            (pair, model.mention(caption, pair.concept, force=force)) for pair, caption in zip(pairs, told, strict=True)
        ]
        cases = [Case(pair, mention) for pair, mention in found if mention is not None]
        concept = pairs[0].concept.name
        if not cases:
            hint = "its tokenizer cannot spell the word" if force else "set `target.on_missing` to `force` to score it"
            raise ValueError(
                f"none of the model's {len(pairs)} captions names `{concept}` (the first: {told[0].text!r}); {hint}"
            )
        if len(cases) < len(pairs):
            logger.info("%d of %d captions do not name `%s`: skipped", len(pairs) - len(cases), len(pairs), concept)
        return cases

    def _provenance(self, model: MLLM, cases: Sequence[Case], n_pairs: int, seconds: float) -> dict[str, str]:
        needs = frozenset[str]().union(*(stage.scorer.needs for stage in self.stages.values()))
        return {
            "model": model.name,
            "concept": cases[0].pair.concept.name,
            "target": repr(self.target),
            "samples": ",".join(case.pair.sample.id for case in cases),
            "skipped": str(n_pairs - len(cases)),
            "forwards": str(len(cases) * (2 if "counterfactual" in needs else 1)),
            "backwards": str(len(cases) if "gradient" in needs else 0),
            "seconds": f"{seconds:.3f}",
        }


def stacked_batch(layers: Sequence[Tensor]) -> Tensor:
    """Return `[batch, layer, neuron]` from per-layer `[batch, neuron]`; narrower layers end in NaN."""
    return torch.stack([stacked([one[row] for one in layers]) for row in range(len(layers[0]))])


class _Over:
    """A running reduction over samples, in memory for layers x neurons."""

    def __init__(self, how: OverSamples) -> None:
        if how not in ("mean", "max", "vote"):
            raise ValueError(f"`over_samples` is one of mean, max, vote, got {how!r}")
        self.how, self.n = how, 0
        self.total: Tensor | None = None

    def add(self, scores: Tensor) -> None:
        """Take in a batch of scores: `[batch, layer, neuron]`."""
        if self.how == "vote":
            # Row by row: torch's quantile takes 16 million values at most, a batch of a 7B model is a third of it.
            bars = torch.stack([row.nanquantile(VOTE_QUANTILE) for row in scores])
            scores = (scores > bars[:, None, None]).double().masked_fill(scores.isnan(), torch.nan)
        one = scores.amax(0) if self.how == "max" else scores.double().sum(0)
        if self.total is not None:
            one = torch.maximum(self.total, one) if self.how == "max" else self.total + one
        self.total, self.n = one, self.n + len(scores)

    def result(self) -> Tensor:
        """Return the scores over all samples: `[layer, neuron]`."""
        assert self.total is not None
        return self.total if self.how == "max" else self.total / self.n
