"""Heat maps have known answers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kedit.inspection import heat_map, iou, other_regions, pointing_hit, region_auc
from kedit.samples import Concept, Sample


def mask(*rows: str) -> NDArray[np.bool_]:
    """Return the mask drawn in text: `#` is inside."""
    return np.array([[letter == "#" for letter in row] for row in rows])


# Heat maps


def test_heat_is_the_mean_of_positive_activations_in_the_cells_of_the_grid() -> None:
    values = np.array([[1.0, 3.0], [-4.0, 2.0], [0.0, 0.0], [-1.0, -1.0]])
    heat = heat_map(values, (2, 2), (4, 2), mode="nearest")
    assert heat.tolist() == [[2, 2, 1, 1], [0, 0, 0, 0]]


def test_positions_fill_the_grid_row_by_row_and_the_size_is_width_by_height() -> None:
    heat = heat_map(np.arange(6.0)[:, None], (2, 3), (3, 2), mode="nearest")
    assert heat.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert heat_map(np.ones((6, 1)), (2, 3), (30, 10)).shape == (10, 30)


def test_bilinear_heat_interpolates_between_the_centers_of_cells() -> None:
    # Pixel centers lie at -1/4, 1/4, 3/4 and 5/4 of a cell, and the edge repeats.
    heat = heat_map(np.array([[0.0], [4.0]]), (1, 2), (4, 1))
    assert heat.tolist() == [[0, 1, 3, 4]]


def test_absolute_heat_counts_both_signs() -> None:
    assert heat_map(np.array([[-3.0, 1.0]]), (1, 1), (1, 1), part="absolute").tolist() == [[2]]
    assert heat_map(np.array([[-3.0, 1.0]]), (1, 1), (1, 1)).tolist() == [[0.5]]


def test_no_neurons_give_a_map_without_heat_that_points_nowhere() -> None:
    heat = heat_map(np.empty((4, 0)), (2, 2), (4, 4))
    region = np.ones((4, 4), dtype=bool)
    assert heat.shape == (4, 4)
    assert not heat.any()
    assert not pointing_hit(heat, region)
    assert iou(heat, region) == 0


def test_a_tensor_of_any_type_gives_the_same_heat_as_the_array() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.bfloat16, requires_grad=True)
    expected = heat_map(np.array([[1.0, 2.0], [3.0, -4.0]]), (2, 1), (5, 5))
    assert np.array_equal(heat_map(values, (2, 1), (5, 5)), expected)


def test_positions_that_do_not_fill_the_grid_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"grid of 16 x 16 needs values `\[256, neuron\]`, got \[32, 5\]"):
        heat_map(np.zeros((32, 5)), (16, 16), (224, 224))
    with pytest.raises(ValueError, match=r"got \[4\]"):
        heat_map(np.zeros(4), (2, 2), (4, 4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        heat_map(np.array([[bad]]), (1, 1), (2, 2))


# Judging a heat map


def test_a_map_points_at_the_region_that_holds_its_peak() -> None:
    heat = np.array([[0.0, 1.0], [3.0, 2.0]])
    assert pointing_hit(heat, mask("..", "#."))
    assert not pointing_hit(heat, mask("##", ".#"))


def test_a_shared_peak_counts_where_most_of_it_lies() -> None:
    heat = np.array([[1.0, 1.0, 1.0, 0.0]])
    assert pointing_hit(heat, mask("##.."))
    assert not pointing_hit(heat, mask("#..#"))
    assert not pointing_hit(np.array([[1.0, 1.0, 0.0]]), mask("#..")), "half is not most"


def test_a_flat_map_hits_nothing_even_if_the_region_is_the_picture() -> None:
    assert not pointing_hit(np.full((3, 3), 2.0), np.ones((3, 3), dtype=bool))


def test_iou_counts_pixels_of_at_least_half_the_peak() -> None:
    heat = np.array([[4.0, 2.0, 1.9, 0.0]])
    assert iou(heat, mask("#...")) == 1 / 2
    assert iou(heat, mask(".##.")) == 1 / 3
    assert iou(heat, mask("##..")) == 1
    assert iou(heat, mask("...#")) == 0
    assert iou(heat, mask("###."), share=0.25) == 1


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_of_the_peak_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=str(share)):
        iou(np.ones((1, 1)), mask("#"), share=share)


def test_auc_is_the_chance_that_an_inside_pixel_is_hotter_than_an_outside_one() -> None:
    # Of the pairs (3, 2), (3, 0), (1, 2), (1, 0), three are in order. The background's 9 is not judged.
    assert region_auc(np.array([[3.0, 1.0, 2.0, 0.0, 9.0]]), mask("##..."), mask("..##.")) == 0.75
    assert region_auc(np.array([[5.0, 5.0]]), mask("#."), mask(".#")) == 0.5
    assert region_auc(np.array([[5.0, 6.0]]), mask("#."), mask(".#")) == 0


def test_auc_judges_pixels_of_both_regions_in_neither() -> None:
    assert region_auc(np.array([[2.0, 0.0, 1.0]]), mask("##."), mask(".##")) == 1


def test_auc_refuses_a_region_without_pixels_of_its_own() -> None:
    with pytest.raises(ValueError, match="`outside` has no pixel"):
        region_auc(np.ones((1, 2)), mask("##"), mask(".#"))
    with pytest.raises(ValueError, match="`inside` has no pixel"):
        region_auc(np.ones((1, 2)), mask(".."), mask(".#"))


levels = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(levels, levels)
def test_auc_equals_the_count_over_all_pairs(own: list[int], others: list[int]) -> None:
    heat = np.array([[*own, *others]], dtype=np.float64)
    inside = np.array([[True] * len(own) + [False] * len(others)])
    wins = sum((a > b) + (a == b) / 2 for a in own for b in others)
    assert region_auc(heat, inside, ~inside) == pytest.approx(wins / (len(own) * len(others)))
    assert region_auc(heat, inside, ~inside) + region_auc(heat, ~inside, inside) == pytest.approx(1)


@given(levels, st.integers(1, 50))
def test_verdicts_do_not_depend_on_the_unit_of_activation(values: list[int], factor: int) -> None:
    heat = np.array([values], dtype=np.float64)
    region = np.arange(len(values))[None] % 2 == 0
    assert pointing_hit(heat, region) == pointing_hit(heat * factor, region)
    assert iou(heat, region) == iou(heat * factor, region)


def test_a_region_of_another_size_is_refused_with_both_shapes() -> None:
    for judge in (pointing_hit, iou, lambda heat, region: region_auc(heat, region, region)):
        with pytest.raises(ValueError, match=r"\[2, 2\] and the region \[1, 2\]"):
            judge(np.ones((2, 2)), mask("##"))


def test_other_regions_are_those_of_the_other_objects_less_the_concept() -> None:
    regions = {"star": mask("##.."), "tree": mask(".##."), "ring": mask("...#")}
    sample = Sample("1", Image.new("RGB", (4, 1)), regions=regions)
    assert np.array_equal(other_regions(sample, Concept("star")), mask("..##"))
    assert np.array_equal(other_regions(sample, Concept("house")), mask("####"))
    assert not other_regions(Sample("2", Image.new("RGB", (4, 1))), Concept("star")).any()
