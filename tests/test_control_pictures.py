"""Control pictures: something else of equal area is painted out, and the concept is left as it was."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kedit.data.control_region import control_region
from kedit.data.inpaint import BlurFill, Exact, Inpainter, MeanFill, grown
from kedit.data.inpaint_opencv import OpenCVFill
from kedit.data.scenes import Scenes
from kedit.locate.difference import ActivationDifference
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT, picture, without
from kedit.models.planted import planted as planted_from
from kedit.models.planted.smallest import DECOY, HOUSE, KNOWS_STAR, STAR
from kedit.neurons import NeuronId
from kedit.samples import Concept, Counterfactual, Mask, Sample

SHAPE = (24, 32)


def noisy(region: Mask, name: str = "s7") -> Sample:
    """Return a picture of which no pixel is like another, with a star in `region`."""
    pixels = np.random.default_rng(0).integers(0, 256, (*region.shape, 3)).astype(np.uint8)
    return Sample(name, Image.fromarray(pixels), objects=frozenset({"star"}), regions={"star": region})


def block(top: int, left: int, height: int, width: int, shape: tuple[int, int] = SHAPE) -> Mask:
    region = np.zeros(shape, bool)
    region[top : top + height, left : left + width] = True
    return region


def changed(one: Image.Image, other: Image.Image | None) -> NDArray[np.bool_]:
    assert other is not None
    return (np.array(one.convert("RGB")) != np.array(other)).any(-1)


# --- where


@given(
    st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(0, 15), st.integers(0, 23)), st.text(max_size=4),
    st.integers(0, 2**16),
)  # fmt: skip
def test_the_other_region_has_the_same_shape_and_no_pixel_in_common(
    place: tuple[int, int, int, int], name: str, seed: int
) -> None:
    height, width, top, left = place
    region = block(top, left, height, width)
    region &= np.random.default_rng(seed).random(SHAPE) < 0.7
    region[top, left] = True
    moved = control_region(region, name)
    assert not (moved & region).any()
    assert moved.sum() == region.sum()
    down, across = np.argwhere(moved)[0] - np.argwhere(region)[0]
    assert np.array_equal(np.argwhere(moved), np.argwhere(region) + np.array([down, across]))


def test_the_place_depends_on_the_name_alone() -> None:
    region = block(4, 4, 5, 5)
    places = {name: control_region(region, name).tobytes() for name in "abcdefgh"}
    assert places == {name: control_region(region, name).tobytes() for name in "abcdefgh"}
    assert len(set(places.values())) > 4


def test_half_a_picture_has_the_other_half_as_its_only_place() -> None:
    region = block(0, 0, 24, 16)
    assert np.array_equal(control_region(region, "any"), ~region)


def test_a_region_that_fits_nowhere_else_takes_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    region = block(0, 0, 24, 20)
    with caplog.at_level(logging.WARNING, "kedit"):
        moved = control_region(region, "large")
    assert np.array_equal(moved, ~region)
    assert "sample `large`: only 288 of 480 pixels fit beside the concept" in caplog.text
    assert not control_region(np.ones(SHAPE, bool), "everything").any()


# --- filling


@pytest.mark.parametrize(
    "fill", [MeanFill(0, True), MeanFill(2, True), BlurFill(3.0, 1, True), OpenCVFill("telea", 3.0, 1, True)], ids=repr
)
def test_the_control_has_as_many_pixels_painted_out_and_none_of_the_concept(
    fill: MeanFill | BlurFill | OpenCVFill,
) -> None:
    sample = noisy(block(3, 20, 6, 5))
    pair = fill(sample, STAR_CONCEPT)
    concept = changed(sample.image, pair.image)
    control = changed(sample.image, pair.control)
    assert np.array_equal(concept, grown(sample.regions["star"], fill.dilation))
    assert control.sum() == concept.sum()
    assert not (control & concept).any()


@pytest.mark.parametrize("fill", [MeanFill(), BlurFill(), OpenCVFill()], ids=repr)
def test_the_control_changes_nothing_of_the_counterfactual_and_is_made_when_asked_for(
    fill: MeanFill | BlurFill | OpenCVFill,
) -> None:
    sample = noisy(block(3, 20, 6, 5))
    plain, controlled = fill(sample, STAR_CONCEPT), replace(fill, control=True)(sample, STAR_CONCEPT)
    assert plain.control is None
    assert np.array_equal(np.array(plain.image), np.array(controlled.image))


def test_both_regions_are_filled_by_the_same_rule() -> None:
    sample = noisy(block(3, 20, 6, 5))
    pair = MeanFill(0, True)(sample, STAR_CONCEPT)
    painted = changed(sample.image, pair.control)
    assert pair.control is not None
    pixels = np.array(sample.image)
    assert (np.array(pair.control)[painted] == np.rint(pixels[~painted].mean(0))).all()


# --- drawing


def test_an_exact_control_is_the_picture_without_the_object_of_the_nearest_area() -> None:
    for seed in range(40):
        sample = Scenes().sample(seed)
        for name in sample.objects:
            pair = Exact(control=True)(sample, Concept(name))
            assert pair.control is not None
            areas = {other: int(region.sum()) for other, region in sample.regions.items()}
            others = sorted(sample.objects - {name}, key=lambda one: (abs(areas[one] - areas[name]), one))
            assert sample.render_without is not None
            expected = sample.render_without(others[0]) if others else sample.image
            assert np.array_equal(np.array(pair.control), np.array(expected))
            assert not changed(sample.image, pair.control)[sample.region(Concept(name))].any()


def test_an_exact_counterfactual_has_no_control_unless_asked() -> None:
    sample = Scenes().sample(1)
    assert Exact()(sample, Concept(min(sample.objects))).control is None


# --- what it is for


def drawn(sample: Sample) -> Sample:
    concepts = {"star": STAR_CONCEPT, "house": HOUSE_CONCEPT}
    return replace(sample, render_without=lambda name: without(sample, concepts[name]).image)


def test_a_neuron_that_reacts_to_any_object_loses_its_score_and_the_concepts_keeps_it() -> None:
    """The decoy is made to see blue as well as red: it changes as much where the house is painted out."""
    model = planted_from().model
    reads = model.module.get_submodule("model.language_model.layers.0.mlp.gate_proj").weight
    with torch.no_grad():
        reads[DECOY, [STAR, HOUSE]] = 1.0  # type: ignore[index, operator]
    samples = [drawn(picture(name, (cell,), (15 - cell,))) for name, cell in (("a", 1), ("b", 6))]
    inpaint: Inpainter = Exact(control=True)
    pairs: list[Counterfactual] = [inpaint(sample, STAR_CONCEPT) for sample in samples]
    scorers = {"plain": ActivationDifference(), "controlled": ActivationDifference(control=True)}
    locator = Locator({name: Stage(scorer, TopK(1)) for name, scorer in scorers.items()})
    scores = locator.score(model, pairs)
    star, decoy = NeuronId(0, KNOWS_STAR), NeuronId(0, DECOY)
    assert scores["plain"].of([decoy]) >= scores["plain"].of([star]) > 0
    assert scores["controlled"].of([star]) == scores["plain"].of([star])
    assert scores["controlled"].of([decoy]).abs() < 1e-3 * scores["plain"].of([decoy])
