"""Drawing disjoint samples from an album: which picture goes where, and what is said when there are too few."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kedit.data.album import Album, Record, Rules
from kedit.data.pictures import SampleError, shown
from kedit.samples import Concept, Sample, Split, find_concept

logger = logging.getLogger(__name__)

USUALLY_TOGETHER = 0.5
"""The share of a concept's pictures from which on another concept in them is worth a warning."""


@dataclass(eq=False)
class _Drawing:
    """One draw: every record is looked at once, and what was wrong with the others is kept."""

    album: Album
    concept: Concept
    rules: Rules
    spent: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason to skip, the first sample and what was wrong with it."""
    outside: Counter[str] = field(default_factory=Counter)
    """How many pictures of the concept broke each rule."""

    def take(self, records: Iterable[Record], count: int) -> tuple[Sample, ...]:
        """Return the first `count` samples that can be used, or as many as there are."""
        taken: list[Sample] = []
        for record in records:
            if len(taken) == count:
                break
            if record.id not in self.spent:
                self.spent.add(record.id)
                taken.extend(self._opened(record))
        return tuple(taken)

    def _opened(self, record: Record) -> Iterator[Sample]:
        """Yield the sample of `record`, unless something is wrong with it."""
        try:
            broken, sample = self._judged(record)
        except SampleError as error:
            self.skipped[error.reason] += 1
            self.examples.setdefault(error.reason, f"`{shown(record.id)}`: {error}")
            logger.debug("skipped sample `%s`: %s", shown(record.id), error)
            return
        if broken is not None:
            self.outside[broken] += 1
        elif sample is not None:
            yield sample

    def _judged(self, record: Record) -> tuple[str | None, Sample | None]:
        """Return the rule that a picture breaks, or else its sample."""
        name = self.concept.name
        if name not in record.objects or name not in record.outlines:
            return None, self.album.sample(record)
        if record.size is not None:  # Drawing one region is quicker than reading the picture.
            width, height = record.size
            if broken := self.rules.broken_by_region(record.region(name, height, width)):
                return broken, None
        sample = self.album.sample(record)
        if name not in sample.regions:
            raise SampleError("bad_region", f"`{name}`: no pixel lies in its region")
        return self.rules.broken_by_region(sample.regions[name]), sample


def drawn(album: Album, concept: Concept, rules: Rules, *, seed: int) -> Iterator[Sample]:
    """Yield the pictures of `concept` that follow the `rules` and can be used, in the order that `seed` gives."""
    drawing = _Drawing(album, find_concept(album.concepts, concept.name), rules)
    for record in _showing(drawing, seed):
        yield from drawing.take([record], 1)


def split(
    album: Album, concept: Concept, rules: Rules, *, locate: int, target: int, retention: int, seed: int
) -> Split:
    """Return disjoint samples of `album`, drawn by `seed`; pictures that cannot be used are skipped and counted.

    Of the concept's pictures in the seed's order, those to locate with come from the front and the target ones from
    the back, so that asking for more of one leaves the other as it is. Where some of them have a region of the
    concept, only those are taken to locate with. Near and far pictures neither show the concept nor name it in a
    caption; where the whole album has none that are near, or none that are far, that part is empty.

    Raises:
        LookupError: The concept, or one that must not be beside it, is not annotated.
        ValueError: A number is out of range, or there are too few pictures.
    """
    check_counts(locate=locate, target=target, retention=retention)
    concept = find_concept(album.concepts, concept.name)
    for name in rules.without or ():
        find_concept(album.concepts, name)
    drawing = _Drawing(album, concept, rules)
    showing = _showing(drawing, seed)
    _warn_of_company(showing, concept)
    with_region = [record for record in showing if concept.name in record.outlines] or showing
    located = drawing.take(with_region, locate)
    targets = drawing.take(reversed(showing), target)
    without = _without(drawing, seed)
    kin = {one.name for one in album.concepts if one.category is not None and one.category == concept.category}
    near = drawing.take((record for record in without if not record.objects.isdisjoint(kin)), retention)
    far = drawing.take((record for record in without if record.objects.isdisjoint(kin)), retention)
    parts = Split(located, targets, near, far, dict(drawing.skipped))
    _tell(drawing)
    if len(located) < locate or len(targets) < target:
        raise ValueError(_too_few(drawing, parts, locate, target, len(showing) - len(with_region)))
    _check_retention(concept, parts, retention)
    return parts


def _showing(drawing: _Drawing, seed: int) -> list[Record]:
    """Return the records that show the concept, in the seed's order, and count those that break a rule."""
    name, found = drawing.concept.name, []
    for record in drawing.album.shuffled(seed):
        if name in record.objects:
            broken = drawing.rules.broken_by(record, drawing.concept)
            drawing.outside.update([broken] if broken else [])
            found += [] if broken else [record]
    return found


def _without(drawing: _Drawing, seed: int) -> list[Record]:
    concept = drawing.concept
    return [
        record
        for record in drawing.album.shuffled(seed)
        if concept.name not in record.objects and not any(map(concept.mentioned_in, record.references))
    ]


def _warn_of_company(showing: list[Record], concept: Concept) -> None:
    beside = Counter(name for record in showing for name in record.objects if name != concept.name)
    for name, count in beside.most_common():
        if count > USUALLY_TOGETHER * len(showing):
            logger.warning(
                "%d of %d pictures of `%s` show `%s` too: what is located may belong to either; leave them out "
                "with `without`, or paint out carefully",
                count, len(showing), concept.name, name,
            )  # fmt: skip


def _tell(drawing: _Drawing) -> None:
    for reason, count in drawing.skipped.most_common():
        logger.warning("skipped %d samples (%s), the first %s", count, reason, drawing.examples[reason])


def _too_few(drawing: _Drawing, parts: Split, locate: int, target: int, without_region: int) -> str:
    """Return why there are fewer pictures of the concept than asked for, and what would help."""
    name, counts = drawing.concept.name, drawing.album.counts
    if not counts[name]:
        instead = ", ".join(one for one, _ in counts.most_common(5)) or "nothing at all"
        return f"no picture shows `{name}`; most often they show {instead}"
    reasons = [f"{count} break `{rule}`" for rule, count in drawing.outside.most_common()]
    reasons += [
        f"{count} cannot be used ({reason}, the first {drawing.examples[reason]})"
        for reason, count in drawing.skipped.most_common()
    ]
    if without_region:
        reasons.append(f"{without_region} have no region of it, and locating takes those that have one")
    return (
        f"{locate + target} pictures of `{name}` asked for ({locate} to locate, {target} as target), "
        f"{counts[name]} show it, {len(parts.locate)} and {len(parts.target)} of them are good"
        + "".join(f"; {reason}" for reason in reasons)
        + ("; ask for fewer, or widen the rules" if drawing.outside else "; ask for fewer")
    )


def _check_retention(concept: Concept, parts: Split, retention: int) -> None:
    """Raise a ValueError if there are fewer pictures without the concept than asked for; warn if a part is empty."""
    found = {"near": len(parts.near), "far": len(parts.far)}
    short = {part: count for part, count in found.items() if count < retention}
    if not retention or not short:
        return
    if any(short.values()) or len(short) == 2:
        raise ValueError(
            f"{retention} pictures without `{concept.name}` asked for, near (same kind) and far each; "
            f"there are {found['near']} near and {found['far']} far; ask for "
            f"`retention` {min((n for n in found.values() if n), default=0)} or less"
        )
    logger.warning("no picture is %s of `%s`: retention is judged on the others alone", *short, concept.name)


def check_counts(*, locate: int, target: int, retention: int) -> None:
    """Raise a ValueError for a number of samples that no split can have."""
    for name, least, number in (("locate", 1, locate), ("target", 1, target), ("retention", 0, retention)):
        if number < least:
            raise ValueError(f"`{name}` is a number of samples, {least} or more, got {number}")
