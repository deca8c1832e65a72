"""Domain-specific neurons: those that are active in one kind of picture and not in the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.internals.sites import Site
from kedit.locate.reduction import Evidence, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import LayerEvidence, Need
from kedit.locate.scoring import stacked_batch
from kedit.models.mllm import MLLM
from kedit.models.reading import prompted
from kedit.neurons import NeuronId, NeuronSet, SiteName
from kedit.samples import Progress, silent


@dataclass(frozen=True)
class DomainEntropy:
    """How much a neuron is active with the concept in the picture and not without it: `1 - DAPE / log 2`.

    Huo et al. 2024 (MMNeuron, arXiv 2406.11193), whose domains are collections of pictures; here they are the
    originals and the counterfactuals, which is kedit's choice. A neuron's activity in a domain is the share of
    positions at which it is above zero, for which the site `act` is meant. A score is 1 for a neuron that is active
    with the concept only and 0 for one that is as active without it. Neurons whose activity with the concept is not
    above the `quantile` of all activities do not belong to its domain: they score NaN, and no selector keeps them.
    A neuron that fires on the few positions of the object alone rarely comes above it.
    """

    positions: Evidence = "all"
    quantile: float = 0.95

    def __post_init__(self) -> None:
        check_reductions(self.positions, "mean", "mean")
        check_quantile(self.quantile)

    @property
    def over_samples(self) -> OverSamples:
        """Samples count alike in a domain's activity."""
        return "mean"

    @property
    def needs(self) -> frozenset[Need]:
        """The activations on the counterfactual, the other domain."""
        return frozenset({"counterfactual"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the activity of one layer in both domains: `[batch, 2, neuron]`."""
        assert evidence.counterfactual is not None
        domains = (evidence.original, evidence.counterfactual)
        return torch.stack(
            [over_positions((one > 0).float(), evidence.token_types, self.positions, "mean") for one in domains], dim=1
        )

    def across_samples(self, means: Tensor) -> Tensor:
        """Return the scores, `[layer, neuron]`, from the activity in both domains, `[2, layer, neuron]`."""
        specific = 1 - domain_entropy(means) / math.log(len(means))
        return specific.masked_fill(~members(means, self.quantile)[0], torch.nan)


def domain_entropy(activity: Tensor) -> Tensor:
    """Return the entropy of each neuron's activity over domains, in nats: `[layer, neuron]`.

    DAPE (Huo et al. 2024, arXiv 2406.11193): 0 for a neuron that is active in one domain alone or in none, log k
    for one that is equally active in all k.

    Args:
        activity: The share of positions at which the neuron is active, `[domain, layer, neuron]`; NaN for neurons
            that the layer does not have.
    """
    total = activity.sum(0)
    share = activity / total.where(total != 0, 1.0)
    entropy: Tensor = -torch.special.xlogy(share, share).sum(0)
    return entropy


def members(activity: Tensor, quantile: float) -> Tensor:
    """Return which neurons belong to which domain, `[domain, layer, neuron]`: those above the `quantile` of all."""
    known = activity[~activity.isnan()]
    # By rank, as the reference code does: torch's own quantile takes 16 million values at most.
    bar = known.kthvalue(max(1, round(quantile * len(known)))).values
    return activity > bar


def domain_neurons(
    model: MLLM,
    domains: Mapping[str, Sequence[Image]],
    *,
    share: float = 0.01,
    quantile: float = 0.95,
    positions: Evidence = "all",
    site: SiteName = "act",
    progress: Progress = silent,
) -> dict[str, NeuronSet]:
    """Return the neurons specific to each collection of pictures, by name (Huo et al. 2024, arXiv 2406.11193).

    The `share` of all neurons with the lowest entropy, of those that belong to a domain at all, each given to every
    domain that it belongs to; see `domain_entropy` and `members`. The pictures are read after the captioning prompt.

    Raises:
        ValueError: There are fewer than two domains, or one without pictures.
    """
    if len(domains) < 2 or not all(domains.values()):
        counts = ", ".join(f"`{name}`: {len(images)}" for name, images in domains.items()) or "none"
        raise ValueError(f"domains are compared, so give two or more, each with pictures; got {counts}")
    check_reductions(positions, "mean", "mean")
    check_quantile(quantile)
    where = model.site(site)
    activity = torch.stack(
        [_activity(model, where, images, positions, progress, name) for name, images in domains.items()]
    )
    belongs = members(activity, quantile)
    entropy = domain_entropy(activity).masked_fill(~belongs.any(0), torch.inf)
    order = entropy.flatten().nan_to_num(nan=torch.inf).sort(stable=True)
    chosen = order.indices[: round(share * where.n_neurons)][order.values[: round(share * where.n_neurons)].isfinite()]
    found = torch.zeros_like(entropy, dtype=torch.bool).flatten().index_fill(0, chosen, True).reshape(entropy.shape)
    return {
        name: NeuronSet(tuple(NeuronId(*one) for one in (found & mine).nonzero().tolist()), site)
        for name, mine in zip(domains, belongs, strict=True)
    }


def _activity(
    model: MLLM, site: Site, images: Sequence[Image], positions: Evidence, progress: Progress, name: str
) -> Tensor:
    """Return the share of positions at which each neuron is above zero, over all pictures: `[layer, neuron]`."""
    total = torch.zeros((), dtype=torch.float64)
    for _, batch, activations in prompted(model, site, images, progress=progress, what=name):
        active = [(activations[layer] > 0).float() for layer in site.blocks]
        shares = [over_positions(one, batch.token_types.to(one.device), positions, "mean").cpu() for one in active]
        total = total + stacked_batch(shares).sum(0, dtype=torch.float64)
    return total / len(images)


def check_quantile(quantile: float) -> None:
    """Raise a ValueError unless `quantile` lies between 0 and 1."""
    if not 0 <= quantile <= 1:
        raise ValueError(f"`quantile` lies between 0 and 1, got {quantile}")
