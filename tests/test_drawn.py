"""I-neurons and their baselines: what writes a region of a drawn picture, on models whose answer is known."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.internals.hooks import intervene, record
from kedit.locate.activation import Activation
from kedit.locate.causal_effect import CausalEffect
from kedit.locate.difference import ActivationDifference
from kedit.locate.drawn import Depicted, NAMImage, score_drawn, towards
from kedit.locate.gradcam import GradCAM
from kedit.locate.gradient import Gradient
from kedit.locate.knowledge_neurons import KnowledgeNeurons
from kedit.locate.locator import Locator, Stage
from kedit.locate.nam import softmax_maximum
from kedit.locate.selection import TopK
from kedit.locate.shipped import shipped
from kedit.models.drawing import drawer
from kedit.models.drawing_tokens import cells_of
from kedit.models.drawings import Drawings
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Concept

STAR = Concept("star")


@cache
def model(family: str = "janus") -> HuggingFaceMLLM:
    return tiny(family)


def without_norm(family: str) -> HuggingFaceMLLM:
    """Return a model whose last states are the residual stream itself."""
    found = tiny(family)
    drawer(found).family.language.norm = nn.Identity()  # type: ignore[attr-defined]
    return found


def depicted(found: HuggingFaceMLLM, cells: Sequence[Sequence[int]] = ((1, 2, 5), (6,))) -> Depicted:
    """Return drawings of random codes, one a prompt, with the concept in some cells of each."""
    draws = drawer(found)
    n_cells = draws.grid[0] * draws.grid[1]
    codes = torch.randint(draws.codebook, (len(cells), n_cells), generator=torch.Generator().manual_seed(1))
    shown = torch.zeros(codes.shape, dtype=torch.bool)
    for row, some in zip(shown, cells, strict=True):
        row[list(some)] = True
    prompts = ("a star", "a red star, drawn")[: len(cells)]
    return Depicted(STAR, Drawings(prompts, tuple(draws.decode(codes)), codes, 0), shown)


def of(scorer: Any) -> Locator:
    return Locator({"only": Stage(scorer, TopK(3))})


def scored(found: HuggingFaceMLLM, scorer: Any, shown: Depicted | None = None) -> Tensor:
    return score_drawn(found, of(scorer), shown or depicted(found))["only"].values


def belief(found: HuggingFaceMLLM, shown: Depicted) -> Tensor:
    """Return the log-probability of each drawing's region, `[n]`."""
    with torch.no_grad():
        return (drawer(found).teacher_forced(shown.drawings).log_probs() * shown.region).sum(1)


# --- the direction


def test_with_a_linear_head_the_direction_is_the_codes_row_less_the_expected_one() -> None:
    draws, shown = drawer(model("emu3")), depicted(model("emu3"))
    forced = draws.teacher_forced(shown.drawings)
    with torch.no_grad():
        states = forced.states()
    rows = draws.unembedding
    assert rows is not None
    expected = rows[shown.drawings.codes] - forced.logits(states).softmax(-1) @ rows
    expected = expected * shown.region[..., None]
    torch.testing.assert_close(towards(forced, states, shown.region), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["janus", "emu3"])
def test_in_the_last_layer_the_contribution_is_the_first_order_effect(family: str) -> None:
    """Without a final norm, activation times (w . R) is activation times gradient."""
    found = without_norm(family)
    direct = scored(found, NAMImage(over_positions="sum", normalise="none", activation=False))
    effect = scored(found, GradCAM(positions="image", over_positions="sum"))
    assert effect[-1].abs().max() > 1e-3
    torch.testing.assert_close(direct[-1], effect[-1], atol=1e-5, rtol=1e-3)


def by_hand(found: HuggingFaceMLLM, shown: Depicted, *, normalised: bool) -> tuple[Tensor, Tensor]:
    """Return contributions and activations of one drawing, `[layer, neuron]`, from the paper's definition."""
    site, forced = found.site("mid"), drawer(found).teacher_forced(shown.drawings)
    with torch.no_grad(), record(found.module, site) as activations:
        states = forced.states()
    inside = shown.region[0].nonzero().squeeze(1).tolist()
    asked = towards(forced, states, shown.region)[0, inside]
    if normalised:
        asked = (asked - asked.min()) / (asked.max() - asked.min())
    columns = [forced.columns[cell] for cell in inside]
    found_by_layer = []
    for layer, activation in activations.items():
        active, values = (
            activation.view(1, -1, activation.shape[-1])[0, columns],
            site.value_matrix(found.module, layer),
        )
        found_by_layer.append(((active * (asked @ values.T)).mean(0), active.mean(0)))
    direct, active = (torch.stack(some) for some in zip(*found_by_layer, strict=True))
    return direct, active


@pytest.mark.parametrize("family", ["janus", "emu3"])
@pytest.mark.parametrize("normalise", ["range", "none"])
def test_i_neurons_have_the_value_of_the_papers_equations(family: str, normalise: Any) -> None:
    found = model(family)
    shown = depicted(found, [(1, 2, 5)])
    direct, active = by_hand(found, shown, normalised=normalise == "range")
    expected = softmax_maximum(direct[None], active[None])[0].float()
    torch.testing.assert_close(scored(found, NAMImage(normalise=normalise), shown), expected, atol=1e-7, rtol=1e-4)
    alone = scored(found, NAMImage(normalise=normalise, activation=False), shown)
    torch.testing.assert_close(alone, direct, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scored(found, Activation(over_positions="mean"), shown), active, atol=1e-5, rtol=1e-4)


# --- the baselines


def test_the_gradient_is_that_of_the_regions_log_probability() -> None:
    found, step = model(), 1e-2
    shown = depicted(found, [(1, 2, 5)])
    gradient = scored(found, Gradient(over_positions="sum"), shown)
    site, columns = found.site("mid"), [drawer(found).teacher_forced(shown.drawings).columns[c] for c in (1, 2, 5)]
    for layer, index in ((0, 3), (2, 7)):
        ends = []
        for sign in (1, -1):

            def moved(old: Tensor, index: int = index, sign: int = sign) -> Tensor:
                new = old.clone()
                new[..., columns, index] += sign * step
                return new

            with intervene(found.module, site, {layer: moved}):
                ends.append(belief(found, shown))
        expected = (ends[0] - ends[1]).item() / (2 * step)
        assert gradient[layer, index].item() == pytest.approx(expected, rel=0.02, abs=1e-3)


def test_integrated_gradients_sum_to_what_the_layer_contributes() -> None:
    scores = score_drawn(model(), of(KnowledgeNeurons(steps=60, over_samples="mean")), depicted(model(), [(1, 2, 5)]))
    assert float(scores["only"].provenance["completeness_error"]) < 0.02
    assert scores["only"].values.abs().max() > 1e-3


def test_the_causal_effect_is_what_zeroing_the_neuron_everywhere_costs() -> None:
    found = model()
    shown = depicted(found, [(1, 2, 5)])
    effects = scored(found, CausalEffect(positions="all"), shown)
    for one in (NeuronId(0, 2), NeuronId(2, 5)):
        with Edit(NeuronSet((one,)), Zero()).applied(found):
            expected = belief(found, shown)
        # The last column holds no code to predict another from, and the prompt's columns are silenced as well.
        assert effects[one].item() == pytest.approx((belief(model(), shown) - expected).item(), abs=1e-4)


@pytest.mark.parametrize("name", ["nam_image", "nam_act", "nam_grad", "nam_grat", "nam_grai", "nam_ce"])
def test_every_method_of_the_paper_locates_in_drawings(name: str) -> None:
    found, locator = model(), shipped(name)
    if name in ("nam_grai", "nam_ce"):
        scorer = locator.stages[name].scorer
        short = {"steps": 2} if name == "nam_grai" else {"repeats": 1}
        locator = Locator({name: Stage(replace(scorer, **short), TopK(10))})
    scores = score_drawn(found, locator, depicted(found))
    assert len(locator.select(scores)) == 10
    assert scores[name].provenance["concept"] == "star"
    assert scores[name].provenance["n_samples"] == "2"
    assert int(scores[name].provenance["forwards"]) >= 2


# --- laws


@pytest.mark.parametrize("scorer", [NAMImage(), Gradient(), GradCAM(), Activation()])
def test_batches_do_not_matter(scorer: Any) -> None:
    together = scored(model(), scorer)
    one_by_one = scored(replace(model(), batch_size=1), scorer)
    torch.testing.assert_close(together, one_by_one, atol=1e-6, rtol=1e-4)


def test_only_the_codes_of_the_region_count() -> None:
    """Codes after the region's last cell change nothing: the model has not seen them yet."""
    found = model()
    shown = depicted(found, [(1, 2, 5)])
    codes = shown.drawings.codes.clone()
    codes[:, 6:] = (codes[:, 6:] + 1) % drawer(found).codebook
    other = replace(shown, drawings=replace(shown.drawings, codes=codes))
    for scorer in (NAMImage(), Gradient(positions="target"), GradCAM(positions="target")):
        torch.testing.assert_close(scored(found, scorer, other), scored(found, scorer, shown), atol=1e-6, rtol=1e-4)
    moved = replace(shown, region=shown.region.roll(4, 1))
    assert not torch.allclose(scored(found, NAMImage(), moved), scored(found, NAMImage(), shown))


@pytest.mark.parametrize("normalise", ["range", "none"])
def test_a_planted_i_neuron_is_found(normalise: Any) -> None:
    """It fires at every column and writes what the region's state is asked for."""
    found, (layer, index) = tiny("emu3"), (-1, 7)
    shown = depicted(found, [(1, 2, 5)])
    shown.drawings.codes[0, [1, 2, 5]] = 3
    forced = drawer(found).teacher_forced(shown.drawings)
    with torch.no_grad():
        asked = towards(forced, forced.states(), shown.region)[0, [1, 2, 5]].mean(0)
        if normalise == "range":
            asked = (asked - asked.min()) / (asked.max() - asked.min())
        block: Any = drawer(found).family.language.layers[layer].mlp  # type: ignore[attr-defined]
        block.up_proj.weight[index] = block.gate_proj.weight[index]
        block.down_proj.weight[:, index] = 2 * asked / asked.norm()
    place = NeuronId(len(found.site("mid").blocks) - 1, index)
    locator = of(NAMImage(normalise=normalise, activation=False))
    scores = score_drawn(found, locator, shown)["only"]
    assert scores.ranking()[0] == place
    if normalise == "none":
        drops = []
        for one in (place, *scores.ranking()[1:6]):
            with Edit(NeuronSet((one,)), Zero()).applied(found):
                drops.append(belief(found, shown).item())
        assert min(drops) == drops[0]


# --- regions


def test_a_region_becomes_the_cells_that_it_covers_to_a_quarter() -> None:
    mask = np.zeros((64, 64), bool)
    mask[8:16, 16:24] = True
    mask[16:18, 16:24] = True
    mask[16:20, 24:28] = True
    found = cells_of(mask, (8, 8)).nonzero().squeeze(1).tolist()
    assert found == [8 + 2, 16 + 2, 16 + 3]


def test_a_region_smaller_than_a_cell_has_the_cell_it_covers_most() -> None:
    mask = np.zeros((32, 32), bool)
    mask[7:9, 9] = True
    mask[9, 9] = True
    assert cells_of(mask, (4, 4)).nonzero().squeeze(1).tolist() == [4 + 1]
    assert not cells_of(np.zeros((32, 32), bool), (4, 4)).any()


# --- refusals


def test_what_a_drawing_does_not_have_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="stage `only` needs counterfactual, which a drawing does not have"):
        scored(model(), ActivationDifference())
    with pytest.raises(ValueError, match="stage `nam` needs unembedding"):
        score_drawn(model(), shipped("nam"), depicted(model()))
    with pytest.raises(ValueError, match="stage `only` has a shortlist"):
        scored(model(), CausalEffect(shortlist=GradCAM()))
    with pytest.raises(ValueError, match="`normalise` is one of range, none"):
        NAMImage(normalise="softmax")  # type: ignore[arg-type]


def test_pictures_that_nobody_drew_have_no_i_neurons() -> None:
    pairs = [without(picture("one", (5,)), STAR_CONCEPT)]
    with pytest.raises(ValueError, match="stage `nam_image` looks at a region of a drawn picture: use it with"):
        shipped("nam_image").score(tiny("llava"), pairs)


def test_drawings_without_the_concept_are_refused() -> None:
    shown = depicted(model())
    with pytest.raises(ValueError, match="the region of drawing 1 is empty: it has no `star`"):
        Depicted(STAR, shown.drawings, shown.region & torch.tensor([[True], [False]]))
    with pytest.raises(ValueError, match="there is nothing to locate in: no drawing shows `star`"):
        Depicted(STAR, shown.drawings[:0], shown.region[:0])
    with pytest.raises(ValueError, match=r"`region` is true or false for each code.*\[2, 16\]; got \[2, 3\]"):
        Depicted(STAR, shown.drawings, shown.region[:, :3])
