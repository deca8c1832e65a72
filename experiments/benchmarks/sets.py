"""Captions of the same pictures under many neuron sets: one set after the other, and side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from experiments.benchmarks.locating import Locating
from experiments.benchmarks.rows import Clock, Row, row_of, timed
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.edit.side_by_side import SideBySide, captions_under
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronSet
from kedit.prompts import Prompt

ALONE, ROWS, SHARED, DRAFTS, ALL = "one by one", "rows", "rows, pictures once", "one by one, drafts", "all three"
"""The ways: a generation for each set; rows of one batch; each picture looked at once for all sets; drafts checked."""
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
"""How many neurons the sets have, in turn."""
SETS_TARGET = 0.7
"""The ratio that all three together are to stay below."""

Captions = list[list[Generated]]


@dataclass(frozen=True, eq=False)
class Sweep:
    """Neuron sets to zero, one at a time, and pictures to caption under each."""

    model: MLLM
    edits: Sequence[Edit]
    images: Sequence[Image]
    unedited: Sequence[Generated]

    def one_by_one(self) -> Captions:
        """Generate for each set."""
        return self._each(None)

    def one_by_one_drafted(self) -> Captions:
        """Generate for each set, and check the unedited captions."""
        return self._each(self.unedited)

    def rows(self) -> Captions:
        """Generate for all sets, each row with a picture of its own."""
        n, own = len(self.images), [image.copy() for _ in self.edits for image in self.images]
        told = self.model.ask(
            [Prompt(self.model.prompt, image) for image in own],
            within=lambda rows: SideBySide([self.edits[row // n] for row in rows]).applied(self.model),
        )
        return [told[start : start + n] for start in range(0, len(told), n)]

    def shared(self) -> Captions:
        """Generate for all sets, each picture looked at once."""
        return captions_under(self.model, self.edits, self.images)

    def shared_and_drafted(self) -> Captions:
        """Generate for all sets, each picture looked at once, and check the unedited captions."""
        return captions_under(self.model, self.edits, self.images, drafts=self.unedited)

    def _each(self, drafts: Sequence[Generated] | None) -> Captions:
        prompts, told = [Prompt(self.model.prompt, image) for image in self.images], []
        for edit in self.edits:
            with edit.applied(self.model):
                told.append(self.model.ask(prompts, drafts=drafts))
        return told


def sets_in(model: MLLM, work: Locating, count: int, seed: int) -> tuple[list[NeuronSet], list[NeuronSet]]:
    """Return half as many located sets as `count`, of `SIZES` in turn, and as many random ones that match them."""
    scores = work.with_kedit(model)
    widths = model.site(work.locator.site, work.locator.scope).widths
    sizes = [SIZES[number % len(SIZES)] for number in range((count + 1) // 2)]
    located = [work.locator.limited(size).select(scores) for size in sizes]
    return located, [one.layer_matched(widths, seed + number) for number, one in enumerate(located)][: count // 2]


def sweep_of(model: MLLM, sets: Sequence[NeuronSet], images: Sequence[Image]) -> Sweep:
    """Return the sweep that zeroes each set."""
    edits = [Edit(neurons, Zero(), name=str(number)) for number, neurons in enumerate(sets)]
    return Sweep(model, edits, images, model.ask([Prompt(model.prompt, image) for image in images]))


def captioning(model: MLLM, work: Locating, images: Sequence[Image], count: int, clock: Clock) -> list[Row]:
    """Compare captions under `count` neuron sets, made in all ways."""
    located, random = sets_in(model, work, count, clock.seed)
    sweep = sweep_of(model, [*located, *random], images)
    ways: dict[str, Callable[[], Captions]] = {
        ALONE: sweep.one_by_one,
        ROWS: sweep.rows,
        SHARED: sweep.shared,
        DRAFTS: sweep.one_by_one_drafted,
        ALL: sweep.shared_and_drafted,
    }
    told = {name: way() for name, way in ways.items()}
    n_all = count * len(images)
    notes = {name: f"{n_apart(one, told[ALONE])} of {n_all} captions differ from {ALONE}" for name, one in told.items()}
    notes[ALONE] = _mix(located, random, told[ALONE], sweep.unedited)
    title = f"captions of {len(images)} pictures under {count} neuron sets, {clock.repeats} repetitions"
    seconds = timed(title, ways, clock)
    rows = [row_of(title, ALONE, seconds, note=notes[ALONE])]
    for name in (ROWS, SHARED, DRAFTS, ALL):
        target = SETS_TARGET if name == ALL else None
        rows.append(row_of(title, name, seconds, ALONE, target=target, note=notes[name]))
    return rows


def _mix(
    located: Sequence[NeuronSet], random: Sequence[NeuronSet], told: Captions, unedited: Sequence[Generated]
) -> str:
    """Return which sets there are, and how much they change, for people."""
    sizes = sorted(map(len, located))
    changed = [n_different(row, unedited) for row in told]
    half = len(located)
    return (
        f"{half} located sets of {sizes[0]} to {sizes[-1]} neurons, which change {sum(changed[:half])} of "
        f"{half * len(unedited)} captions, and {len(random)} random ones that match them by layer and change "
        f"{sum(changed[half:])} of {len(random) * len(unedited)}"
    )


def n_apart(told: Captions, alone: Captions) -> int:
    """Return how many captions differ."""
    return sum(n_different(row, other) for row, other in zip(told, alone, strict=True))


def n_different(captions: Sequence[Generated], others: Sequence[Generated]) -> int:
    """Return in how many places the captions differ."""
    return sum(one != other for one, other in zip(captions, others, strict=True))
