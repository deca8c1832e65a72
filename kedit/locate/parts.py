"""What a locator made of some of the samples, kept in a file until the others are there.

Sums are exact, so that the parts of several jobs give the very scores that one job gives, whoever saw which samples:
see `kedit.locate.joining`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from kedit.locate.reduction import OverSamples, RunningReduction, Vote
from kedit.locate.scoring import Tally
from kedit.models.mllm import MLLM
from kedit.neurons import Scope, SiteName
from kedit.sites import Site
from kedit.weights import signature

T = TypeVar("T")

METADATA = "kedit.part"
PLAIN = ("concept", "forwards", "backwards", "seconds", "left_out", "unnamed")
"""The fields of a part that JSON can say as they are."""


class PartError(ValueError):
    """Parts do not belong together, some are missing, or a file is none."""


@dataclass(frozen=True)
class Shard:
    """Which of the samples a part is made of: those at `index`, `index + count`, and so on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.index < self.count:
            raise ValueError(
                f"`shard.index` is a number from 0 to `shard.count` - 1, and that at least 0; got {self.index} of "
                f"{self.count}"
            )

    def of(self, items: Sequence[T]) -> list[T]:
        """Return this shard's share of `items`, which may be empty."""
        return list(items[self.index :: self.count])

    def place(self, number: int) -> int:
        """Return where the shard's item `number` stands among all."""
        return self.index + number * self.count

    def __str__(self) -> str:
        return f"{self.index} of {self.count}"


WHOLE = Shard()
"""All samples."""


@dataclass(frozen=True)
class Maker:
    """Who made a part: parts that belong together have equal makers."""

    model: str
    weights: str
    """See `signature`."""
    site: SiteName
    scope: Scope
    target: str
    scorers: Mapping[str, str]
    """The scorer of each stage, as its `repr`."""
    widths: Mapping[int, int]
    """The number of neurons of each layer, in the order of the rows of the sums."""

    @classmethod
    def of(cls, model: MLLM, site: Site, target: str, scorers: Mapping[str, str]) -> Self:
        """Return the maker of parts with `model` at `site`."""
        return cls(model.name, signature(model.module), site.name, site.scope, target, dict(scorers), dict(site.widths))

    def differs(self, other: "Maker") -> str | None:
        """Return what is not equal and both values, or None."""
        for name in self.__dataclass_fields__:
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its or (isinstance(mine, Mapping) and list(mine) != list(its)):
                return f"`{name}` is {mine!r} in one and {its!r} in another"
        return None


@dataclass(frozen=True, eq=False)
class Part:
    """The running reductions of every stage over some of the samples, and what they took."""

    maker: Maker
    shard: Shard
    concept: str | None
    """None if there was no pair to look at."""
    samples: Mapping[int, str]
    """The ids of the samples that were scored, by their place among all pairs."""
    skipped: Mapping[int, str] = field(default_factory=dict)
    """The ids of the others, whose captions do not name the concept."""
    stages: Mapping[str, Tally] = field(default_factory=dict)
    """What each scorer made; empty if no sample was scored."""
    forwards: int = 0
    """Passes of one sample, those that the scorers share and their own."""
    backwards: int = 0
    seconds: float = 0.0
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many samples never became a pair to look at, by the reason."""
    unnamed: str = ""
    """A caption that does not name the concept, for whoever has to say that none does."""

    @property
    def n_pairs(self) -> int:
        """How many pairs were looked at."""
        return len(self.samples) + len(self.skipped)

    def provenance(self) -> dict[str, str]:
        """Return what scores say of where they come from."""
        return {
            "model": self.maker.model,
            "concept": self.concept or "none",
            "target": self.maker.target,
            "samples": ",".join(self.samples[place] for place in sorted(self.samples)),
            "n_samples": str(len(self.samples)),
            "skipped": str(len(self.skipped)),
            "forwards": str(self.forwards),
            "backwards": str(self.backwards),
            "seconds": f"{self.seconds:.3f}",
        }

    def save(self, path: str | Path) -> None:
        """Write the part as a safetensors file with its metadata."""
        from safetensors.torch import save_file

        told = {
            "maker": asdict(self.maker) | {"widths": list(self.maker.widths.items())},
            "shard": asdict(self.shard),
            "samples": list(self.samples.items()),
            "skipped": list(self.skipped.items()),
            "stages": [_told(name, tally) for name, tally in self.stages.items()],
        } | {name: getattr(self, name) for name in PLAIN}
        tensors = {
            f"{number}.{name}": one.clone(memory_format=torch.contiguous_format)
            for number, tally in enumerate(self.stages.values())
            for name, one in tally.sums.tensors().items()
        }
        save_file(tensors, Path(path), metadata={METADATA: json.dumps(told)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote; a PartError says what is wrong with another file."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), framework="pt") as stored:
                metadata = stored.metadata() or {}
                if METADATA not in metadata:
                    raise PartError(f"`{path}` is no part of scores: its metadata has {sorted(metadata) or 'nothing'}")
                told = json.loads(metadata[METADATA])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
        except SafetensorError as error:
            raise PartError(f"`{path}` is no part of scores: {error}") from error
        told["maker"] = Maker(**told["maker"] | {"widths": dict(told["maker"]["widths"])})
        told["shard"] = Shard(**told["shard"])
        told["samples"], told["skipped"] = dict(told["samples"]), dict(told["skipped"])
        told["stages"] = dict(_read(one, number, tensors) for number, one in enumerate(told["stages"]))
        return cls(**told)


def _told(name: str, tally: Tally) -> dict[str, Any]:
    how = tally.sums.how
    return {
        "name": name,
        "how": asdict(how) if isinstance(how, Vote) else how,
        "n_invalid": tally.n_invalid,
        "forwards": tally.forwards,
        "backwards": tally.backwards,
        "notes": tally.notes,
    }


def _read(told: dict[str, Any], number: int, tensors: Mapping[str, Tensor]) -> tuple[str, Tally]:
    how: OverSamples = Vote(**told["how"]) if isinstance(told["how"], dict) else told["how"]
    own = {name.removeprefix(f"{number}."): one for name, one in tensors.items() if name.startswith(f"{number}.")}
    counts = {name: told[name] for name in ("n_invalid", "forwards", "backwards", "notes")}
    return told["name"], Tally(RunningReduction.of(how, own), **counts)
