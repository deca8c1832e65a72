"""How well an inpainter removes things from scenes that it has not seen."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kedit.data.inpaint import Exact, Inpainter
from kedit.data.scenes import Scenes
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.models.mllm import MLLM
from kedit.samples import Concept, Counterfactual, Sample, mentioned


@dataclass(frozen=True)
class Verdict:
    """What is left of the things that one inpainter painted out, over all pictures of all concepts."""

    removed: Measured
    """Share of the pictures whose caption no longer names the concept, of those whose original it names."""
    by_concept: dict[str, Measured]
    """The same of each concept."""
    invented: Measured
    """Share of the pictures whose caption names a thing that is not even in the original."""
    psnr: Measured
    """Peak signal-to-noise ratio of the filling in the concept's region against the exact picture, in decibels. The
    noise of the scenes, which no filling can know, leaves 32.6 dB at best."""
    seconds: float
    """For a picture, after the first."""


def held_out(n_samples: int, seed: int) -> dict[Concept, tuple[Sample, ...]]:
    """Return `n_samples` pictures of every concept."""
    data = Scenes()
    return {
        concept: data.split(concept, locate=n_samples, target=1, retention=0, seed=seed).locate
        for concept in data.concepts
    }


def verdict(inpaint: Inpainter, model: MLLM, pictures: Mapping[Concept, Sequence[Sample]]) -> Verdict:
    """Return how well `inpaint` removes each concept from its `pictures`, as `model` sees it."""
    concepts = list(pictures)
    inpaint(pictures[concepts[0]][0], concepts[0])
    began = time.perf_counter()
    pairs = {concept: [inpaint(sample, concept) for sample in samples] for concept, samples in pictures.items()}
    seconds = (time.perf_counter() - began) / sum(map(len, pairs.values()))
    removed: dict[str, list[float]] = {}
    invented, noise = [], []
    for concept, several in pairs.items():
        before = [one.text for one in model.caption([pair.sample.image for pair in several])]
        after = [one.text for one in model.caption([pair.image for pair in several])]
        removed[concept.name] = [
            float(not concept.mentioned_in(new))
            for old, new in zip(before, after, strict=True)
            if concept.mentioned_in(old)
        ]
        for pair, text in zip(several, after, strict=True):
            invented.append(float(not mentioned(concepts, text) <= pair.sample.objects))
            noise.append(_psnr(pair))
    return Verdict(
        bootstrap_mean([one for several in removed.values() for one in several]),
        {name: bootstrap_mean(several) for name, several in removed.items()},
        bootstrap_mean(invented),
        bootstrap_mean(noise),
        seconds,
    )


def draw(inpaint: Inpainter, pictures: Mapping[Concept, Sequence[Sample]], path: Path) -> None:
    """Draw the first picture of each concept: the original, what `inpaint` makes of it, and the exact one, as a PNG."""
    columns = []
    for concept, (sample, *_) in pictures.items():
        drawn = (sample.image, inpaint(sample, concept).image, Exact()(sample, concept).image)
        columns.append(np.vstack([np.asarray(one) for one in drawn]))
    whole = Image.fromarray(np.hstack(columns))
    whole.resize((whole.width * 2, whole.height * 2), Image.Resampling.NEAREST).save(path)


def _psnr(pair: Counterfactual) -> float:
    assert pair.sample.render_without is not None
    region = pair.sample.region(pair.concept)
    exact = np.asarray(pair.sample.render_without(pair.concept.name), np.float64)[region]
    error = float(np.square(np.asarray(pair.image, np.float64)[region] - exact).mean())
    # An equal region has no finite ratio; an error of a thousandth of a level stands for none.
    return 20 * math.log10(255 / max(math.sqrt(error), 1e-3))
