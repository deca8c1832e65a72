"""The effect of each neuron on the concept's word: exact, by silencing one at a time, or of groups under noise."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from kedit.internals.hooks import Rewrite, intervene
from kedit.internals.sites import Site
from kedit.locate.copies import Repeatable, copies_of
from kedit.locate.reduction import Evidence, OverSamples, check_reductions, that_count
from kedit.locate.scorer import Case, DrawnCase, Probed, Scorer
from kedit.locate.scoring import gathered, passes
from kedit.locate.target import Target
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronScores
from kedit.store import digest


class Group(NamedTuple):
    """Neurons of one layer that are changed together."""

    row: int
    """Of the scores, for the layer."""
    indices: Tensor
    """`[n]`"""
    noise: Tensor | None
    """`[n, pos]`: what is added, in standard deviations of the layer's activations; None for silence."""


@dataclass(frozen=True)
class CausalEffect:
    """How much the target drops when one neuron alone is zero: `y(a) - y(a with a_i = 0)`.

    Zero as the value of a silent neuron is kedit's choice. A sample costs one forward for each neuron, and one more: a
    7B model has 350,000 neurons, so measure a shortlist there. Neurons that are not on it score NaN, and no selector
    keeps those.

    With `noise` and `group` it is the baseline CE of NAM (Fang et al., NeurIPS 2024, appendix B.1): Gaussian noise of
    the variance of the layer's activations is added to several neurons at once, and the change of the target is shared
    out evenly among them. The groups are drawn at random within a layer, anew for each sample and each of `repeats`.
    Noise lowers the target as often as it raises it, so the size of the change counts, whatever its sign; how groups
    are drawn and that the sign is dropped is kedit's choice.
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
    """How many neurons, or groups of them, share a forward; only memory and speed depend on it."""
    group: int = 1
    """How many neurons of a layer are changed together, each of which gets an equal share of the effect."""
    noise: float = 0.0
    """The standard deviation of what is added, next to that of the layer's activations; 0 silences instead."""
    repeats: int = 1
    """Over how many draws of groups and noise the mean is taken."""
    seed: int = 0
    """Of the groups and the noise."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, "sum", self.over_samples)
        if self.shortlist is not None and not isinstance(self.shortlist, Scorer):
            raise ValueError(f"`shortlist` is a scorer of neurons, such as GradCAM, or null, got {self.shortlist!r}")
        for name, of in (("m", "neurons"), ("at_once", "neurons"), ("group", "neurons"), ("repeats", "draws")):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` is a number of {of}, 1 or more, got {value!r}")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"`noise` is a finite number, 0 or more, got {self.noise}")
        if self.repeats > 1 and self.group == 1 and not self.noise:
            raise ValueError(f"`repeats` is {self.repeats}, and without `group` or `noise` every draw is the same")

    @property
    def needs_all(self) -> str | None:
        """Why a part of the samples does not do, if it does not."""
        return None if self.shortlist is None else "all of them choose its shortlist; set `shortlist` to null"

    def probe(self, model: MLLM, site: Site, cases: Sequence[Case | DrawnCase], target: Target) -> Iterator[Probed]:
        """Yield the scores of one sample after the other, `[1, layer, neuron]`."""
        chosen, forwards, backwards = self._chosen(model, site, cases, target)
        for case in cases:
            copies = copies_of(model, case, target)
            where = that_count(copies.token_types, self.positions)[0].nonzero().squeeze(1)
            groups = self._groups(chosen, len(where), case.id)
            scores = self._effects(copies, site, groups, where)
            yield Probed(scores[None], forwards + len(groups) + 1, backwards)
            forwards = backwards = 0

    def _chosen(
        self, model: MLLM, site: Site, cases: Sequence[Case | DrawnCase], target: Target
    ) -> tuple[list[NeuronId], int, int]:
        """Return the neurons to measure, rows of the scores for layers, and the passes that finding them took."""
        if self.shortlist is None:
            widths = enumerate(site.widths.values())
            return [NeuronId(row, index) for row, width in widths for index in range(width)], 0, 0
        captioned = cast("Sequence[Case]", cases)  # `check_drawable` refuses a shortlist for drawings
        made = gathered(model, site, captioned, target, {"shortlist": self.shortlist})["shortlist"]
        values = made.values(self.shortlist).float()
        scores = NeuronScores(values, repr(self.shortlist), site.name, ties=made.sums.ties())
        return scores.ranking()[: self.m], *passes([self.shortlist], len(cases))

    def _groups(self, chosen: Sequence[NeuronId], n_positions: int, sample: str) -> list[Group]:
        """Return every neuron in a group, `repeats` times; the same for a sample wherever it stands."""
        generator = torch.Generator().manual_seed(int(digest([self.seed, sample])[:15], 16))
        found = sorted({one.layer for one in chosen})
        rows = {row: torch.tensor([one.index for one in chosen if one.layer == row]) for row in found}
        groups = []
        for _ in range(self.repeats):
            for row, indices in rows.items():
                order = indices[torch.randperm(len(indices), generator=generator)]
                for some in order.split(self.group):
                    drawn = (
                        torch.randn(len(some), n_positions, generator=generator, dtype=torch.float32)
                        if self.noise
                        else None
                    )
                    groups.append(Group(row, some, None if drawn is None else self.noise * drawn))
        return groups

    @torch.no_grad()
    def _effects(self, copies: Repeatable, site: Site, groups: Sequence[Group], where: Tensor) -> Tensor:
        """Return each neuron's mean share of the change of the target: `[layer, neuron]`, NaN where not measured."""
        total = torch.full((len(site.blocks), max(site.widths.values())), torch.nan, dtype=torch.float32)
        whole = copies.outputs(1)
        for start in range(0, len(groups), self.at_once):
            some = groups[start : start + self.at_once]
            with intervene(copies.model.module, site, _changing(some, list(site.blocks), where), label="silence"):
                drops = (whole - copies.outputs(len(some))).float().cpu()
            for group, drop in zip(some, drops.abs() if self.noise else drops, strict=True):
                share = drop / len(group.indices) / self.repeats
                total[group.row, group.indices] = total[group.row, group.indices].nan_to_num(0.0) + share
        return total


def _changing(groups: Sequence[Group], layers: Sequence[int], where: Tensor) -> dict[int, Rewrite]:
    """Return rewrites that change one group in each copy: the first group in the first copy, and so on."""
    rewrites: dict[int, Rewrite] = {}
    for row in {group.row for group in groups}:
        mine = [(copy, group) for copy, group in enumerate(groups) if group.row == row]
        sizes = torch.tensor([len(group.indices) for _, group in mine])
        noises = [group.noise for _, group in mine if group.noise is not None]
        rewrites[layers[row]] = _Change(
            torch.tensor([copy for copy, _ in mine]).repeat_interleave(sizes),
            torch.cat([group.indices for _, group in mine]),
            where,
            len(groups),
            torch.cat(noises) if noises else None,
        )
    return rewrites


@dataclass(frozen=True, eq=False)
class _Change:
    """Zeroes neurons of a layer in each of some copies at some positions, or adds noise to them."""

    copies: Tensor
    """`[n]`: the copy in which each neuron is changed."""
    indices: Tensor
    where: Tensor
    """`[pos]`: the places that change."""
    n_copies: int
    noise: Tensor | None
    """`[n, pos]`, in standard deviations of the layer's activations at these places."""

    def __call__(self, activation: Tensor) -> Tensor:
        """Return the changed activations, in the shape they came in."""
        copies, indices = (one.to(activation.device)[:, None] for one in (self.copies, self.indices))
        where = self.where.to(activation.device)
        changed = activation.clone().reshape(self.n_copies, -1, activation.shape[-1])
        if self.noise is None:
            changed[copies, where, indices] = 0
        else:
            scale = changed[:, where].float().flatten(1).std(1, correction=0)
            added = self.noise.to(activation.device) * scale[copies]
            changed[copies, where, indices] += added.to(changed.dtype)
        return changed.reshape(activation.shape)
