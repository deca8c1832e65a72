"""What decides which of the scored neurons a locator keeps: its selectors, one for its last stage, tests, or a goal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kedit.locate.enough import Enough
from kedit.locate.fdr.result import FDRResult
from kedit.locate.fdr.selector import FDRSelector
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import Selector
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet
from kedit.samples import Concept, Pair, Progress, silent

Choosing = Selector | FDRSelector | Enough
"""What may choose in place of a locator's own selectors."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The neurons that each stage left and, where tests chose them, what those found."""

    stages: dict[str, NeuronSet]
    fdr_result: FDRResult | None = None

    @property
    def neurons(self) -> NeuronSet:
        """What passed the last stage."""
        return list(self.stages.values())[-1]


def check_choice(select: Choosing | None, locator: object) -> None:
    """Raise a ValueError unless `select` can choose among the scores of `locator`; needs no model."""
    if select is None:
        return
    if not isinstance(locator, Locator):
        raise ValueError(
            f"`select` replaces the selectors of a locator with stages, and `locate` is {type(locator).__name__}, "
            "which selects by itself; leave `select` out"
        )
    if isinstance(select, FDRSelector):
        select.check(locator)


def check_pairs(select: Choosing | None, locator: object, pairs: Sequence[Pair]) -> None:
    """Raise a ValueError if `select` cannot choose by these pairs, which needs no model to tell.

    Which captions name the concept is not known yet: fewer pairs may be left than there are here.
    """
    if isinstance(select, FDRSelector) and isinstance(locator, Locator):
        select.check_pairs(locator, pairs)


def choose_neurons(
    select: Choosing | None,
    model: MLLM,
    locator: Locator,
    pairs: Sequence[Pair],
    scores: dict[str, NeuronScores],
    *,
    captions: Sequence[Generated] | None = None,
    words: Sequence[Concept] = (),
    progress: Progress = silent,
) -> Choice:
    """Return what each stage keeps.

    Args:
        select: None for the locator's own selectors, a selector or `Enough` for its last stage, or `FDRSelector`.
        model: The model, unedited; only `FDRSelector` and `Enough` run it.
        locator: Where the scores come from.
        pairs: The pairs behind the scores.
        scores: What `locator.score` gave on them.
        captions: The model's captions of the originals, if they are known already.
        words: What the data can name, for distractor words.
        progress: Shows the batches go by.
    """
    if select is None:
        return Choice(locator.select_each(scores))
    check_choice(select, locator)
    if isinstance(select, FDRSelector):
        found = select.locate(model, locator, pairs, captions=captions, words=words, scores=scores, progress=progress)
        return Choice(found.stages, found)
    *earlier, (name, last) = locator.stages.items()
    if isinstance(select, Enough):
        stages = replace(locator, stages=dict(earlier)).select_each(scores) if earlier else {}
        among = list(stages.values())[-1] if stages else None
        cases = locator.cases(model, pairs, captions, progress)
        return Choice(stages | {name: select.choose(model, locator, cases, scores[name], among, progress)})
    chosen = replace(locator, stages=dict(earlier) | {name: Stage(last.scorer, select)})
    return Choice(chosen.select_each(scores))
