"""From polygons, boxes and run lengths to masks: cases done by hand, and what describes no region."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kedit.data.masks import Box, Outline, Polygons, RunLengths, outline, uncompressed, union
from tests.coco_maker import compressed, mask_of, rectangle, rle, runs_of

GOLDEN = "a9??0000000000000000000000000000000000000W9"


def rows(*lines: str) -> np.ndarray:
    return np.array([[character == "#" for character in line] for line in lines])


def test_a_polygon_holds_the_pixels_whose_centers_lie_in_it() -> None:
    assert np.array_equal(outline([rectangle(1, 1, 2, 2)]).draw(4, 5), rows(".....", ".##..", ".##..", "....."))
    assert np.array_equal(outline([rectangle(1.4, 1, 2.2, 2)]).draw(3, 5), rows(".....", ".###.", ".###."))
    triangle = outline([[0, 0, 4, 4, 0, 4]])
    assert np.array_equal(triangle.draw(4, 4) | np.eye(4, dtype=bool), np.tri(4, dtype=bool))


def test_a_hole_is_a_polygon_crossing_itself_and_two_polygons_are_their_union() -> None:
    ring = [0, 0, 4, 0, 4, 4, 0, 4, 0, 0, 1, 1, 1, 3, 3, 3, 3, 1, 1, 1]
    assert np.array_equal(outline([ring]).draw(4, 4), rows("####", "#..#", "#..#", "####"))
    both = outline([rectangle(0, 0, 2, 1), rectangle(1, 0, 2, 2)])
    assert np.array_equal(both.draw(2, 4), rows("###.", ".##."))


@given(st.integers(-6, 12), st.integers(-6, 12), st.integers(1, 20), st.integers(1, 20))
def test_a_rectangle_is_cut_off_at_the_edge_of_the_picture_as_polygon_and_as_box(
    x: int, y: int, w: int, h: int
) -> None:
    expected = np.zeros((40, 40), dtype=bool)
    expected[y + 10 : y + 10 + h, x + 10 : x + 10 + w] = True
    expected = expected[10:19, 10:17]
    assert np.array_equal(outline([rectangle(x, y, w, h)]).draw(9, 7), expected)
    assert np.array_equal(Box(x, y, w, h).draw(9, 7), expected)


@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=9), st.randoms())
def test_a_polygon_is_the_same_from_any_corner_and_in_either_direction(corners: list, random: object) -> None:
    def drawn(points: list) -> np.ndarray:
        return Polygons((np.array(points, np.float32).ravel(),)).draw(20, 20)

    assert np.array_equal(drawn(corners), drawn(corners[2:] + corners[:2]))
    # An edge that meets a pixel's very center belongs to one side; which one, rounding decides.
    assert (drawn(corners) != drawn(corners[::-1])).sum() <= len(corners)


def test_run_lengths_count_down_the_columns() -> None:
    counted = {"size": [3, 2], "counts": [1, 2, 0, 1, 2]}
    assert np.array_equal(outline(counted).draw(3, 2), rows(".#", "#.", "#."))
    assert np.array_equal(outline({"size": [3, 2], "counts": "132"}).draw(3, 2), rows(".#", "#.", "#."))


def test_compressed_run_lengths_are_what_cocos_own_tool_writes() -> None:
    # pycocotools 2.0.11: encode of a 30 x 40 mask with a rectangle of rows 5-19, columns 10-29.
    assert uncompressed(GOLDEN) == [305, *[15, 15] * 19, 15, 310]
    assert np.array_equal(RunLengths(GOLDEN, 30, 40).draw(30, 40), mask_of(10, 5, 20, 15))


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_any_mask_survives_both_kinds_of_run_lengths(mask: np.ndarray) -> None:
    assert uncompressed(compressed(runs_of(mask))) == runs_of(mask)
    for text in (False, True):
        assert np.array_equal(outline(rle(mask, text=text)).draw(*mask.shape), mask)


def test_the_union_of_no_outline_is_empty() -> None:
    assert not union([], 3, 4).any()
    assert union([Box(0, 0, 1, 1), Box(3, 2, 1, 1)], 3, 4).sum() == 2


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (outline([]), "the outline is empty: it has no polygon"),
        (outline([[1, 2, 3, 4]]), "three or more points x, y; got 4 numbers"),
        (outline([[1, 2, 3, 4, 5, 6, 7]]), "three or more points x, y; got 7 numbers"),
        (outline([[]]), "got 0 numbers"),
        (outline([[0, 0, 1, float("nan"), 1, 1]]), "no finite number"),
        (outline([["a", 1, 2, 3, 4, 5]]), "neither polygons nor run lengths"),
        (outline(None), "neither polygons nor run lengths"),
        (outline(7), "neither polygons nor run lengths"),
        (outline({"counts": [12]}), "neither polygons nor run lengths .KeyError: 'size'"),
        (outline({"size": [3, 5], "counts": [15]}), "the mask is 5 x 3 pixels, the picture 4 x 3"),
        (outline({"size": [3, 4], "counts": [5, 5]}), "cover 10 pixels, the picture has 12"),
        (outline({"size": [3, 4], "counts": [5, -5, 12]}), "cover 12 pixels"),
        (outline({"size": [3, 4], "counts": "1~"}), "not of its alphabet: '~'"),
        (outline({"size": [3, 4], "counts": "1h"}), "cut off"),
        (Box(1, 1, 0, 2), "the last two above 0; got .1, 1, 0, 2."),
        (Box(1, float("inf"), 1, 2), "a box is x, y, width, height"),
    ],
)
def test_what_describes_no_region_says_why(described: Outline, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        described.draw(3, 4)
