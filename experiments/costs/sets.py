"""Captions of the same pictures under many neuron sets: written for each set, and the unedited ones checked first."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from experiments.costs.locating import Locating
from experiments.costs.rows import Clock, Row, row_of, timed
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronSet
from kedit.prompts import Prompt

WRITTEN, CHECKED = "one by one", "unedited captions checked"
"""The ways: a generation for each set; only of what the unedited captions are not."""
SIZES = (2, 4, 8, 16, 32, 64, 128, 256)
"""How many neurons the sets have, in turn."""
SETS_TARGET = 0.75
"""The ratio that checking is to stay below."""

Captions = list[list[Generated]]


@dataclass(frozen=True, eq=False)
class Sweep:
    """Neuron sets to zero, one at a time, and pictures to caption under each."""

    model: MLLM
    edits: Sequence[Edit]
    images: Sequence[Image]
    unedited: Sequence[Generated]

    def write(self) -> Captions:
        """Generate for each set."""
        return self._caption(None)

    def check(self) -> Captions:
        """Check the unedited captions under each set, and generate the others."""
        return self._caption(self.unedited)

    def _caption(self, drafts: Sequence[Generated] | None) -> Captions:
        prompts, captions = [Prompt(self.model.prompt, image) for image in self.images], []
        for edit in self.edits:
            with edit.applied(self.model):
                captions.append(self.model.ask(prompts, drafts=drafts))
        return captions


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
    """Compare captions under `count` neuron sets, made in both ways."""
    located, random = sets_in(model, work, count, clock.seed)
    sweep = sweep_of(model, [*located, *random], images)
    written = sweep.write()
    n_differing = n_apart(sweep.check(), written)
    title = f"captions of {len(images)} pictures under {count} neuron sets, {clock.repeats} repetitions"
    seconds = timed(title, {WRITTEN: sweep.write, CHECKED: sweep.check}, clock)
    note = f"{n_differing} of {count * len(images)} captions differ from {WRITTEN}"
    return [
        row_of(title, WRITTEN, seconds, note=_mix(located, random, written, sweep.unedited)),
        row_of(title, CHECKED, seconds, WRITTEN, target=SETS_TARGET, note=note),
    ]


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
