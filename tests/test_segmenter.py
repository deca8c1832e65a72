"""Regions that a segmenter finds: by name where there is none, inside the boxes where there are some."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kedit.data.found import FoundRegions
from kedit.data.inpaint import MeanFill
from kedit.data.pairs import counterfactuals
from kedit.data.pictures import SampleError
from kedit.models.segmenter import ClipSeg, Sam, boxes
from kedit.samples import Concept, Mask, Sample
from tests import tiny_segmenters

A = Concept("a")
HEIGHT, WIDTH = 40, 56
BOXES = [(5, 5, 20, 15), (30, 20, 50, 35)]


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> ClipSeg:
    return ClipSeg(str(tiny_segmenters.clipseg(tmp_path_factory.mktemp("clipseg"))))


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Sam:
    return Sam(str(tiny_segmenters.sam(tmp_path_factory.mktemp("sam"))))


def filled(corners: list[tuple[int, int, int, int]]) -> Mask:
    region = np.zeros((HEIGHT, WIDTH), bool)
    for left, top, right, bottom in corners:
        region[top:bottom, left:right] = True
    return region


def noisy(name: str = "s7", region: Mask | None = None) -> Sample:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    return Sample(name, Image.fromarray(pixels), regions={} if region is None else {"a": region})


# --- the models


def test_clipseg_marks_the_pixels_that_it_is_sure_enough_of(clipseg: ClipSeg) -> None:
    module, processor = clipseg._loaded
    inputs = processor(text=["a"], images=[noisy().image], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = module(**inputs).logits
    sure = torch.nn.functional.interpolate(logits.sigmoid()[None], (HEIGHT, WIDTH), mode="bilinear")[0, 0].numpy()
    found = clipseg(noisy(), A)
    assert found.shape == (HEIGHT, WIDTH)
    assert found.dtype == bool
    assert np.array_equal(found, sure >= 0.4) or (found != (sure >= 0.4)).mean() < 0.01
    assert 0 < found.mean() < 1


def test_a_higher_threshold_of_clipseg_finds_a_part_of_what_a_lower_one_does(clipseg: ClipSeg) -> None:
    low, high = (replace(clipseg, threshold=value)(noisy(), A) for value in (0.1, 0.9))
    assert not (high & ~low).any()
    assert high.sum() < low.sum()


def test_sam_looks_inside_each_box_and_nowhere_else(sam: Sam) -> None:
    region = filled(BOXES)
    everything = replace(sam, threshold=-1e9)(noisy(region=region), A)
    assert np.array_equal(everything, region)
    assert not replace(sam, threshold=1e9)(noisy(region=region), A).any()
    module, processor = sam._loaded
    both = sam(noisy(region=region), A)
    for one in BOXES:
        inputs = processor(images=[noisy().image], input_boxes=[[[float(side) for side in one]]], return_tensors="pt")
        with torch.no_grad():
            logits = module(**inputs, multimask_output=False).pred_masks
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        expected = processor.post_process_masks(logits, *sizes)[0][0, 0].numpy() & filled([one])
        assert np.array_equal(both & filled([one]), expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6, unique=True))
def test_boxes_that_a_gap_separates_are_found_again(cells: list[tuple[int, int]]) -> None:
    placed = [(14 * column + 1, 10 * row + 2, 14 * column + 9, 10 * row + 8) for row, column in cells]
    assert sorted(boxes(filled(placed))) == sorted(placed)


def test_an_empty_region_has_no_box_and_overlapping_ones_have_one() -> None:
    assert boxes(np.zeros((HEIGHT, WIDTH), bool)) == []
    assert boxes(filled([(5, 5, 20, 15), (10, 10, 30, 30)])) == [(5, 5, 30, 30)]


def test_the_boxes_cover_the_region() -> None:
    region = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.02
    assert not (region & ~filled(boxes(region))).any()


# --- in front of an inpainter


def test_where_the_data_has_no_region_the_found_one_is_painted_out_and_kept_with_the_sample(clipseg: ClipSeg) -> None:
    sample, inpaint = noisy(), MeanFill(dilation=0)
    pair = FoundRegions(inpaint, clipseg)(sample, A)
    found = clipseg(sample, A)
    assert np.array_equal(pair.sample.region(A), found)
    changed = (np.array(pair.image) != np.array(sample.image)).any(-1)
    assert not changed[~found].any()
    assert changed[found].mean() > 0.9
    assert sample.regions == {}


def test_a_region_of_the_data_set_is_preferred_to_clipseg_and_refined_by_sam(clipseg: ClipSeg, sam: Sam) -> None:
    sample = noisy(region=filled(BOXES))
    assert FoundRegions(MeanFill(), clipseg)(sample, A).sample is sample
    pair = FoundRegions(MeanFill(), sam)(sample, A)
    assert np.array_equal(pair.sample.region(A), sam(sample, A))


class Blind:
    """Finds nothing in any picture."""

    refines = False

    def __call__(self, sample: Sample, concept: Concept) -> Mask:
        return np.zeros((sample.image.height, sample.image.width), bool)


def test_what_is_not_found_and_what_has_no_box_is_skipped_and_counted(sam: Sam) -> None:
    nothing = FoundRegions(MeanFill(), Blind())
    samples = [noisy("one"), noisy("two", filled(BOXES)), noisy("three")]
    pairs = counterfactuals(nothing, samples, A)
    assert [pair.sample.id for pair in pairs.made] == ["two"]
    assert pairs.skipped == {"no_region_found": 2}
    with pytest.raises(SampleError, match="`one`: the data has no box of `a` to look in") as raised:
        FoundRegions(MeanFill(), sam)(noisy("one"), A)
    assert raised.value.reason == "no_box"


def test_the_model_is_let_go_after_the_pairs(clipseg: ClipSeg) -> None:
    mine = replace(clipseg)
    counterfactuals(FoundRegions(MeanFill(), mine), [noisy()], A)
    assert "_loaded" not in vars(mine)


# --- what is no segmenter


@pytest.mark.parametrize("make", [ClipSeg, Sam])
def test_a_missing_folder_is_one_clear_error(make: Callable[[str], ClipSeg | Sam]) -> None:
    with pytest.raises(FileNotFoundError, match=r"no (CLIPSeg\w+|SamModel) in `/no/such`: .*give a folder"):
        make("/no/such")(noisy(region=filled(BOXES)), A)


def test_the_folder_of_another_model_is_refused(clipseg: ClipSeg, sam: Sam) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=f"`{sam.path}`"):
        ClipSeg(sam.path)(noisy(), A)
    with pytest.raises((FileNotFoundError, ValueError), match=f"`{clipseg.path}`"):
        Sam(clipseg.path)(noisy(region=filled(BOXES)), A)


def test_lost_weights_are_named_and_not_made_up(clipseg: ClipSeg, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in Path(clipseg.path).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = sorted(weights)[0]
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"it lacks 1 of its weights, such as `{lost}`"):
        ClipSeg(str(tmp_path))(noisy(), A)


def test_a_threshold_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="`threshold` is a probability between 0 and 1, got 1"):
        ClipSeg("nowhere", threshold=1)
