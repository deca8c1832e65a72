"""Locating in pictures that a model drew: which neurons write a region of them.

The model reads its own drawing again in one pass. Of a model that draws code by code the target is the sum of the
log-probabilities of the codes in the cells that show the concept; what comes before a code predicts it, so evidence
lies in the column before its own. Of GILL it is the sum of the region's pixels, which depend on the states of its [IMG]
tokens through the diffusion.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from kedit.arguments import require
from kedit.internals.hooks import record
from kedit.internals.sites import Site
from kedit.locate.copies import region_token_types
from kedit.locate.locator import Locator
from kedit.locate.nam import softmax_maximum
from kedit.locate.reduction import Evidence, OverPositions, OverSamples, check_reductions, over_positions
from kedit.locate.scorer import AcrossLayers, DrawnCase, LayerEvidence, Need, Prober, Region, Scorer
from kedit.locate.scoring import Tally, probed, stacked_batch
from kedit.models.drawing import drawer
from kedit.models.drawings import Drawer, Drawings, ForcedDrawings
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores, ids_to
from kedit.progress import Batched
from kedit.samples import Concept, Mask, Progress, silent

GIVEN: frozenset[Need] = frozenset({"gradient", "region"})
"""What a drawing can show of what a scorer may need."""
Normalise = Literal["range", "none"]
"""What becomes of R: `range` maps its entries to (0, 1), the least to 0; `none` leaves the gradient as it is."""


@dataclass(frozen=True)
class NAMImage:
    """I-neurons: those that move the last hidden state towards a region of the picture that is being drawn.

    Fang et al., NeurIPS 2024, section 3.1 and equation 4: s = `A * (w . R)`, the final score `max(softmax(s),
    softmax(A))` over all layers and neurons of a picture. R says how much each entry of the last hidden state matters
    for the region, normalised to (0, 1). With GILL it is the gradient of the region's pixels at the states of the [IMG]
    tokens, through the diffusion and the mapper, as in the paper; with models that draw code by code that of the
    region's log-probabilities at the states that its codes are read off. Both are after the final norm.

    Between 0 and 1 R has no sign: a neuron that makes the region less likely scores like one that makes it likelier.
    With `normalise="none"` the sign stays, and without `activation` the score is the contribution alone: the baseline
    AcU of the paper, for pictures.
    """

    positions: Evidence = "image"
    """`image` and `target` are the columns that the region is drawn from, `text` the prompt, `all` all of them."""
    over_positions: OverPositions = "mean"
    over_samples: OverSamples = "mean"
    normalise: Normalise = "range"
    activation: bool = True
    """Whether a high activation counts as well (equation 4)."""

    def __post_init__(self) -> None:
        check_reductions(self.positions, self.over_positions, self.over_samples)
        if self.normalise not in ("range", "none"):
            raise ValueError(f"`normalise` is one of range, none, got {self.normalise!r}")

    @property
    def needs(self) -> frozenset[Need]:
        """What the region of a drawing asks of the last hidden state."""
        return frozenset({"region"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the contribution to the region and the activation of one layer, `[batch, 2, neuron]`."""
        assert evidence.region is not None
        towards = evidence.region.normal if self.normalise == "range" else evidence.region.plain
        direct = evidence.original * (towards @ evidence.region.values.T)
        channels = [
            over_positions(values, evidence.token_types, self.positions, self.over_positions)
            for values in (direct, evidence.original)
        ]
        return torch.stack(channels, dim=1)

    def across_layers(self, scores: Tensor) -> Tensor:
        """Return the final score, `[batch, layer, neuron]`, of both channels, `[batch, 2, layer, neuron]`."""
        direct, active = scores.unbind(1)
        return softmax_maximum(direct, active) if self.activation else direct


@dataclass(frozen=True, eq=False)
class Depicted:
    """Drawings that show a concept, and where."""

    concept: Concept
    drawings: Drawings
    region: Tensor
    """True where the concept is: `[n, cell]`, or `[n, height, width]` where drawings have no codes."""

    @classmethod
    def of(cls, concept: Concept, drawings: Drawings, masks: Sequence[Mask | None], draws: Drawer) -> "Depicted":
        """Return the drawings in which a concept was found.

        Args:
            concept: What was looked for.
            drawings: What was drawn.
            masks: Where it is in each, `[height, width]`; None where it is not.
            draws: What drew them.
        """
        regions = {place: draws.region_of(mask) for place, mask in enumerate(masks) if mask is not None}
        shown = [place for place, region in regions.items() if region.any()]
        if not shown:
            raise ValueError(f"there is nothing to locate in: no drawing shows `{concept.name}`")
        some = Drawings(
            tuple(drawings.prompts[place] for place in shown),
            tuple(drawings.images[place] for place in shown),
            drawings.codes[shown],
            drawings.seed,
        )
        return cls(concept, some, torch.stack([regions[place] for place in shown]))

    def __post_init__(self) -> None:
        require(self.drawings, Drawings, "drawings", "what `drawer(model).draw` returned")
        require(self.region, Tensor, "region", "a tensor of true and false")
        wanted = self.drawings.region_shape
        if self.region.shape != wanted or self.region.dtype != torch.bool:
            raise ValueError(
                f"`region` is true or false for each code, or pixel where there are none, {list(wanted)}; got "
                f"{list(self.region.shape)} of {self.region.dtype}"
            )
        if not len(self.region):
            raise ValueError(f"there is nothing to locate in: no drawing shows `{self.concept.name}`")
        if empty := [number for number, row in enumerate(self.region) if not row.any()]:
            raise ValueError(
                f"the region of drawing {empty[0]} is empty: it has no `{self.concept.name}`; leave it out"
            )


def score_drawn(
    model: MLLM, locator: Locator, shown: Depicted, *, progress: Progress = silent
) -> dict[str, NeuronScores]:
    """Score every neuron in every stage of a locator, the drawn concept as the target.

    `positions=target` and `image` are the columns that the region is drawn from: those that predict its codes, or all
    [IMG] tokens of GILL. One forward a drawing, one backward if a stage needs a gradient; a whole drawing's activations
    and their graph are held, for `batch_size` drawings. GILL's diffusion is gone through once more for each drawing.

    Args:
        model: The model that drew, unedited.
        locator: Its stages read activations, gradients or the region; not counterfactuals, words or attention.
        shown: What to locate with.
        progress: Shows the batches go by.

    Raises:
        ValueError: A stage needs what a drawing does not show, or the model does not draw.
    """
    check_drawable(locator)
    draws, site = drawer(model), model.site(locator.site, "language")
    stages = {name: _at_region(stage.scorer) for name, stage in locator.stages.items()}
    scorers = {name: one for name, one in stages.items() if isinstance(one, Scorer)}
    probers = {name: one for name, one in stages.items() if isinstance(one, Prober)}
    began, made = time.perf_counter(), {name: Tally.of(one) for name, one in stages.items()}
    cases = [
        DrawnCase(shown.concept, draws.teacher_forced(shown.drawings[n : n + 1]), shown.region[n : n + 1], prompt)
        for n, prompt in enumerate(shown.drawings.prompts)
    ]
    if scorers:
        size = model.batch_size
        starts = range(0, len(cases), size)
        for start in progress(Batched(starts, [len(cases[one : one + size]) for one in starts]), len(starts), "locate"):
            _gather(site, draws, shown, slice(start, start + size), scorers, made)
    for name, prober in probers.items():
        made[name] = probed(model, site, cases, locator.target, name, prober, progress)
    backwards = len(cases) * any("gradient" in one.needs for one in scorers.values())
    about = {
        "model": model.name,
        "concept": shown.concept.name,
        "target": cases[0].forced.target,
        "samples": ids_to(shown.drawings.prompts),
        "n_samples": str(len(cases)),
        "skipped": "0",
        "forwards": str(len(cases) * bool(scorers) + sum(one.forwards for one in made.values())),
        "backwards": str(backwards + sum(one.backwards for one in made.values())),
        "seconds": f"{time.perf_counter() - began:.3f}",
    }
    return {name: locator.as_scores(name, tally, site, about, torch.float32) for name, tally in made.items()}


def check_drawable(locator: Any) -> None:
    """Raise a ValueError unless each stage of a locator can be scored on a drawing."""
    require(locator, Locator, "locate", "a `Locator` of stages, or its name, such as `nam_image`")
    if locator.scope != "language":
        raise ValueError(f"drawings are written by the language model; `locate.scope` is `{locator.scope}`")
    for name, stage in locator.stages.items():
        lacks = sorted((getattr(stage.scorer, "needs", GIVEN) or GIVEN) - GIVEN)
        if getattr(stage.scorer, "shortlist", None) is not None:
            raise ValueError(f"stage `{name}` has a shortlist, which is made of captions; set it to null for a drawing")
        if lacks or not isinstance(getattr(stage.scorer, "positions", None), str):
            raise ValueError(
                f"stage `{name}` needs {lacks[0] if lacks else 'other samples'}, which a drawing does not have; what "
                "locates in drawings: nam_image, nam_act, nam_grad, nam_grat, nam_grai, nam_ce"
            )


def _at_region(scorer: Any) -> Any:
    """Return a scorer that looks at the region's columns where it would look at that of the word."""
    return replace(scorer, positions="image") if scorer.positions == "target" else scorer


@torch.inference_mode(False)
def _gather(
    site: Site, draws: Drawer, shown: Depicted, rows: slice, scorers: Mapping[str, Scorer], made: Mapping[str, Tally]
) -> None:
    """Read some drawings and add what each scorer makes of them."""
    forced, region = draws.teacher_forced(shown.drawings[rows]), shown.region[rows]
    module, needs = forced.module, frozenset[Need]().union(*(one.needs for one in scorers.values()))
    steep = "gradient" in needs
    with torch.set_grad_enabled(steep), record(module, site, differentiable=steep) as activations:
        states = forced.states()
    gradients: dict[int, Tensor] = {}
    regions: dict[int, Region] = {}
    if needs:
        # R takes a whole diffusion with GILL, and activations alone need none.
        asked = towards(forced, states, region)
        if steep:
            found = torch.autograd.grad(states, list(activations.values()), asked.to(states.dtype))
            gradients = dict(zip(activations, found, strict=True))
        if "region" in needs:
            values = {layer: site.value_matrix(module, layer) for layer in site.blocks}
            regions = _regions(forced, asked, region, values)
    token_types = region_token_types(forced, region)
    layers = [
        LayerEvidence(
            layer,
            token_types,
            _apart(activations[layer], token_types),
            gradient=_apart(gradients[layer], token_types) if steep else None,
            region=regions.get(layer),
        )
        for layer in site.blocks
    ]
    for name, scorer in scorers.items():
        scores = [scorer.score(layer).float().cpu() for layer in layers]
        made[name].n_invalid += sum(int(one.isnan().sum()) for one in scores)
        stacked = stacked_batch(scores)
        made[name].sums.add(scorer.across_layers(stacked) if isinstance(scorer, AcrossLayers) else stacked)


def towards(forced: ForcedDrawings, states: Tensor, region: Tensor) -> Tensor:
    """Return R: the gradient of how much of the region is drawn at the last hidden states, `[batch, column, d_model]`.

    Args:
        forced: The pass over the drawings.
        states: What `forced.states()` returned.
        region: Where the concept is in each; see `Drawings.region_shape`.
    """
    gradients = list[Tensor]()
    # Row by row: the graph of one picture's diffusion, or of one picture's logits, is large.
    for row, (one, where) in enumerate(zip(states.detach(), region, strict=True)):
        with torch.enable_grad():
            leaf = one.clone().requires_grad_()
            gradients += torch.autograd.grad(forced.shows(row, leaf, where), leaf)
    return torch.stack(gradients)


def _regions(forced: ForcedDrawings, asked: Tensor, region: Tensor, values: Mapping[int, Tensor]) -> dict[int, Region]:
    """Return R at all columns, zero where nothing of the region is drawn from, with each layer's value vectors."""
    inside = forced.inside(region).to(asked.device)[..., None]
    asked = asked.float()
    low, high = (
        getattr(asked.masked_fill(~inside, fill), reduced)((1, 2), keepdim=True)
        for fill, reduced in ((torch.inf, "amin"), (-torch.inf, "amax"))
    )
    normal = ((asked - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)).masked_fill(~inside, 0.0)
    plain, scaled = (_at_columns(forced, one) for one in (asked.masked_fill(~inside, 0.0), normal))
    return {layer: Region(plain, scaled, matrix.detach().float()) for layer, matrix in values.items()}


def _at_columns(forced: ForcedDrawings, cellwise: Tensor) -> Tensor:
    laid = cellwise.new_zeros(*forced.token_types.shape, cellwise.shape[-1])
    laid[:, list(forced.columns)] = cellwise
    return laid


def _apart(values: Tensor, token_types: Tensor) -> Tensor:
    """Return a layer's values by drawing and column, 32-bit; some models flatten both."""
    return values.detach().reshape(*token_types.shape, -1).float()
