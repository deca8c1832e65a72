"""Reference activations for `Patch`: what the neurons do in other runs of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.edit.operators import Patch
from kedit.models.mllm import MLLM, TokenType, of_token_type
from kedit.models.reading import prompted
from kedit.neurons import SiteName
from kedit.samples import Pair, Progress, pictured, silent


class Reference(Protocol):
    """Measures what a patch sets the neurons to."""

    def __call__(self, model: MLLM, pairs: Sequence[Pair], *, progress: Progress = silent) -> Patch:
        """Return the patch; `pairs` are the ones that were used for locating."""
        ...


@dataclass(frozen=True)
class CounterfactualMean:
    """What the neurons do, on average, where the concept is painted out."""

    site: SiteName = "mid"
    reads: TokenType = "image"

    def __call__(self, model: MLLM, pairs: Sequence[Pair], *, progress: Progress = silent) -> Patch:
        """Return the patch to the mean over the counterfactual pictures."""
        images = [pair.image for pair in pictured(pairs, "`edit=patch`")]
        return Patch(mean_activations(model, images, self.site, self.reads, progress), "counterfactual mean", self.site)


@dataclass(frozen=True)
class DatasetMean:
    """What the neurons do, on average, on the original pictures."""

    site: SiteName = "mid"
    reads: TokenType = "image"

    def __call__(self, model: MLLM, pairs: Sequence[Pair], *, progress: Progress = silent) -> Patch:
        """Return the patch to the mean over the original pictures."""
        images = [pair.sample.image for pair in pictured(pairs, "`edit=patch`")]
        return Patch(mean_activations(model, images, self.site, self.reads, progress), "data set mean", self.site)


@dataclass(frozen=True)
class Donor:
    """What the neurons do on one other picture, from a file."""

    picture: str
    site: SiteName = "mid"
    reads: TokenType = "image"

    def __post_init__(self) -> None:
        if not Path(self.picture).is_file():
            raise FileNotFoundError(f"no picture `{self.picture}` to take the activations from")

    def __call__(self, model: MLLM, pairs: Sequence[Pair], *, progress: Progress = silent) -> Patch:
        """Return the patch to the mean over the donor's positions."""
        from PIL import Image

        with Image.open(self.picture) as picture:
            image = picture.convert("RGB")
        means = mean_activations(model, [image], self.site, self.reads, progress)
        return Patch(means, f"donor {self.picture}", self.site)


def mean_activations(
    model: MLLM, images: Sequence[Image], site: SiteName, positions: TokenType, progress: Progress
) -> dict[int, Tensor]:
    """Return each layer's mean activation over the positions of all pictures: `[neuron]` by layer."""
    if not images:
        raise ValueError("there is nothing to average: no pictures")
    place = model.site(site)
    totals = {layer: torch.zeros(width, dtype=torch.float64) for layer, width in place.widths.items()}
    n_positions = 0
    for _, batch, activations in prompted(model, place, images, progress=progress, what="reference"):
        counts = of_token_type(batch.token_types, positions)
        for layer, by_position in activations.items():
            totals[layer] += by_position[counts.to(by_position.device)].double().sum(0).cpu()
        n_positions += int(counts.sum())
    if n_positions == 0:
        raise ValueError(f"no `{positions}` positions in the {len(images)} pictures' prompts")
    return {layer: (total / n_positions).float() for layer, total in totals.items()}
