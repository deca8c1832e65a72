"""Regions filled from their edge inwards, by OpenCV."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kedit.data.inpaint import Pixels, check_dilation, mean_outside, painted, region_of
from kedit.data.inpaint_cache import cached, versions
from kedit.samples import Concept, Counterfactual, Mask, Sample

METHODS = ("telea", "navier_stokes")


@dataclass(frozen=True)
class OpenCVFill:
    """The region filled from its edge inwards.

    `telea` weighs the known pixels around each by distance and direction, nearest to the edge first (Telea 2004);
    `navier_stokes` continues the lines of equal color, as a fluid flows (Bertalmio, Bertozzi and Sapiro 2001).
    OpenCV rounds Telea's sums at each pixel, so on plain ground they grow by about one level (of 255) every ten pixels
    inwards; for regions of hundreds of pixels `navier_stokes`, which does not, is the better one.
    """

    method: str = "telea"
    radius: float = 3.0
    """How far from a pixel, in pixels, known ones count."""
    dilation: int = 2
    """By how many pixels the region is grown first: drawn edges carry some of the object's color outwards."""
    control: bool = False
    """Whether to make a control picture too; see `kedit.data.control_region`."""
    cache: str | None = None
    """A folder in which to keep results; None for none, as most pictures are filled faster than read."""

    def __post_init__(self) -> None:
        check_dilation(self.dilation)
        if self.method not in METHODS:
            raise ValueError(f"`method` is {' or '.join(METHODS)}, got {self.method!r}")
        if not 0 < self.radius < math.inf:
            raise ValueError(f"`radius` is a distance in pixels, above 0, got {self.radius}")

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the filled picture, in RGB; outside the grown region no pixel changes.

        Raises:
            ValueError: OpenCV is not installed, or the region is empty or not of the picture's size.
        """
        region = region_of(sample, concept, self.dilation)
        return painted(sample, concept, region, cached(self.cache, self._about, self._fill), control=self.control)

    def _fill(self, pixels: NDArray[np.uint8], region: Mask) -> Pixels:
        """Return the filled picture: `[height, width, 3]`."""
        cv2 = _opencv()
        if region.all():
            # OpenCV leaves a picture without an edge to start from as it is.
            return mean_outside(pixels, region)
        flag = cv2.INPAINT_TELEA if self.method == "telea" else cv2.INPAINT_NS
        made = cv2.inpaint(pixels, region.astype(np.uint8) * 255, self.radius, flag)
        return np.asarray(made).astype(np.float64)

    def _about(self) -> Mapping[str, Any]:
        """Return what a filling depends on besides picture and region."""
        packages = versions("opencv-python-headless", "opencv-python", "opencv-contrib-python")
        return {"method": self.method, "radius": self.radius, "versions": packages}


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"`inpaint=opencv` needs OpenCV, which cannot be imported ({error}); "
            "`pip install 'kedit[opencv]'`, or take `inpaint=blur`"
        ) from error
    return cv2
