"""As few neurons as take the word: the number that needs no tuning, from the pictures that were located with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kedit.internals.hooks import Some, intervene
from kedit.internals.sites import Site
from kedit.locate.evidence import together
from kedit.locate.locator import Locator
from kedit.locate.scorer import Case
from kedit.locate.selection import check_count
from kedit.locate.target import Target
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.samples import Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Enough:
    """The fewest of the last stage's best neurons whose zeroing takes the word from `share` of the pictures.

    The word is taken where another token has the largest logit in its place, the caption before it forced. Sizes are
    tried on a path (1, 2, 3, 4, 6, 8, 12, ...: `sizes`), by halving, so that the model reads the pictures about five
    times; that supposes that more neurons never give the word back. It looks at suppression alone: whether the rest is
    retained, the held-out pictures say.
    """

    share: float = 0.9
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
            ValueError: The unedited model says the word in none of them, as where it was forced.
        """
        ranked = scores.ranking(among)[: self.at_most]
        path = [size for size in sizes(self.at_most) if size <= len(ranked)] or [len(ranked)]
        site = model.site(locator.site, locator.scope)

        said = says_word(model, site, cases, locator.target, (), progress)
        cases = [case for case, says in zip(cases, said, strict=True) if says]
        if not cases:
            raise ValueError("the model says the word in none of the pictures, so no number of neurons takes it")

        def taken(size: int) -> float:
            still = says_word(model, site, cases, locator.target, ranked[:size], progress)
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


@torch.no_grad()
def says_word(
    model: MLLM,
    site: Site,
    cases: Sequence[Case],
    target: Target,
    neurons: Sequence[NeuronId],
    progress: Progress = silent,
) -> list[bool]:
    """Return for each case whether the word's token has the largest logit with `neurons` zeroed everywhere."""
    by_layer = NeuronSet(tuple(neurons)).by_layer()
    rewrites = {layer: Some(torch.tensor(indices), torch.zeros_like) for layer, indices in by_layer.items()}
    batches = together(model, site, cases, target)
    says = [False] * len(cases)
    for places in progress(batches, len(batches), f"{len(neurons)} neurons"):
        some = [cases[place] for place in places]
        batch = model.read(
            [case.pair.sample.asked(model.prompt) for case in some], [target.prefix(case.mention) for case in some]
        )
        with intervene(model.module, site, rewrites, label="enough"):
            best = model.logits(batch)[:, -1].argmax(-1).tolist()
        for place, case, token in zip(places, some, best, strict=True):
            says[place] = token == target.token(case.mention)
    return says
