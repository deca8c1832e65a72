"""Painting a concept out of a picture: exactly where the data set can, else by filling its region."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from kedit.samples import Concept, Counterfactual, Mask, Sample

Pixels = NDArray[np.float64]
"""Colors as 8-bit levels that are not rounded yet: `[..., 3]`."""


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
            raise LookupError(
                f"the data of sample `{sample.id}` cannot draw it without `{concept.name}`; "
                "fill its region instead (`inpaint=mean` or `inpaint=blur`)"
            )
        return Counterfactual(sample, concept, sample.render_without(concept.name))


@dataclass(frozen=True)
class MeanFill:
    """The region in the mean color of the rest of the picture."""

    dilation: int = 1
    """By how many pixels the region is grown first."""

    def __post_init__(self) -> None:
        _check_dilation(self.dilation)

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the filled picture, in RGB; outside the grown region no pixel changes."""
        region = region_of(sample, concept, self.dilation)
        pixels = np.array(sample.image.convert("RGB"))
        return filled(sample, concept, region, np.broadcast_to(mean_outside(pixels, region), pixels.shape))


@dataclass(frozen=True)
class BlurFill:
    """The region filled with the blurred surroundings.

    A pixel of the region becomes the mean of the pixels outside it, each weighted by a Gaussian of its distance
    (normalized convolution, Knutsson and Westin 1993). Blurring the picture as it is would leave a smear
    of the object wherever the object is wider than the blur.
    """

    radius: float = 8.0
    """Standard deviation of the blur in pixels."""
    dilation: int = 1
    """By how many pixels the region is grown first."""

    def __post_init__(self) -> None:
        _check_dilation(self.dilation)
        if not 0 < self.radius < math.inf:
            raise ValueError(f"`radius` is a blur in pixels, above 0, got {self.radius}")

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the filled picture, in RGB; outside the grown region no pixel changes."""
        region = region_of(sample, concept, self.dilation)
        pixels = np.array(sample.image.convert("RGB"))
        return filled(sample, concept, region, blurred_outside(pixels, region, self.radius))


def region_of(sample: Sample, concept: Concept, dilation: int) -> Mask:
    """Return the grown region of `concept`; a ValueError if it is empty or not of the picture's size."""
    region = np.asarray(sample.region(concept)).astype(bool)
    size = (sample.image.height, sample.image.width)
    if region.shape != size:
        raise ValueError(
            f"the region of `{concept.name}` in sample `{sample.id}` is {region.shape} (height, width), "
            f"the picture {size}; they must be equal"
        )
    if not region.any():
        raise ValueError(f"the region of `{concept.name}` in sample `{sample.id}` is empty: there is nothing to fill")
    return grown(region, dilation)


def grown(region: Mask, dilation: int) -> Mask:
    """Return `region` grown by `dilation` pixels in each direction, diagonals included: `[height, width]`."""
    if dilation == 0:
        return region
    picture = Image.fromarray(region.astype("u1") * 255)
    return np.array(picture.filter(ImageFilter.MaxFilter(2 * dilation + 1))) > 0


def mean_outside(pixels: NDArray[np.uint8], region: Mask) -> Pixels:
    """Return the mean color outside `region`, or of everything where nothing is outside: `[3]`."""
    rest = pixels[~region]
    mean: Pixels = (rest if len(rest) else pixels.reshape(-1, 3)).mean(0)
    return mean


def blurred_outside(pixels: NDArray[np.uint8], region: Mask, radius: float) -> Pixels:
    """Return at each pixel the Gaussian-weighted mean of the pixels outside `region`: `[height, width, 3]`."""
    down, across = (_gaussian(length, radius) for length in region.shape)
    outside = (~region).astype(np.float64)
    weight = down @ outside @ across
    channels = [down @ (outside * pixels[..., channel]) @ across for channel in range(3)]
    # Deep inside a large region every weight rounds to zero.
    near = weight > np.finfo(np.float64).tiny * region.size
    mean = np.stack(channels, -1) / np.where(near, weight, 1.0)[..., None]
    return np.where(near[..., None], mean, mean_outside(pixels, region))


def filled(sample: Sample, concept: Concept, region: Mask, filling: Pixels) -> Counterfactual:
    """Return the sample with `filling` inside `region` and the original pixels everywhere else."""
    original = np.array(sample.image.convert("RGB"))
    rounded = np.rint(filling).clip(0, 255).astype(np.uint8)
    return Counterfactual(sample, concept, Image.fromarray(np.where(region[..., None], rounded, original)))


def _gaussian(length: int, radius: float) -> NDArray[np.float64]:
    """Return the weights of a Gaussian between any two of `length` pixels in a row: `[length, length]`."""
    place = np.arange(length)
    weights: NDArray[np.float64] = np.exp(-(((place[:, None] - place) / radius) ** 2) / 2)
    return weights


def _check_dilation(dilation: int) -> None:
    if not isinstance(dilation, int) or dilation < 0:
        raise ValueError(f"`dilation` is a whole number of pixels, 0 or more, got {dilation!r}")
