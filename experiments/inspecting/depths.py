"""How the modalities come together from layer to layer, with and without the located neurons (after MINER)."""

from collections.abc import Iterator

import numpy as np

from experiments.inspecting.rows import Row, Subject
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.evaluation.statistics import paired_difference
from kedit.inspection.convergence import Streams, streams
from kedit.inspection.resampling import Numbers
from kedit.neurons import NeuronSet
from kedit.plots import draw_streams

SECTION = "moved by zeroing"
NAMES = ("image to the last token", "image to the text", "special to text")


def convergence(subject: Subject) -> list[Row]:
    """Follow the states of the held-out pictures through the layers, unedited and with neurons zeroed.

    A row is the mean absolute change of a cosine over the layers; inspect.json has every layer.
    """
    images = [sample.image for sample in subject.split.target]

    def zeroed(neurons: NeuronSet) -> Streams:
        with Edit(neurons, Zero()).applied(subject.model):
            return streams(subject.model, images)

    plain = streams(subject.model, images)
    conditions = {}
    if subject.neurons:
        edited, control = zeroed(subject.neurons), zeroed(subject.controls[0])
        conditions = {"located neurons zeroed": edited, "random neurons zeroed": control}
    title = f"How the modalities' states come together in {len(images)} pictures of `{subject.concept.name}`"
    subject.kept.save_figure("convergence.png", draw_streams(plain, conditions, title=title).save)
    if not subject.neurons:
        raise ValueError("no neuron was located")
    subject.details["convergence"] = {
        what: _by_depth(values, dict(_curves(edited))[what], subject.seed) for what, values in _curves(plain)
    }
    rows = []
    for what, before in _curves(plain):
        moved, at_random = (np.abs(dict(_curves(one))[what] - before).mean(1) for one in (edited, control))
        still = np.zeros(len(moved))
        pairs = ((moved, still), (at_random, still), (moved, at_random))
        figures = [paired_difference(list(a), list(b), seed=subject.seed) for a, b in pairs]
        rows.append(Row(SECTION, what, *figures))
    return rows


def _curves(one: Streams) -> Iterator[tuple[str, Numbers]]:
    """Yield each measure's name and its cosines, `[sample, depth]`; text to itself is left out."""
    for modality, values in one.convergence.items():
        yield f"{modality} to the last token", values
    for modality, values in one.probing.items():
        if modality != "text":
            yield f"{modality} to the text", values
    if one.telomeres is not None:
        yield "special to text", one.telomeres


def _by_depth(before: Numbers, after: Numbers, seed: int) -> list[dict[str, object]]:
    """Return for each depth the cosine unedited and its paired change with the located neurons zeroed."""
    return [
        {
            # As a difference from zero: cosines that are all 0 or 1 are no successes and failures.
            "unedited": paired_difference(list(was), [0.0] * len(was), seed=seed).to_json(),
            "change_when_zeroed": paired_difference(list(now), list(was), seed=seed).to_json(),
        }
        for was, now in zip(before.T, after.T, strict=True)
    ]
