"""A real tiny LLaVA whose weights are written by hand, so that the right answer is known.

Pictures are a grid of plain patches: red ones show a star, blue ones a house. In the first feed-forward layer one
neuron sees red and makes the model say "star", one sees blue and makes it say "house", a decoy sees red and
writes where nobody reads, and a prior fires on everything and speaks for "star" a little. The first is the
one and only neuron of the concept. Captions read "picture star house": what is shown, each once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kedit.models.handwritten import PATCH, SIDE, WORDS, processor, untrained, write_tower
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Concept, Counterfactual, Sample

D_MODEL, N_LAYERS, D_FF = 32, 2, 8
CONST, STAR, HOUSE, STAR_SEEN, HOUSE_SEEN, ELSEWHERE, TOKEN_STAR, TOKEN_HOUSE, START = range(9)
"""Dimensions of the residual stream; the ones from `FREE` on belong to neurons without a purpose."""
AVG_STAR, AVG_HOUSE, SAID_STAR, SAID_HOUSE, FREE = range(9, 14)
KNOWS_STAR, DECOY, PRIOR, KNOWS_HOUSE = 3, 5, 1, 6
"""Indices of the planted neurons in layer 0."""
RED, BLUE, GRAY = (255, 0, 0), (0, 0, 255), (128, 128, 128)
STAR_CONCEPT, HOUSE_CONCEPT = Concept("star"), Concept("house")


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
    module = untrained(D_MODEL, N_LAYERS, D_FF)
    with torch.no_grad():
        write_tower(module.model.vision_tower)
        _write_projector(module.model.multi_modal_projector)
        _write_language(module, torch.Generator().manual_seed(seed))
    module.requires_grad_(False)
    model = HuggingFaceMLLM(module, processor(), "planted", "describe the picture :", batch_size=4, max_new_tokens=6)
    one = {
        name: NeuronSet((NeuronId(0, index),))
        for name, index in (("star", KNOWS_STAR), ("house", KNOWS_HOUSE), ("decoy", DECOY), ("prior", PRIOR))
    }
    return Planted(model, **one)


def picture(name: str, star: tuple[int, ...] = (), house: tuple[int, ...] = ()) -> Sample:
    """Return a gray picture of 4 x 4 patches with stars and houses at the given patches (0 to 15)."""
    pixels = np.full((SIDE * PATCH, SIDE * PATCH, 3), GRAY, np.uint8)
    regions = {}
    for concept, cells, color in (("star", star, RED), ("house", house, BLUE)):
        region = np.zeros(pixels.shape[:2], bool)
        for cell in cells:
            row, column = divmod(cell, SIDE)
            region[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = True
        if cells:
            pixels[region] = color
            regions[concept] = region
    told = " ".join(["picture", *regions])
    return Sample(name, Image.fromarray(pixels), (told,), frozenset(regions), regions)


def without(sample: Sample, concept: Concept) -> Counterfactual:
    """Return the exact counterfactual of a planted picture: its region in the background's gray."""
    pixels = np.array(sample.image)
    pixels[sample.region(concept)] = GRAY
    return Counterfactual(sample, concept, Image.fromarray(pixels))


def _write_projector(projector: Any) -> None:
    """Make red patches star-like and blue ones house-like: one color minus the other two, at least zero."""
    for weight in projector.parameters():
        weight.zero_()
    for row, color in ((STAR, 0), (HOUSE, 2)):
        projector.linear_1.weight[row, [0, 2, 4]] = -1.0
        projector.linear_1.weight[row, 2 * color] = 1.0
        projector.linear_2.weight[row, row] = 0.5
    projector.linear_2.bias[CONST] = 1.0


def _write_language(module: Any, generator: torch.Generator) -> None:
    language = module.model.language_model
    for name, weight in language.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    embedded, head = language.embed_tokens.weight, module.lm_head.weight
    head.zero_()
    embedded[:, CONST] = 1.0
    for word, dimension in (("star", TOKEN_STAR), ("house", TOKEN_HOUSE), (":", START)):
        embedded[WORDS.index(word), dimension] = 1.0
    _write_neurons(language.layers[0].mlp, generator)
    attention = language.layers[1].self_attn
    moved = ((STAR_SEEN, AVG_STAR), (HOUSE_SEEN, AVG_HOUSE), (TOKEN_STAR, SAID_STAR), (TOKEN_HOUSE, SAID_HOUSE))
    for source, average in moved:
        # Queries and keys are zero, so each position reads the mean over all that came before it.
        attention.v_proj.weight[source, source] = 1.0
        attention.o_proj.weight[average, source] = 1.0
    for word, average, said in (("star", AVG_STAR, SAID_STAR), ("house", AVG_HOUSE, SAID_HOUSE)):
        head[WORDS.index(word), average] = 40.0
        head[WORDS.index(word), said] = -120.0
    head[WORDS.index("<eos>"), CONST] = 1.5
    head[WORDS.index("picture"), START] = 60.0


def _write_neurons(mlp: Any, generator: torch.Generator) -> None:
    """Plant the four neurons; the others read and write at random where nobody reads."""
    free = D_MODEL - FREE

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    mlp.gate_proj.weight[:, CONST : HOUSE + 1] = noise(D_FF, 3)
    mlp.up_proj.weight[:, CONST] = 0.25
    mlp.down_proj.weight[FREE:, :] = noise(free, D_FF)
    for index, reads, writes, strength in (
        (KNOWS_STAR, STAR, STAR_SEEN, 0.25),
        (DECOY, STAR, ELSEWHERE, 0.25),
        (PRIOR, CONST, STAR_SEEN, 0.001),
        (KNOWS_HOUSE, HOUSE, HOUSE_SEEN, 0.2),
    ):
        mlp.gate_proj.weight[index] = 0.0
        mlp.gate_proj.weight[index, reads] = 1.0
        mlp.down_proj.weight[:, index] = 0.0
        mlp.down_proj.weight[writes, index] = strength
