"""Real tiny LLaVAs in which most neurons are blind to the concept, exactly, so that false discoveries can be counted.

A picture is a grid of patches, each with a texture of its own (random levels of green in its two halves), red where
the star is and blue elsewhere: as light as each other, so that no norm on the way tells them apart. Painting a region
out draws it again in blue with new textures. Most neurons read textures alone: they change with any painting, and no
more with the star's. The `readers` read red as well, weakly to strongly. All write random amounts for every
word, and the `speakers`, who are some of the readers, more for "star".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.planted.builder import CONST, PATCH, SIDE, WHOLE, WORDS, Eye, Roles, Wiring, build
from kedit.models.planted.pictures import STAR_CONCEPT
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Counterfactual, Sample

NAMES = tuple(WORDS[5:])
"""The words that have a logit of their own."""
N_TEXTURES = 8
STAR, PLAIN, TEXTURE = 1, 2, 3
SAYS = TEXTURE + N_TEXTURES
"""The first of the dimensions that speak for a word."""
D_MODEL, N_LAYERS, D_FF = 32, 3, 96
LEVEL = 2.0
SPEAKERS, READERS = 8, 24
"""How many neurons of the first two layers speak for the star, and how many more only see it."""
WRITTEN = 0.0005
"""How much a neuron writes for a word: little, so that no later norm notices."""


def texture(number: int) -> Eye:
    """Return an eye for one direction among the two greens of a patch, above what they are on average."""
    angle = 2 * math.pi * number / N_TEXTURES
    across, down = math.cos(angle), math.sin(angle)
    # Green is 0.7 of its spread on average.
    return Eye(TEXTURE + number, {4: across, 6: down}, 1.0, bias=-0.7 * (across + down))


LEFT, RIGHT = slice(0, PATCH // 2), slice(PATCH // 2, PATCH)
WIRING = Wiring(
    *(D_MODEL, N_LAYERS, D_FF),
    level=LEVEL,
    channels=((0, WHOLE), (2, WHOLE), (1, LEFT), (1, RIGHT)),
    eyes=(Eye(STAR, {0: 1.0}, 0.5), Eye(PLAIN, {2: 1.0}, 0.5), *map(texture, range(N_TEXTURES))),
    embedded={},
    moved={number: (SAYS + number, SAYS + number) for number in range(len(NAMES))},
    head={word: {SAYS + number: 800.0} for number, word in enumerate(NAMES)},
)


@dataclass(frozen=True, eq=False)
class PlantedNulls:
    """A model and which of its neurons there is something to find in."""

    model: HuggingFaceMLLM
    readers: NeuronSet
    """All neurons that read red, the speakers among them: what changes with the star."""
    speakers: NeuronSet
    """Those that also say so: the answer of the whole."""


def planted_nulls(seed: int = 0) -> PlantedNulls:
    """Return the model; the seed decides all places, strengths and directions."""
    write = partial(_write_neurons, generator=torch.Generator().manual_seed(seed))
    model, sets = build(f"planted nulls {seed}", WIRING, write, batch_size=16, max_new_tokens=4)
    return PlantedNulls(model, **sets)


def null_pairs(n: int, seed: int = 0, *, shown: bool = True) -> list[Counterfactual]:
    """Return `n` pictures of 2 to 4 patches of star, without it, and with another region of equal area drawn again.

    Args:
        n: How many.
        seed: Equal seeds give equal pictures.
        shown: Whether there is a star at all. If not, its region is any region of the background.
    """
    rng = np.random.default_rng(seed)
    return [_pair(f"nulls-{seed}-{number}", rng, shown) for number in range(n)]


def _pair(name: str, rng: np.random.Generator, shown: bool) -> Counterfactual:
    cells = rng.permutation(SIDE**2)
    area = int(rng.integers(2, 5))
    region, elsewhere = cells[:area], cells[area : 2 * area]
    textures = rng.integers(0, 256, size=(SIDE**2, 2))
    red = np.isin(np.arange(SIDE**2), region) & shown

    def painted(some: NDArray[np.int64]) -> Image.Image:
        fresh = textures.copy()
        fresh[some] = rng.integers(0, 256, size=(len(some), 2))
        return _drawn(fresh, red & ~np.isin(np.arange(SIDE**2), some))

    mask = np.kron(np.isin(np.arange(SIDE**2), region).reshape(SIDE, SIDE), np.ones((PATCH, PATCH))) > 0
    sample = Sample(name, _drawn(textures, red), objects=frozenset({"star"}), regions={"star": mask})
    return Counterfactual(sample, STAR_CONCEPT, painted(region), painted(elsewhere))


def _drawn(textures: NDArray[np.int64], red: NDArray[np.bool_]) -> Image.Image:
    """Return the picture of the patches' textures, `[patch, 2]`, red or blue."""
    pixels = np.zeros((SIDE, PATCH, SIDE, PATCH, 3), np.uint8)
    for cell in range(SIDE**2):
        row, column = divmod(cell, SIDE)
        patch = pixels[row, :, column]
        patch[..., 0 if red[cell] else 2] = 255
        patch[:, : PATCH // 2, 1], patch[:, PATCH // 2 :, 1] = textures[cell]
    return Image.fromarray(pixels.reshape(SIDE * PATCH, SIDE * PATCH, 3))


def _write_neurons(mlps: Sequence[Any], generator: torch.Generator) -> Roles:
    """Write all neurons at random and return the readers and the speakers."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    # The last layer lies behind the attention that moves words: nothing there could speak.
    places = torch.randperm((N_LAYERS - 1) * D_FF, generator=generator).tolist()
    seeing = [NeuronId(*divmod(place, D_FF)) for place in places[: SPEAKERS + READERS]]
    speaking = seeing[:SPEAKERS]
    for mlp in mlps:
        read = normal(D_FF, N_TEXTURES)
        mlp.gate_proj.weight[:, TEXTURE:SAYS] = read / read.norm(dim=1, keepdim=True)
        mlp.gate_proj.weight[:, CONST] = 0.1 * normal(D_FF)
        mlp.up_proj.weight[:, CONST] = normal(D_FF).sign() / LEVEL
        mlp.down_proj.weight[SAYS : SAYS + len(NAMES)] = WRITTEN * normal(len(NAMES), D_FF)
    for one in seeing:
        mlp = mlps[one.layer]
        mlp.gate_proj.weight[one.index, STAR] = 0.1 + 0.9 * float(torch.rand((), generator=generator))
        mlp.up_proj.weight[one.index, CONST] = 1 / LEVEL
        if one in speaking:
            strength = 2 + 6 * float(torch.rand((), generator=generator))
            mlp.down_proj.weight[SAYS + NAMES.index("star"), one.index] = WRITTEN * strength
    return {"readers": seeing, "speakers": speaking}
