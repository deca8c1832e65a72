"""Heat maps have known answers; figures show what they were given, and equal input gives equal bytes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from kedit.inspection import (
    CaptionRow,
    HeatRow,
    draw_before_after,
    draw_effects,
    draw_heatmaps,
    draw_layers,
    draw_scores,
    heat_map,
    iou,
    other_regions,
    pointing_hit,
    region_auc,
)
from kedit.samples import Concept, Sample

BLUE = (0x00, 0x72, 0xB2)
SKY = (0xB5, 0xD9, 0xEE)
VERMILLION = (0xD5, 0x5E, 0x00)


def mask(*rows: str) -> NDArray[np.bool_]:
    """Return the mask drawn in text: `#` is inside."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def pixels(path: Path) -> NDArray[np.int64]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"), dtype=np.int64)


def having(picture: NDArray[np.int64], color: tuple[int, int, int]) -> NDArray[np.bool_]:
    return (picture == color).all(-1)


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


# Figures


def heat_row(**changed: object) -> HeatRow:
    board = np.indices((16, 16)).sum(0) % 2 * 255
    original = Image.fromarray(board.astype(np.uint8)).convert("RGB")
    region = np.zeros((16, 16), dtype=bool)
    region[4:10, 4:10] = True
    others = np.zeros((16, 16), dtype=bool)
    others[12:15, 1:15] = True
    row = {
        "original": original,
        "counterfactual": Image.new("RGB", (16, 16), (10, 200, 30)),
        "heat": region * 2.0,
        "region": region,
        "caption": "a star that costs $5 and $6",
        "others": others,
    }
    return HeatRow(**{**row, **changed})  # type: ignore[arg-type]


def caption_row(before: str = "a red star", after: str = "a red shape") -> CaptionRow:
    return CaptionRow(Image.new("RGB", (16, 16), (0, 128, 0)), before, after, ("star",))


def measured(value: float | None, low: float | None = None, high: float | None = None, **more: object) -> dict:
    return {"value": value, "low": low, "high": high, "n": 20, **more}


EFFECTS = {
    "suppression.mention_drop": (measured(1.0, 1.0, 1.0), measured(0.5, 0.5, 0.5)),
    "retention.text": (measured(None, why="no question was asked"), measured(0.98, 0.9, 1.0)),
}
SCORES = np.linspace(-1, 1, 50).reshape(5, 10)

DRAWINGS: dict[str, Callable[..., None]] = {
    "layers": lambda path, **kw: draw_layers({1: 4, 2: 2}, 4, 100, path, **kw),
    "heatmaps": lambda path, **kw: draw_heatmaps([heat_row(), heat_row(others=None)], path, **kw),
    "captions": lambda path, **kw: draw_before_after([caption_row(), caption_row("a tree", "")], path, **kw),
    "effects": lambda path, **kw: draw_effects(EFFECTS, path, concept="star", **kw),
    "scores": lambda path, **kw: draw_scores(SCORES, SCORES**3, SCORES > 0.8, path, **kw),
}
FINDINGS = {
    "layers": "6 of 400 neurons located (1.5 %); 4 of them in layer 1",
    "heatmaps": "The neurons fire most inside the concept's region in 2 of 2 pictures",
    "captions": "`star` is gone from 1 of 1 captions that named it",
    "effects": "`star`: mention_drop is 1.00 with the edit, 0.50 with random neurons",
    "scores": "5 of 50 neurons pass both difference and gradcam",
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_equal_input_gives_equal_bytes_of_a_wide_page_whose_title_says_the_finding(name: str, tmp_path: Path) -> None:
    """The default title is the finding: a drawing titled so by hand is the same file."""
    before = dict(matplotlib.rcParams)
    DRAWINGS[name](tmp_path / "first.png")
    DRAWINGS[name](tmp_path / "second.png", title=FINDINGS[name])
    DRAWINGS[name](tmp_path / "third.png", title="another title")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert (tmp_path / "first.png").read_bytes() != (tmp_path / "third.png").read_bytes()
    picture = pixels(tmp_path / "first.png")
    assert picture.shape[1] == 1200
    assert picture.shape[0] >= 300
    assert picture.std() > 10, "the page is not blank"
    assert dict(matplotlib.rcParams) == before


def test_bars_of_layers_are_as_high_as_their_counts(tmp_path: Path) -> None:
    draw_layers({1: 40, 3: 20}, 5, 100, tmp_path / "layers.png")
    columns = having(pixels(tmp_path / "layers.png"), BLUE).sum(0)
    runs = [run for run in np.split(columns, np.flatnonzero(np.diff(columns)) + 1) if run[0] > 0 and len(run) > 10]
    assert len(runs) == 2
    assert runs[0][0] == pytest.approx(2 * runs[1][0], abs=3)


def test_candidates_are_drawn_behind_and_many_of_them_do_not_hide_what_was_kept(tmp_path: Path) -> None:
    draw_layers({1: 2}, 3, 9000, tmp_path / "layers.png", candidates={0: 8000, 1: 9000})
    picture = pixels(tmp_path / "layers.png")
    assert having(picture, SKY).sum() > 10_000
    assert having(picture, BLUE).any(1).sum() > 30, "on a linear axis the bar would be invisible"


def test_no_located_neuron_is_drawn_as_such(tmp_path: Path) -> None:
    draw_layers({}, 4, 100, tmp_path / "empty.png")
    draw_layers({0: 0}, 4, 100, tmp_path / "titled.png", title="No neuron of 400 was located")
    assert (tmp_path / "empty.png").read_bytes() == (tmp_path / "titled.png").read_bytes()
    assert not having(pixels(tmp_path / "empty.png"), BLUE).any()


@pytest.mark.parametrize("by_layer", [{4: 1}, {-1: 1}, {0: 101}])
def test_counts_that_the_model_cannot_hold_are_refused(by_layer: dict[int, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layers 0 to 3 of 100"):
        draw_layers(by_layer, 4, 100, tmp_path / "layers.png")
    assert not (tmp_path / "layers.png").exists()


def test_the_region_is_outlined_and_the_picture_keeps_its_pixels(tmp_path: Path) -> None:
    draw_heatmaps([heat_row()], tmp_path / "heat.png")
    picture = pixels(tmp_path / "heat.png")
    assert having(picture, VERMILLION).sum() > 100
    green = having(picture, (10, 200, 30))
    assert green.sum() > 250 * 250, "the counterfactual fills its frame"
    top, left = np.argwhere(green).min(0)
    # The checkerboard stands to the left of the counterfactual: black and white, and no gray of a blur.
    board = picture[top + 5 : top + 255, left - 270 : left - 25]
    assert (having(board, (0, 0, 0)) | having(board, (255, 255, 255))).mean() > 0.98

    draw_heatmaps([heat_row(region=np.zeros((16, 16), dtype=bool))], tmp_path / "plain.png")
    assert not having(pixels(tmp_path / "plain.png"), VERMILLION).any(), "an empty region has no outline"


def test_one_color_scale_serves_all_rows(tmp_path: Path) -> None:
    """A weak map beside a strong one is nearly as dark as no map at all."""
    strong, weak = heat_row(), heat_row(heat=heat_row().heat / 100)
    draw_heatmaps([weak], tmp_path / "alone.png", title="t")
    draw_heatmaps([strong], tmp_path / "strong.png", title="t")
    draw_heatmaps([strong, weak], tmp_path / "both.png", title="t")
    alone, strongest, both = (pixels(tmp_path / f"{name}.png") for name in ("alone", "strong", "both"))

    def yellow(picture: NDArray[np.int64]) -> int:
        heat = picture[:, 600:860]
        return int(((heat[..., 0] > 140) & (heat[..., 1] > 140) & (heat[..., 2] < 90)).sum())

    assert yellow(alone) == yellow(strongest) > 1000
    assert yellow(both) == pytest.approx(yellow(strongest), rel=0.05)


def test_a_heat_map_without_heat_is_drawn(tmp_path: Path) -> None:
    draw_heatmaps([heat_row(heat=np.zeros((16, 16)))], tmp_path / "heat.png")
    assert having(pixels(tmp_path / "heat.png"), VERMILLION).any()


@pytest.mark.parametrize("name", ["heat", "region", "others"])
def test_a_row_whose_arrays_do_not_fit_its_picture_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` is \[8, 16\], the picture is \[16, 16\]"):
        heat_row(**{name: np.zeros((8, 16))})


def test_words_that_went_and_came_are_marked_and_equal_captions_are_not(tmp_path: Path) -> None:
    draw_before_after([caption_row()], tmp_path / "changed.png")
    draw_before_after([caption_row(after="a red star")], tmp_path / "same.png")
    changed, same = pixels(tmp_path / "changed.png"), pixels(tmp_path / "same.png")
    went, came = having(changed, VERMILLION), having(changed, BLUE)
    assert went.any()
    assert came.any()
    assert np.argwhere(went)[:, 0].max() < np.argwhere(came)[:, 0].min(), "before stands above after"
    # Both marked words are the third; letters before it take the same room in either line.
    assert np.argwhere(went)[:, 1].min() == pytest.approx(np.argwhere(came)[:, 1].min(), abs=4)
    assert not having(same, VERMILLION).any()
    assert not having(same, BLUE).any()


def test_long_odd_and_empty_captions_fit_on_the_page(tmp_path: Path) -> None:
    odd = ["word " * 400, "x" * 500, "", "costs $5 and $6 \\frac{", "一只狗 🐕 und ein Bär"]
    draw_before_after([caption_row(text, other) for text, other in zip(odd, reversed(odd), strict=True)],
                      tmp_path / "odd.png")  # fmt: skip
    picture = pixels(tmp_path / "odd.png")
    assert (picture[:, -10:] == 255).all(), "nothing runs off the right edge"
    assert (picture[-10:] == 255).all(), "nothing runs off the bottom"


def test_a_caption_that_never_named_the_concept_is_not_counted_as_silenced(tmp_path: Path) -> None:
    draw_before_after([caption_row("a tree", "a tree")], tmp_path / "a.png")
    title = "None of these 1 captions named `star` before the edit"
    draw_before_after([caption_row("a tree", "a tree")], tmp_path / "b.png", title=title)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match="`concept_words` is empty"):
        CaptionRow(Image.new("RGB", (1, 1)), "", "", ())


def test_bars_of_effects_are_as_long_as_their_values(tmp_path: Path) -> None:
    draw_effects({"drop": (measured(1.0), measured(0.5))}, tmp_path / "effects.png", concept="star")
    picture = pixels(tmp_path / "effects.png")
    # The rows of the legend hold short patches of both colors; the bars are the longest runs.
    edited, control = (int(having(picture, color).sum(1).max()) for color in (BLUE, SKY))
    assert edited == pytest.approx(2 * control, rel=0.02)


def test_a_measure_that_could_not_be_taken_has_no_bar(tmp_path: Path) -> None:
    missing = {"value": None, "low": None, "high": None, "n": 0, "why": "no encoder"}
    for name, pair in (("none", (missing, missing)), ("zero", (measured(0.0), measured(0.0)))):
        draw_effects({"bertscore": pair}, tmp_path / f"{name}.png", concept="star", title="t")
    none, zero = (pixels(tmp_path / f"{name}.png") for name in ("none", "zero"))
    assert having(none, BLUE).sum() == having(zero, BLUE).sum(), "the legend alone is blue"
    assert (none != zero).any(), "not measured looks different from 0"


def test_a_value_beyond_one_stretches_its_axis_and_stays_on_the_page(tmp_path: Path) -> None:
    draw_effects(
        {"logprob_drop": (measured(7.0, 6.0, 8.0), measured(-0.5, -1.0, 0.0))}, tmp_path / "e.png", concept="x"
    )
    picture = pixels(tmp_path / "e.png")
    assert (picture[:, -5:] == 255).all()
    assert having(picture, BLUE).sum(1).max() > 300


def test_selected_scores_are_marked_and_scores_that_are_not_finite_left_out(tmp_path: Path) -> None:
    first, second = SCORES.copy(), SCORES.copy()
    first[0, 0], second[0, 1] = np.nan, -np.inf
    none = np.zeros_like(SCORES, dtype=bool)
    draw_scores(first, second, none, tmp_path / "none.png")
    draw_scores(first, second, none, tmp_path / "t.png", title="0 of 48 neurons pass both difference and gradcam")
    draw_scores(first, second, SCORES > 0.5, tmp_path / "some.png")
    assert (tmp_path / "none.png").read_bytes() == (tmp_path / "t.png").read_bytes()
    marked = [having(pixels(tmp_path / f"{name}.png"), VERMILLION).sum() for name in ("none", "some")]
    assert marked[1] > marked[0] + 200
    with pytest.raises(ValueError, match="one shape"):
        draw_scores(first, second[1:], none, tmp_path / "bad.png")


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: draw_heatmaps([], path),
        lambda path: draw_before_after([], path),
        lambda path: draw_effects({}, path, concept="star"),
    ],
)
def test_nothing_to_draw_is_an_error_and_leaves_no_file(draw: Callable[[Path], None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def test_importing_inspection_loads_no_plotting_and_drawing_loads_no_pyplot(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, kedit.inspection as inspection\n"
        "assert 'matplotlib' not in sys.modules\n"
        "inspection.draw_layers({0: 1}, 2, 10, pathlib.Path(sys.argv[1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.png")], check=True, cwd=Path(__file__).parents[1])
    draw_layers({0: 1}, 2, 10, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes(), "equal in another process"
