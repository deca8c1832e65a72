"""The finder reads from the pixels what a picture of the picture world shows."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from kedit.data.finder import find
from kedit.data.grammar import CATEGORIES, COLORS
from kedit.data.scene import RADII, Scene, Thing, scene
from kedit.data.scenes import evaluation_seeds

SEEDS = evaluation_seeds(0)


def kinds(shown: Scene) -> Counter[tuple[str, str]]:
    return Counter((thing.category, thing.color) for thing in shown.things)


def softened(seed: int) -> Image.Image:
    """Return the scene of `seed` after a 3 x 3 box blur, with noise of 12 levels on top."""
    blurred = np.asarray(scene(seed).image().filter(ImageFilter.BoxBlur(1)), float)
    noisy = blurred + np.random.default_rng(seed).normal(0, 12, blurred.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("n", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_every_thing_of_a_true_picture_is_found_at_its_place(n: int) -> None:
    for seed in SEEDS[:n]:
        found = find(scene(seed).image())
        assert set(found.scene.things) == set(scene(seed).things), seed
        assert found.scene.background == scene(seed).background
        assert found.is_valid
        assert len(found.matches) == len(found.scene.things)


@pytest.mark.parametrize("n", [15, pytest.param(500, marks=pytest.mark.slow)])
def test_blur_and_noise_hardly_ever_change_what_is_found(n: int) -> None:
    right = [kinds(find(softened(seed)).scene) == kinds(scene(seed)) for seed in SEEDS[:n]]
    assert np.mean(right) >= 0.98


def test_all_shapes_sizes_and_colors_are_told_apart() -> None:
    for number, category in enumerate(CATEGORIES):
        for radius in RADII:
            thing = Thing(category, COLORS[(number + radius) % len(COLORS)], 20, 40, radius)
            assert find(Scene(number, "gray", "dots", (thing,)).image()).scene.things == (thing,)


def test_the_region_of_a_found_thing_is_its_own() -> None:
    shown = scene(SEEDS[3])
    found = find(shown.image()).scene
    assert all((found.region(one) == shown.region(one)).all() for one in CATEGORIES)


def test_the_counterfactual_shows_all_but_the_category() -> None:
    shown = next(one for one in map(scene, SEEDS) if len(one.categories) > 1)
    gone = min(shown.categories)
    assert find(shown.without(gone).image()).scene.categories == shown.categories - {gone}


def test_two_categories_of_one_color_are_both_found() -> None:
    things = (Thing("star", "red", 15, 15, 10), Thing("moon", "red", 45, 40, 10))
    assert set(find(Scene(1, "white", "plain", things).image()).scene.things) == set(things)


def test_an_empty_picture_and_a_smear_are_no_scene() -> None:
    empty = find(Scene(1, "black", "stripes", ()).image())
    assert not empty.scene.things
    assert empty.unexplained == 0
    assert not empty.is_valid
    pixels = Scene(1, "white", "plain", ()).pixels()
    pixels[10:14] = (214, 39, 40)
    smeared = find(Image.fromarray(pixels))
    assert not smeared.scene.things
    assert smeared.unexplained == 1
    assert not smeared.is_valid


def test_what_no_shape_explains_makes_a_picture_invalid() -> None:
    pixels = Scene(1, "white", "plain", (Thing("star", "blue", 20, 20, 10),)).pixels()
    assert find(Image.fromarray(pixels)).is_valid
    pixels[45:49] = (214, 39, 40)
    found = find(Image.fromarray(pixels))
    assert found.scene.categories == {"star"}
    assert found.unexplained > 0.3
    assert not found.is_valid


def test_a_picture_of_another_size_is_read_as_well() -> None:
    shown = scene(SEEDS[0])
    assert kinds(find(shown.image().resize((128, 128), Image.Resampling.BICUBIC)).scene) == kinds(shown)
