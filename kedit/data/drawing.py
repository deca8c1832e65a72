"""Drawing disjoint samples from a data set: which picture goes where, and what is said when there are too few."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kedit.data.data_set import AnnotatedDataSet, Record, Regions, Rules
from kedit.data.pictures import SampleError, shown
from kedit.data.places import may_be_turned
from kedit.samples import Concept, Sample, Split, find_concept
from kedit.words import counted

logger = logging.getLogger(__name__)

USUALLY_TOGETHER = 0.5
"""The share of a concept's pictures from which on another concept in them is worth a warning."""
LEAST = 2
"""The fewest pictures to locate with, and to measure suppression on, that a capped split has."""


class Asked(NamedTuple):
    """How many samples of a concept are asked for."""

    locate: int
    target: int
    retention: int
    """Near ones, and as many far."""


@dataclass(eq=False)
class _Drawing:
    """One draw: every record is looked at once, and what was wrong with the others is kept."""

    data_set: AnnotatedDataSet
    concept: Concept
    rules: Rules
    spent: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason to skip, the first sample and what was wrong with it."""
    outside: Counter[str] = field(default_factory=Counter)
    """How many pictures of the concept broke each rule."""
    spoiled: list[str] = field(default_factory=list)
    """For each picture that is used although something else in it has a bad outline, what is bad."""
    lying: list[str] = field(default_factory=list)
    """The pictures that are used as they lie although viewers turn them."""

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
            self._note(record, sample)
            yield sample

    def _note(self, record: Record, sample: Sample) -> None:
        """Keep what is odd about a sample that is used."""
        assert isinstance(sample.regions, Regions)
        self.spoiled += [f"`{shown(record.id)}`: {why}" for why in list(sample.regions.bad.values())[:1]]
        if may_be_turned(record):
            self.lying.append(shown(record.id))

    def _judged(self, record: Record) -> tuple[str | None, Sample | None]:
        """Return the rule that a picture breaks, or else its sample."""
        name = self.concept.name
        if name not in record.objects or name not in record.outlines:
            return None, self.data_set.sample(record)
        if record.size is not None and not record.upright:  # Drawing one region is quicker than reading the picture.
            width, height = record.size
            if broken := self.rules.broken_by_region(record.region(name, height, width)):
                return broken, None
        sample = self.data_set.sample(record)
        if name not in sample.regions:
            assert isinstance(sample.regions, Regions)
            raise SampleError("bad_region", sample.regions.bad.get(name, f"`{name}`: no pixel lies in its region"))
        return self.rules.broken_by_region(sample.regions[name]), sample


def drawn(data_set: AnnotatedDataSet, concept: Concept, rules: Rules, *, seed: int) -> Iterator[Sample]:
    """Yield the pictures of `concept` that follow the `rules` and can be used, in the order that `seed` gives."""
    drawing = _Drawing(data_set, find_concept(data_set.concepts, concept.name), rules)
    for record in _showing(drawing, seed):
        yield from drawing.take([record], 1)


def split(
    data_set: AnnotatedDataSet, concept: Concept, rules: Rules, asked: Asked, *, seed: int, strict: bool = True
) -> Split:
    """Return disjoint samples of `data_set`, drawn by `seed`; pictures that cannot be used are skipped and counted.

    Of the concept's pictures in the seed's order, those to locate with come from the front and the target ones from
    the back, so that asking for more of one leaves the other as it is. Where some of them have a region of the
    concept, only those are taken to locate with. Near and far pictures neither show the concept nor name it in a
    caption; where the whole data set has none that are near, or none that are far, that part is empty.

    Without `strict`, a remark says that there are fewer than asked for. Those of the concept are then shared out in
    the proportion of `locate` and `target`, as a strict split with the numbers of that remark would.

    Raises:
        LookupError: The concept, or one that must not be beside it, is not annotated.
        ValueError: A number is out of range, or there are too few pictures: fewer than asked for or, without `strict`,
            than `LEAST` of each.
    """
    check_counts(**asked._asdict())
    concept = find_concept(data_set.concepts, concept.name)
    for name in rules.without or ():
        find_concept(data_set.concepts, name)
    drawing = _Drawing(data_set, concept, rules)
    showing = _showing(drawing, seed)
    with_region = [record for record in showing if concept.name in record.outlines] or showing
    located = drawing.take(with_region, asked.locate)
    targets = drawing.take(reversed(showing), asked.target)
    without = _without(drawing, seed)
    kin = {one.name for one in data_set.concepts if one.category is not None and one.category == concept.category}
    near = drawing.take((record for record in without if not record.objects.isdisjoint(kin)), asked.retention)
    far = drawing.take((record for record in without if record.objects.isdisjoint(kin)), asked.retention)
    parts = Split(located, targets, near, far, dict(drawing.skipped))
    shortage = _Shortage(drawing, parts, asked, len(showing) - len(with_region))
    if shortage and (strict or not shortage.is_usable):
        raise ValueError(shortage.message())
    remarks = [*_company(showing, concept), *_oddities(drawing)]
    if shortage:
        parts = shortage.shared_out([record.id for record in showing])
        remarks.append(shortage.remark(parts))
    elif asked.retention:
        remarks += _empty(concept, parts)
    return replace(parts, remarks=tuple(remarks))


def _showing(drawing: _Drawing, seed: int) -> list[Record]:
    """Return the records that show the concept, in the seed's order, and count those that break a rule."""
    name, found = drawing.concept.name, []
    for record in drawing.data_set.shuffled(seed):
        if name in record.objects:
            broken = drawing.rules.broken_by(record, drawing.concept)
            drawing.outside.update([broken] if broken else [])
            found += [] if broken else [record]
    return found


def _without(drawing: _Drawing, seed: int) -> list[Record]:
    concept = drawing.concept
    return [
        record
        for record in drawing.data_set.shuffled(seed)
        if concept.name not in record.objects and not any(map(concept.mentioned_in, record.references))
    ]


def _company(showing: list[Record], concept: Concept) -> Iterator[str]:
    """Yield what usually comes along with the concept."""
    beside = Counter(name for record in showing for name in record.objects if name != concept.name)
    for name, count in beside.most_common():
        if count > USUALLY_TOGETHER * len(showing):
            yield (
                f"{count} of {len(showing)} pictures of `{concept.name}` show `{name}` too: what is located may belong "
                "to either; leave them out with `without`, or paint out carefully"
            )


def _oddities(drawing: _Drawing) -> Iterator[str]:
    """Yield what was passed over, and what is used although something is wrong with it."""
    for reason, count in drawing.skipped.most_common():
        yield f"skipped {counted(count, 'sample')} ({reason}), the first {drawing.examples[reason]}"
    if drawing.spoiled:
        yield spoiled(drawing.spoiled)
    if drawing.lying:
        yield lying(drawing.lying)


def spoiled(pictures: Sequence[str]) -> str:
    """Return what to say of pictures with a bad region that nobody asked for, each with what is bad."""
    return f"{len(pictures)} samples have a bad region of something else, which is left out, the first {pictures[0]}"


def lying(pictures: Sequence[str]) -> str:
    """Return what to say of pictures that are read as they lie although viewers turn them."""
    return (
        f"viewers turn {len(pictures)} samples (EXIF), the first `{pictures[0]}`; they are read as they lie, since "
        "that size is annotated: if the regions lie beside the objects, set `data.upright=true`"
    )


@dataclass(eq=False)
class _Shortage:
    """What there is of what was asked for; true if that is less."""

    drawing: _Drawing
    parts: Split
    """As many as were asked for, or all there are, the best to locate with first."""
    asked: Asked
    without_region: int
    """How many pictures of the concept cannot be located with."""

    def __bool__(self) -> bool:
        return self._lacks_concept or self._lacks_others

    @property
    def _lacks_concept(self) -> bool:
        return len(self.parts.locate) < self.asked.locate or len(self.parts.target) < self.asked.target

    @property
    def _lacks_others(self) -> bool:
        """Whether a part without the concept is short; that one of them is empty is no lack."""
        short = [n for n in self._without if n < self.asked.retention]
        return bool(short) and (any(short) or len(short) == 2)

    @property
    def _without(self) -> tuple[int, int]:
        return len(self.parts.near), len(self.parts.far)

    @property
    def fitting(self) -> Asked:
        """The most that a strict split can be asked for, in the proportion of what was."""
        locate, target, retention = self.asked
        if self._lacks_concept:
            good = [*self.parts.locate, *self.parts.target]
            named = self.drawing.concept.name
            placed = sum(isinstance(one, Sample) and named in one.regions for one in good) or len(good)
            share = round(len(good) * locate / (locate + target))
            locate = min(locate, placed, max(LEAST, share))
            target = min(target, len(good) - locate)
        if self._lacks_others:
            retention = min((n for n in self._without if n), default=0)
        return Asked(locate, target, retention)

    @property
    def is_usable(self) -> bool:
        """Whether enough is left to measure anything at all."""
        locate, target, _ = self.fitting
        return locate >= min(LEAST, self.asked.locate) and target >= min(LEAST, self.asked.target)

    def shared_out(self, order: list[str]) -> Split:
        """Return the parts as they are used; `order` is that of the concept's pictures."""
        locate, target, _ = self.fitting
        rest = [*self.parts.target, *self.parts.locate[locate:]]
        rest.sort(key=lambda sample: order.index(sample.id), reverse=True)
        return replace(self.parts, locate=self.parts.locate[:locate], target=tuple(rest[:target]))

    def remark(self, parts: Split) -> str:
        """Return how many are used instead of how many."""
        named = {"locate": "to locate with", "target": "as target", "near": "near", "far": "far"}
        asked = {**self.asked._asdict(), "near": self.asked.retention, "far": self.asked.retention}
        used = {part: (len(getattr(parts, part)), asked[part], what) for part, what in named.items()}
        listed = ", ".join(f"{n} (of {most}) {what}" for n, most, what in used.values() if n < most)
        return (
            f"there are fewer pictures for `{self.drawing.concept.name}` than asked for; used are {listed}: the "
            f"intervals are wider for it (`evaluate.strict=true` refuses, `{self._keys()}` asks for what there is)"
        )

    def message(self) -> str:
        """Return why there are fewer than asked for, and what would help."""
        counts, name = self.drawing.data_set.counts, self.drawing.concept.name
        if not counts[name]:
            instead = ", ".join(one for one, _ in counts.most_common(5)) or "nothing at all"
            return f"no picture shows `{name}`; most often they show {instead}"
        parts = [self._about_concept()] if self._lacks_concept else []
        if self._lacks_others:
            near, far = self._without
            parts.append(
                f"{self.asked.retention} pictures without `{name}` asked for, near (same kind) and far each; "
                f"there are {near} near and {far} far; ask for `retention` {self.fitting.retention} or less"
            )
        if not self.is_usable:
            parts.append(
                f"at least {2 * LEAST} that can be used are needed, {LEAST} to locate with and {LEAST} as target"
            )
            return "; ".join(parts)
        # In front: a long line is cut at its end.
        return f"too few pictures: `{self._keys()}` asks for what there is; {'; '.join(parts)}"

    def _about_concept(self) -> str:
        drawing, (locate, target, _) = self.drawing, self.asked
        name = drawing.concept.name
        reasons = [f"{count} break `{rule}`" for rule, count in drawing.outside.most_common()]
        reasons += [
            f"{count} cannot be used ({reason}, the first {drawing.examples[reason]})"
            for reason, count in drawing.skipped.most_common()
        ]
        if self.without_region:
            reasons.append(f"{self.without_region} have no region of it, and locating takes those that have one")
        return (
            f"{locate + target} pictures of `{name}` asked for ({locate} to locate, {target} as target), "
            f"{drawing.data_set.counts[name]} show it, {len(self.parts.locate)} and {len(self.parts.target)} of them "
            f"are "
            "good"
            + "".join(f"; {reason}" for reason in reasons)
            + ("; ask for fewer, or widen the rules" if drawing.outside else "; ask for fewer")
        )

    def _keys(self) -> str:
        """Return the settings that ask for what there is."""
        fits = zip(Asked._fields, self.fitting, self.asked, strict=True)
        return " ".join(f"evaluate.{key}={fitting}" for key, fitting, asked in fits if fitting < asked)


def _empty(concept: Concept, parts: Split) -> Iterator[str]:
    """Yield that retention is judged on near or on far pictures alone."""
    for part in ("near", "far"):
        if not getattr(parts, part):
            yield f"no picture is {part} of `{concept.name}`: retention is judged on the others alone"


def check_counts(*, locate: int, target: int, retention: int) -> None:
    """Raise a ValueError for a number of samples that no split can have."""
    for name, least, number in (("locate", 1, locate), ("target", 1, target), ("retention", 0, retention)):
        if number < least:
            raise ValueError(f"`{name}` is a number of samples, {least} or more, got {number}")
