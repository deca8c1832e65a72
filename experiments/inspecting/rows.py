"""A measure of the located neurons beside that of random ones, and what all sections share."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from omegaconf import DictConfig

from experiments.complaints import one_line
from kedit.data.inpaint import Inpainter
from kedit.evaluation.statistics import Measured, bootstrap_mean, paired_difference
from kedit.inspection.resampling import Interval
from kedit.locate.locator import Locator
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet
from kedit.pipelines.locate import Located
from kedit.runs import Run
from kedit.samples import Concept, Counterfactual, Data, Split
from kedit.sites import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One measure: of the located neurons, of random ones, and by how much they differ."""

    section: str
    name: str
    located: Measured
    random: Measured | None = None
    difference: Measured | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what inspect.json says of it."""
        parts = {"located": self.located, "random": self.random, "difference": self.difference}
        return {name: one.to_json() for name, one in parts.items() if one is not None}


@dataclass(frozen=True, eq=False)
class Subject:
    """What is inspected, and with what."""

    model: MLLM
    site: Site
    locator: Locator
    located: Located
    concept: Concept
    split: Split
    data: Data
    inpaint: Inpainter
    asked: DictConfig
    """The numbers of samples, splits, words and so on, as conf/inspect.yaml has them."""
    kept: Run
    encoder: Any = None
    clip: Any = None
    details: dict[str, Any] = field(default_factory=dict)
    """What inspect.json holds beside the rows; sections add to it."""

    @property
    def neurons(self) -> NeuronSet:
        """The located neurons."""
        return self.located.neurons

    @property
    def seed(self) -> int:
        """What every draw starts from."""
        return int(self.asked.seed)

    @cached_property
    def controls(self) -> list[NeuronSet]:
        """Layer-matched random sets."""
        return [self.neurons.layer_matched(self.site.widths, self.seed + n) for n in range(self.asked.controls)]

    @cached_property
    def pairs(self) -> list[Counterfactual]:
        """The pairs that the scores rest on."""
        used = set(next(iter(self.located.scores.values())).provenance["samples"].split(","))
        return [pair for pair in self.located.pairs if pair.sample.id in used]

    @cached_property
    def captions(self) -> list[Any]:
        """The model's captions of the originals of `pairs`."""
        told = {pair.sample.id: one for pair, one in zip(self.located.pairs, self.located.captions, strict=True)}
        return [told[pair.sample.id] for pair in self.pairs]


def attempted(section: str, names: Sequence[str], measure: Callable[[], list[Row]]) -> list[Row]:
    """Return what `measure` finds, or rows called `names` with the reason why the model cannot give it."""
    try:
        return measure()
    except (LookupError, ValueError, TypeError, NotImplementedError) as error:
        why = one_line(str(error))
        logger.info("`%s` could not be measured: %s", section, why, exc_info=True)
        return [Row(section, name, Measured.missing(why)) for name in names]


def compared(section: str, name: str, located: Sequence[float], random: Sequence[float], seed: int) -> Row:
    """Return a measure of the same samples for located and for random neurons, and their paired difference."""
    figures = bootstrap_mean(located, seed=seed), bootstrap_mean(random, seed=seed)
    return Row(section, name, *figures, paired_difference(located, random, seed=seed))


def measured(interval: Interval) -> Measured:
    """Return an interval of kedit.inspection as the figure that reports hold."""
    return Measured(*interval)
