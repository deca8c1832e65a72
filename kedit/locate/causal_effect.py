"""The exact effect of each neuron on the concept's word, by silencing one at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kedit.internals.hooks import Rewrite, intervene
from kedit.internals.sites import Site
from kedit.locate.copies import Copies
from kedit.locate.reduction import Evidence, OverSamples, check_reductions, that_count
from kedit.locate.scorer import Case, Probed, Scorer
from kedit.locate.scoring import gathered, passes
from kedit.locate.target import Target
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronScores


@dataclass(frozen=True)
class CausalEffect:
    """How much the target drops when one neuron alone is zero: `y(a) - y(a with a_i = 0)`.

    The baseline that NAM (Fang et al., NeurIPS 2024) calls CE; zero as the value of a silent neuron is kedit's
    choice. A sample costs one forward for each neuron, and one more: a 7B model has 350,000 neurons, so
    measure a shortlist there. Neurons that are not on it score NaN, and no selector keeps those.
    """

    shortlist: Scorer | None = None
    """Scores the neurons first; only the `m` best of them are measured. GradCAM with `over_positions="sum"` is the
    first-order estimate of the same effect."""
    m: int = 200
    """The length of the shortlist; without one, all neurons are measured."""
    positions: Evidence = "all"
    """The positions at which the neuron is silenced."""
    over_samples: OverSamples = "mean"
    at_once: int = 64
    """How many neurons share a forward; only memory and speed depend on it."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, "sum", self.over_samples)
        if self.shortlist is not None and not isinstance(self.shortlist, Scorer):
            raise ValueError(f"`shortlist` is a scorer of neurons, such as GradCAM, or null, got {self.shortlist!r}")
        for name in ("m", "at_once"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` is a number of neurons, 1 or more, got {value!r}")

    @property
    def needs_all(self) -> str | None:
        """Why a part of the samples does not do, if it does not."""
        return None if self.shortlist is None else "all of them choose its shortlist; set `shortlist` to null"

    def probe(self, model: MLLM, site: Site, cases: Sequence[Case], target: Target) -> Iterator[Probed]:
        """Yield the scores of one sample after the other, `[1, layer, neuron]`."""
        chosen, forwards, backwards = self._chosen(model, site, cases, target)
        for case in cases:
            scores = self._effects(Copies.of(model, case, target), site, chosen)
            yield Probed(scores[None], forwards + len(chosen) + 1, backwards)
            forwards = backwards = 0

    def _chosen(
        self, model: MLLM, site: Site, cases: Sequence[Case], target: Target
    ) -> tuple[list[NeuronId], int, int]:
        """Return the neurons to measure, rows of the scores for layers, and the passes that finding them took."""
        if self.shortlist is None:
            widths = enumerate(site.widths.values())
            return [NeuronId(row, index) for row, width in widths for index in range(width)], 0, 0
        made = gathered(model, site, cases, target, {"shortlist": self.shortlist})["shortlist"]
        values = made.values(self.shortlist).float()
        scores = NeuronScores(values, repr(self.shortlist), site.name, ties=made.sums.ties())
        return scores.ranking()[: self.m], *passes([self.shortlist], len(cases))

    @torch.no_grad()
    def _effects(self, copies: Copies, site: Site, chosen: Sequence[NeuronId]) -> Tensor:
        """Return the drop of the target for each neuron: `[layer, neuron]`, NaN where it was not measured."""
        scores = torch.full((len(site.blocks), max(site.widths.values())), torch.nan)
        silent = that_count(copies.one.kinds, self.positions)[0]
        whole = copies.outputs(1)
        for start in range(0, len(chosen), self.at_once):
            some = chosen[start : start + self.at_once]
            with intervene(copies.model.module, site, _silencing(some, list(site.blocks), silent), label="silence"):
                drops = whole - copies.outputs(len(some))
            rows, indices = torch.tensor(some).T
            scores[rows, indices] = drops.float().cpu()
        return scores


def _silencing(some: Sequence[NeuronId], layers: Sequence[int], silent: Tensor) -> dict[int, Rewrite]:
    """Return rewrites that zero one neuron in each copy: the first neuron in the first copy, and so on."""
    return {
        layers[row]: _Silence(
            torch.tensor([copy for copy, one in enumerate(some) if one.layer == row]),
            torch.tensor([one.index for one in some if one.layer == row]),
            silent,
            len(some),
        )
        for row in {one.layer for one in some}
    }


@dataclass(frozen=True, eq=False)
class _Silence:
    """Zeroes one neuron of a layer in each of some copies, at some positions."""

    copies: Tensor
    indices: Tensor
    silent: Tensor
    """`[pos]`, true at the positions where the neurons are zeroed."""
    n_copies: int

    def __call__(self, activation: Tensor) -> Tensor:
        """Return the activations with the zeros, in the shape they came in."""
        copies, indices = (one.to(activation.device)[:, None] for one in (self.copies, self.indices))
        positions = self.silent.to(activation.device).nonzero().squeeze(1)
        changed = activation.clone().reshape(self.n_copies, len(self.silent), -1)
        changed[copies, positions, indices] = 0
        return changed.reshape(activation.shape)
