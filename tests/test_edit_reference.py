"""What a patch sets neurons to: activations measured on other pictures, with known values on the planted model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kedit.edit.operators import Scale
from kedit.edit.plan import PatchPlan, Plan
from kedit.edit.reference import CounterfactualMean, DatasetMean, Donor, mean_activations
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.models.planted.smallest import DECOY, KNOWS_HOUSE, KNOWS_STAR
from kedit.neurons import NeuronSet
from kedit.samples import silent

STARRY = picture("starry", star=(0, 1, 2, 3), house=(5,))
LONELY = picture("lonely", star=(7, 8))


@pytest.fixture
def pairs() -> list[Any]:
    return [without(STARRY, STAR_CONCEPT), without(LONELY, STAR_CONCEPT)]


def activation_on(planted: Planted, name: str) -> float:
    """Return the star neuron's activation on one patch of a red picture, or of a gray one."""
    images = [picture(name, star=tuple(range(16)) if name == "red" else ()).image]
    return float(mean_activations(planted.model, images, "mid", "image", silent)[0][KNOWS_STAR])


def test_the_counterfactual_mean_of_the_star_neuron_is_zero_and_of_the_house_neuron_is_not(planted, pairs) -> None:
    patch = CounterfactualMean()(planted.model, pairs)
    assert isinstance(patch.reference, dict)
    assert float(patch.reference[0][KNOWS_STAR]) == 0.0
    assert float(patch.reference[0][KNOWS_HOUSE]) > 0.0
    assert repr(patch) == "Patch(counterfactual mean)"


def test_the_data_set_mean_of_the_star_neuron_is_its_value_times_the_share_of_red_patches(planted, pairs) -> None:
    patch = DatasetMean()(planted.model, pairs)
    assert isinstance(patch.reference, dict)
    red = activation_on(planted, "red")
    assert red > 0 and activation_on(planted, "gray") == 0.0
    assert float(patch.reference[0][KNOWS_STAR]) == pytest.approx(red * (4 + 2) / 32, rel=1e-5)
    assert patch.reference[0][DECOY] == patch.reference[0][KNOWS_STAR]


def test_a_donors_mean_is_that_of_its_picture(planted: Planted, tmp_path: Path) -> None:
    picture("red", star=tuple(range(16))).image.save(tmp_path / "red.png")
    patch = Donor(str(tmp_path / "red.png"))(planted.model, [])
    assert isinstance(patch.reference, dict)
    assert float(patch.reference[0][KNOWS_STAR]) == activation_on(planted, "red")
    with pytest.raises(FileNotFoundError, match=r"no picture `nowhere\.png`"):
        Donor("nowhere.png")


def test_reading_all_positions_averages_the_picture_and_the_text(planted: Planted) -> None:
    image = [picture("red", star=tuple(range(16))).image]
    token_types = planted.model.teacher_forced(image, [()]).token_types
    means = {
        reads: mean_activations(planted.model, image, "mid", reads, silent)[0][KNOWS_STAR]
        for reads in ("all", "image", "text")
    }
    n_image, n_text = int((token_types == 2).sum()), int((token_types == 1).sum())
    assert (n_image, float(means["text"])) == (16, 0.0)
    assert float(means["all"]) == pytest.approx(float(means["image"]) * 16 / (16 + n_text), rel=1e-5)


def test_the_mean_does_not_depend_on_the_batches(planted: Planted, pairs) -> None:
    images = [pair.sample.image for pair in pairs] * 3
    single = [mean_activations(planted.model, [image], "mid", "all", silent)[0] for image in images]
    together = mean_activations(planted.model, images, "mid", "all", silent)[0]
    torch.testing.assert_close(together, torch.stack(single).mean(0), atol=1e-6, rtol=1e-5)


def test_patching_to_the_counterfactual_mean_silences_the_star_alone(planted: Planted, pairs) -> None:
    plan = PatchPlan(CounterfactualMean(), positions="image")
    edit = plan.edit(planted.star, plan.operator_for(planted.model, pairs), "forget")
    with edit.applied(planted.model):
        assert planted.model.caption([STARRY.image])[0].text == "picture house"


def test_patching_to_a_starry_donor_makes_the_model_see_a_star(planted: Planted, tmp_path: Path) -> None:
    picture("starry", star=(0, 1)).image.save(tmp_path / "starry.png")
    gray = Image.new("RGB", STARRY.image.size, (128, 128, 128))
    assert planted.model.caption([gray])[0].text == "picture"
    plan = PatchPlan(Donor(str(tmp_path / "starry.png")), positions="image")
    with plan.edit(planted.star, plan.operator_for(planted.model, []), "star").applied(planted.model):
        assert planted.model.caption([gray])[0].text == "picture star"


def test_a_reference_at_another_site_than_the_neurons_is_refused(planted: Planted, pairs) -> None:
    plan = PatchPlan(CounterfactualMean(site="act"), positions="image")
    patch = plan.operator_for(planted.model, pairs)
    with pytest.raises(ValueError, match="the reference was measured at `act`, and the neurons are at `mid`"):
        plan.edit(planted.star, patch, "forget")
    at_act = NeuronSet(planted.star.ids, "act")
    with plan.edit(at_act, patch, "forget").applied(planted.model):
        assert planted.model.caption([STARRY.image])[0].text == "picture house"


def test_a_plan_carries_its_operator_and_where_it_acts(planted: Planted) -> None:
    plan = Plan(Scale(0.5), "image", "prefill")
    edit = plan.edit(planted.star, plan.operator_for(planted.model, []), "dampen")
    assert (edit.neurons, edit.operator) == (planted.star, Scale(0.5))
    assert (edit.positions, edit.phase, edit.name) == ("image", "prefill", "dampen")


def test_a_mean_over_nothing_is_refused(planted: Planted) -> None:
    with pytest.raises(ValueError, match="nothing to average: no pictures"):
        CounterfactualMean()(planted.model, [])
