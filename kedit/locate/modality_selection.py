"""Which neurons belong to which modality: MINER's five strategies (Huang et al. 2024, arXiv 2410.04819).

All but `random` are one rule. The strategy deals the candidates, each a modality and a neuron, into lanes, each lane
ranks its own by importance, and a budget of K neurons gives every lane the best K // lanes. `LA_MU` has a lane for
each modality, `LU_MA` for each layer, `uniform` for each layer and modality; `adaptive` has one lane, ranks neurons by
the sum over modalities and gives each to the modality it matters to most.
"""

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from kedit.neurons import NeuronId

Strategy = Literal["uniform", "adaptive", "LA_MU", "LU_MA", "random"]
RANDOM = "random"
"""The name of the one set that the strategy `random` returns: it knows no modality."""
Picks = dict[str, list[NeuronId]]
"""For each modality that got any, its neurons as they were picked."""


@dataclass(frozen=True, eq=False)
class _Lanes:
    """Ranked candidates: `[lane, rank]`."""

    scores: Tensor
    codes: Tensor
    """Indices into `[modality, layer, neuron]`."""


def picks(
    importance: Mapping[str, Tensor], strategy: Strategy, ratio: float, *, seed: int = 0, faithful: bool = False
) -> Picks:
    """Return the neurons of each modality, in the order in which the reference lists them.

    The budget is K = ratio x neurons, rounded down. The lanes round down again, as the paper's counts do: fewer than K
    may be picked, and none if K is below the number of lanes. A neuron may be picked for several modalities, except
    by `adaptive`. Ties go to the lower layer, modality and index, where the reference leaves them to `torch.topk`.
    NaN is never picked; the reference ranks it first and then fails.

    Args:
        importance: `[layer, neuron]` for each modality; NaN where a layer has no such neuron.
        strategy: How the budget is shared out.
        ratio: The budget as a share of all neurons.
        seed: For `random`.
        faithful: Whether to repeat what is wrong in the reference: `random` draws with replacement, so that some
            neurons come twice; `uniform` goes on to neurons of other layers, at zero, where a layer has too few above
            it; K is one short where the product of ratio and count falls below a whole number by rounding.
    """
    stacked = torch.stack(list(importance.values()))
    n_present = int((~stacked[0].isnan()).sum())
    n_picks = int(ratio * stacked[0].numel()) if faithful else math.floor(round(ratio * n_present, 9))
    if strategy == RANDOM:
        return {RANDOM: _drawn(stacked[0], n_picks, seed, faithful=faithful)} if n_picks else {}
    lanes = _lanes(stacked, strategy, faithful=faithful)
    kept = slice(n_picks // len(lanes.scores))
    chosen = lanes.codes[:, kept][lanes.scores[:, kept].isfinite()]
    return _named(chosen.tolist(), list(importance), stacked.shape)


def best(
    importance: Mapping[str, Tensor], strategy: Strategy, k: int, modalities: Collection[str], *, seed: int = 0
) -> Picks:
    """Return the picks that a growing ratio makes first, until those for `modalities` are `k` different neurons.

    One rank of all lanes after the other; within a rank the highest importance first. There are fewer than `k` only
    if the strategy has no more.

    Args:
        importance: `[layer, neuron]` for each modality.
        strategy: How the neurons are shared out.
        k: How many.
        modalities: Which modalities' neurons are wanted.
        seed: For `random`, which knows no modality.
    """
    stacked = torch.stack(list(importance.values()))
    if strategy == RANDOM:
        return {RANDOM: _drawn(stacked[0], k, seed, faithful=False)} if k else {}
    lanes = _lanes(stacked, strategy, faithful=False)
    names = list(importance)
    wanted = torch.tensor([name in modalities for name in names])
    n_neurons = stacked[0].numel()
    kept = lanes.scores.isfinite() & wanted[lanes.codes // n_neurons]
    # A neuron may come once for each modality, so that the first k * M of a lane hold k different ones.
    rank = kept.long().cumsum(1)
    kept &= rank <= k * len(names)
    scores, codes, rank = lanes.scores[kept], lanes.codes[kept], rank[kept]
    order = scores.sort(descending=True, stable=True).indices
    order = order[rank[order].sort(stable=True).indices]
    chosen: list[int] = []
    union: set[int] = set()
    for code in codes[order].tolist():
        if len(union) == k and code % n_neurons not in union:
            break
        union.add(code % n_neurons)
        chosen.append(code)
    return _named(chosen, names, stacked.shape)


def _lanes(stacked: Tensor, strategy: Strategy, *, faithful: bool) -> _Lanes:
    """Return the ranked lanes of `[modality, layer, neuron]`."""
    n_modalities, n_layers, n_neurons = stacked.shape
    codes = torch.arange(stacked.numel()).view(stacked.shape)
    if strategy == "adaptive":
        # The reference's own order of adding, since rounding decides between near ties.
        total = torch.as_tensor(sum(stacked)).flatten()
        return _ranked(total[None], codes.gather(0, stacked.argmax(0, keepdim=True)).view(1, -1))
    if strategy == "LA_MU":
        return _ranked(stacked.flatten(1), codes.flatten(1))
    by_layer, codes_by_layer = stacked.transpose(0, 1), codes.transpose(0, 1)
    if strategy == "LU_MA":
        return _ranked(by_layer.flatten(1), codes_by_layer.flatten(1))
    if not faithful:
        return _ranked(by_layer.reshape(-1, n_neurons), codes_by_layer.reshape(-1, n_neurons))
    spilled = torch.zeros(n_layers, *stacked.shape)
    for layer in range(n_layers):
        spilled[layer, :, layer] = stacked[:, layer]
    lanes = n_layers * n_modalities
    return _ranked(spilled.view(lanes, -1), codes.expand(n_layers, -1, -1, -1).reshape(lanes, -1))


def _ranked(scores: Tensor, codes: Tensor) -> _Lanes:
    """Rank each lane: from high to low, ties in the order given, what is no number last and as minus infinity."""
    ranked = scores.masked_fill(scores.isnan(), -torch.inf).sort(dim=1, descending=True, stable=True)
    return _Lanes(ranked.values, codes.gather(1, ranked.indices))


def _drawn(values: Tensor, n_picks: int, seed: int, *, faithful: bool) -> list[NeuronId]:
    n_layers, n_neurons = values.shape
    if faithful:
        source = random.Random(seed)
        return [NeuronId(source.randint(0, n_layers - 1), source.randint(0, n_neurons - 1)) for _ in range(n_picks)]
    present = (~values.isnan()).nonzero()
    order = torch.randperm(len(present), generator=torch.Generator().manual_seed(seed))
    return [NeuronId(layer, index) for layer, index in present[order[:n_picks]].tolist()]


def _named(codes: list[int], names: list[str], shape: tuple[int, ...]) -> Picks:
    _, n_layers, n_neurons = shape
    found: Picks = {name: [] for name in names}
    for code in codes:
        modality, neuron = divmod(code, n_layers * n_neurons)
        found[names[modality]].append(NeuronId(*divmod(neuron, n_neurons)))
    return {name: chosen for name, chosen in found.items() if chosen}


def check_selection(strategy: str, ratio: float) -> None:
    """Raise a ValueError that names the option with a value that cannot be."""
    if strategy not in get_args(Strategy):
        raise ValueError(f"`strategy` is one of {', '.join(get_args(Strategy))}, got {strategy!r}")
    if not 0 < ratio <= 1:
        raise ValueError(f"`ratio` is a share of all neurons, above 0 and at most 1, got {ratio}")
