"""Counterfactual pairs of many samples: what cannot be painted out is skipped, counted and told."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from kedit.data.inpaint import Exact, Inpainter
from kedit.data.pictures import SampleError, shown
from kedit.samples import AnySample, Concept, Pair, Progress, TextPair, TextSample, silent

logger = logging.getLogger(__name__)


class Pairs(NamedTuple):
    """The pairs that could be made, and how many samples were skipped, by the reason."""

    made: list[Pair]
    skipped: dict[str, int]


@runtime_checkable
class Heavy(Protocol):
    """What holds a model that others need the memory of."""

    def release(self) -> None:
        """Let the model go until it is needed again."""
        ...


def counterfactuals(
    inpaint: Inpainter,
    samples: Sequence[AnySample],
    concept: Concept,
    *,
    progress: Progress = silent,
    needed: bool = True,
) -> Pairs:
    """Return the pairs of the samples and their pictures without `concept`; texts bring their counterfactuals.

    An inpainter that holds a model lets it go afterwards.

    Raises:
        ValueError: Not one could be made, and one is `needed`; the message has the first reason. Or an inpainter that
            fills regions was chosen for texts.
    """
    made: list[Pair] = []
    skipped: Counter[str] = Counter()
    first: dict[str, str] = {}
    try:
        for sample in progress(samples, len(samples), "counterfactuals"):
            try:
                made.append(_paired(inpaint, sample, concept))
            except SampleError as error:
                skipped[error.reason] += 1
                first.setdefault(error.reason, str(error))
    finally:
        if isinstance(inpaint, Heavy):
            inpaint.release()
    for reason, count in skipped.most_common():
        logger.warning("skipped %d of %d samples (%s), the first %s", count, len(samples), reason, first[reason])
    if needed and samples and not made:
        raise ValueError(
            f"`{shown(concept.name)}` could be painted out of none of {len(samples)} pictures: "
            + "; ".join(f"{count} {reason}, the first {first[reason]}" for reason, count in skipped.most_common())
        )
    return Pairs(made, dict(skipped))


def _paired(inpaint: Inpainter, sample: AnySample, concept: Concept) -> Pair:
    if not isinstance(sample, TextSample):
        return inpaint(sample, concept)
    if isinstance(inpaint, Exact):
        return TextPair(sample, concept)
    raise ValueError("an inpainter fills regions of pictures, and the data are texts; leave `inpaint` out, or `exact`")
