"""What scorers and probers make of all samples together, and the passes that takes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from kedit.internals.sites import Site
from kedit.locate.evidence import gather, together
from kedit.locate.reduction import RunningReduction
from kedit.locate.scorer import AcrossLayers, AcrossSamples, Case, DrawnCase, Prober, Scorer
from kedit.locate.target import Target
from kedit.models.mllm import MLLM
from kedit.progress import Batched
from kedit.samples import Progress, silent


@dataclass(eq=False)
class Tally:
    """What one scorer or prober made of some samples."""

    sums: RunningReduction
    n_invalid: int = 0
    """How many of the scores of single samples are not a number."""
    forwards: int = 0
    """Passes of its own, beside those that scorers share."""
    backwards: int = 0
    notes: dict[str, float] = field(default_factory=dict)
    """What a prober noted, the largest over samples."""

    @classmethod
    def of(cls, scorer: Scorer | Prober) -> Self:
        """Return the tally of no sample yet."""
        return cls(RunningReduction(scorer.over_samples))

    def values(self, scorer: Scorer | Prober) -> Tensor:
        """Return the scores over all samples: `[layer, neuron]`, or channels of it."""
        means = self.sums.result()
        return scorer.across_samples(means) if isinstance(scorer, AcrossSamples) else means

    def note(self, notes: Mapping[str, float]) -> None:
        """Keep of each note the larger."""
        self.notes |= {key: max(value, self.notes.get(key, value)) for key, value in notes.items()}


def gathered(
    model: MLLM,
    site: Site,
    cases: Sequence[Case],
    target: Target,
    scorers: Mapping[str, Scorer],
    progress: Progress = silent,
) -> dict[str, Tally]:
    """Run the passes that the scorers share, batch by batch, and return what each made of them."""
    made = {name: Tally.of(scorer) for name, scorer in scorers.items()}
    to_end = any("damage" in scorer.needs for scorer in scorers.values())
    batches = together(model, site, cases, target, to_end=to_end)
    gathering = gather(model, site, cases, target, scorers, batches)
    counted = Batched(gathering, [*map(len, batches)], "pictures", ", ".join(scorers))
    for batch in progress(counted, len(batches), "locate"):
        for name, scorer in scorers.items():
            made[name].n_invalid += sum(int(layer.isnan().sum()) for layer in batch[name])
            stacked = stacked_batch(batch[name])
            made[name].sums.add(scorer.across_layers(stacked) if isinstance(scorer, AcrossLayers) else stacked)
    return made


def probed(
    model: MLLM,
    site: Site,
    cases: Sequence[Case | DrawnCase],
    target: Target,
    name: str,
    prober: Prober,
    progress: Progress,
) -> Tally:
    """Let a prober run the model, sample by sample, and return what it found; `name` is for the progress."""
    made = Tally.of(prober)
    counted = Batched(prober.probe(model, site, cases, target), [1] * len(cases), "pictures")
    for one in progress(counted, len(cases), name):
        made.sums.add(one.scores)
        made.forwards += one.forwards
        made.backwards += one.backwards
        made.note(one.notes)
    return made


def passes(scorers: Iterable[Scorer], n_cases: int) -> tuple[int, int]:
    """Return the forwards and backwards, in passes of one sample, that `scorers` take together; see `gather`."""
    needs = [scorer.needs for scorer in scorers]
    if not needs:
        return 0, 0
    together = frozenset[str]().union(*needs)
    others = ("control" in together) + bool(together & {"counterfactual", "damage"})
    return n_cases * (1 + others), n_cases * len(together & {"gradient", "damage"})


def stacked_batch(layers: Sequence[Tensor]) -> Tensor:
    """Return `[batch, ..., layer, neuron]` from per-layer `[batch, ..., neuron]`; narrower layers end in NaN."""
    widest = max(one.shape[-1] for one in layers)
    padded = [functional.pad(one, (0, widest - one.shape[-1]), value=torch.nan) for one in layers]
    return torch.stack(padded, dim=-2)
