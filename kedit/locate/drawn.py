"""Locating in pictures that a model drew: which neurons write a region of them, code by code.

The model reads its own drawing again in one pass. The target is the sum of the log-probabilities of the codes in the
cells that show the concept; what comes before a code predicts it, so evidence lies in the column before its own.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
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
from kedit.models.drawing import Drawer, Drawings, ForcedDrawings, drawer
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores
from kedit.progress import Batched
from kedit.samples import Concept, Mask, Progress, silent

COVERED = 0.25
"""How much of a cell a region has to cover for the cell to be part of it."""
GIVEN: frozenset[Need] = frozenset({"gradient", "region"})
"""What a drawing can show of what a scorer may need."""
Normalise = Literal["range", "none"]
"""What becomes of R: `range` maps its entries to (0, 1), the least to 0; `none` leaves the gradient as it is."""


@dataclass(frozen=True)
class NAMImage:
    """I-neurons: those that move the last hidden state towards a region of the picture that is being drawn.

    Fang et al., NeurIPS 2024, section 3.1 and equation 4: s = `A * (w . R)`, the final score `max(softmax(s),
    softmax(A))` over all layers and neurons of a picture. R says how much each entry of the last hidden state matters
    for the region, normalised to (0, 1); the paper has it from gradients through a diffusion model. Here it is the
    gradient of the region's log-probabilities at the state that each code is read off, after the final norm.

    Between 0 and 1 R has no sign: a neuron that makes the region less likely scores like one that makes it likelier.
    With `normalise="none"` the sign stays, and without `activation` the score is the contribution alone: the baseline
    AcU of the paper, for pictures.
    """

    positions: Evidence = "image"
    """`image` and `target` are the columns that predict the region's codes, `text` the prompt, `all` all of them."""
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
    """Drawings that show a concept, and the cells that show it."""

    concept: Concept
    drawings: Drawings
    cells: Tensor
    """`[n, cell]`, true where the concept is."""

    @classmethod
    def of(
        cls, concept: Concept, drawings: Drawings, masks: Sequence[Mask | None], grid: tuple[int, int]
    ) -> "Depicted":
        """Return the drawings in which a concept was found.

        Args:
            concept: What was looked for.
            drawings: What was drawn.
            masks: Where it is in each, `[height, width]`; None where it is not.
            grid: The rows and columns of cells.
        """
        cells = {place: cells_of(mask, grid) for place, mask in enumerate(masks) if mask is not None}
        shown = [place for place, row in cells.items() if row.any()]
        if not shown:
            raise ValueError(f"there is nothing to locate in: no drawing shows `{concept.name}`")
        some = Drawings(
            tuple(drawings.prompts[place] for place in shown),
            tuple(drawings.images[place] for place in shown),
            drawings.codes[shown],
            drawings.seed,
        )
        return cls(concept, some, torch.stack([cells[place] for place in shown]))

    def __post_init__(self) -> None:
        require(self.drawings, Drawings, "drawings", "what `drawer(model).draw` returned")
        require(self.cells, Tensor, "cells", "a tensor `[n, cell]` of true and false")
        if self.cells.shape != self.drawings.codes.shape or self.cells.dtype != torch.bool:
            raise ValueError(
                f"`cells` is true or false for each code, {list(self.drawings.codes.shape)}; got "
                f"{list(self.cells.shape)} of {self.cells.dtype}"
            )
        if len(self.cells) == 0:
            raise ValueError(f"there is nothing to locate in: no drawing shows `{self.concept.name}`")
        if empty := [number for number, row in enumerate(self.cells) if not row.any()]:
            raise ValueError(f"drawing {empty[0]} has no cell with `{self.concept.name}`; leave it out")


def cells_of(mask: Mask, grid: tuple[int, int]) -> Tensor:
    """Return which cells a region covers to a quarter or more, `[cell]`; of a smaller one, the cell it covers most.

    Args:
        mask: `[height, width]`, true inside.
        grid: The rows and columns of cells.
    """
    rows, columns = (np.linspace(0, side, n + 1).round().astype(int) for side, n in zip(mask.shape, grid, strict=True))
    covered = torch.tensor(
        [
            [float(mask[top:bottom, left:right].mean()) for left, right in pairwise(columns)]
            for top, bottom in pairwise(rows)
        ]
    ).flatten()
    found = covered >= COVERED
    if not found.any() and covered.any():
        found[covered.argmax()] = True
    return found


def score_drawn(
    model: MLLM, locator: Locator, shown: Depicted, *, progress: Progress = silent
) -> dict[str, NeuronScores]:
    """Score every neuron in every stage of a locator, the codes of the drawn concept as the target.

    `positions=target` and `image` are the columns that predict the region's codes. One forward a drawing, one backward
    if a stage needs a gradient; a whole drawing's activations and their graph are held, for `batch_size` drawings.

    Args:
        model: The model that drew, unedited.
        locator: Its stages read activations, gradients or the region; not counterfactuals, words or attention.
        shown: What to locate with.
        progress: Shows the batches go by.

    Raises:
        ValueError: A stage needs what a drawing does not show, or the model draws without codes.
    """
    check_drawable(locator)
    draws, site = code_drawer(model), model.site(locator.site, "language")
    stages = {name: _at_region(stage.scorer) for name, stage in locator.stages.items()}
    scorers = {name: one for name, one in stages.items() if isinstance(one, Scorer)}
    probers = {name: one for name, one in stages.items() if isinstance(one, Prober)}
    began, made = time.perf_counter(), {name: Tally.of(one) for name, one in stages.items()}
    cases = [
        DrawnCase(shown.concept, draws.teacher_forced(shown.drawings[n : n + 1]), shown.cells[n : n + 1], prompt)
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
        "target": "the log-probabilities of the codes that show it",
        "samples": ",".join(shown.drawings.prompts),
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


def code_drawer(model: MLLM) -> Drawer:
    """Return what draws with `model`, code by code; a ValueError says that it does not.

    Raises:
        TypeError: It is no model.
        ValueError: It draws no pictures, or otherwise.
    """
    found = drawer(model)
    if not found.codebook:
        raise ValueError(f"`{model.name}` draws by diffusion and has no codes to locate by; Janus and Emu3 have")
    return found


def _at_region(scorer: Any) -> Any:
    """Return a scorer that looks at the region's columns where it would look at that of the word."""
    return replace(scorer, positions="image") if scorer.positions == "target" else scorer


@torch.inference_mode(False)
def _gather(
    site: Site, draws: Drawer, shown: Depicted, rows: slice, scorers: Mapping[str, Scorer], made: Mapping[str, Tally]
) -> None:
    """Read some drawings and add what each scorer makes of them."""
    forced, cells = draws.teacher_forced(shown.drawings[rows]), shown.cells[rows]
    module, steep = forced.drawer.model.module, any("gradient" in one.needs for one in scorers.values())
    with torch.set_grad_enabled(steep), record(module, site, differentiable=steep) as activations:
        states = forced.states()
    asked = towards(forced, states, cells)
    found: dict[int, Tensor] = {}
    if steep:
        gradients = torch.autograd.grad(states, list(activations.values()), asked.to(states.dtype))
        found = dict(zip(activations, gradients, strict=True))
    token_types = region_token_types(forced, cells)
    layers = [
        LayerEvidence(
            layer,
            token_types,
            _apart(activations[layer], token_types),
            gradient=_apart(found[layer], token_types) if steep else None,
            region=_region(forced, asked, cells, site.value_matrix(module, layer)),
        )
        for layer in site.blocks
    ]
    for name, scorer in scorers.items():
        scores = [scorer.score(layer).float().cpu() for layer in layers]
        made[name].n_invalid += sum(int(one.isnan().sum()) for one in scores)
        stacked = stacked_batch(scores)
        made[name].sums.add(scorer.across_layers(stacked) if isinstance(scorer, AcrossLayers) else stacked)


def towards(forced: ForcedDrawings, states: Tensor, cells: Tensor) -> Tensor:
    """Return R: the gradient of the region's log-probabilities at the last hidden states, `[batch, cell, d_model]`.

    Args:
        forced: The pass over the drawings.
        states: What `forced.states()` returned.
        cells: `[batch, cell]`, true in the region.
    """
    with torch.enable_grad():
        leaf = states.detach().requires_grad_()
        target = forced.log_probs(leaf).masked_fill(~cells.to(leaf.device), 0.0).sum()
        (gradient,) = torch.autograd.grad(target, leaf)
    return gradient


def _region(forced: ForcedDrawings, asked: Tensor, cells: Tensor, values: Tensor) -> Region:
    """Return R at all columns, zero where nothing of the region is predicted."""
    inside = cells.to(asked.device)[..., None]
    asked = asked.float()
    low, high = (
        getattr(asked.masked_fill(~inside, fill), reduced)((1, 2), keepdim=True)
        for fill, reduced in ((torch.inf, "amin"), (-torch.inf, "amax"))
    )
    normal = ((asked - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)).masked_fill(~inside, 0.0)
    plain, scaled = (_at_columns(forced, one) for one in (asked.masked_fill(~inside, 0.0), normal))
    return Region(plain, scaled, values.detach().float())


def _at_columns(forced: ForcedDrawings, cellwise: Tensor) -> Tensor:
    laid = cellwise.new_zeros(*forced.token_types.shape, cellwise.shape[-1])
    laid[:, list(forced.columns)] = cellwise
    return laid


def _apart(values: Tensor, token_types: Tensor) -> Tensor:
    """Return a layer's values by drawing and column, 32-bit; some models flatten both."""
    return values.detach().reshape(*token_types.shape, -1).float()
