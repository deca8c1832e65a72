"""Painting a concept out of a picture: exactly where the data set can, else by filling its region.

Every inpainter can also make a control picture, with something else painted out and the concept left in: what changes
there too is not about the concept.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from kedit.data.control_region import control_region
from kedit.samples import AnySample, Concept, Counterfactual, Mask, Sample, TextSample

Pixels = NDArray[np.float64]
"""Colors as 8-bit levels that are not rounded yet: `[..., 3]`."""

Filling = Callable[[NDArray[np.uint8], Mask], Pixels]
"""What paints a region, `[height, width]`, of a picture, `[height, width, 3]`: the colors of all pixels or of each."""


class Inpainter(Protocol):
    """Paints a concept out of a sample."""

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the pair of the sample and its picture without the concept."""
        ...


@dataclass(frozen=True)
class Exact:
    """The picture as the data set draws it without the concept: same noise, same everything else."""

    control: bool = False
    """Whether to draw a control picture too: without the other object of the most similar area, the first by name of
    several; where the picture shows no other object, the picture itself."""

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the exact counterfactual; a LookupError says if the data set has none."""
        if sample.render_without is None:
            raise LookupError(
                f"the data of sample `{sample.id}` cannot draw it without `{concept.name}`; "
                "fill its region instead (`inpaint=mean` or `inpaint=blur`)"
            )
        other = _other_object(sample, concept) if self.control else None
        control = sample.image if self.control else None
        if other is not None:
            control = sample.render_without(other)
        return Counterfactual(sample, concept, sample.render_without(concept.name), control)


@dataclass(frozen=True)
class MeanFill:
    """The region in the mean color of the rest of the picture."""

    dilation: int = 1
    """By how many pixels the region is grown first."""
    control: bool = False
    """Whether to make a control picture too; see `kedit.data.control_region`."""

    def __post_init__(self) -> None:
        check_dilation(self.dilation)

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the filled picture, in RGB; outside the grown region no pixel changes."""
        region = region_of(sample, concept, self.dilation)
        return painted(sample, concept, region, mean_outside, control=self.control)


def usual_inpainter(samples: Iterable[AnySample]) -> Inpainter:
    """Return what paints if nothing was chosen: exactly where each sample can be drawn anew, else the mean colour."""
    exact = all(isinstance(one, TextSample) or one.render_without is not None for one in samples)
    return Exact() if exact else MeanFill()


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
    control: bool = False
    """Whether to make a control picture too; see `kedit.data.control_region`."""

    def __post_init__(self) -> None:
        check_dilation(self.dilation)
        if not 0 < self.radius < math.inf:
            raise ValueError(f"`radius` is a blur in pixels, above 0, got {self.radius}")

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the filled picture, in RGB; outside the grown region no pixel changes."""
        region = region_of(sample, concept, self.dilation)

        def blurred(pixels: NDArray[np.uint8], region: Mask) -> Pixels:
            return blurred_outside(pixels, region, self.radius)

        return painted(sample, concept, region, blurred, control=self.control)


def region_of(sample: Sample, concept: Concept, dilation: int) -> Mask:
    """Return the grown region of `concept`; a ValueError if it is empty or not of the picture's size."""
    try:
        region = np.asarray(sample.region(concept)).astype(bool)
    except LookupError as error:
        raise LookupError(f"{error.args[0]}; `segment=clipseg` looks for it in the picture") from error
    size = (sample.image.height, sample.image.width)
    if region.shape != size:
        raise ValueError(
            f"the region of `{concept.name}` in sample `{sample.id}` is {region.shape} (height, width), "
            f"the picture {size}; they must be equal"
        )
    if not region.any():
        raise ValueError(f"the region of `{concept.name}` in sample `{sample.id}` is empty: there is nothing to fill")
    return grown(region, dilation)


def painted(sample: Sample, concept: Concept, region: Mask, filling: Filling, *, control: bool) -> Counterfactual:
    """Return the sample with `region` filled and, for a `control`, with a region of its shape filled elsewhere.

    Whatever `filling` returns, outside the region the picture keeps its pixels.
    """
    pixels = np.array(sample.image.convert("RGB"))
    other: Image.Image | None = None
    if control:
        place = control_region(region, sample.id)
        other = filled(pixels, place, filling(pixels, place))
    return Counterfactual(sample, concept, filled(pixels, region, filling(pixels, region)), other)


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


def filled(pixels: NDArray[np.uint8], region: Mask, filling: Pixels) -> Image.Image:
    """Return the picture with `filling` inside `region` and the original pixels everywhere else."""
    rounded = np.rint(filling).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.where(region[..., None], rounded, pixels))


def _other_object(sample: Sample, concept: Concept) -> str | None:
    """Return the object whose area is nearest to the concept's, or None."""
    areas = {name: int(region.sum()) for name, region in sample.regions.items()}
    area = areas.get(concept.name, 0)
    others = sorted(sample.objects - {concept.name})
    return min(others, key=lambda name: abs(areas.get(name, 0) - area), default=None)


def _gaussian(length: int, radius: float) -> NDArray[np.float64]:
    """Return the weights of a Gaussian between any two of `length` pixels in a row: `[length, length]`."""
    place = np.arange(length)
    weights: NDArray[np.float64] = np.exp(-(((place[:, None] - place) / radius) ** 2) / 2)
    return weights


def check_dilation(dilation: int) -> None:
    """Raise a ValueError if a region cannot be grown by `dilation` pixels."""
    if not isinstance(dilation, int) or dilation < 0:
        raise ValueError(f"`dilation` is a whole number of pixels, 0 or more, got {dilation!r}")
