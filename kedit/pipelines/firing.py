"""What the located neurons do in the pictures that they were located with, and the cards that a page shows of it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kedit.inspection import heat_map
from kedit.inspection.decode import Decoded, decode, side
from kedit.inspection.grid import ImageGrid
from kedit.inspection.responses import Seen
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronSet, best_first
from kedit.page import Card, Firing, Materials, fired_uri
from kedit.pipelines.locate import Located
from kedit.samples import Concept, Counterfactual

logger = logging.getLogger(__name__)

MOST_CARDS = 60
"""Neurons that a page shows pictures of, the best ones."""
N_PICTURES = 4
"""Pictures of each."""
N_WORDS = 8
"""Words of each in both directions."""


@dataclass(frozen=True, eq=False)
class Fired:
    """What neurons did at the image tokens of pictures; those that fire below zero are turned round."""

    concept: Concept
    pairs: Sequence[Counterfactual]
    captions: Sequence[str]
    seen: Sequence[Seen]
    grids: Sequence[ImageGrid]
    peaks: Mapping[NeuronId, float]
    """How strongly each neuron fires, with its sign; see `kedit.inspection.responses.strongest`."""

    def strongest(self, neuron: NeuronId) -> tuple[Firing, ...]:
        """Return the pictures in which a neuron fires most, the strongest first; none where it does not fire."""
        columns = [one.values[:, one.columns[neuron]] for one in self.seen]
        tops = [float(column.max()) for column in columns]
        best = sorted((place for place, top in enumerate(tops) if top > 0), key=lambda place: -tops[place])[:N_PICTURES]
        sign, highest = (-1 if self.peaks.get(neuron, 0) < 0 else 1), max(tops, default=0.0)
        firings = []
        for place in best:
            sample = self.pairs[place].sample
            heat = heat_map(columns[place][:, None], self.grids[place], sample.image.size)
            picture = fired_uri(sample.image, heat, highest, sample.regions.get(self.concept.name))
            firings.append(Firing(sample.id, sign * tops[place], self.captions[place], picture))
        return tuple(firings)


def cards(decoded: Sequence[Decoded], fired: Fired | None) -> tuple[Card, ...]:
    """Return the cards of neurons whose words are known, with their pictures where those are known, too."""
    return tuple(
        Card(
            *one.neuron,
            one.words[:N_WORDS],
            one.opposite[:N_WORDS],
            side(one.below) if fired else "",
            fired.strongest(one.neuron) if fired else (),
        )
        for one in decoded[:MOST_CARDS]
    )


def inspected(located: Located, decoded: Sequence[Decoded], fired: Fired | None) -> Materials:
    """Return what the page of an inspection needs: the cards of the neurons whose words are known, the best first."""
    known = {one.neuron: one for one in decoded}
    best = [known[one] for one in best_first(located.neurons, located.scores) if one in known]
    why = "" if fired else "the model has no place in a picture for what its neurons do"
    return Materials(cards(best, fired), why)


def cards_of(model: MLLM, located: Located, fired: Fired | None) -> tuple[Card, ...]:
    """Return the cards of the best located neurons; their words are read from the weights, and nothing is run."""
    rows = located.named.rows[:MOST_CARDS]
    best = NeuronSet(tuple(row.neuron for row in rows), located.neurons.site, located.neurons.scope)
    below = {neuron for neuron, peak in fired.peaks.items() if peak < 0} if fired else ()
    try:
        decoded = decode(model, best, N_WORDS, below)
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        logger.info("no words in both directions: %s", " ".join(str(error).split()), exc_info=True)
        decoded = [Decoded(row.neuron, row.words, (), ()) for row in rows]
    return cards(decoded, fired)
