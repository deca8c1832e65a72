"""Reference activations for `Patch`: what the neurons do in other runs of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.edit.operators import Patch
from kedit.hooks import record
from kedit.models.mllm import IMAGE, MLLM, PADDING, TEXT
from kedit.neurons import SiteName
from kedit.samples import Counterfactual, Progress, silent

Reads = Literal["all", "image", "text"]
"""The positions whose activations are averaged."""


class Reference(Protocol):
    """Measures what a patch sets the neurons to."""

    def __call__(self, model: MLLM, pairs: Sequence[Counterfactual], *, progress: Progress = silent) -> Patch:
        """Return the patch; `pairs` are the ones that were used for locating."""
        ...


@dataclass(frozen=True)
class CounterfactualMean:
    """What the neurons do, on average, where the concept is painted out."""

    site: SiteName = "mid"
    reads: Reads = "image"

    def __call__(self, model: MLLM, pairs: Sequence[Counterfactual], *, progress: Progress = silent) -> Patch:
        """Return the patch to the mean over the counterfactual pictures."""
        images = [pair.image for pair in pairs]
        return Patch(mean_activations(model, images, self.site, self.reads, progress), "counterfactual mean", self.site)


@dataclass(frozen=True)
class DatasetMean:
    """What the neurons do, on average, on the original pictures."""

    site: SiteName = "mid"
    reads: Reads = "image"

    def __call__(self, model: MLLM, pairs: Sequence[Counterfactual], *, progress: Progress = silent) -> Patch:
        """Return the patch to the mean over the original pictures."""
        images = [pair.sample.image for pair in pairs]
        return Patch(mean_activations(model, images, self.site, self.reads, progress), "data set mean", self.site)


@dataclass(frozen=True)
class Donor:
    """What the neurons do on one other picture, from a file."""

    picture: str
    site: SiteName = "mid"
    reads: Reads = "image"

    def __post_init__(self) -> None:
        if not Path(self.picture).is_file():
            raise FileNotFoundError(f"no picture `{self.picture}` to take the activations from")

    def __call__(self, model: MLLM, pairs: Sequence[Counterfactual], *, progress: Progress = silent) -> Patch:
        """Return the patch to the mean over the donor's positions."""
        from PIL import Image

        with Image.open(self.picture) as picture:
            image = picture.convert("RGB")
        means = mean_activations(model, [image], self.site, self.reads, progress)
        return Patch(means, f"donor {self.picture}", self.site)


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
            totals[layer] += by_position[counts.to(values.device)].double().sum(0).cpu()
        n_positions += int(counts.sum())
    if n_positions == 0:
        raise ValueError(f"no `{positions}` positions in the {len(images)} pictures' prompts")
    return {layer: (total / n_positions).float() for layer, total in totals.items()}


_COUNTS: dict[Reads, Callable[[Tensor], Tensor]] = {
    "all": lambda kinds: kinds != PADDING,
    "image": lambda kinds: kinds == IMAGE,
    "text": lambda kinds: kinds == TEXT,
}
