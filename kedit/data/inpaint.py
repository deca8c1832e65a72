"""Painting a concept out of a picture: exactly where the data set can, else by filling its region."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageFilter

from kedit.samples import Concept, Counterfactual, Mask, Sample


class Inpainter(Protocol):
    """Paints a concept out of a sample."""

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the pair of the sample and its picture without the concept."""
        ...


@dataclass(frozen=True)
class Exact:
    """The picture as the data set draws it without the concept: same noise, same everything else."""

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the exact counterfactual; a LookupError says if the data set has none."""
        if sample.render_without is None:
            raise LookupError(f"the data of sample `{sample.id}` cannot draw it without `{concept.name}`; fill instead")
        return Counterfactual(sample, concept, sample.render_without(concept.name))


@dataclass(frozen=True)
class MeanFill:
    """The region in the mean color of the rest of the picture."""

    dilation: int = 1
    """By how many pixels the region is grown first."""

    def __post_init__(self) -> None:
        _check("dilation", self.dilation)

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the filled picture; outside the grown region no pixel changes."""
        region = grown(sample.region(concept), self.dilation)
        pixels = np.array(sample.image.convert("RGB"))
        rest = pixels[~region]
        filling = rest.mean(0) if len(rest) else pixels.reshape(-1, 3).mean(0)
        return composited(sample, concept, region, Image.fromarray(np.broadcast_to(filling, pixels.shape).astype("u1")))


@dataclass(frozen=True)
class BlurFill:
    """The region blurred until its content is gone."""

    radius: float = 8.0
    """Standard deviation of the blur in pixels."""
    dilation: int = 1

    def __post_init__(self) -> None:
        _check("dilation", self.dilation)
        if not self.radius > 0:
            raise ValueError(f"`radius` is a blur in pixels, above 0, got {self.radius}")

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the filled picture; outside the grown region no pixel changes."""
        region = grown(sample.region(concept), self.dilation)
        blurred = sample.image.convert("RGB").filter(ImageFilter.GaussianBlur(self.radius))
        return composited(sample, concept, region, blurred)


def grown(region: Mask, dilation: int) -> Mask:
    """Return `region` grown by `dilation` pixels in each direction: `[height, width]`."""
    if dilation == 0:
        return region
    picture = Image.fromarray(region.astype("u1") * 255)
    return np.array(picture.filter(ImageFilter.MaxFilter(2 * dilation + 1))) > 0


def composited(sample: Sample, concept: Concept, region: Mask, filling: Image.Image) -> Counterfactual:
    """Return the sample with `filling` inside `region` and the original pixels everywhere else."""
    original = sample.image.convert("RGB")
    if region.shape != (original.height, original.width):
        raise ValueError(
            f"the region of `{concept.name}` in sample `{sample.id}` is {region.shape[1]}x{region.shape[0]}, "
            f"the picture {original.width}x{original.height}"
        )
    return Counterfactual(sample, concept, Image.composite(filling, original, Image.fromarray(region)))


def _check(name: str, value: int) -> None:
    if value < 0:
        raise ValueError(f"`{name}` is a number of pixels, 0 or more, got {value}")
