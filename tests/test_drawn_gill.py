"""I-neurons of GILL: a region's pixels, through the diffusion and the mapper, back to the neurons that wrote them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import kedit
from kedit.data.folder import Folder
from kedit.edit.operators import Zero
from kedit.internals.hooks import intervene, record
from kedit.locate.drawn import Depicted, NAMImage, score_drawn, towards
from kedit.locate.gradient import Gradient
from kedit.locate.locator import Locator, Stage
from kedit.locate.nam import softmax_maximum
from kedit.locate.selection import TopK
from kedit.locate.shipped import shipped
from kedit.models.drawing import drawer
from kedit.models.gill.loading import load
from kedit.models.gill.model import GILLModel
from kedit.models.gill.painter import Painter, PainterError
from kedit.samples import Concept, Mask, Sample
from tests.test_gill import FOLDER, PARTS
from tests.tiny_diffusion import text_to_image

DOG = Concept("dog")
PROMPTS = ("a dog", "a black dog, on grass")


@pytest.fixture(scope="module")
def gill(tmp_path_factory: pytest.TempPathFactory) -> GILLModel:
    folder = tmp_path_factory.mktemp("diffusion")
    text_to_image(768, 77, size=32).save_pretrained(folder)
    return load(FOLDER, **PARTS, diffusion=str(folder), steps=3, gradient_steps=2)


@pytest.fixture(scope="module")
def shown(gill: GILLModel) -> Depicted:
    """Return drawings with the concept in a corner of one and in the middle of the other."""
    drawings = drawer(gill).draw(PROMPTS, seed=2)
    region = torch.zeros(drawings.region_shape, dtype=torch.bool)
    region[0, :20, :20] = True
    region[1, 30:60, 30:50] = True
    return Depicted(DOG, drawings, region)


def only(shown: Depicted, row: int) -> Depicted:
    return replace(shown, drawings=shown.drawings[row : row + 1], region=shown.region[row : row + 1])


def scored(gill: GILLModel, scorer: Any, shown: Depicted) -> Tensor:
    return score_drawn(gill, Locator({"only": Stage(scorer, TopK(3))}), shown)["only"].values


def pixels(gill: GILLModel, shown: Depicted) -> Tensor:
    """Return the sum of the region's pixels of one drawing, 64-bit, without a graph."""
    forced = drawer(gill).teacher_forced(shown.drawings)
    with torch.no_grad():
        return forced.shows(0, forced.states()[0], shown.region[0]).double()


# --- what is painted with a graph


@pytest.mark.parametrize("gradient_steps", [1, 2, 3, 9])
def test_the_picture_with_a_graph_is_the_picture(gill: GILLModel, shown: Depicted, gradient_steps: int) -> None:
    assert gill.painter is not None
    painter = replace(gill.painter, gradient_steps=gradient_steps)
    told = gill.draw(PROMPTS[0], seed=2)[0].conditioning.requires_grad_()
    painted = painter.paint_with_graph(told, 2)
    assert torch.autograd.grad(painted.sum(), told, retain_graph=True)[0].abs().max() > 0
    as_pixels = (painted.detach().permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(as_pixels - np.asarray(shown.drawings.images[0], float)).max() <= 1
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not painter.paint_with_graph(told, 2).requires_grad


def test_with_all_steps_the_gradient_is_that_of_the_picture(gill: GILLModel) -> None:
    """Half of a step to either side, in the direction of the gradient, moves the sum by its length."""
    assert gill.painter is not None
    painter, window = replace(gill.painter, gradient_steps=3), np.s_[:, 20:40, 20:40]
    told = gill.draw(PROMPTS[0], seed=2)[0].conditioning
    leaf = told.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(painter.paint_with_graph(leaf, 2)[window].sum(), leaf)
    step = 0.05 * gradient / gradient.norm()
    with torch.no_grad():
        up, down = (painter.paint_with_graph(told + sign * step, 2)[window].double().sum() for sign in (0.5, -0.5))
    assert gradient.norm() > 1e-2
    assert float(up - down) == pytest.approx(0.05 * float(gradient.norm()), rel=0.02)


# --- scores


def test_r_is_the_gradient_of_the_region_at_the_img_states(gill: GILLModel, shown: Depicted) -> None:
    one = only(shown, 1)
    forced = drawer(gill).teacher_forced(one.drawings)
    with torch.no_grad():
        states = forced.states()
    found = towards(forced, states, one.region)
    leaf = states.clone().requires_grad_()
    painted = gill.painter.paint_with_graph(gill.map_states(leaf)[0], 2)  # type: ignore[union-attr]
    (expected,) = torch.autograd.grad(painted[:, 30:60, 30:50].sum(), leaf)
    assert found.abs().max() > 1e-4
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("normalise", ["range", "none"])
def test_i_neurons_have_the_value_of_the_papers_equations(gill: GILLModel, shown: Depicted, normalise: Any) -> None:
    one, site = only(shown, 0), gill.site("mid")
    forced = drawer(gill).teacher_forced(one.drawings)
    with torch.no_grad(), record(gill.module, site) as activations:
        states = forced.states()
    asked = towards(forced, states, one.region)[0]
    if normalise == "range":
        asked = (asked - asked.min()) / (asked.max() - asked.min())
    width = forced.token_types.shape[1]
    direct, active = [], []
    for layer, activation in activations.items():
        at_img = activation.reshape(width, -1)[-8:]
        direct.append((at_img * (asked @ site.value_matrix(gill.module, layer).T)).mean(0))
        active.append(at_img.mean(0))
    contributed, fired = torch.stack(direct), torch.stack(active)
    alone = scored(gill, NAMImage(normalise=normalise, activation=False), one)
    torch.testing.assert_close(alone, contributed, atol=1e-6, rtol=1e-4)
    expected = softmax_maximum(contributed[None], fired[None])[0].float()
    torch.testing.assert_close(scored(gill, NAMImage(normalise=normalise), one), expected, atol=1e-7, rtol=1e-4)


def test_the_gradient_is_that_of_the_regions_pixels(gill: GILLModel, shown: Depicted) -> None:
    """Through the language model, the mapper and all steps of the diffusion, against moving one neuron."""
    assert gill.painter is not None
    through_all = replace(gill, painter=replace(gill.painter, gradient_steps=3))
    one, site = only(shown, 0), gill.site("mid")
    gradient = scored(through_all, Gradient(over_positions="sum"), one)
    width = drawer(gill).teacher_forced(one.drawings).token_types.shape[1]
    steepest = int(gradient[1].abs().argmax())
    ends = []
    for sign in (1, -1):

        def moved(old: Tensor, sign: int = sign) -> Tensor:
            new = old.clone()
            new.view(width, -1)[-8:, steepest] += sign * 0.05
            return new

        with intervene(gill.module, site, {1: moved}):
            ends.append(pixels(through_all, one))
    expected = float(ends[0] - ends[1]) / 0.1
    assert float(gradient[1, steepest]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", ["nam_act", "nam_grat", "nam_grai"])
def test_methods_of_the_paper_locate_in_its_drawings(gill: GILLModel, shown: Depicted, name: str) -> None:
    assert gill.painter is not None
    quick, locator = replace(gill, painter=replace(gill.painter, steps=1)), shipped(name)
    if name == "nam_grai":
        locator = Locator({name: Stage(replace(locator.stages[name].scorer, steps=1), TopK(10))})  # type: ignore[type-var]
    scores = score_drawn(quick, locator, only(shown, 0))
    assert len(locator.select(scores)) == 10
    assert scores[name].values.abs().max() > 0
    assert scores[name].provenance["target"] == "the pixels that show it"


def test_batches_do_not_matter(gill: GILLModel, shown: Depicted) -> None:
    together = scored(gill, NAMImage(), shown)
    one_by_one = scored(replace(gill, batch_size=1), NAMImage(), shown)
    torch.testing.assert_close(together, one_by_one, atol=1e-6, rtol=1e-3)


# --- the command


class Corner:
    """Finds a dog in the corner of each drawing, and nothing else."""

    refines = False

    def __call__(self, sample: Sample, concept: Concept) -> Mask:
        mask = np.zeros((sample.image.height, sample.image.width), bool)
        mask[:20, :20] = concept.name == "dog"
        return mask


@pytest.fixture
def pets(tmp_path: Path) -> Folder:
    """Return a few pictures of one colour, half of them with a dog, as their captions say."""
    lines = []
    for number in range(12):
        Image.new("RGB", (40, 40), (10 * number, 90, 20)).save(tmp_path / f"{number}.png")
        names = ["dog", "cat"] if number % 2 else ["cat"]
        objects = [{"name": name, "box": [4 + 16 * place, 4, 12, 12]} for place, name in enumerate(names)]
        caption = " and ".join(f"a {name}" for name in names)
        lines.append(json.dumps({"image": f"{number}.png", "caption": caption, "objects": objects}))
    (tmp_path / "pictures.jsonl").write_text("\n".join(lines))
    return Folder(str(tmp_path))


def test_its_drawings_are_located_in_edited_and_measured(gill: GILLModel, pets: Folder) -> None:
    result = kedit.draw(
        gill, pets, "dog", segment=Corner(), words=None, edit=Zero(),
        counts=kedit.Counts(locate=2, target=2, retention=1, controls=1), progress=False,
    )  # fmt: skip
    assert len(result.neurons) == 10
    assert result.report.before.value == 1
    effect = result.report.main
    assert effect.reconstruction.value is None
    figures = result.to_json()["drawings"]["I-neurons"]
    assert figures["reconstruction"]["why"] == "the model draws without a VQ tokenizer"


def test_without_a_stable_diffusion_nothing_begins(pets: Folder) -> None:
    with pytest.raises(PainterError, match="has nothing to draw with: give a Stable Diffusion"):
        kedit.draw(load(FOLDER, **PARTS), pets, "dog", segment=Corner(), progress=False)


def test_a_number_of_steps_is_checked(gill: GILLModel) -> None:
    with pytest.raises(ValueError, match="`gradient_steps`"):
        Painter(gill.painter.folder, gradient_steps=0)  # type: ignore[union-attr]
