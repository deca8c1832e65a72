"""The looks that an inspection takes at located neurons, each beside layer-matched random ones.

What they say (`read_words`), where they are and fire (`by_layer`, `follow_heat`, `tell_apart`), how stable the set is
(`over_samples`, `over_places`, `over_concepts`), and what they do to the modalities (`follow_streams`).
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL.Image import Image

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.evaluation.bertscore import bert_scores
from kedit.evaluation.statistics import Measured, bootstrap_mean, paired_difference
from kedit.inspection import overlap
from kedit.inspection.convergence import Streams, streams
from kedit.inspection.decode import Decoded, decode
from kedit.inspection.grid import picture_grids
from kedit.inspection.heatmap import heat_map, other_regions
from kedit.inspection.resampling import Numbers, auroc_gain, auroc_interval, wins
from kedit.inspection.responses import Pointing, at_image, by_modality, half_a_cell, mean_activation, pointing
from kedit.inspection.shuffle import shuffled
from kedit.models.encoder import OwnLayers
from kedit.neurons import NeuronId, NeuronSet, best_first
from kedit.pipelines.firing import Fired
from kedit.pipelines.outputs import logprobs
from kedit.pipelines.preparation import draw
from kedit.pipelines.subject import Measure, Subject, exact
from kedit.plots import HeatRow
from kedit.results.table import Table
from kedit.samples import AnySample, Concept, Sample

logger = logging.getLogger(__name__)

WORDS = ("decodes to the concept", "BERTScore with captions", "CLIPScore with pictures")
HEAT = ("peak inside the region", "IoU with the region", "AUC against other objects")
SENSE = ("AUROC, pictures without it", "AUROC, it painted out")
SAMPLES = ("split halves", "rank correlation of halves", "cross-image invariance")
REGION = ("region invariance",)
OTHERS = ("specificity",)
MOVED = "moved by zeroing"
STREAMS = ("image to the last token", "image to the text", "special to text")
MOST_ZEROED = 60
"""Neurons that are zeroed alone, the best ones."""
MOST_DECODED = 60
"""Random neurons whose words are compared with texts and pictures."""


@dataclass(frozen=True)
class Words:
    """What each neuron says."""

    decoded: tuple[Decoded, ...]
    measures: tuple[Measure, ...] = ()


def decode_located(subject: Subject) -> Words:
    """Decode every located neuron."""
    return Words(tuple(decode(subject.model, subject.neurons, subject.looks.words, subject.below)))


def read_words(subject: Subject, decoded: Sequence[Decoded]) -> Words:
    """Measure how their words and those of random neurons fit the concept, the captions and the pictures."""
    subject.require_neurons()
    drawn = tuple(dict.fromkeys(neuron for control in subject.controls for neuron in control))
    random = decode(subject.model, NeuronSet(drawn, subject.site.name), subject.looks.words, subject.below)
    hits, misses = (bootstrap_mean([float(one.names(subject.concept)) for one in many]) for many in (decoded, random))
    some = random[:: max(1, len(random) // MOST_DECODED)]
    measures = (
        Measure("words", WORDS[0], hits, misses),
        Measure("words", WORDS[1], _relevance(subject, decoded), _relevance(subject, some)),
        _clip_measure(subject, decoded, some),
    )
    return Words(tuple(decoded), measures)


def _relevance(subject: Subject, decoded: Sequence[Decoded]) -> Measured:
    """Return how alike a neuron's words and the model's captions are, over neurons (Fang et al. 2024, NAM)."""
    captions = sorted({caption.text for _, caption in subject.named})
    texts = [" ".join(one.words) for one in decoded]
    encoder = subject.encoder or OwnLayers(subject.model)  # type: ignore[arg-type]
    pairs = [(text, caption) for text in texts for caption in captions]
    scores = [match.f1 for match in bert_scores(encoder, [text for text, _ in pairs], [one for _, one in pairs])]
    n = len(captions)
    means = [sum(scores[start : start + n]) / n for start in range(0, len(scores), n)]
    return bootstrap_mean(means, seed=subject.seed)


def _clip_measure(subject: Subject, decoded: Sequence[Decoded], random: Sequence[Decoded]) -> Measure:
    clip = subject.clip
    if clip is None:
        why = "no CLIP model; set `clip` to {_target_: kedit.models.clip_score.ClipScore, path: FOLDER}"
        return Measure("words", WORDS[2], Measured.missing(why))

    def mean(many: Sequence[Decoded]) -> Measured:
        scores = clip([" ".join(one.words) for one in many], subject.images)
        return bootstrap_mean([sum(row) / len(row) for row in scores], seed=subject.seed)

    return Measure("words", WORDS[2], mean(decoded), mean(random))


@dataclass(frozen=True)
class Layers:
    """In which layers the neurons are: each of the locator's sets, and by the modality that they answer to."""

    counts: Mapping[str, Mapping[int, int]]
    modality: Mapping[NeuronId, str]
    """At which tokens each neuron fires most strongly."""
    peaks: Mapping[NeuronId, float]
    """How strongly, with the sign; see `Subject.peaks`."""
    measures: tuple[Measure, ...] = ()


def by_layer(subject: Subject) -> Layers:
    """Count the neurons of each layer."""
    kinds = by_modality(subject.model, subject.site, subject.neurons, subject.images)
    # What a locator leaves after each of its stages; MINER's are those of each modality.
    sets = subject.located.stages | {f"fires most at {kind} tokens": some for kind, some in kinds.items() if some}
    counts = {name: {layer: len(at) for layer, at in some.by_layer().items()} for name, some in sets.items()}
    return Layers(counts, {neuron: kind for kind, some in kinds.items() for neuron in some}, subject.peaks)


@dataclass(frozen=True, eq=False)
class Heat:
    """Where the neurons fire in the pictures that they were located with."""

    measures: tuple[Measure, ...]
    rows: tuple[HeatRow, ...]
    """A picture each, those that show other objects first."""
    peak_inside: Mapping[NeuronId, float]
    """For each neuron alone, the share of pictures in which its strongest place lies in the concept's region."""
    fired: Fired
    """What the neurons did in the pictures."""


def follow_heat(subject: Subject) -> Heat:
    """Judge where the neurons fire, each on its own side of zero, together and alone, beside random sets."""
    subject.require_neurons()
    sets = [subject.neurons, *subject.controls]
    seen = at_image(subject.model, subject.site, sets, subject.images, subject.below)
    own: list[Pointing] = []
    random: list[list[Pointing]] = []
    alone: Counter[NeuronId] = Counter()
    rows: list[HeatRow] = []
    grids = picture_grids(subject.model, subject.images)
    for (pair, caption), does, grid in zip(subject.named, seen, grids, strict=True):
        others = other_regions(pair.sample, pair.concept)
        judge = partial(pointing, grid=grid, sample=pair.sample, concept=pair.concept, others=others)
        values = does.of(subject.neurons)
        own.append(judge(values))
        random.append([judge(does.of(control)) for control in subject.controls])
        alone.update(neuron for at, neuron in enumerate(subject.neurons) if judge(values[:, at : at + 1]).hit)
        heat, beside = heat_map(values, grid, pair.sample.image.size), others if others.any() else None
        region, cell = pair.sample.region(pair.concept), half_a_cell(grid, pair.sample)
        rows.append(HeatRow(pair.sample.image, pair.image, heat, region, caption.text, beside, cell))
    rows.sort(key=lambda row: row.others is None)
    figures: tuple[Callable[[Pointing], float | None], ...] = (lambda p: float(p.hit), lambda p: p.iou, lambda p: p.auc)
    measures = [_judge(subject, name, figure, own, random) for name, figure in zip(HEAT, figures, strict=True)]
    inside = {neuron: alone[neuron] / len(rows) for neuron in subject.neurons}
    captions = [caption.text for _, caption in subject.named]
    fired = Fired(subject.concept, subject.pairs, captions, seen, grids, subject.peaks)
    return Heat(tuple(measures), tuple(rows), inside, fired)


def _judge(
    subject: Subject,
    name: str,
    figure: Callable[[Pointing], float | None],
    own: Sequence[Pointing],
    random: Sequence[Sequence[Pointing]],
) -> Measure:
    """Return one figure of the heat maps over pictures; a picture's random sets count as their mean."""
    pictures = [(figure(one), [figure(other) for other in many]) for one, many in zip(own, random, strict=True)]
    known = [(value, [r for r in many if r is not None]) for value, many in pictures if value is not None]
    if not known:
        return Measure("heat maps", name, Measured.missing("no picture shows another object"))
    values, means = [value for value, _ in known], [float(np.mean(many)) for _, many in known]
    located, chance = (bootstrap_mean(some, seed=subject.seed) for some in (values, means))
    return Measure("heat maps", name, located, chance, paired_difference(values, means, seed=subject.seed))


@dataclass(frozen=True, eq=False)
class Senses:
    """Whether the neurons tell held-out pictures with the concept from those without."""

    measures: tuple[Measure, ...]
    responses: Mapping[str, Mapping[str, Numbers]]
    """The mean activation of the located and of one random set on each picture, by the kind of picture."""
    areas: Mapping[NeuronId, float]
    """For each neuron alone, the AUROC against pictures without the concept."""


def tell_apart(subject: Subject) -> Senses:
    """Compare mean activations at image tokens: pictures with the concept, without it, and with it painted out.

    Neurons that fire below zero in the pictures that they were located with are turned round.
    """
    subject.require_neurons()
    sets, evaluation_set = [subject.neurons, *subject.controls], subject.evaluation_set
    kinds = {
        "with it": _images(evaluation_set.target),
        "without it": _images(evaluation_set.retention),
        "painted out": [pair.image for pair in subject.paint(evaluation_set.target, subject.concept)],
    }
    means: dict[str, list[Numbers]] = {}
    alone: dict[str, Numbers] = {}
    for kind, images in kinds.items():
        seen = at_image(subject.model, subject.site, sets, images, subject.below)
        means[kind] = [mean_activation(seen, some) for some in sets]
        alone[kind] = np.array([does.of(subject.neurons).mean(0) for does in seen])
    responses = {
        f"the {len(subject.neurons)} located": {kind: values[0] for kind, values in means.items()},
        "one random set": {kind: values[1] for kind, values in means.items()},
    }
    measures = [
        _area(subject, name, means["with it"], means[absent])
        for name, absent in zip(SENSE, ("without it", "painted out"), strict=True)
    ]
    columns = zip(subject.neurons, alone["with it"].T, alone["without it"].T, strict=True)
    areas = {neuron: float(wins(present, absent).mean()) for neuron, present, absent in columns}
    return Senses(tuple(measures), responses, areas)


def _area(subject: Subject, name: str, present: Sequence[Numbers], absent: Sequence[Numbers]) -> Measure:
    """Return the AUROC of the located set, the mean over random ones, and the difference, over the same pictures."""
    tables = [wins(a, b) for a, b in zip(present, absent, strict=True)]
    own, random = tables[0], np.mean(tables[1:], axis=0)
    located, chance = (Measured(*auroc_interval(table, seed=subject.seed)) for table in (own, random))
    return Measure("sensitivity", name, located, chance, Measured(*auroc_gain(own, random, seed=subject.seed)))


@dataclass(frozen=True)
class Stability:
    """How much the set depends on the samples or on where things are in them."""

    measures: tuple[Measure, ...]
    held: Mapping[NeuronId, float]
    """The share of the sets of half of the samples that hold a neuron."""


def over_samples(subject: Subject) -> Stability:
    """Compare sets that are located on halves, shares and single ones of the pictures."""
    n, seed, asked, whole = len(subject.pairs), subject.seed, subject.looks, subject.best(subject.located.scores)
    halves = [tuple(subject.score(half) for half in overlap.halves(n, seed + draw)) for draw in range(asked.splits)]
    sets = [tuple(subject.best(scores) for scores in both) for both in halves]
    ranks = [overlap.rank_correlation(*(list(scores.values())[-1] for scores in both)) for both in halves]
    measures = [
        _shares(subject, SAMPLES[0], [overlap.shared(*both) for both in sets]),
        Measure("stability", SAMPLES[1], bootstrap_mean(ranks, shares=False, seed=seed), exact(0.0)),
    ]
    for share in asked.shares:
        draws = [overlap.part(n, share, seed + draw) for draw in range(asked.splits)]
        kept = [overlap.shared(subject.best(subject.score(draw)), whole) for draw in draws]
        measures.append(_shares(subject, f"{share:.0%} of the samples", kept))
    singles = [subject.best(subject.score([number])) for number in range(min(n, asked.singles))]
    invariance = Measured(*overlap.invariance(singles, seed=seed))
    measures.append(Measure("stability", SAMPLES[2], invariance, subject.chance))
    every = [some for both in sets for some in both]
    held = {neuron: sum(neuron in some for some in every) / len(every) for neuron in subject.neurons}
    return Stability(tuple(measures), held)


def over_places(subject: Subject) -> Stability:
    """Locate again with the image tokens in other orders (Pan et al. 2023, region invariance)."""
    whole, kept = subject.best(subject.located.scores), list[float]()
    for number in range(subject.looks.permutations):
        with shuffled(subject.model, subject.seed + number):
            scores = subject.score(range(len(subject.pairs)))
        kept.append(overlap.shared(subject.best(scores), whole))
    return Stability((_shares(subject, REGION[0], kept),), {})


def _shares(subject: Subject, name: str, shares: Sequence[float]) -> Measure:
    """Return what sets have in common, beside what random ones have."""
    return Measure("stability", name, bootstrap_mean(shares, seed=subject.seed), subject.chance)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """What the set has in common with those of other concepts."""

    measures: tuple[Measure, ...]
    concepts: tuple[str, ...]
    """The inspected one first."""
    shared: Numbers
    """The share of neurons that each two concepts have in common: `[concept, concept]`."""
    serves: Mapping[NeuronId, tuple[str, ...]]
    """For each neuron the other concepts that it is located for, too."""


def over_concepts(subject: Subject) -> Overlaps:
    """Locate other concepts, with as many neurons."""
    sets = {subject.concept.name: subject.best(subject.located.scores)}
    for concept in [one for one in subject.data.concepts if one != subject.concept]:
        if len(sets) > subject.looks.others:
            break
        try:
            sets[concept.name] = _locate_other(subject, concept)
        except (ValueError, LookupError) as error:
            logger.info("`%s` is not compared with: %s", concept.name, error)
    own, *others = sets.values()
    apart = bootstrap_mean(overlap.specificity(own, others), seed=subject.seed)
    chance = exact(1 - overlap.by_chance(own, subject.site.widths))
    measure = Measure("stability", OTHERS[0], apart, chance)
    serves = {one: tuple(name for name in list(sets)[1:] if one in sets[name]) for one in subject.neurons}
    return Overlaps((measure,), tuple(sets), overlap.overlap_table(list(sets.values()), overlap.shared), serves)


@dataclass(frozen=True)
class Each:
    """What each neuron does alone."""

    losses: Mapping[NeuronId, float]
    """By how much (nats) zeroing it alone lowers the log-probability of the concept's word, on average over the
    pictures that it was located with."""
    measures: tuple[Measure, ...] = ()


def zero_each(subject: Subject) -> Each:
    """Zero each of the best neurons alone; see `kedit.pipelines.outputs.logprobs`."""
    subject.require_neurons()
    best = best_first(subject.neurons, subject.located.scores)[:MOST_ZEROED]
    alone = [Edit(NeuronSet((one,), subject.neurons.site, subject.neurons.scope), Zero()) for one in best]
    samples, captions = [pair.sample for pair, _ in subject.named], [caption for _, caption in subject.named]
    before, *after = logprobs(subject.model, subject.concept, samples, captions, [None, *alone])
    return Each({one: float(np.nanmean(np.subtract(before, now))) for one, now in zip(best, after, strict=True)})


def _images(samples: Sequence[AnySample]) -> list[Image]:
    return [sample.image for sample in samples if isinstance(sample, Sample)]


def _locate_other(subject: Subject, concept: Concept) -> NeuronSet:
    counts = replace(subject.looks.pictures, target=1, retention=0)
    split = draw(subject.data, concept, counts, seed=subject.seed)
    return subject.best(subject.locates.score(subject.model, subject.paint(split.locate, concept)))


@dataclass(frozen=True, eq=False)
class Depths:
    """How the modalities come together from layer to layer, with and without the neurons (after MINER)."""

    plain: Streams
    zeroed: Mapping[str, Streams]
    """With the located neurons and with random ones zeroed; empty if none were located."""
    seed: int

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The mean absolute change over the layers of each cosine."""
        if not self.zeroed:
            return tuple(Measure(MOVED, name, Measured.missing("no neuron was located")) for name in STREAMS)
        return tuple(self._measure(name, before) for name, before in _curves(self.plain))

    @property
    def steps(self) -> dict[str, list[tuple[Measured, Measured]]]:
        """For each cosine its value at each depth, and its paired change with the located neurons zeroed."""
        if not self.zeroed:
            return {}
        edited = dict(_curves(next(iter(self.zeroed.values()))))
        # Cosines that are all 0 or 1 are no successes and failures.
        mean = partial(bootstrap_mean, shares=False, seed=self.seed)
        return {
            name: [(mean(list(was)), mean(list(now - was))) for was, now in zip(before.T, edited[name].T, strict=True)]
            for name, before in _curves(self.plain)
        }

    def markdown(self) -> str:
        """Return the cosines after each block, and their change with the located neurons zeroed, as a table."""
        if not self.steps:
            return ""
        columns = ("cosine of", *(f"after {depth} blocks" for depth in range(self.plain.depths)))
        rows = [
            (name, *(f"{was.value:.2f} ({moved.value:+.3f})" for was, moved in steps))
            for name, steps in self.steps.items()
        ]
        note = "Modalities by layer, and in brackets what zeroing the located neurons changes:"
        return f"{note}\n\n{Table(columns, tuple(rows)).markdown()}"

    def _measure(self, name: str, before: Numbers) -> Measure:
        moved, at_random = (np.abs(dict(_curves(one))[name] - before).mean(1) for one in self.zeroed.values())
        still = np.zeros(len(moved))
        pairs = ((moved, still), (at_random, still), (moved, at_random))
        return Measure(MOVED, name, *(paired_difference(list(a), list(b), seed=self.seed) for a, b in pairs))


def follow_streams(subject: Subject) -> Depths:
    """Follow the states of the held-out pictures through the layers, unedited and with neurons zeroed."""
    images = _images(subject.evaluation_set.target)

    def zeroed(neurons: NeuronSet) -> Streams:
        with Edit(neurons, Zero()).applied(subject.model):
            return streams(subject.model, images)

    plain, conditions = streams(subject.model, images), dict[str, Streams]()
    if subject.neurons:
        conditions["located neurons zeroed"] = zeroed(subject.neurons)
        conditions["random neurons zeroed"] = zeroed(subject.controls[0])
    return Depths(plain, conditions, subject.seed)


def _curves(one: Streams) -> Iterator[tuple[str, Numbers]]:
    """Yield each measure's name and its cosines, `[sample, depth]`; text to itself is left out."""
    for modality, values in one.convergence.items():
        yield f"{modality} to the last token", values
    for modality, values in one.probing.items():
        if modality != "text":
            yield f"{modality} to the text", values
    if one.telomeres is not None:
        yield "special to text", one.telomeres
