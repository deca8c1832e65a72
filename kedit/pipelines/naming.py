"""The located neurons by name: each one's score by stage, and the words that it speaks for."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from kedit.inspection.decode import strongest_words
from kedit.internals.sites import Site
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronScores, NeuronSet, best_first
from kedit.results.table import Cell, Table

logger = logging.getLogger(__name__)

N_WORDS = 5
"""Words of each neuron."""
MOST_READ = 500
"""How many neurons have words, the best ones: a matrix product over the vocabulary for each."""
N_SHOWN = 5
"""Neurons in the foot of a printed table."""


@dataclass(frozen=True)
class NamedNeuron:
    """One located neuron."""

    name: str
    """`0.21`: its layer and its index in it; `0.e3.21` for neuron 21 of expert 3."""
    neuron: NeuronId
    scores: Mapping[str, float | None]
    """By stage; None where a stage gives none."""
    words: tuple[str, ...]
    """Those whose logits its value vector raises most, the strongest first. A neuron that fires below zero lowers them:
    on which side it fires, `kedit inspect` measures."""

    @property
    def line(self) -> str:
        """The neuron for people, such as `0.21 (difference 1.2, gradcam 0.45): star, stars`."""
        known = [f"{stage} {score:.3g}" for stage, score in self.scores.items() if score is not None]
        scores = f" ({', '.join(known)})" if known else ""
        return f"{self.name}{scores}" + (f": {', '.join(self.words)}" if self.words else "")


@dataclass(frozen=True)
class NamedNeurons:
    """The located neurons, the best of the last stage first."""

    rows: tuple[NamedNeuron, ...] = ()
    why: str = ""
    """Why some have no words; empty where all have."""

    def table(self) -> Table:
        """Return a row for each neuron: layer, index, score by stage, words."""
        stages = tuple(dict.fromkeys(stage for row in self.rows for stage in row.scores))
        rows: list[tuple[Cell, ...]] = [
            (row.name, *row.neuron, *(row.scores[stage] for stage in stages), " ".join(row.words)) for row in self.rows
        ]
        return Table(("neuron", "layer", "index", *stages, "words"), tuple(rows), notes=(self.why,) * bool(self.why))

    @property
    def lines(self) -> tuple[str, ...]:
        """The first neurons and how many more there are, for the foot of a table."""
        told = [row.line for row in self.rows[:N_SHOWN]]
        if (more := len(self.rows) - N_SHOWN) > 0:
            told.append(f"and {more} more in neurons.csv")
        if self.why:
            told.append(self.why)
        return tuple(f"  {line}" for line in told)


def name_neurons(
    neurons: NeuronSet, scores: Mapping[str, NeuronScores], model: MLLM | None = None, site: Site | None = None
) -> NamedNeurons:
    """Return the neurons by name; their words are read from the weights of `model`, and nothing is run.

    Args:
        neurons: What was located.
        scores: Of each stage, the last one ranks them.
        model: Whose neurons they are; None if nobody has it.
        site: Where they are in it.
    """
    order = best_first(neurons, scores)
    words, why = _words(model, NeuronSet(tuple(order[:MOST_READ]), neurons.site, neurons.scope))
    if not why and len(order) > MOST_READ:
        why = f"words of the best {MOST_READ} neurons alone"
    columns = {stage: [_known(score) for score in one.of(order).tolist()] for stage, one in scores.items()}
    return NamedNeurons(
        tuple(
            NamedNeuron(
                site.label(neuron) if site is not None else f"{neuron.layer}.{neuron.index}",
                neuron,
                {stage: column[place] for stage, column in columns.items()},
                words.get(neuron, ()),
            )
            for place, neuron in enumerate(order)
        ),
        why,
    )


def _words(model: MLLM | None, neurons: NeuronSet) -> tuple[dict[NeuronId, tuple[str, ...]], str]:
    """Return the words of each neuron, or none and why there are none."""
    if model is None or not neurons:
        return {}, "no words: the scores come without a model" * bool(neurons)
    try:
        return strongest_words(model, neurons, N_WORDS), ""
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        why = f"no words: {' '.join(str(error).split())}"
        logger.info(why, exc_info=True)
        return {}, why


def _known(score: float) -> float | None:
    return score if score == score else None
