"""Real tiny LLaVAs with weights written by hand, one for each way in which a method can be led astray.

A picture is a grid of plain patches: red for the star, blue for the house, gray between. Some feed-forward neurons
make the model say what it sees; which ones, `PlantedCase.truth` knows. All others read colors, words and constants
at random and write random amounts, also into what speaks for the words, where their sum is zero: each of them
is evidence, together they are silent. The last layer's attention gives each position the mean of what came before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from kedit.models.handwritten import WORDS, processor, untrained, write_tower
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.planted_variants import (
    BACKGROUND,
    BROUGHT_STAR,
    CONST,
    D_FF,
    D_MODEL,
    FREE,
    HOUSE,
    LEVEL,
    N_LAYERS,
    SAID_HOUSE,
    SAID_STAR,
    SAYS_HOUSE,
    SAYS_STAR,
    STAR,
    WORD,
    Draw,
    Plant,
    Variant,
    plan,
)
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Counterfactual

NOISE = 0.03
"""How strongly a neuron without a purpose writes into what speaks for a word, next to the star's, which has about 1."""
UNIT = (LEVEL**2 + 1) / D_MODEL / LEVEL
"""The up-projection's weight on `CONST` that undoes the norm in front of it."""


@dataclass(frozen=True, eq=False)
class PlantedCase:
    """A model and which of its neurons do what."""

    variant: Variant
    seed: int
    model: HuggingFaceMLLM
    truth: NeuronSet
    """The neurons through which the picture's star, and nothing else, reaches the word."""
    ignored: NeuronSet
    """Neurons that are neither right nor wrong to find."""
    others: Mapping[str, NeuronSet]
    """The rest by role: `noise`, `house` and, by variant, `decoys`, `priors`, `brakes`."""


def variants() -> tuple[Variant, ...]:
    """Return the names of all variants."""
    return get_args(Variant)


def family(variant: Variant, seed: int = 0) -> PlantedCase:
    """Return the model of a variant; the seed decides where its neurons lie, their strengths and the noise."""
    if variant not in variants():
        raise ValueError(f"no planted variant `{variant}`; there are {', '.join(variants())}")
    generator = torch.Generator().manual_seed(seed)
    plants = plan(variant, Draw(generator))
    module = untrained(D_MODEL, N_LAYERS, D_FF)
    with torch.no_grad():
        write_tower(module.model.vision_tower)
        _write_projector(module.model.multi_modal_projector)
        _write_words_and_attention(module)
        roles = _write_neurons(module.model.language_model, plants, generator)
    module.requires_grad_(False)
    name = f"planted {variant} {seed}"
    model = HuggingFaceMLLM(module, _processor(), name, "describe the picture :", batch_size=8, max_new_tokens=6)
    sets = {role: NeuronSet(tuple(ids)) for role, ids in roles.items()}
    truth, ignored = sets.pop("star"), sets.pop("on the way", NeuronSet())
    return PlantedCase(variant, seed, model, truth, ignored, sets)


def planted_pairs(n: int, seed: int = 0) -> list[Counterfactual]:
    """Return `n` pictures with two to four patches of star, half of them with a house, and each without the star."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(n):
        cells = rng.permutation(16).tolist()
        n_star, n_house = rng.integers(2, 5, size=2).tolist()
        house = cells[n_star : n_star + n_house] if number % 2 else []
        sample = picture(f"planted-{seed}-{number}", tuple(cells[:n_star]), tuple(house))
        pairs.append(without(sample, STAR_CONCEPT))
    return pairs


@lru_cache(maxsize=1)
def _processor() -> Any:
    return processor()


def _write_projector(projector: Any) -> None:
    """Give each patch the dimension of its color: 1 for red, blue or gray, and the constant."""
    for weight in projector.parameters():
        weight.zero_()
    # A patch feature has zero mean and unit variance: (r, -r, g, -g, b, -b, c, -c), c = 1/4 before.
    red, gray = (2.125 / 8) ** -0.5, (128 / 255) * ((6 * (128 / 255) ** 2 + 0.125) / 8) ** -0.5
    for row, weights, peak in ((STAR, (1, -1, -1), red), (HOUSE, (-1, -1, 1), red), (BACKGROUND, (0, 1, 0), gray)):
        projector.linear_1.weight[row, [0, 2, 4]] = torch.tensor(weights, dtype=torch.float32)
        projector.linear_2.weight[row, row] = 1 / peak
    projector.linear_2.bias[CONST] = LEVEL


def _write_words_and_attention(module: Any) -> None:
    language = module.model.language_model
    for name, weight in language.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    embedded, head = language.embed_tokens.weight, module.lm_head.weight
    head.zero_()
    embedded[:, CONST] = LEVEL
    for number in range(len(WORDS)):
        embedded[number, WORD + number] = 1.0
    attention = language.layers[-1].self_attn
    moved = {
        SAYS_STAR: SAYS_STAR,
        SAYS_HOUSE: SAYS_HOUSE,
        STAR: BROUGHT_STAR,
        WORD + WORDS.index("star"): SAID_STAR,
        WORD + WORDS.index("house"): SAID_HOUSE,
    }
    for row, (source, target) in enumerate(moved.items()):
        # Queries and keys are zero, so each position reads the mean over all that came before it.
        attention.v_proj.weight[row, source] = 1.0
        attention.o_proj.weight[target, row] = 1.0
    for word, says, said in (("star", SAYS_STAR, SAID_STAR), ("house", SAYS_HOUSE, SAID_HOUSE)):
        head[WORDS.index(word), says] = 5.0
        head[WORDS.index(word), said] = -60.0
    # A caption ends where less speaks for a word than half of what the smallest star does.
    head[WORDS.index("<eos>"), CONST] = 0.225
    head[WORDS.index("picture"), WORD + WORDS.index(":")] = 12.0


def _write_neurons(language: Any, plants: Sequence[Plant], generator: torch.Generator) -> dict[str, list[NeuronId]]:
    """Write all neurons, in random places of their layers, and return which is what."""
    roles: dict[str, list[NeuronId]] = {}
    for layer in range(N_LAYERS):
        mlp = language.layers[layer].mlp
        places = torch.randperm(D_FF, generator=generator).tolist()
        mine = [one for one in plants if one.layer == layer]
        for plant, index in zip(mine, places, strict=False):
            roles.setdefault(plant.role, []).append(NeuronId(layer, index))
            mlp.up_proj.weight[index, CONST] = plant.sign * UNIT
            for source, gain in plant.reads.items():
                mlp.gate_proj.weight[index, source] = gain
            for target, strength in plant.writes.items():
                mlp.down_proj.weight[target, index] = strength
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
    read = normal(len(places), WORD + len(WORDS))
    # As long as the vectors of the planted neurons, so that only the direction tells them apart.
    gains = 0.5 + 1.5 * torch.rand(len(places), 1, generator=generator)
    gate[:, : WORD + len(WORDS)] = gains * read / read.norm(dim=1, keepdim=True)
    up[:, CONST] = normal(len(places)).sign() * UNIT
    mlp.gate_proj.weight[places], mlp.up_proj.weight[places] = gate, up
    mlp.down_proj.weight[FREE:, places] = 0.05 * normal(D_MODEL - FREE, len(places))

    inputs = torch.zeros(WORD + len(WORDS) - STAR, D_MODEL)
    inputs[:, CONST] = LEVEL
    inputs[:, STAR : WORD + len(WORDS)] = torch.eye(len(inputs))
    fired = ((inputs @ gate.T).relu() * (inputs @ up.T)).double()
    spanned = torch.linalg.qr(fired.T).Q
    told = [SAYS_STAR, SAYS_HOUSE, BROUGHT_STAR]
    wanted = NOISE * normal(len(told), len(places)).double()
    silent = wanted - wanted @ spanned @ spanned.T
    mlp.down_proj.weight[torch.tensor(told)[:, None], torch.tensor(places)] = silent.float()
