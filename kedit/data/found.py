"""Painting out what a segmenter finds, where the data set has no region, or only a box."""

from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Protocol, cast

import numpy as np

from kedit.data.inpaint import Inpainter
from kedit.data.pairs import Heavy
from kedit.data.pictures import SampleError
from kedit.samples import Concept, Counterfactual, Mask, Sample


class Segmenter(Protocol):
    """Finds a concept's region in a picture."""

    @property
    def refines(self) -> bool:
        """Whether it starts from the region of a sample, such as a box; else it finds one where there is none."""
        ...

    def __call__(self, sample: Sample, concept: Concept) -> Mask:
        """Return the region, `[height, width]`, empty where nothing is found."""
        ...


@dataclass(frozen=True)
class FoundRegions:
    """An inpainter whose regions a segmenter finds."""

    inpaint: Inpainter
    segment: Segmenter

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the pair; its sample has the region that was found.

        Raises:
            SampleError: Nothing was found, or there is no box to look in.
        """
        annotated = concept.name in sample.regions
        if annotated and not self.segment.refines:
            return self.inpaint(sample, concept)
        if self.segment.refines and not annotated:
            raise SampleError("no_box", f"`{sample.id}`: the data has no box of `{concept.name}` to look in")
        region = self.segment(sample, concept)
        if not np.any(region):
            raise SampleError("no_region_found", f"`{sample.id}`: no region of `{concept.name}` was found")
        # In front of the sample's own regions, which are drawn only when they are asked for.
        own = cast(MutableMapping[str, Mask], sample.regions)
        return self.inpaint(replace(sample, regions=ChainMap({concept.name: region}, own)), concept)

    def release(self) -> None:
        """Let the models of both go."""
        for part in (self.inpaint, self.segment):
            if isinstance(part, Heavy):
                part.release()
