"""Where the located neurons are and where they fire: layers, heat maps, and whether they tell pictures apart."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL.Image import Image

from experiments.inspecting.rows import Row, Subject, compared, measured
from experiments.pairs import paired
from kedit.evaluation.statistics import Measured
from kedit.inspection.grid import picture_grids
from kedit.inspection.heatmap import heat_map, other_regions
from kedit.inspection.resampling import Numbers, auroc_gain, auroc_interval, wins
from kedit.inspection.responses import Pointing, at_image, by_modality, half_a_cell, mean_activation, pointing
from kedit.plots import HeatRow, draw_heatmaps, draw_layers, draw_responses
from kedit.samples import Sample

HEAT = ("peak inside the region", "IoU with the region", "AUC against other objects")
SENSE = ("AUROC, pictures without it", "AUROC, it painted out")
N_SHOWN = 4


def layers(subject: Subject) -> list[Row]:
    """Draw in which layers the neurons are: in each of the locator's sets, and by the modality that they answer to."""
    images = [pair.sample.image for pair in subject.pairs]
    kinds = by_modality(subject.model, subject.site, subject.neurons, images)
    # What a locator leaves after each of its stages; MINER's are those of each modality.
    sets = subject.located.stages | {f"fires most at {name} tokens": one for name, one in kinds.items() if one}
    counts = {name: {layer: len(at) for layer, at in one.by_layer().items()} for name, one in sets.items()}
    subject.details["layers"] = counts
    subject.kept.save_figure("layers.png", draw_layers(counts, subject.site.widths).save)
    return []


def heat_maps(subject: Subject) -> list[Row]:
    """Judge where the neurons fire in the pictures that they were located with, and draw some of them."""
    if not subject.neurons:
        raise ValueError("no neuron was located")
    pairs = subject.pairs
    images = [pair.sample.image for pair in pairs]
    grids = picture_grids(subject.model, images)
    seen = at_image(subject.model, subject.site, [subject.neurons, *subject.controls], images)
    own: list[Pointing] = []
    random: list[list[Pointing]] = []
    rows: list[HeatRow] = []
    for pair, one, grid, caption in zip(pairs, seen, grids, subject.captions, strict=True):
        others = other_regions(pair.sample, pair.concept)
        judged = partial(pointing, grid=grid, sample=pair.sample, concept=pair.concept, others=others)
        own.append(judged(one.of(subject.neurons)))
        random.append([judged(one.of(control)) for control in subject.controls])
        heat = heat_map(one.of(subject.neurons), grid, pair.sample.image.size)
        beside = others if others.any() else None
        cell = half_a_cell(grid, pair.sample)
        region = pair.sample.region(pair.concept)
        rows.append(HeatRow(pair.sample.image, pair.image, heat, region, caption.text, beside, cell))
    rows.sort(key=lambda row: row.others is None)
    subject.kept.save_figure("heatmaps.png", draw_heatmaps(rows[:N_SHOWN], concept=subject.concept.name).save)
    figures: tuple[Callable[[Pointing], float | None], ...] = (lambda p: float(p.hit), lambda p: p.iou, lambda p: p.auc)
    return [_judged(subject, name, figure, own, random) for name, figure in zip(HEAT, figures, strict=True)]


def _judged(
    subject: Subject,
    name: str,
    figure: Callable[[Pointing], float | None],
    own: Sequence[Pointing],
    random: Sequence[Sequence[Pointing]],
) -> Row:
    """Return one figure of the heat maps over pictures; a picture's random sets count as their mean."""
    pictures = [(figure(one), [figure(other) for other in many]) for one, many in zip(own, random, strict=True)]
    known = [(value, [r for r in many if r is not None]) for value, many in pictures if value is not None]
    if not known:
        return Row("heat maps", name, Measured.missing("no picture shows another object"))
    means = [float(np.mean(many)) for _, many in known]
    return compared("heat maps", name, [value for value, _ in known], means, subject.seed)


def sensitivity(subject: Subject) -> list[Row]:
    """Measure whether the set's mean activation tells held-out pictures with the concept from those without."""
    if not subject.neurons:
        raise ValueError("no neuron was located")
    sets = [subject.neurons, *subject.controls]
    target = subject.split.target
    kinds: dict[str, list[Numbers]] = {}
    painted = [pair.image for pair in paired(subject.inpaint, target, subject.concept).made]
    for kind, images in (
        ("with it", _images(target)),
        ("without it", _images(subject.split.near + subject.split.far)),
        ("painted out", painted),
    ):
        seen = at_image(subject.model, subject.site, sets, images)
        kinds[kind] = [mean_activation(seen, one) for one in sets]
    shown = {
        f"the {len(subject.neurons)} located": {kind: values[0] for kind, values in kinds.items()},
        "one random set": {kind: values[1] for kind, values in kinds.items()},
    }
    rows = [
        _told_apart(subject, name, kinds["with it"], kinds[absent])
        for name, absent in zip(SENSE, ("without it", "painted out"), strict=True)
    ]
    areas = " and ".join(
        f"{one.value:.2f} {whose}"
        for one, whose in zip(
            (rows[0].located, rows[0].random), ("with the located neurons", "with random ones"), strict=True
        )
        if one
    )
    title = f"Telling pictures of `{subject.concept.name}` from others: AUROC {areas}"
    scale = "mean activation at image tokens"
    subject.kept.save_figure("sensitivity.png", draw_responses(shown, title=title, scale=scale).save)
    return rows


def _images(samples: Sequence[Sample]) -> list[Image]:
    return [sample.image for sample in samples]


def _told_apart(subject: Subject, name: str, present: Sequence[Numbers], absent: Sequence[Numbers]) -> Row:
    """Return the AUROC of the located set, the mean over random ones, and the difference, over the same pictures."""
    tables = [wins(a, b) for a, b in zip(present, absent, strict=True)]
    own, random = tables[0], np.mean(tables[1:], axis=0)
    located, chance = (measured(auroc_interval(table, seed=subject.seed)) for table in (own, random))
    return Row("sensitivity", name, located, chance, measured(auroc_gain(own, random, seed=subject.seed)))
