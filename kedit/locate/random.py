"""What chance finds: uniform scores, and random neurons in the layers that another method chose."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from kedit.internals.sites import Site
from kedit.locate.locator import Locator
from kedit.locate.reduction import OverSamples
from kedit.locate.scorer import Case, DrawnCase, Probed
from kedit.locate.scoring import stacked_batch
from kedit.locate.target import Target
from kedit.locate.two_stage import two_stage
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet, Scope, SiteName
from kedit.samples import Pair, Progress, silent


@dataclass(frozen=True)
class Uniform:
    """A random number between 0 and 1 for each neuron, the same for every sample; it runs no model."""

    seed: int = 0
    """Equal seeds give equal scores."""
    any_scope: ClassVar[bool] = True
    """It scores the neurons of every part of a model."""

    @property
    def over_samples(self) -> OverSamples:
        """Samples agree, so it does not matter."""
        return "mean"

    def probe(self, model: MLLM, site: Site, cases: Sequence[Case | DrawnCase], target: Target) -> Iterator[Probed]:
        """Yield the same scores for each sample: `[1, layer, neuron]`."""
        generator = torch.Generator().manual_seed(self.seed)
        scores = stacked_batch([torch.rand(1, site.widths[layer], generator=generator) for layer in site.blocks])
        return (Probed(scores, forwards=0, backwards=0) for _ in cases)


@dataclass(frozen=True)
class LayerMatched:
    """Random neurons, as many in each layer as another locator finds there, and none of those.

    The control that tells "these neurons" from "this many neurons in these layers".
    """

    locator: Locator = field(default_factory=two_stage)
    seed: int = 0
    """Equal seeds give equal neurons."""
    site: SiteName = "mid"
    scope: Scope = "language"

    def __post_init__(self) -> None:
        if self.site != self.locator.site:
            raise ValueError(f"`site` is `{self.site}` and that of the locator inside `{self.locator.site}`")
        if self.scope != self.locator.scope:
            raise ValueError(f"`scope` is `{self.scope}` and that of the locator inside `{self.locator.scope}`")

    def score(
        self,
        model: MLLM,
        pairs: Sequence[Pair],
        *,
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
    ) -> dict[str, NeuronScores]:
        """Return the scores of the locator inside."""
        return self.locator.score(model, pairs, captions=captions, progress=progress)

    def limited(self, k: int) -> "LayerMatched":
        """Return the same, matched to the `k` best of the locator inside."""
        return replace(self, locator=self.locator.limited(k))

    def select(self, scores: Mapping[str, NeuronScores]) -> NeuronSet:
        """Return the random neurons; a ValueError says which layer has too few others."""
        return list(self.select_each(scores).values())[-1]

    def select_each(self, scores: Mapping[str, NeuronScores]) -> dict[str, NeuronSet]:
        """Return what the locator inside keeps after each stage, with random neurons in place of the last."""
        each = self.locator.select_each(scores)
        name, found = list(each.items())[-1]
        return each | {name: found.layer_matched(_widths(scores[name]), self.seed)}


def _widths(scores: NeuronScores) -> dict[int, int]:
    """Return the number of neurons of each layer; where nobody noted it, the scores of narrower layers end in NaN."""
    if noted := scores.provenance.get("widths"):
        return {int(layer): width for layer, width in json.loads(noted).items()}
    known = ~scores.values.isnan()
    numbers = torch.arange(1, scores.values.shape[1] + 1)
    return {layer: int((row * numbers).max()) for layer, row in enumerate(known)}
