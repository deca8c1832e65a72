"""Where in a picture neurons fire, and whether that is where the concept is."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from kedit.inspection.grid import ImageGrid, Mode, paint
from kedit.samples import Concept, Mask, Sample

Heat = NDArray[np.float64]
"""How strongly neurons fire over a picture: `[height, width]`, in units of activation."""


def heat_map(
    values: NDArray[np.floating] | Tensor,
    grid: ImageGrid | tuple[int, int],
    size: tuple[int, int],
    *,
    part: Literal["positive", "absolute"] = "positive",
    mode: Mode = "bilinear",
) -> Heat:
    """Return the mean activation of some neurons over a picture: `[height, width]`, never negative.

    Args:
        values: `[image_pos, neuron]`, the neurons' activations at the picture's positions, in order.
            No neuron at all gives zero everywhere, so that an empty selection survives.
        grid: Where the picture's positions lie on it, or the rows and columns of one subgrid over the whole of it.
            Where several subgrids show a place, as tiles and the whole picture do, the map is their mean.
        size: Width and height of the picture in pixels, as `PIL.Image.size`.
        part: What counts as firing. `positive` ignores activations below zero; `absolute` counts their
            size, which suits gated layers, where a neuron may speak with either sign.
        mode: How cells become pixels; `bilinear` interpolates between the centers of cells.

    A ValueError says so when the positions do not fill the grid or an activation is not finite: a model
    that resamples its picture has no grid, and a map of it would be an invention.
    """
    cells = _as_double(values)
    lying = grid if isinstance(grid, ImageGrid) else ImageGrid.of(*grid)
    if cells.ndim != 2 or cells.shape[0] != lying.n_tokens:
        shape = " and ".join(f"{rows} x {columns}" for rows, columns in (one.tokens.shape for one in lying.subgrids))
        raise ValueError(
            f"a heat map on a grid of {shape} needs values `[{lying.n_tokens}, neuron]`, got "
            f"{list(cells.shape)}; pass the image positions alone and the grid of the model's vision tower"
        )
    if not bool(torch.isfinite(cells).all()):
        raise ValueError("a heat map needs finite activations, got NaN or infinity; run the model in float32")
    firing = cells.abs() if part == "absolute" else cells.clamp(min=0)
    mean = firing.sum(1) / max(1, cells.shape[1])
    return paint(mean.numpy(), lying, size, mode)


def _as_double(values: NDArray[np.floating] | Tensor) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64)
    return torch.from_numpy(np.array(values, dtype=np.float64))


def other_regions(sample: Sample, concept: Concept) -> Mask:
    """Return where `sample` shows annotated objects other than `concept`: `[height, width]`.

    Pixels that belong to the concept as well are left out.
    """
    width, height = sample.image.size
    others = np.zeros((height, width), dtype=bool)
    for name, region in sample.regions.items():
        if name != concept.name:
            others |= region
    return others & ~sample.regions.get(concept.name, np.zeros_like(others))


def pointing_hit(heat: Heat, region: Mask, *, tolerance: int = 0) -> bool:
    """Return whether the heat peaks inside `region` (the pointing game of Zhang et al. 2016).

    Where several pixels share the peak, more than half of them must be inside. A flat map points nowhere.

    Args:
        heat: The map, `[height, width]`.
        region: Where the peak should be, `[height, width]`.
        tolerance: By how many pixels the peak may miss the region in each direction. Zhang et al. allow 15 in photos;
            half a cell of the image tokens' grid is as exact as a map can be.
    """
    _check_shape(heat, region)
    if heat.max() == heat.min():
        return False
    near = Image.fromarray(region.astype("u1") * 255).filter(ImageFilter.MaxFilter(2 * tolerance + 1))
    return bool((np.asarray(near) > 0)[heat == heat.max()].mean() > 0.5)


def iou(heat: Heat, region: Mask, *, share: float = 0.5) -> float:
    """Return the intersection over union of `region` with the pixels of at least `share` of the peak.

    A map without any heat gives 0.
    """
    _check_shape(heat, region)
    if not 0 < share <= 1:
        raise ValueError(f"`share` must lie in (0, 1], got {share}")
    peak = heat.max()
    hot = heat >= share * peak if peak > 0 else np.zeros_like(region)
    union = int((hot | region).sum())
    return int((hot & region).sum()) / union if union else 0.0


def region_auc(heat: Heat, inside: Mask, outside: Mask) -> float:
    """Return how well heat tells the concept's pixels from those of the picture's other objects.

    The area under the ROC curve: the chance that a pixel of `inside` is hotter than one of `outside`, ties
    counting one half. 1 is a map of the concept, 0.5 a map of objects of any kind. Pixels in both regions
    are judged in neither. A ValueError names a region that has no pixel of its own.
    """
    _check_shape(heat, inside)
    _check_shape(heat, outside)
    own, others = heat[inside & ~outside], heat[outside & ~inside]
    for name, pixels in (("inside", own), ("outside", others)):
        if not pixels.size:
            raise ValueError(
                f"`{name}` has no pixel of its own, so there is nothing to compare; "
                "leave out pictures that do not show the concept beside another object"
            )
    # The Mann-Whitney statistic: for each own pixel, the others below it and half of those level with it.
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, own, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * others.size))


def _check_shape(heat: Heat, region: Mask) -> None:
    if heat.ndim != 2 or heat.shape != region.shape:
        raise ValueError(
            f"the heat map is {list(heat.shape)} and the region {list(region.shape)}; both must be "
            "`[height, width]` of one picture"
        )
