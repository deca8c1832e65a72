"""Whether scores fit: digests of what decides them and has no name, kept with them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kedit import __version__
from kedit.data.inpaint import Inpainter
from kedit.fingerprints import of_concept, of_files, of_sample
from kedit.locate.locator import Locator
from kedit.locate.shards import who_scores
from kedit.models.identity import known_weights, reading_digest
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores
from kedit.results.cache import NO_CACHE, Cache, scorers
from kedit.samples import AnySample, Concept
from kedit.settings import of_settings
from kedit.store import digest

logger = logging.getLogger(__name__)

MARKS = {
    "weights": "the model's weights",
    "reading": "the model's adapter, configuration, processor or prompt",
    "pictures": "the pictures or what paints the concept out",
    "scorers": "the scorers' settings",
}
"""The names of the digests, and what each is of."""


class ScoresError(ValueError):
    """Scores that were given are of something else than what is asked for."""


def marks_of_model(model: MLLM, weights: str | None = None) -> dict[str, str]:
    """Return the digests of an unedited model: of its weights, empty where they cannot be read, and of all else.

    Args:
        model: The model.
        weights: What `known_weights` says of it, if that is known.
    """
    return {
        "weights": known_weights(model.module) if weights is None else weights,
        "reading": reading_digest(model),
    }


def marks(model: MLLM, locator: Locator, pairs: Sequence[str], cache: Cache = NO_CACHE) -> dict[str, str]:
    """Return the digests of what decides scores.

    Args:
        model: The model, unedited.
        locator: Scores.
        pairs: The digest of each usable pair.
        cache: Knows the digest of the model's weights, perhaps.
    """
    found = {"pictures": digest(list(pairs)), "scorers": digest(scorers(who_scores(locator)))}
    return marks_of_model(model, cache.weights) | found


def signed(scores: Mapping[str, NeuronScores], with_marks: Mapping[str, str]) -> dict[str, NeuronScores]:
    """Return the scores with `marks` in their provenance."""
    return {name: replace(one, provenance={**one.provenance, **with_marks}) for name, one in scores.items()}


def check_marks(has: Mapping[str, str], wants: Mapping[str, str], what: str) -> None:
    """Raise a ScoresError where marks differ, and warn where nothing tells whether they do.

    Args:
        has: What came with the scores; those of an older kedit have no marks.
        wants: The marks that are asked for.
        what: What to call them, such as "`scores`".
    """
    for key, mark in wants.items():
        if mark and has.get(key) and has[key] != mark:
            raise ScoresError(f"{what} do not fit: {MARKS[key]} are not the same, though the names may be")
    if unknown := [MARKS[key] for key, mark in wants.items() if not (mark and has.get(key))]:
        logger.warning("nothing proves that %s fit: they do not tell %s", what, ", ".join(unknown))


def asked_for(samples: Sequence[AnySample], concept: Concept, painter: Inpainter) -> str:
    """Return the digest of what the shards of one job have in common: pictures, what paints them, kedit's version."""
    told = of_settings(painter)
    about = {"kedit": __version__, "painter": told, "files": of_files(told), "concept": of_concept(concept)}
    return digest(about | {"samples": [of_sample(one) for one in samples]})
