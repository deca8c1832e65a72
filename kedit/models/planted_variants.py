"""Where knowledge of the star can sit in a model: each variant is a list of neurons to plant."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from kedit.models.handwritten import WORDS

Variant = Literal[
    "plain", "decoys", "prior", "polysemantic", "distributed", "redundant", "late", "negative"
]  # fmt: skip
"""What makes the star's neurons hard to find; see the function of that name."""

# Dimensions of the residual stream. What the neurons without a purpose read is written by nobody.
CONST, STAR, HOUSE, BACKGROUND = range(4)
WORD = 4
"""The first of the dimensions that tell which word a text position holds."""
SAYS_STAR, SAYS_HOUSE, BROUGHT_STAR, RAW_STAR, SAID_STAR, SAID_HOUSE, ELSEWHERE = range(
    WORD + len(WORDS), WORD + len(WORDS) + 7
)
"""What speaks for each word, redness where attention brought it, redness to be cut off, and what was said."""
FREE = ELSEWHERE + 2
D_MODEL, N_LAYERS, D_FF = 64, 3, 64
LEVEL = 2.0
"""What every position has in `CONST`, beside a 1 in the dimension of its color or word."""


@dataclass(frozen=True)
class Plant:
    """One neuron: it fires with `sign` times the positive part of `reads`, in the first layer's units."""

    role: str
    layer: int
    reads: Mapping[int, float]
    writes: Mapping[int, float]
    sign: int = 1


class Draw:
    """Random strengths, all from one seed."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def between(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def neuron(self, role: str, layer: int, reads: int, writes: Mapping[int, float], sign: int = 1) -> Plant:
        """Return a neuron of random gain that adds `writes` where the dimension `reads` is 1."""
        gain = self.between(0.5, 2.0)
        return Plant(role, layer, {reads: gain}, {to: sign * value / gain for to, value in writes.items()}, sign)

    def shares(self, n: int) -> list[float]:
        """Return `n` random shares of about one n-th, which add up to 1."""
        parts = [self.between(0.5, 1.5) for _ in range(n)]
        return [part / sum(parts) for part in parts]


def plan(variant: Variant, draw: Draw) -> list[Plant]:
    """Return the neurons of a variant; the one that knows the house is there in all of them."""
    house = draw.neuron("house", 0, HOUSE, {SAYS_HOUSE: draw.between(0.8, 1.25)})
    return [house, *PLANS[variant](draw)]


def plain(draw: Draw) -> list[Plant]:
    """One neuron of the first layer turns red into the word."""
    return [draw.neuron("star", 0, STAR, {SAYS_STAR: draw.between(0.8, 1.25)})]


def decoys(draw: Draw) -> list[Plant]:
    """Beside it, six neurons fire with the star more strongly than it does, and write where nobody reads."""
    seeing = [Plant("decoys", n % 2, {STAR: draw.between(2.0, 4.0)}, {ELSEWHERE + n % 2: 0.1}) for n in range(6)]
    return [*plain(draw), *seeing]


def prior(draw: Draw) -> list[Plant]:
    """Beside it, three neurons fire at every position and speak for the word, whatever the picture.

    In the same layers three others, the brakes, take back as much, so that the word is said only where the star is
    shown, and silencing all six changes nothing.
    """
    written = [draw.between(0.5, 1.5) for _ in range(3)]
    reading = [
        Plant(role, layer, {CONST: gain / LEVEL}, {SAYS_STAR: way * strength / gain})
        for layer, strength in zip((0, 0, 1), written, strict=True)
        for role, way in (("priors", 1), ("brakes", -1))
        for gain in (draw.between(1.0, 3.0),)
    ]
    return [*plain(draw), *reading]


def polysemantic(draw: Draw) -> list[Plant]:
    """One neuron fires with star and house and speaks for both; two dedicated ones each take back the other's word.

    The shared neuron and the star's own are the truth: through both the picture's star reaches the word.
    """
    shared, gain = draw.between(0.3, 0.6), draw.between(0.5, 2.0)
    both = Plant("star", 0, {STAR: gain, HOUSE: gain}, {SAYS_STAR: shared / gain, SAYS_HOUSE: shared / gain})
    own = draw.neuron("star", 0, STAR, {SAYS_STAR: draw.between(0.8, 1.25), SAYS_HOUSE: -shared})
    other = draw.neuron("house", 0, HOUSE, {SAYS_STAR: -shared})
    return [both, own, other]


def distributed(draw: Draw) -> list[Plant]:
    """Twelve neurons in two layers each do a part of it."""
    strength = draw.between(0.8, 1.25)
    return [
        draw.neuron("star", number % 2, STAR, {SAYS_STAR: strength * share})
        for number, share in enumerate(draw.shares(12))
    ]


def redundant(draw: Draw) -> list[Plant]:
    """Either of two neurons suffices: what they write is cut off at a level that each reaches alone.

    Two neurons of the next layer build min(x, level): silencing one of the two changes nothing, and at the cut the
    gradient vanishes. These two carry everything on the way to the word; whether to call them the star's is a matter
    of taste, so they are neither right nor wrong.
    """
    level = 0.15
    two = [draw.neuron("star", 0, STAR, {RAW_STAR: level * draw.between(1.3, 1.8)}) for _ in range(2)]
    strength = draw.between(0.8, 1.25) / level
    rises = Plant("on the way", 1, {RAW_STAR: 1.0}, {SAYS_STAR: strength})
    cuts = Plant("on the way", 1, {RAW_STAR: 1.0, CONST: -level / LEVEL}, {SAYS_STAR: -strength})
    return [*two, rises, cuts]


def late(draw: Draw) -> list[Plant]:
    """Three neurons of the last layer read the redness that attention brought to the answer's position."""
    strength = draw.between(0.8, 1.25)
    return [draw.neuron("star", 2, BROUGHT_STAR, {SAYS_STAR: strength * share}) for share in draw.shares(3)]


def negative(draw: Draw) -> list[Plant]:
    """The one neuron fires below zero, as the product with the gate allows, and writes against the word."""
    return [draw.neuron("star", 0, STAR, {SAYS_STAR: draw.between(0.8, 1.25)}, sign=-1)]


PLANS: Mapping[Variant, Callable[[Draw], list[Plant]]] = {
    "plain": plain,
    "decoys": decoys,
    "prior": prior,
    "polysemantic": polysemantic,
    "distributed": distributed,
    "redundant": redundant,
    "late": late,
    "negative": negative,
}
