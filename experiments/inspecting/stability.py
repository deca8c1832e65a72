"""How much the located set depends on the samples, on single pictures, on places and on the concept."""

import logging
from collections.abc import Sequence

from experiments.inspecting.rows import Row, Subject, measured
from experiments.pairs import paired
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.inspection import overlap
from kedit.inspection.shuffle import shuffled
from kedit.neurons import NeuronScores, NeuronSet
from kedit.plots import draw_matrix
from kedit.samples import Concept

logger = logging.getLogger(__name__)

SAMPLES = ("split halves", "rank correlation of halves", "cross-image invariance")
REGION = ("region invariance",)
OTHERS = ("specificity",)


def scored(subject: Subject, numbers: Sequence[int]) -> dict[str, NeuronScores]:
    """Return the scores on some of the pairs."""
    pairs = [subject.pairs[number] for number in numbers]
    return subject.locator.score(subject.model, pairs, captions=[subject.captions[number] for number in numbers])


def best(subject: Subject, scores: dict[str, NeuronScores]) -> NeuronSet:
    """Return as many neurons as were located, the best by `scores`."""
    return subject.locator.limited(_size(subject)).select(scores)


def over_samples(subject: Subject) -> list[Row]:
    """Compare sets that were located on halves, shares and single ones of the pictures."""
    n, seed, whole = len(subject.pairs), subject.seed, best(subject, subject.located.scores)
    chance = _chance(subject)
    halves: list[float] = []
    ranks: list[float] = []
    for split in range(subject.asked.splits):
        first, second = (scored(subject, half) for half in overlap.halves(n, seed + split))
        halves.append(overlap.shared(best(subject, first), best(subject, second)))
        ranks.append(overlap.rank_correlation(list(first.values())[-1], list(second.values())[-1]))
    rows = [
        Row("stability", SAMPLES[0], bootstrap_mean(halves, seed=seed), chance),
        Row("stability", SAMPLES[1], bootstrap_mean(ranks, seed=seed), Measured(0.0, None, None, 0)),
    ]
    for share in subject.asked.shares:
        draws = [overlap.part(n, share, seed + draw) for draw in range(subject.asked.splits)]
        kept = [overlap.shared(best(subject, scored(subject, draw)), whole) for draw in draws]
        name = f"{share:.0%} of the samples"
        rows.append(Row("stability", name, bootstrap_mean(kept, seed=seed), chance))
    singles = [best(subject, scored(subject, [number])) for number in range(min(n, subject.asked.singles))]
    return [*rows, Row("stability", SAMPLES[2], measured(overlap.invariance(singles, seed=seed)), chance)]


def over_places(subject: Subject) -> list[Row]:
    """Locate again with the image tokens in other orders (Pan et al. 2023, region invariance)."""
    whole, found = best(subject, subject.located.scores), []
    for number in range(subject.asked.permutations):
        with shuffled(subject.model, subject.seed + number):
            scores = scored(subject, range(len(subject.pairs)))
        found.append(overlap.shared(best(subject, scores), whole))
    return [Row("stability", REGION[0], bootstrap_mean(found, seed=subject.seed), _chance(subject))]


def over_concepts(subject: Subject) -> list[Row]:
    """Locate other concepts, with as many neurons, and draw what the sets share."""
    sets = {subject.concept.name: best(subject, subject.located.scores)}
    for concept in [one for one in subject.data.concepts if one != subject.concept]:
        if len(sets) > subject.asked.others:
            break
        try:
            sets[concept.name] = _located(subject, concept)
        except (ValueError, LookupError) as error:
            logger.info("`%s` is not compared with: %s", concept.name, error)
    own, *others = sets.values()
    apart = bootstrap_mean(overlap.specificity(own, others), seed=subject.seed)
    table = overlap.overlap_table(list(sets.values()), overlap.shared)
    title = (
        f"`{subject.concept.name}` shares {1 - (apart.value or 0):.0%} of its neurons with another concept, on average"
    )
    if others:
        cells = {name: dict(zip(sets, row, strict=True)) for name, row in zip(sets, table.tolist(), strict=True)}
        notes = [f"n = {len(own)} neurons of each concept"]
        drawn = draw_matrix(cells, title=title, what="share of neurons in common", notes=notes)
        subject.kept.save_figure("concepts.png", drawn.save)
    subject.details["overlaps"] = {"concepts": list(sets), "shared": table.tolist()}
    chance = 1 - overlap.by_chance(own, subject.site.widths)
    return [Row("stability", OTHERS[0], apart, Measured(chance, None, None, 0))]


def _located(subject: Subject, concept: Concept) -> NeuronSet:
    split = subject.data.split(concept, locate=subject.asked.located, target=1, retention=0, seed=subject.seed)
    pairs = paired(subject.inpaint, split.locate, concept).made
    return best(subject, subject.locator.score(subject.model, pairs))


def _size(subject: Subject) -> int:
    if not subject.neurons:
        raise ValueError("no neuron was located")
    return len(subject.neurons)


def _chance(subject: Subject) -> Measured:
    """Return what two random sets with the located layers share on average: exact, so without an interval."""
    return Measured(overlap.by_chance(subject.neurons, subject.site.widths), None, None, 0)
