"""The smallest planted model: four neurons of one layer, of which one is the star's.

One neuron sees red and makes the model say "star", one sees blue and makes it say "house", a decoy sees red and
writes where nobody reads, and a prior fires on everything and speaks for "star" a little. Captions read "picture
star house": what is shown, each once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.planted.builder import CONST, Eye, Plant, Roles, Wiring, build
from kedit.neurons import NeuronId, NeuronSet

D_MODEL, N_LAYERS, D_FF = 32, 2, 8
STAR, HOUSE, STAR_SEEN, HOUSE_SEEN, ELSEWHERE, TOKEN_STAR, TOKEN_HOUSE, START = range(1, 9)
"""Dimensions of the residual stream; the ones from `FREE` on belong to neurons without a purpose."""
AVG_STAR, AVG_HOUSE, SAID_STAR, SAID_HOUSE, FREE = range(9, 14)
KNOWS_STAR, DECOY, PRIOR, KNOWS_HOUSE = 3, 5, 1, 6
"""Indices of the planted neurons in layer 0."""
UP = 0.25

WIRING = Wiring(
    *(D_MODEL, N_LAYERS, D_FF),
    level=1.0,
    eyes=(Eye(STAR, {0: 1.0, 2: -1.0, 4: -1.0}, 0.5), Eye(HOUSE, {0: -1.0, 2: -1.0, 4: 1.0}, 0.5)),
    embedded={"star": TOKEN_STAR, "house": TOKEN_HOUSE, ":": START},
    moved={
        **{seen: (seen, average) for seen, average in ((STAR_SEEN, AVG_STAR), (HOUSE_SEEN, AVG_HOUSE))},
        **{token: (token, said) for token, said in ((TOKEN_STAR, SAID_STAR), (TOKEN_HOUSE, SAID_HOUSE))},
    },
    head={
        "star": {AVG_STAR: 40.0, SAID_STAR: -120.0},
        "house": {AVG_HOUSE: 40.0, SAID_HOUSE: -120.0},
        "<eos>": {CONST: 1.5},
        "picture": {START: 60.0},
    },
)
PLANTS = {
    KNOWS_STAR: Plant("star", 0, {STAR: 1.0}, {STAR_SEEN: 0.25}, UP),
    DECOY: Plant("decoy", 0, {STAR: 1.0}, {ELSEWHERE: 0.25}, UP),
    PRIOR: Plant("prior", 0, {CONST: 1.0}, {STAR_SEEN: 0.001}, UP),
    KNOWS_HOUSE: Plant("house", 0, {HOUSE: 1.0}, {HOUSE_SEEN: 0.2}, UP),
}


@dataclass(frozen=True, eq=False)
class Planted:
    """The model and what is known about it."""

    model: HuggingFaceMLLM
    star: NeuronSet
    house: NeuronSet
    decoy: NeuronSet
    prior: NeuronSet


def planted(seed: int = 0) -> Planted:
    """Return the model; the seed decides the weights of the neurons without a purpose."""

    def write(mlps: Sequence[Any]) -> Roles:
        """Plant the four; the others read and write at random where nobody reads."""
        generator = torch.Generator().manual_seed(seed)
        mlps[0].gate_proj.weight[:, CONST : HOUSE + 1] = torch.randn(D_FF, HOUSE + 1, generator=generator) * 0.3
        mlps[0].up_proj.weight[:, CONST] = UP
        mlps[0].down_proj.weight[FREE:, :] = torch.randn(D_MODEL - FREE, D_FF, generator=generator) * 0.3
        for index, plant in PLANTS.items():
            plant.write(mlps, index)
        return {plant.role: [NeuronId(0, index)] for index, plant in PLANTS.items()}

    model, sets = build("planted", WIRING, write, batch_size=4, max_new_tokens=6)
    return Planted(model, **sets)
