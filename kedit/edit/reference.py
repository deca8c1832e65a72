"""Reference activations for `Patch`: what the neurons do in other runs of the model."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.edit.operators import Patch
from kedit.hooks import record
from kedit.models.mllm import IMAGE, MLLM, PADDING, TEXT
from kedit.neurons import SiteName
from kedit.samples import Counterfactual, Progress, Sample, silent

Reads = Literal["all", "image", "text"]
"""The positions whose activations are averaged."""


def counterfactual_mean(
    model: MLLM,
    pairs: Sequence[Counterfactual],
    *,
    site: SiteName = "mid",
    positions: Reads = "image",
    progress: Progress = silent,
) -> Patch:
    """Return a patch to what the neurons do, on average, where the concept is painted out.

    Only the positions inside a picture count by default, so that the mean is what the neurons do without the
    concept at the positions where they would see it.
    """
    images = [pair.image for pair in pairs]
    return Patch(mean_activations(model, images, site, positions, progress), "counterfactual mean")


def dataset_mean(
    model: MLLM,
    samples: Sequence[Sample],
    *,
    site: SiteName = "mid",
    positions: Reads = "image",
    progress: Progress = silent,
) -> Patch:
    """Return a patch to the neurons' mean activation over the pictures of a data set."""
    images = [sample.image for sample in samples]
    return Patch(mean_activations(model, images, site, positions, progress), "dataset mean")


def donor(model: MLLM, image: Image, *, site: SiteName = "mid", positions: Reads = "image") -> Patch:
    """Return a patch to the neurons' mean activation over one other picture."""
    return Patch(mean_activations(model, [image], site, positions, silent), "donor")


def mean_activations(
    model: MLLM, images: Sequence[Image], site: SiteName, positions: Reads, progress: Progress
) -> dict[int, Tensor]:
    """Return each layer's mean activation over the positions of all pictures: `[neuron]` by layer."""
    if not images:
        raise ValueError("there is nothing to average: no pictures")
    place = model.site(site)
    totals = {layer: torch.zeros(width, dtype=torch.float64) for layer, width in place.widths.items()}
    n_positions = 0
    starts = range(0, len(images), model.batch_size)
    for start in progress(starts, len(starts), "reference"):
        chunk = images[start : start + model.batch_size]
        batch = model.forced(chunk, [()] * len(chunk))
        counts = _COUNTS[positions](batch.kinds)
        with torch.no_grad(), record(model.module, place) as activations:
            model.logits(batch)
        for layer, values in activations.items():
            by_position = values.reshape(*counts.shape, -1)
            totals[layer] += by_position[counts].double().sum(0).cpu()
        n_positions += int(counts.sum())
    if n_positions == 0:
        raise ValueError(f"no `{positions}` positions in the {len(images)} pictures' prompts")
    return {layer: (total / n_positions).float() for layer, total in totals.items()}


_COUNTS: dict[Reads, Callable[[Tensor], Tensor]] = {
    "all": lambda kinds: kinds != PADDING,
    "image": lambda kinds: kinds == IMAGE,
    "text": lambda kinds: kinds == TEXT,
}
