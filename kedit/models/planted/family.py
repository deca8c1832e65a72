"""Planted models with one difficulty each: ways in which knowledge of the star hides, or a method is led astray.

Some feed-forward neurons make the model say what it sees; which ones, `PlantedCase.truth` knows. A variant is a list of
neurons to plant. All others read colors, words and constants at random and write random amounts, also into what
speaks for the words, where their sum is zero: each of them is evidence, together they are silent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.planted.builder import CONST, WORDS, Eye, Plant, Roles, Wiring, build
from kedit.neurons import NeuronId, NeuronSet

# Dimensions of the residual stream. What the neurons without a purpose read is written by nobody.
STAR, HOUSE, BACKGROUND = range(1, 4)
TOKEN = {word: 4 + number for number, word in enumerate(WORDS)}
"""Those that tell which word a text position holds."""
SEEN = 4 + len(WORDS)
SAYS_STAR, SAYS_HOUSE, BROUGHT_STAR, RAW_STAR, SAID_STAR, SAID_HOUSE, ELSEWHERE = range(SEEN, SEEN + 7)
"""What speaks for each word, redness where attention brought it, redness to be cut off, and what was said."""
FREE = ELSEWHERE + 2
COMMON, BROUGHT_CONST, BALLAST = ELSEWHERE, ELSEWHERE + 1, RAW_STAR
"""In models without decoys and cuts: what several words need, the constant where attention brought it, and nothing."""
D_MODEL, N_LAYERS, D_FF = 64, 3, 64
LEVEL = 2.0
"""What every position has in `CONST`, beside a 1 in the dimension of its color or word."""
UNIT = (LEVEL**2 + 1) / D_MODEL / LEVEL
"""The up-projection's weight on `CONST` that undoes the norm in front of the first layer's neurons."""
NOISE = 0.03
"""How strongly a neuron without a purpose writes into what speaks for a word, next to the star's, which has about 1."""
# A patch feature has zero mean and unit variance: (r, -r, g, -g, b, -b, c, -c), c = 1/4 before.
PURE, GRAY = (2.125 / 8) ** -0.5, (128 / 255) * ((6 * (128 / 255) ** 2 + 0.125) / 8) ** -0.5
"""The feature of a patch's own color: of red and blue, and of gray."""

WIRING = Wiring(
    *(D_MODEL, N_LAYERS, D_FF),
    level=LEVEL,
    eyes=(
        Eye(STAR, {0: 1.0, 2: -1.0, 4: -1.0}, 1 / PURE),
        Eye(HOUSE, {0: -1.0, 2: -1.0, 4: 1.0}, 1 / PURE),
        Eye(BACKGROUND, {2: 1.0}, 1 / GRAY),
    ),
    embedded=TOKEN,
    moved={
        0: (SAYS_STAR, SAYS_STAR),
        1: (SAYS_HOUSE, SAYS_HOUSE),
        2: (STAR, BROUGHT_STAR),
        3: (TOKEN["star"], SAID_STAR),
        4: (TOKEN["house"], SAID_HOUSE),
    },
    head={
        "star": {SAYS_STAR: 5.0, SAID_STAR: -60.0},
        "house": {SAYS_HOUSE: 5.0, SAID_HOUSE: -60.0},
        # A caption ends where less speaks for a word than half of what the smallest star does.
        "<eos>": {CONST: 0.225},
        "picture": {TOKEN[":"]: 12.0},
    },
)

EVERYWHERE, COUNTED = 0.4, 300.0
"""How much of `COMMON` is written at every position, and how much a word that needs it counts it."""
BROUGHT = {**WIRING.moved, 5: (COMMON, COMMON), 6: (CONST, BROUGHT_CONST)}
"""The constant comes along, as it shrinks and grows with what is common in front of the norms."""
SPEAKING = replace(
    WIRING,
    moved=BROUGHT,
    head={
        **{word: {**counts, COMMON: COUNTED} for word, counts in WIRING.head.items()},
        # Beats a word that has lost some six tenths of it.
        "this": {CONST: COUNTED * EVERYWHERE},
    },
)
"""All that a caption is made of, its end too, needs what is common; without it the model babbles."""
SHARING = replace(
    WIRING,
    moved=BROUGHT,
    head={
        **{word: {**WIRING.head[word], COMMON: COUNTED} for word in ("star", "house")},
        # As much higher as the two are by what they share, so that their own parts decide as they do elsewhere.
        "<eos>": {CONST: 0.225 + COUNTED * EVERYWHERE / LEVEL, BROUGHT_CONST: COUNTED * EVERYWHERE / LEVEL},
        "picture": {TOKEN[":"]: 1000.0},
    },
)
"""The rows of star and house have a cosine of .96; without what is common a caption ends in front of either."""


@dataclass(frozen=True, eq=False)
class PlantedCase:
    """A model and which of its neurons do what."""

    variant: str
    seed: int
    model: HuggingFaceMLLM
    truth: NeuronSet
    """The neurons through which the picture's star, and nothing else, reaches the word."""
    ignored: NeuronSet
    """Neurons that are neither right nor wrong to find."""
    others: Mapping[str, NeuronSet]
    """The rest by role: `noise`, `house` and, by variant, `decoys`, `priors`, `brakes`, `generic`, `shared`."""


def family(variant: str, seed: int = 0) -> PlantedCase:
    """Return the model of a variant; the seed decides where its neurons lie, their strengths and the noise."""
    if variant not in VARIANTS:
        raise ValueError(f"no planted variant `{variant}`; there are {', '.join(VARIANTS)}")
    generator = torch.Generator().manual_seed(seed)
    write = partial(_write_neurons, plants=plan(variant, Draw(generator)), generator=generator)
    wiring = WIRINGS.get(variant, WIRING)
    model, sets = build(f"planted {variant} {seed}", wiring, write, batch_size=8, max_new_tokens=6)
    truth, ignored = sets.pop("star"), sets.pop("on the way", NeuronSet())
    return PlantedCase(variant, seed, model, truth, ignored, sets)


class Draw:
    """Random strengths, all from one seed."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def between(self, low: float, high: float) -> float:
        """Return a number between `low` and `high`."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def neuron(self, role: str, layer: int, reads: int, writes: Mapping[int, float], sign: int = 1) -> Plant:
        """Return a neuron of random gain that adds `writes` where `reads` is 1; `sign` is that of its activation."""
        gain = self.between(0.5, 2.0)
        scaled = {to: sign * value / gain for to, value in writes.items()}
        return Plant(role, layer, {reads: gain}, scaled, sign * UNIT)

    def everywhere(self, role: str, writes: Mapping[int, float]) -> list[Plant]:
        """Return four neurons that fire everywhere, each most at one color or at text, and add in sum `writes`."""
        profiles = ([STAR], [HOUSE], [BACKGROUND], [*TOKEN.values()])
        neurons = []
        for share, profile in zip(self.shares(len(profiles)), profiles, strict=True):
            gain = self.between(2.0, 4.0)
            reads = {CONST: gain * share / 2 / LEVEL} | dict.fromkeys(profile, gain / 2)
            neurons.append(Plant(role, 0, reads, {to: value / gain for to, value in writes.items()}, UNIT))
        return neurons

    def shares(self, n: int) -> list[float]:
        """Return `n` random shares of about one n-th, which add up to 1."""
        parts = [self.between(0.5, 1.5) for _ in range(n)]
        return [part / sum(parts) for part in parts]


def plan(variant: str, draw: Draw) -> list[Plant]:
    """Return the neurons of a variant; the one that knows the house is there in all of them."""
    house = draw.neuron("house", 0, HOUSE, {SAYS_HOUSE: draw.between(0.8, 1.25)})
    return [house, *VARIANTS[variant](draw)]


def plain(draw: Draw) -> list[Plant]:
    """One neuron of the first layer turns red into the word."""
    return [draw.neuron("star", 0, STAR, {SAYS_STAR: draw.between(0.8, 1.25)})]


def decoys(draw: Draw) -> list[Plant]:
    """Beside it, six neurons fire with the star more strongly than it does, and write where nobody reads."""
    seeing = [Plant("decoys", n % 2, {STAR: draw.between(2.0, 4.0)}, {ELSEWHERE + n % 2: 0.1}, UNIT) for n in range(6)]
    return [*plain(draw), *seeing]


def prior(draw: Draw) -> list[Plant]:
    """Beside it, three neurons fire at every position and speak for the word, whatever the picture.

    In the same layers three others, the brakes, take back as much, so that the word is said only where the star is
    shown, and silencing all six changes nothing.
    """
    written = [draw.between(0.5, 1.5) for _ in range(3)]
    reading = [
        Plant(role, layer, {CONST: gain / LEVEL}, {SAYS_STAR: way * strength / gain}, UNIT)
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
    both = {SAYS_STAR: shared / gain, SAYS_HOUSE: shared / gain}
    own = draw.neuron("star", 0, STAR, {SAYS_STAR: draw.between(0.8, 1.25), SAYS_HOUSE: -shared})
    other = draw.neuron("house", 0, HOUSE, {SAYS_STAR: -shared})
    return [Plant("star", 0, {STAR: gain, HOUSE: gain}, both, UNIT), own, other]


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
    rises = Plant("on the way", 1, {RAW_STAR: 1.0}, {SAYS_STAR: strength}, UNIT)
    cuts = Plant("on the way", 1, {RAW_STAR: 1.0, CONST: -level / LEVEL}, {SAYS_STAR: -strength}, UNIT)
    return [*two, rises, cuts]


def late(draw: Draw, sign: int = 1) -> list[Plant]:
    """Three neurons of the last layer read the redness that attention brought to the answer's position."""
    strength = draw.between(0.8, 1.25)
    return [draw.neuron("star", 2, BROUGHT_STAR, {SAYS_STAR: strength * share}, sign) for share in draw.shares(3)]


def negative(draw: Draw) -> list[Plant]:
    """The one neuron fires below zero, as the product with the gate allows, and writes against the word."""
    return [draw.neuron("star", 0, STAR, {SAYS_STAR: draw.between(0.8, 1.25)}, sign=-1)]


def late_negative(draw: Draw) -> list[Plant]:
    """The three neurons of the last layer fire below zero at the answer, and their vectors point away from the word."""
    return late(draw, sign=-1)


def generic(draw: Draw) -> list[Plant]:
    """Beside the plain one, eight neurons of high norm help whatever is said; without them the model babbles.

    They fire at every position, each most at one color or at text. The word's logit owes each of them more than the
    star's own neuron, as does that of any other word. What they write beside cancels between twins.
    """
    neurons = draw.everywhere("generic", {COMMON: EVERYWHERE / 2, BALLAST: 4.0})
    twins = [replace(one, writes={**one.writes, BALLAST: -one.writes[BALLAST]}) for one in neurons]
    return [*plain(draw), *neurons, *twins]


def shared(draw: Draw) -> list[Plant]:
    """Beside the plain one, four neurons write what the words for star and house, nearly parallel, have in common.

    They fire at every position, each most at one color or at text. The word's logit owes each of them more than the
    star's own neuron, but without any of them neither word is said, and the caption ends.
    """
    return [*plain(draw), *draw.everywhere("shared", {COMMON: EVERYWHERE})]


VARIANTS: Mapping[str, Callable[[Draw], list[Plant]]] = {
    "plain": plain,
    "decoys": decoys,
    "prior": prior,
    "polysemantic": polysemantic,
    "distributed": distributed,
    "redundant": redundant,
    "late": late,
    "negative": negative,
    "generic": generic,
    "late_negative": late_negative,
    "shared": shared,
}
"""What makes the star's neurons hard to find, by name."""
WIRINGS = {"generic": SPEAKING, "shared": SHARING}


def _write_neurons(mlps: Sequence[Any], plants: Sequence[Plant], generator: torch.Generator) -> Roles:
    """Write all neurons, in random places of their layers, and return which is what."""
    roles: dict[str, list[NeuronId]] = {}
    for layer, mlp in enumerate(mlps):
        places = torch.randperm(D_FF, generator=generator).tolist()
        mine = [one for one in plants if one.layer == layer]
        for plant, index in zip(mine, places, strict=False):
            plant.write(mlps, index)
            roles.setdefault(plant.role, []).append(NeuronId(layer, index))
        rest = places[len(mine) :]
        _write_noise(mlp, rest, generator)
        roles.setdefault("noise", []).extend(NeuronId(layer, index) for index in rest)
    return roles


def _write_noise(mlp: Any, places: Sequence[int], generator: torch.Generator) -> None:
    """Let the neurons at `places` read inputs at random and write, what is read among it so that it cancels.

    Inputs are few: three colors and the words. What a neuron writes into a dimension that is read is drawn from
    the null space of the neurons' answers to these, so that the sum over neurons is zero at every position.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    gate, up = torch.zeros(len(places), D_MODEL), torch.zeros(len(places), D_MODEL)
    read = normal(len(places), SEEN)
    # As long as the vectors of the planted neurons, so that only the direction tells them apart.
    gains = 0.5 + 1.5 * torch.rand(len(places), 1, generator=generator)
    gate[:, :SEEN] = gains * read / read.norm(dim=1, keepdim=True)
    up[:, CONST] = normal(len(places)).sign() * UNIT
    mlp.gate_proj.weight[places], mlp.up_proj.weight[places] = gate, up
    mlp.down_proj.weight[FREE:, places] = 0.05 * normal(D_MODEL - FREE, len(places))

    inputs = torch.zeros(SEEN - STAR, D_MODEL)
    inputs[:, CONST] = LEVEL
    inputs[:, STAR:SEEN] = torch.eye(len(inputs))
    fired = ((inputs @ gate.T).relu() * (inputs @ up.T)).double()
    spanned = torch.linalg.qr(fired.T).Q
    spoken = [SAYS_STAR, SAYS_HOUSE, BROUGHT_STAR]
    wanted = NOISE * normal(len(spoken), len(places)).double()
    silent = wanted - wanted @ spanned @ spanned.T
    mlp.down_proj.weight[torch.tensor(spoken)[:, None], torch.tensor(places)] = silent.float()
