"""The parts of all shards as one: what is refused, and what is added up.

Merged scores are those of one job bit by bit, for every scorer and prober: sums over samples are exact, and all that
follows is a function of them. What may differ is the score of a single sample, where the hardware gives a row other
bits in another batch: on a CPU this was seen only where a layer's width is no multiple of 16 (within 1e-5 of the
largest score); on a GPU it depends on how it multiplies matrices. What has to see all samples before it can score one
is refused: `CausalEffect` with a shortlist, `NAM` without a vocabulary.
"""

from collections.abc import Mapping, Sequence

from kedit.locate.parts import Part, PartError, Shard
from kedit.locate.reduction import RunningReduction
from kedit.locate.scoring import Tally


def joined(parts: Sequence[Part]) -> Part:
    """Return the parts of all samples as one, in the order of the samples.

    Raises:
        PartError: They are of different models, locators or concepts, a shard is missing or there twice, or two of
            them have a sample in common.
    """
    ordered = sorted(parts, key=lambda part: part.shard.index)
    _refuse_strangers(ordered)
    _refuse_gaps(ordered)
    _refuse_repeats(ordered)
    reasons = dict.fromkeys(reason for part in ordered for reason in part.left_out)
    stages: dict[str, Tally] = {}
    for part in ordered:
        for name, tally in part.stages.items():
            stages.setdefault(name, Tally(RunningReduction(tally.sums.how))).merge(tally)
    return Part(
        ordered[0].maker,
        Shard(),
        next((part.concept for part in ordered if part.concept is not None), None),
        dict(sorted(item for part in ordered for item in part.samples.items())),
        dict(sorted(item for part in ordered for item in part.skipped.items())),
        stages,
        sum(part.forwards for part in ordered),
        sum(part.backwards for part in ordered),
        sum(part.seconds for part in ordered),
        {reason: sum(part.left_out.get(reason, 0) for part in ordered) for reason in reasons},
        next((part.unnamed for part in ordered if part.unnamed), ""),
    )


def refuse_sharing(scorers: Mapping[str, object], shard: Shard) -> None:
    """Raise a ValueError if one of the `scorers`, by stage, has to see all samples and `shard` has not all."""
    for name, scorer in scorers.items():
        if shard.count > 1 and (why := getattr(scorer, "needs_all", None)) is not None:
            raise ValueError(
                f"stage `{name}` has to see all samples at once, and this is shard {shard}: {why}, or use "
                "`shard.count=1`"
            )


def _refuse_strangers(parts: Sequence[Part]) -> None:
    if not parts:
        raise PartError("there are no parts to merge; give those of all shards")
    for part in parts[1:]:
        if (told := parts[0].maker.differs(part.maker)) is not None:
            raise PartError(f"parts {parts[0].shard} and {part.shard} do not belong together: {told}")
    if len(concepts := sorted({part.concept for part in parts if part.concept is not None})) > 1:
        raise PartError(f"parts of one concept are merged, got {' and '.join(f'`{one}`' for one in concepts)}")


def _refuse_gaps(parts: Sequence[Part]) -> None:
    if len(counts := sorted({part.shard.count for part in parts})) > 1:
        raise PartError(f"the parts are shards of different counts: {', '.join(map(str, counts))}")
    indices = [part.shard.index for part in parts]
    if twice := sorted({index for index in indices if indices.count(index) > 1}):
        raise PartError(f"shard {', '.join(map(str, twice))} of {counts[0]} is there more than once")
    if missing := sorted(set(range(counts[0])) - set(indices)):
        raise PartError(
            f"of {counts[0]} shards {len(missing)} are missing: {', '.join(map(str, missing))}; score them with "
            f"`shard.count={counts[0]} shard.index={','.join(map(str, missing))}`"
        )


def _refuse_repeats(parts: Sequence[Part]) -> None:
    found: dict[str, Shard] = {}
    for part in parts:
        own = {*part.samples.values(), *part.skipped.values()}
        if both := sorted(own & set(found)):
            raise PartError(f"sample `{both[0]}` would count twice: it is in shards {found[both[0]]} and {part.shard}")
        found |= dict.fromkeys(own, part.shard)
