"""Painting out changes the region, all of it, and nothing else."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from kedit.data.inpaint import BlurFill, Exact, Inpainter, MeanFill, grown
from kedit.data.inpaint_opencv import OpenCVFill
from kedit.data.scene import scene
from kedit.data.scenes import Scenes
from kedit.samples import Concept, Mask, Sample

STAR = Concept("star")
OPENCV = [OpenCVFill("telea"), OpenCVFill("navier_stokes", 5.0, 0)]
FILLS: list[Inpainter] = [MeanFill(0), MeanFill(2), BlurFill(8.0, 0), BlurFill(2.0, 1), BlurFill(0.3), *OPENCV]
HEIGHT, WIDTH = 20, 30


def square(pixels: NDArray[np.uint8] | None = None, mode: str = "RGB", region: Mask | None = None) -> Sample:
    """Return a red square, 8 pixels wide, on uneven gray-green ground."""
    if pixels is None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(90, 110, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        pixels[6:14, 10:18] = (255, 0, 0)
    if region is None:
        region = np.zeros((HEIGHT, WIDTH), bool)
        region[6:14, 10:18] = True
    return Sample("s7", Image.fromarray(pixels).convert(mode), regions={"star": region})


def painted(inpaint: Inpainter, sample: Sample) -> NDArray[np.uint8]:
    return np.array(inpaint(sample, STAR).image)


def grown_slowly(region: Mask, dilation: int) -> Mask:
    """Return the pixels at most `dilation` rows and columns from the region, found one by one."""
    inside = np.argwhere(region)
    every = np.indices(region.shape).reshape(2, -1).T
    near = [bool(len(inside)) and np.abs(inside - one).max(1).min() <= dilation for one in every]
    return np.array(near).reshape(region.shape)


@pytest.mark.parametrize("inpaint", FILLS, ids=repr)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_outside_the_grown_region_not_one_pixel_changes(inpaint: MeanFill | BlurFill | OpenCVFill, mode: str) -> None:
    sample = square(mode=mode)
    before, after = np.array(sample.image.convert("RGB")), painted(inpaint, sample)
    outside = ~grown_slowly(sample.regions["star"], inpaint.dilation)
    assert after.shape == before.shape
    assert np.array_equal(after[outside], before[outside])


@pytest.mark.parametrize("inpaint", FILLS, ids=repr)
def test_what_was_inside_leaves_no_trace(inpaint: Inpainter) -> None:
    pixels = np.array(square().image)
    repainted = pixels.copy()
    repainted[6:14, 10:18] = (0, 0, 255)
    assert np.array_equal(painted(inpaint, square(pixels)), painted(inpaint, square(repainted)))


@pytest.mark.parametrize("inpaint", FILLS, ids=repr)
def test_the_filling_keeps_within_the_colors_of_the_surroundings(inpaint: Inpainter) -> None:
    inside = painted(inpaint, square())[6:14, 10:18]
    assert inside.min() >= 90
    assert inside.max() < 110


@pytest.mark.parametrize("inpaint", FILLS, ids=repr)
def test_on_plain_ground_the_filling_is_the_ground(inpaint: Inpainter) -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), (30, 160, 90), np.uint8)
    plain = pixels.copy()
    pixels[6:14, 10:18] = (255, 255, 0)
    off = np.abs(painted(inpaint, square(pixels)).astype(int) - plain).max()
    assert off <= 2 * (inpaint == OPENCV[0])  # Telea's rounding adds up


def test_mean_fill_is_the_mean_of_the_rest() -> None:
    sample = square()
    after, rest = painted(MeanFill(0), sample), np.array(sample.image)[~sample.regions["star"]]
    assert np.array_equal(np.unique(after[6:14, 10:18].reshape(-1, 3), axis=0), np.rint(rest.mean(0))[None])


def test_blur_fill_is_the_gaussian_mean_of_the_pixels_outside() -> None:
    sample = square()
    before, outside = np.array(sample.image), np.argwhere(~sample.regions["star"])
    weights = np.exp(-((outside - (9, 13)) ** 2).sum(1) / 2 / 3.0**2)
    expected = np.average(before[tuple(outside.T)], axis=0, weights=weights)
    assert np.abs(painted(BlurFill(3.0, 0), sample)[9, 13] - expected).max() <= 0.5


def test_blur_fill_follows_the_ground_where_mean_fill_does_not() -> None:
    ground = np.broadcast_to(np.linspace(0, 232, WIDTH)[None, :, None], (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pixels = ground.copy()
    pixels[6:14, 10:18] = (255, 0, 0)
    error = {
        fill: np.abs(painted(fill, square(pixels)).astype(int) - ground).max() for fill in (MeanFill(), BlurFill(2.0))
    }
    assert error[BlurFill(2.0)] < 40 < error[MeanFill()]


@pytest.mark.parametrize("inpaint", OPENCV, ids=repr)
def test_opencv_follows_a_slope_where_mean_fill_does_not(inpaint: Inpainter) -> None:
    ground = np.broadcast_to(np.linspace(0, 232, WIDTH)[None, :, None], (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pixels = ground.copy()
    pixels[6:14, 10:18] = (255, 0, 0)
    assert np.abs(painted(inpaint, square(pixels)).astype(int) - ground).max() < 40


def test_deep_inside_a_large_region_telea_drifts_by_a_level_in_ten_pixels_and_navier_stokes_does_not() -> None:
    plain = np.full((160, 160, 3), (30, 160, 90), np.uint8)
    region = np.zeros((160, 160), bool)
    region[30:130, 30:130] = True
    pixels = plain.copy()
    pixels[region] = (255, 0, 0)
    drift = {
        method: np.abs(painted(OpenCVFill(method), square(pixels, region=region)).astype(int) - plain).max()
        for method in ("telea", "navier_stokes")
    }
    assert drift["navier_stokes"] == 0
    assert 2 < drift["telea"] <= 12


def test_the_methods_of_opencv_are_two() -> None:
    telea, stokes = (painted(one, square()) for one in (OpenCVFill("telea"), OpenCVFill("navier_stokes")))
    assert not np.array_equal(telea, stokes)


def test_a_method_that_opencv_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="`method` is telea or navier_stokes, got 'poisson'"):
        OpenCVFill("poisson")
    with pytest.raises(ValueError, match="`radius` is a distance in pixels, above 0, got 0"):
        OpenCVFill(radius=0)


def test_without_opencv_the_error_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"needs OpenCV.*pip install 'kedit\[opencv\]'.*or take `inpaint=blur`"):
        OpenCVFill()(square(), STAR)


def test_a_blur_far_smaller_than_the_region_still_fills_it() -> None:
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[:, 1:] = True
    pixels = np.full((HEIGHT, WIDTH, 3), (255, 0, 0), np.uint8)
    pixels[:, 0] = (10, 20, 30)
    assert (painted(BlurFill(0.2, 0), square(pixels, region=region)) == (10, 20, 30)).all()


@pytest.mark.parametrize("inpaint", FILLS, ids=repr)
def test_a_region_of_the_whole_picture_becomes_its_mean(inpaint: Inpainter) -> None:
    sample = square(region=np.ones((HEIGHT, WIDTH), bool))
    mean = np.rint(np.array(sample.image).reshape(-1, 3).mean(0))
    assert (painted(inpaint, sample) == mean).all()


@pytest.mark.parametrize("inpaint", FILLS, ids=repr)
def test_a_region_in_numbers_means_the_same_as_one_in_truth_values(inpaint: Inpainter) -> None:
    sample = square()
    numbers = square(region=sample.regions["star"].astype(np.uint8))  # type: ignore[arg-type]
    assert np.array_equal(painted(inpaint, sample), painted(inpaint, numbers))


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(0, 4))
def test_growing_reaches_that_many_pixels_in_each_direction(region: Mask, dilation: int) -> None:
    assert np.array_equal(grown(region, dilation), grown_slowly(region, dilation))


@pytest.mark.parametrize("inpaint", [MeanFill(), BlurFill(), OpenCVFill()], ids=repr)
@pytest.mark.parametrize("shape", [(WIDTH, HEIGHT), (HEIGHT, WIDTH, 1), (5, 5)])
def test_a_region_of_the_wrong_size_is_an_error_with_both_sizes(inpaint: Inpainter, shape: tuple[int, ...]) -> None:
    sample = square(region=np.ones(shape, bool))
    with pytest.raises(ValueError, match=r"`star` in sample `s7` is \(.*\) \(height, width\), the picture \(20, 30\)"):
        inpaint(sample, STAR)


@pytest.mark.parametrize("inpaint", [MeanFill(), BlurFill(), OpenCVFill()], ids=repr)
def test_an_empty_region_is_refused_since_nothing_would_change(inpaint: Inpainter) -> None:
    with pytest.raises(ValueError, match="of `star` in sample `s7` is empty"):
        inpaint(square(region=np.zeros((HEIGHT, WIDTH), bool)), STAR)


@pytest.mark.parametrize("inpaint", [MeanFill(), BlurFill(), OpenCVFill()], ids=repr)
def test_a_concept_without_a_region_is_refused(inpaint: Inpainter) -> None:
    with pytest.raises(LookupError, match=r"has no region for `moon`; regions: star; `segment=clipseg` looks"):
        inpaint(square(), Concept("moon"))


@pytest.mark.parametrize("radius", [0, -1.0, float("nan"), float("inf")])
def test_a_blur_without_a_radius_is_refused(radius: float) -> None:
    with pytest.raises(ValueError, match=rf"`radius` is a blur in pixels, above 0, got {radius}"):
        BlurFill(radius)


@pytest.mark.parametrize("fill", [MeanFill, BlurFill, OpenCVFill])
@pytest.mark.parametrize("dilation", [-1, 1.5])
def test_a_dilation_that_is_no_number_of_pixels_is_refused(fill: type, dilation: float) -> None:
    with pytest.raises(ValueError, match=rf"`dilation` is a whole number of pixels, 0 or more, got {dilation}"):
        fill(dilation=dilation)


def test_exact_is_the_picture_that_the_data_draws() -> None:
    sample = Scenes().sample(3)
    category = min(sample.objects)
    pair = Exact()(sample, Concept(category))
    assert pair.sample is sample
    assert np.array_equal(np.array(pair.image), scene(3).without(category).pixels())


def test_exact_without_a_data_set_that_draws_is_refused() -> None:
    with pytest.raises(LookupError, match="the data of sample `s7` cannot draw it without `star`; fill"):
        Exact()(square(), STAR)


@pytest.mark.parametrize("inpaint", [MeanFill(), BlurFill(), OpenCVFill()], ids=repr)
def test_in_the_picture_world_filling_comes_close_to_the_exact_counterfactual(inpaint: Inpainter) -> None:
    for seed in range(30):
        sample = Scenes().sample(seed)
        for category in sample.objects:
            concept = Concept(category)
            region = sample.region(concept)
            truth = np.array(Exact()(sample, concept).image).astype(float)[region]
            before = np.abs(np.array(sample.image)[region] - truth).mean()
            after = np.abs(np.array(inpaint(sample, concept).image)[region] - truth).mean()
            assert after < before, (seed, category)
