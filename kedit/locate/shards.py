"""Scores of all samples from those of disjoint shares of them: means of means, weighed by how many each share has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from kedit.locate.locator import Stage
from kedit.locate.scorer import AcrossSamples
from kedit.neurons import NeuronScores, ids_from, ids_to

T = TypeVar("T")

COUNTS = ("n_samples", "skipped", "forwards", "backwards", "invalid")
"""What adds up in a provenance."""


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of the samples; the parts in order are all samples."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"`shard.index` is a number from 0 to `shard.count` - 1; got {self}")

    def __str__(self) -> str:
        return f"{self.index} of {self.count}"

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Return the items of this part, of which there may be none."""
        return items[len(items) * self.index // self.count : len(items) * (self.index + 1) // self.count]


ALL = Shard()
"""All samples in one part."""


def who_scores(locator: Any) -> Any:
    """Return the locator that scores: the one inside another that only chooses otherwise, or `locator` itself."""
    return getattr(locator, "locator", locator)


def check_shareable(locator: object) -> None:
    """Raise a ValueError unless what each stage of `locator` makes of all samples is a mean over them."""
    stages: Mapping[str, Stage] = getattr(who_scores(locator), "stages", {})
    if not stages:
        raise ValueError(f"{type(locator).__name__} has to see all samples at once: leave `shard.count` at 1")
    for name, stage in stages.items():
        why = getattr(stage.scorer, "needs_all", None)
        if stage.scorer.over_samples != "mean" or isinstance(stage.scorer, AcrossSamples):
            why = f"what {type(stage.scorer).__name__} makes of them is no mean"
        if why is not None:
            raise ValueError(f"stage `{name}` has to see all samples at once ({why}): leave `shard.count` at 1")


def merge(shards: Sequence[Mapping[str, NeuronScores]]) -> dict[str, NeuronScores]:
    """Return the scores of all samples from those of each share, which `Locator.score` gave with 64 bits.

    A share without any usable sample is an empty one.

    Raises:
        ValueError: They are of different models, concepts or scorers, or a sample is in two shares.
    """
    scored = [one for one in shards if one]
    if not scored:
        raise ValueError(f"no caption in any of {len(shards)} shards names the concept")
    if len(stages := {tuple(one) for one in scored}) > 1:
        raise ValueError(f"the shards do not belong together: their stages are {' and '.join(map(str, stages))}")
    return {name: _mean([one[name] for one in scored]) for name in scored[0]}


def _mean(shards: Sequence[NeuronScores]) -> NeuronScores:
    whole = {key: _joined(key, [one.provenance[key] for one in shards]) for key in shards[0].provenance}
    for key in ("method", "site", "scope"):
        _joined(key, [getattr(one, key) for one in shards])
    weighed = [one.values.double() * int(one.provenance["n_samples"]) for one in shards]
    values = torch.stack(weighed).sum(0) / int(whole["n_samples"])
    return replace(shards[0], values=values.float(), provenance=whole)


def _joined(key: str, told: Sequence[str]) -> str:
    """Return what a provenance says of all samples under `key`, from what it says of each share."""
    if key in COUNTS:
        return str(sum(map(int, told)))
    if key == "samples":
        ids = [one for some in told for one in ids_from(some)]
        name, times = Counter(ids).most_common(1)[0]
        if times > 1:
            raise ValueError(f"sample `{name}` would count {times} times: it is in several shards")
        return ids_to(ids)
    if key in ("model", "concept", "target", "method", "site", "scope", "widths"):
        if len(differ := sorted(set(told))) > 1:
            raise ValueError(f"the shards do not belong together: `{key}` is {' and '.join(map(repr, differ))}")
        return told[0]
    # Seconds, of jobs side by side, and what a prober noted: the largest.
    return max(told, key=float)
