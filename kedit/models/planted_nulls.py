"""Real tiny LLaVAs in which most neurons are blind to the concept, exactly, so that false discoveries can be counted.

A picture is a grid of patches, each with a texture of its own (random levels of green in its two halves), red where
the star is and blue elsewhere: as light as each other, so that no norm on the way tells them apart. Painting a region
out draws it again in blue with new textures. Most neurons read textures alone: they change with any painting, and no
more with the star's. The `readers` read red as well, weakly to strongly. All write random amounts for every
word, and the `speakers`, who are some of the readers, more for "star".
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kedit.models.handwritten import PATCH, SIDE, WORDS, processor, untrained, write_tower
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Concept, Counterfactual, Sample

STAR_CONCEPT = Concept("star")
NAMES = tuple(WORDS[5:])
"""The words that have a logit of their own."""
N_TEXTURES = 8
CONST, STAR, PLAIN, TEXTURE = 0, 1, 2, 3
SAYS = TEXTURE + N_TEXTURES
"""The first of the dimensions that speak for a word."""
D_MODEL, N_LAYERS, D_FF = 32, 3, 96
LEVEL = 2.0
STAR_PATCHES = (2, 4)
"""How many patches of star a picture has, at least and at most."""
SPEAKERS, READERS = 8, 24
"""How many neurons of the first two layers speak for the star, and how many more only see it."""
WRITTEN = 0.0005
"""How much a neuron writes for a word: little, so that no later norm notices."""


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
    generator = torch.Generator().manual_seed(seed)
    module = untrained(D_MODEL, N_LAYERS, D_FF)
    with torch.no_grad():
        _write_eyes(module.model)
        _write_words(module)
        readers, speakers = _write_neurons(module.model.language_model, generator)
    module.requires_grad_(False)
    name = f"planted nulls {seed}"
    model = HuggingFaceMLLM(module, processor(), name, "describe the picture :", batch_size=16, max_new_tokens=4)
    return PlantedNulls(model, readers, speakers)


def null_pairs(n: int, seed: int = 0, *, shown: bool = True) -> list[Counterfactual]:
    """Return `n` pictures, each without the star and with another region of equal area drawn again.

    Args:
        n: How many.
        seed: Equal seeds give equal pictures.
        shown: Whether there is a star at all. If not, its region is any region of the background.
    """
    rng = np.random.default_rng(seed)
    return [_pair(f"nulls-{seed}-{number}", rng, shown) for number in range(n)]


def _pair(name: str, rng: np.random.Generator, shown: bool) -> Counterfactual:
    cells = rng.permutation(SIDE**2)
    area = int(rng.integers(STAR_PATCHES[0], STAR_PATCHES[1] + 1))
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


def _write_eyes(multimodal: Any) -> None:
    """Make a patch's features red, blue and the two greens, and put them, half-waves of the greens, into the stream."""
    write_tower(multimodal.vision_tower)
    embeddings = multimodal.vision_tower.embeddings
    embeddings.position_embedding.weight.zero_()
    kernel = embeddings.patch_embedding.weight
    kernel.zero_()
    halves = (slice(0, PATCH // 2), slice(PATCH // 2, PATCH))
    seen = [
        (0, slice(None), 1 / PATCH**2),
        (2, slice(None), 1 / PATCH**2),
        *((1, half, 2 / PATCH**2) for half in halves),
    ]
    for pair, (color, columns, weight) in enumerate(seen):
        kernel[2 * pair, color, :, columns] = weight
        kernel[2 * pair + 1, color, :, columns] = -weight
    projector = multimodal.multi_modal_projector
    for weight in projector.parameters():
        weight.zero_()
    for row, feature in ((STAR, 0), (PLAIN, 2)):
        projector.linear_1.weight[row, feature] = 1.0
        projector.linear_2.weight[row, row] = 0.5
    for number in range(N_TEXTURES):
        angle = 2 * math.pi * number / N_TEXTURES
        across, down = math.cos(angle), math.sin(angle)
        projector.linear_1.weight[TEXTURE + number, [4, 6]] = torch.tensor([across, down])
        # Green is 0.7 of its spread on average.
        projector.linear_1.bias[TEXTURE + number] = -0.7 * (across + down)
        projector.linear_2.weight[TEXTURE + number, TEXTURE + number] = 1.0
    projector.linear_2.bias[CONST] = LEVEL


def _write_words(module: Any) -> None:
    """Let the last layer's attention bring what speaks for a word to the last position, and the head read it."""
    language = module.model.language_model
    for name, weight in language.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    language.embed_tokens.weight[:, CONST] = LEVEL
    attention = language.layers[-1].self_attn
    module.lm_head.weight.zero_()
    for number, word in enumerate(NAMES):
        # Queries and keys are zero, so each position reads the mean over all that came before it.
        attention.v_proj.weight[number, SAYS + number] = 1.0
        attention.o_proj.weight[SAYS + number, number] = 1.0
        module.lm_head.weight[WORDS.index(word), SAYS + number] = 800.0


def _write_neurons(language: Any, generator: torch.Generator) -> tuple[NeuronSet, NeuronSet]:
    """Write all neurons at random and return the readers and the speakers."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    # The last layer lies behind the attention that moves words: nothing there could speak.
    places = torch.randperm((N_LAYERS - 1) * D_FF, generator=generator).tolist()
    seeing = [NeuronId(*divmod(place, D_FF)) for place in places[: SPEAKERS + READERS]]
    speaking = seeing[:SPEAKERS]
    for layer in range(N_LAYERS):
        mlp = language.layers[layer].mlp
        read = normal(D_FF, N_TEXTURES)
        mlp.gate_proj.weight[:, TEXTURE:SAYS] = read / read.norm(dim=1, keepdim=True)
        mlp.gate_proj.weight[:, CONST] = 0.1 * normal(D_FF)
        mlp.up_proj.weight[:, CONST] = normal(D_FF).sign() / LEVEL
        mlp.down_proj.weight[SAYS : SAYS + len(NAMES)] = WRITTEN * normal(len(NAMES), D_FF)
    for one in seeing:
        mlp = language.layers[one.layer].mlp
        mlp.gate_proj.weight[one.index, STAR] = 0.1 + 0.9 * float(torch.rand((), generator=generator))
        mlp.up_proj.weight[one.index, CONST] = 1 / LEVEL
        if one in speaking:
            strength = 2 + 6 * float(torch.rand((), generator=generator))
            mlp.down_proj.weight[SAYS + NAMES.index("star"), one.index] = WRITTEN * strength
    return NeuronSet(tuple(seeing)), NeuronSet(tuple(speaking))
