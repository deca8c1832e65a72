"""Knowledge Neurons: the neurons through which a layer as a whole comes to predict the concept's word."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from kedit.internals.sites import Site
from kedit.locate.copies import copies_of
from kedit.locate.integrated import AlphaRule, IntegratedGradients
from kedit.locate.reduction import Evidence, OverSamples, Vote, check_reductions, that_count
from kedit.locate.scorer import Case, DrawnCase, Probed
from kedit.locate.scoring import stacked_batch
from kedit.locate.target import Target
from kedit.models.mllm import MLLM

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnowledgeNeurons:
    """Integrated gradients of the probability of the concept's word, for all neurons of a layer together.

    Dai et al. 2022, arXiv 2104.08696: 20 steps, the activations at the position that predicts the word; a sample
    votes for the neurons with at least 0.2 of its highest score, and `kedit.locate.sharing.Sharing` keeps those
    that most samples share. The official code takes the left ends of the steps (`alpha_rule="left"`), EleutherAI's
    both ends of the path ("linspace"); the default, their middles, is far more exact with as many steps. Pictures
    of the concept stand for the paraphrases of a fact. Where a norm follows the feed-forward block (Gemma 2), nearly
    all of the change lies next to zero, between any two steps: look at the completeness error.

    Neurons of another concept are taken away by set difference (EleutherAI's filter by negative prompts is meant
    to do this, and removes nothing). A sample costs layers x (steps + 1) + 1 forwards and layers x steps backwards.

    Example:
        locator = Locator({"knowledge_neurons": Stage(KnowledgeNeurons(), Sharing())})
        stars, houses = (locator.select(locator.score(model, pairs)) for pairs in (star_pairs, house_pairs))
        neurons = stars - houses
    """

    steps: int = 20
    alpha_rule: AlphaRule = "midpoint"
    positions: Evidence = "target"
    """The positions whose activations grow along the path, all together."""
    value: Literal["logit", "logprob", "prob"] = "prob"
    """What stands for the concept here, whatever the locator's target says."""
    over_samples: OverSamples = field(default_factory=lambda: Vote(of_max=0.2))
    at_once: int = 20
    """How many steps go through the model together; only memory and speed depend on it."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, "sum", self.over_samples)
        replace(Target(), value=self.value)
        self._integral()

    def probe(self, model: MLLM, site: Site, cases: Sequence[Case | DrawnCase], target: Target) -> Iterator[Probed]:
        """Yield the scores of one sample after the other, `[1, layer, neuron]`.

        The `notes` hold the largest completeness error of any layer, in units of `value`.
        """
        worst = 0.0
        for case in cases:
            probed = self._probed(model, site, case, replace(target, value=self.value))
            worst = max(worst, probed.notes["completeness_error"])
            yield probed
        logger.info("the %s of %d samples is attributed with an error of at most %.3g", self.value, len(cases), worst)

    @torch.inference_mode(False)
    def _probed(self, model: MLLM, site: Site, case: Case | DrawnCase, target: Target) -> Probed:
        copies = copies_of(model, case, target)
        moves = that_count(copies.token_types, self.positions)[0]
        with torch.no_grad():
            whole = copies.outputs(1).item()
        integral = self._integral()
        layers = [integral.attribute(model.module, site, layer, copies.outputs, moves, whole) for layer in site.blocks]
        return Probed(
            stacked_batch([one.scores[None] for one in layers]),
            forwards=1 + len(layers) * (self.steps + 1),
            backwards=len(layers) * self.steps,
            notes={"completeness_error": max(one.gap for one in layers)},
        )

    def _integral(self) -> IntegratedGradients:
        return IntegratedGradients(self.steps, self.alpha_rule, self.at_once)
