"""A locator: named stages, each a scorer and a selector, the later ones choosing among the earlier ones' picks."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from kedit.locate.evidence import gather
from kedit.locate.reduction import RunningReduction
from kedit.locate.scorer import AcrossLayers, AcrossSamples, Case, Prober, Scorer
from kedit.locate.selection import Selector, TopK
from kedit.locate.target import Target
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet, SiteName
from kedit.samples import Counterfactual, Progress, silent
from kedit.sites import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One filter: how neurons are scored and which of them pass."""

    scorer: Scorer | Prober
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
        site = model.site(self.site)
        cases = self.cases(model, pairs, captions, progress)
        made = self._gathered(model, site, cases, progress) | self._probed(model, site, cases, progress)
        about = self._provenance(model, cases, len(pairs)) | _added(made.values())
        scores = {}
        for name, stage in self.stages.items():
            one = made[name]
            values = site.by_layer_number(_pooled(stage.scorer, one.sums.result()))
            ties = one.sums.ties()
            scores[name] = NeuronScores(
                values,
                repr(stage.scorer),
                self.site,
                about | {"invalid": str(one.n_invalid)} | one.noted(),
                None if ties is None else site.by_layer_number(ties),
            )
        return scores

    def limited(self, k: int) -> "Locator":
        """Return the same locator whose last stage keeps the `k` best of what the earlier stages let through."""
        *earlier, (name, last) = self.stages.items()
        return replace(self, stages=dict(earlier) | {name: Stage(last.scorer, TopK(k))})

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
            if n_invalid := int(scores[name].provenance.get("invalid", 0)):
                logger.warning("stage `%s`: %d scores are not a number", name, n_invalid)
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

    def _gathered(self, model: MLLM, site: Site, cases: Sequence[Case], progress: Progress) -> dict[str, "_Made"]:
        """Run the passes that the scorers share and return what each made of them."""
        scorers = {name: one.scorer for name, one in self.stages.items() if isinstance(one.scorer, Scorer)}
        if not scorers:
            return {}
        began = time.perf_counter()
        made = {name: _Made(RunningReduction(scorer.over_samples)) for name, scorer in scorers.items()}
        n_batches = -(-len(cases) // model.batch_size)
        for layers in progress(gather(model, site, cases, self.target, scorers), n_batches, "locate"):
            for name, scorer in scorers.items():
                made[name].n_invalid += sum(int(layer.isnan().sum()) for layer in layers[name])
                stacked = stacked_batch(layers[name])
                made[name].sums.add(scorer.across_layers(stacked) if isinstance(scorer, AcrossLayers) else stacked)
        needs = frozenset[str]().union(*(scorer.needs for scorer in scorers.values()))
        first = made[next(iter(made))]
        first.forwards = len(cases) * (1 + len(needs & {"counterfactual", "control"}))
        first.backwards = len(cases) * ("gradient" in needs)
        first.seconds = time.perf_counter() - began
        return made

    def _probed(self, model: MLLM, site: Site, cases: Sequence[Case], progress: Progress) -> dict[str, "_Made"]:
        """Let each prober run the model, equal ones once, and return what they found."""
        made: dict[str, _Made] = {}
        for name, stage in self.stages.items():
            prober = stage.scorer
            if not isinstance(prober, Prober):
                continue
            began, one = time.perf_counter(), _Made(RunningReduction(prober.over_samples))
            for probed in progress(prober.probe(model, site, cases, self.target), len(cases), name):
                one.sums.add(probed.scores)
                one.forwards += probed.forwards
                one.backwards += probed.backwards
                one.notes |= {key: max(value, one.notes.get(key, value)) for key, value in probed.notes.items()}
            one.seconds = time.perf_counter() - began
            made[name] = one
        return made

    def _provenance(self, model: MLLM, cases: Sequence[Case], n_pairs: int) -> dict[str, str]:
        return {
            "model": model.name,
            "concept": cases[0].pair.concept.name,
            "target": repr(self.target),
            "samples": ",".join(case.pair.sample.id for case in cases),
            "n_samples": str(len(cases)),
            "skipped": str(n_pairs - len(cases)),
        }


@dataclass
class _Made:
    """What one stage's scorer made of the samples, and what that took."""

    sums: RunningReduction
    n_invalid: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    notes: dict[str, float] = field(default_factory=dict)

    def noted(self) -> dict[str, str]:
        """Return what the prober noted, the largest over samples."""
        return {key: f"{value:.6g}" for key, value in self.notes.items()}


def _added(made: Iterable[_Made]) -> dict[str, str]:
    """Return what all stages took together; passes that stages share are counted once."""
    parts = list(made)
    return {
        "forwards": str(sum(one.forwards for one in parts)),
        "backwards": str(sum(one.backwards for one in parts)),
        "seconds": f"{sum(one.seconds for one in parts):.3f}",
    }


def _pooled(scorer: Scorer | Prober, means: Tensor) -> Tensor:
    return scorer.across_samples(means) if isinstance(scorer, AcrossSamples) else means


def stacked_batch(layers: Sequence[Tensor]) -> Tensor:
    """Return `[batch, ..., layer, neuron]` from per-layer `[batch, ..., neuron]`; narrower layers end in NaN."""
    widest = max(one.shape[-1] for one in layers)
    padded = [functional.pad(one, (0, widest - one.shape[-1]), value=torch.nan) for one in layers]
    return torch.stack(padded, dim=-2)
