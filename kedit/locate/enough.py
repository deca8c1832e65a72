"""As few neurons as take the word: the number that needs no tuning, from the pictures that were located with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kedit.internals.hooks import Some, intervene
from kedit.internals.sites import Site
from kedit.locate.locator import Locator
from kedit.locate.scorer import Case
from kedit.locate.selection import check_count
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.samples import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Enough:
    """The fewest of the last stage's best neurons whose zeroing takes the word from `share` of the pictures.

    The word is taken from a picture where the caption that the edited model writes no longer names the concept, as on
    the held-out pictures. Sizes are tried on a path (1, 2, 3, 4, 6, 8, 12, ...: `sizes`), by halving, so that the model
    describes the pictures about five times; that supposes that more neurons never give the word back. It looks at
    suppression alone: whether the rest is retained, the held-out pictures say.
    """

    share: float = 0.95
    at_most: int = 512

    def __post_init__(self) -> None:
        if not isinstance(self.share, int | float) or not 0 < self.share <= 1:
            raise ValueError(f"`share` is a share of the pictures, above 0 and at most 1, got {self.share!r}")
        check_count("at_most", self.at_most)
        if not self.at_most:
            raise ValueError("`at_most` is a number of neurons, 1 or more, got 0")

    def choose(
        self,
        model: MLLM,
        locator: Locator,
        cases: Sequence[Case],
        scores: NeuronScores,
        among: NeuronSet | None,
        progress: Progress = silent,
    ) -> NeuronSet:
        """Return the neurons; where even `at_most` do not suffice, those, with a warning.

        Args:
            model: The model, unedited.
            locator: Where the scores come from.
            cases: The pictures that it read.
            scores: Of its last stage.
            among: What the earlier stages left; None for all neurons.
            progress: Shows the batches go by.

        Raises:
            ValueError: The unedited model names the concept in no picture, as where the word was forced.
        """
        ranked = scores.ranking(among)[: self.at_most]
        if not ranked:
            return scores.chosen(())
        path = sizes(len(ranked))
        site = model.site(locator.site, locator.scope)

        named = names_concept(model, site, cases, (), progress)
        cases = [case for case, names in zip(cases, named, strict=True) if names]
        if not cases:
            raise ValueError("the model names the concept in none of the pictures, so no number of neurons takes it")

        def taken(size: int) -> float:
            still = names_concept(model, site, cases, ranked[:size], progress)
            return 1 - sum(still) / len(still)

        low, high = 0, len(path) - 1
        if (reached := taken(path[high])) < self.share:
            logger.warning(
                "zeroing the best %d neurons takes the word from %.0f %% of the pictures, not from %.0f %%",
                path[high], 100 * reached, 100 * self.share,
            )  # fmt: skip
            return scores.chosen(ranked[: path[high]])
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if taken(path[middle]) >= self.share else (middle + 1, high)
        return scores.chosen(ranked[: path[high]])


def sizes(at_most: int) -> list[int]:
    """Return 1, 2, 3, 4, 6, 8, 12, 16, ... up to `at_most`, which is the last."""
    path, size = [], 1
    while size < at_most:
        path += [size, size * 3 // 2] if size > 1 else [size]
        size *= 2
    return sorted({one for one in path if one < at_most} | {at_most})


def names_concept(
    model: MLLM, site: Site, cases: Sequence[Case], neurons: Sequence[NeuronId], progress: Progress = silent
) -> list[bool]:
    """Return for each case whether the model's answer names the concept with `neurons` zeroed everywhere."""
    by_layer = NeuronSet(tuple(neurons)).by_layer()
    rewrites = {layer: Some(torch.tensor(indices), torch.zeros_like) for layer, indices in by_layer.items()}
    prompts = [case.pair.sample.asked(model.prompt) for case in cases]
    with intervene(model.module, site, rewrites, label="enough"):
        what = f"captions without {len(neurons)} neurons" if neurons else "captions"
        answers = model.ask(prompts, progress=progress, what=what)
    return [case.pair.concept.mentioned_in(answer.text) for case, answer in zip(cases, answers, strict=True)]
