"""What neurons do while the model reads its prompt with a picture: at the image tokens, and by modality."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from kedit.inspection.grid import ImageGrid, smallest_cell
from kedit.inspection.heatmap import heat_map, iou, pointing_hit, region_auc
from kedit.inspection.resampling import Numbers
from kedit.internals.sites import Site
from kedit.models.mllm import IMAGE, MLLM, MODALITIES, TeacherForced, of_token_type
from kedit.models.reading import prompted
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Concept, Mask, Sample


def read(
    model: MLLM, site: Site, neurons: NeuronSet, images: Sequence[Image]
) -> Iterator[tuple[list[int], TeacherForced, Tensor]]:
    """Yield the places of some pictures, their batch after the captioning prompt and what `neurons` do.

    That is `[batch, pos, neuron]`, the neurons in the order of the set; see `prompted` for the batches.
    """
    layers = neurons.by_layer()
    for places, batch, activations in prompted(model, site, images):
        columns = [activations[layer][..., list(indices)].float().cpu() for layer, indices in layers.items()]
        yield places, batch, torch.cat(columns, -1) if columns else torch.zeros(*batch.token_types.shape, 0)


@dataclass(frozen=True, eq=False)
class Seen:
    """What some neurons do at one picture's image tokens."""

    values: Numbers
    """`[image_pos, neuron]`."""
    columns: dict[NeuronId, int]
    """For each neuron its column."""

    def of(self, neurons: NeuronSet) -> Numbers:
        """Return the columns of some of the neurons: `[image_pos, neuron]`."""
        chosen: Numbers = self.values[:, [self.columns[one] for one in neurons]]
        return chosen


def strongest(model: MLLM, site: Site, neurons: NeuronSet, images: Sequence[Image]) -> dict[NeuronId, float]:
    """Return each neuron's activation where it is strongest, on average over pictures: which way it fires in them.

    Of each picture counts the activation that is largest without its sign, with its sign, at the image tokens, or at
    all tokens of a prompt that has no image tokens. Without pictures nothing is known, and nothing is returned.
    """
    if not images or not neurons:
        return {}
    peaks = torch.zeros(len(neurons), dtype=torch.float64)
    for _, batch, values in read(model, site, neurons, images):
        image, valid = (of_token_type(batch.token_types, kind).cpu() for kind in ("image", "all"))
        counted = torch.where(image.any(1, keepdim=True), image, valid)[..., None]
        at = values.abs().masked_fill(~counted, -1).argmax(1, keepdim=True)
        peaks += values.gather(1, at).double().sum((0, 1))
    return dict(zip(neurons, (peaks / len(images)).tolist(), strict=True))


def at_image(
    model: MLLM, site: Site, sets: Sequence[NeuronSet], images: Sequence[Image], below: Collection[NeuronId] = ()
) -> list[Seen]:
    """Return for each picture what the neurons of all `sets` do at its image tokens; each batch is read once.

    Neurons that fire `below` zero are turned round: what they do counts as positive where it is negative.
    """
    every = NeuronSet(tuple(one for chosen in sets for one in chosen), site.name, site.scope)
    columns = {one: column for column, one in enumerate(every)}
    signs = torch.tensor([-1.0 if one in below else 1.0 for one in every])
    found: dict[int, Seen] = {}
    for places, batch, values in read(model, site, every, images):
        image = (batch.token_types == IMAGE).cpu()
        if not bool(image.any(1).all()):
            raise ValueError("the model has no image tokens, so that its neurons do nothing at them")
        for place, row, mask in zip(places, values, image, strict=True):
            found[place] = Seen((row[mask] * signs).double().numpy(), columns)
    return [found[place] for place in range(len(images))]


def mean_activation(seen: Sequence[Seen], neurons: NeuronSet) -> Numbers:
    """Return the mean activation of a set at each picture's image tokens: `[picture]`."""
    return np.array([one.of(neurons).mean() for one in seen], dtype=np.float64)


def by_modality(model: MLLM, site: Site, neurons: NeuronSet, images: Sequence[Image]) -> dict[str, NeuronSet]:
    """Return the neurons by the modality of the positions at which they fire most strongly, on average.

    Disjoint sets whose union is `neurons`; modalities that are in no prompt are left out. Firing is the absolute
    activation. (kedit's choice; MINER's own sets come from its locator.)
    """
    sums = torch.zeros(len(MODALITIES), len(neurons), dtype=torch.float64)
    counts = torch.zeros(len(MODALITIES), 1, dtype=torch.float64)
    for _, batch, values in read(model, site, neurons, images):
        for number in range(1, len(MODALITIES)):
            firing = values[(batch.modalities == number).cpu()].abs().double()
            sums[number] += firing.sum(0)
            counts[number] += len(firing)
    means = (sums / counts.clamp(min=1)).masked_fill(counts == 0, -1)
    strongest = means.argmax(0).tolist()
    members = list(zip(strongest, neurons, strict=True))
    return {
        name: NeuronSet(tuple(one for best, one in members if best == number), neurons.site, neurons.scope)
        for number, name in enumerate(MODALITIES)
        if number and counts[number] > 0
    }


@dataclass(frozen=True)
class Pointing:
    """How well one heat map points at the concept."""

    hit: bool
    """Whether it peaks inside the region."""
    iou: float
    """Of the region with what is at least half as hot as the peak."""
    auc: float | None
    """Against the picture's other objects; None where there are none."""


def pointing(
    values: Numbers, grid: ImageGrid | tuple[int, int], sample: Sample, concept: Concept, others: Mask
) -> Pointing:
    """Return how well neurons with `values`, `[image_pos, neuron]`, point at `concept` in `sample`.

    The peak may miss the region by half of the grid's smallest cell, which is as exact as a map can be.
    """
    heat = heat_map(values, grid, sample.image.size)
    region = sample.region(concept)
    beside = bool((others & ~region).any() and (region & ~others).any())
    hit = pointing_hit(heat, region, tolerance=half_a_cell(grid, sample))
    return Pointing(hit, iou(heat, region), region_auc(heat, region, others) if beside else None)


def half_a_cell(grid: ImageGrid | tuple[int, int], sample: Sample) -> int:
    """Return half the side of a grid's smallest cell in pixels of the sample's picture."""
    return smallest_cell(grid if isinstance(grid, ImageGrid) else ImageGrid.of(*grid), sample.image.size) // 2
