"""Where the located neurons fire in each picture, and how well those places point at the concept."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.inspection import heat_map, other_regions
from kedit.inspection.grid import NoGridError, picture_grids
from kedit.inspection.responses import at_image, half_a_cell, pointing, strongest
from kedit.internals.sites import Site
from kedit.models.mllm import MLLM
from kedit.pipelines.firing import Fired
from kedit.pipelines.locate import Located
from kedit.plots import HeatRow
from kedit.results.cache import Cache, of_pairs
from kedit.samples import TextPair, pictured


@dataclass(frozen=True, eq=False)
class HeatMaps:
    """Heat maps of the pictures that neurons were located with; none where they cannot be drawn."""

    model: MLLM
    site: Site
    located: Located
    cache: Cache

    @cached_property
    def measures(self) -> Mapping[str, Any]:
        """The "heat_maps" part of report.json: how well the maps point at the concept, or `why` there are none.

        `pointing` is the share of pictures whose strongest place lies in the concept's region,
        `auc_against_other_objects` how well the map tells that region from those of other objects.
        """
        if not self.located.neurons:
            return {"why": "no neuron was located"}
        if any(isinstance(pair, TextPair) for pair in self.located.pairs):
            return {"why": "the neurons were located with texts, and heat maps are of pictures"}
        if self.site.scope != "language":
            scope = self.site.scope
            return {"why": f"the neurons are of scope `{scope}`, and heat maps are of the language model's positions"}
        about = {"pairs": of_pairs([pair for pair, _ in self.located.used]), "neurons": self.located.neurons.to_json()}
        found: Mapping[str, Any] = self.cache.json("report", "heat maps", lambda: about, self._measure)
        return found

    @property
    def rows(self) -> list[HeatRow]:
        """A row of a figure for each picture, those that show other objects first; empty where there are no maps."""
        return [] if "why" in self.measures else self._seen[0]

    @cached_property
    def fired(self) -> Fired | None:
        """What the neurons did in the pictures; None where there are no maps."""
        return None if "why" in self.measures else self._fired

    @cached_property
    def _fired(self) -> Fired:
        used = self.located.used
        pairs = pictured([pair for pair, _ in used], "a heat map")
        images = [pair.sample.image for pair in pairs]
        grids = picture_grids(self.model, images)
        peaks = strongest(self.model, self.site, self.located.neurons, images)
        below = {neuron for neuron, peak in peaks.items() if peak < 0}
        seen = at_image(self.model, self.site, [self.located.neurons], images, below)
        captions = [caption.text for _, caption in used]
        return Fired(pairs[0].concept, pairs, captions, seen, grids, peaks)

    @cached_property
    def _seen(self) -> tuple[list[HeatRow], list[float], list[float]]:
        """The rows, whether each map hits the concept, and the areas under the curve."""
        fired = self._fired
        rows, hits, aucs = [], [], []
        for pair, one, grid, caption in zip(fired.pairs, fired.seen, fired.grids, fired.captions, strict=True):
            others, cell = other_regions(pair.sample, pair.concept), half_a_cell(grid, pair.sample)
            judged = pointing(one.values, grid, pair.sample, pair.concept, others)
            hits.append(float(judged.hit))
            if judged.auc is not None:
                aucs.append(judged.auc)
            heat, beside = heat_map(one.values, grid, pair.sample.image.size), others if others.any() else None
            region = pair.sample.region(pair.concept)
            rows.append(HeatRow(pair.sample.image, pair.image, heat, region, caption, beside, cell))
        rows.sort(key=lambda row: row.others is None)
        return rows, hits, aucs

    def _measure(self) -> dict[str, Any]:
        try:
            _, hits, aucs = self._seen
        except NoGridError as error:
            return {"why": str(error)}
        auc = bootstrap_mean(aucs) if aucs else Measured.missing("no picture shows another object")
        return {"pointing": bootstrap_mean(hits).to_json(), "auc_against_other_objects": auc.to_json()}
