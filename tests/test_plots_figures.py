"""Each figure shows what it was given: values where they belong, what is missing as such, the wrong refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image
from test_plots import (
    CELLS,
    GRID,
    LACKING,
    SCORES,
    STAGES,
    STREAMS,
    TRIALS,
    WIDTHS,
    caption_row,
    heat_row,
    saying,
    scores,
    share,
    trial,
)  # fmt: skip

import kedit.plots as plots
from kedit.evaluation.statistics import Measured
from kedit.neurons import NeuronSet
from kedit.plots import Drawing, PictureRow, Trial
from kedit.plots.style import CONCEPT, CONTROL, EARLIER, EDITED, KEPT
from kedit.plots.trials import varied
from kedit.samples import Concept


def pixels(drawing: Drawing, path: Path) -> NDArray[np.int64]:
    drawing.save(path / "figure.png")
    with Image.open(path / "figure.png") as image:
        return np.asarray(image.convert("RGB"), dtype=np.int64)


def having(picture: NDArray[np.int64], color: str) -> NDArray[np.bool_]:
    return (picture == [int(color[at : at + 2], 16) for at in (1, 3, 5)]).all(-1)


def written(drawing: Drawing) -> list[str]:
    return [one.get_text() for one in drawing.figure.findobj(Text) if one.get_text().strip()]


def dots(drawing: Drawing, color: str) -> list[tuple[float, float]]:
    """Return where the marks of one color are, in units of their axes."""
    lines = [line for axes in drawing.figure.axes for line in axes.lines if to_hex(line.get_color()) == color.lower()]
    marked = [line for line in lines if line.get_marker() not in ("", "None")]
    return [(float(x), float(y)) for line in marked for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


# Layers


def test_bars_are_shares_and_carry_their_counts() -> None:
    drawing = plots.draw_layers({"few": {1: 4, 2: 2}, "many": {1: 8, 2: 4}}, dict.fromkeys(range(4), 100))
    for axes in drawing.figure.axes:
        assert [bar.get_height() for bar in axes.patches] == pytest.approx([0, 2 / 3, 1 / 3, 0])
    assert {"4", "8", "few (6)", "many (12)"} <= set(written(drawing))
    assert drawing.title == "Layer 1 holds the most neurons in 2 of 2 sets"


def test_candidates_stand_behind_the_located_however_many_they_are() -> None:
    drawing = plots.draw_layers({"": {1: 2}}, dict.fromkeys(range(3), 9000), candidates={0: 8000, 1: 8000})
    colors = [to_hex(bar.get_facecolor()) for bar in drawing.figure.axes[0].patches]
    assert colors == [EARLIER.lower()] * 3 + [EDITED.lower()] * 3
    assert [bar.get_height() for bar in drawing.figure.axes[0].patches] == [0.5, 0.5, 0, 0, 1, 0]
    assert drawing.title == "2 of 27,000 neurons located (0.00741 %); 100 % of them in layer 1"


@pytest.mark.parametrize("sets", [{"": {0: 3}}, {"one": {0: 3}, "other": {0: 1, 1: 1}}])
def test_the_axis_of_shares_ends_at_the_whole(sets: dict[str, dict[int, int]]) -> None:
    for axes in plots.draw_layers(sets, WIDTHS).figure.axes:
        assert max(axes.get_yticks()) == 1 and axes.spines["left"].get_bounds() == (0, 1)
        assert axes.get_ylim()[1] > 1  # room for the count


def test_no_located_neuron_is_drawn_as_such() -> None:
    assert plots.draw_layers({"": {}}, WIDTHS).title == "No neuron of 24 was located"
    assert plots.draw_layers({"a": {}, "b": {0: 0}}, WIDTHS).title == "None of 2 sets has a neuron"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, "`sets` is empty"),
        ({"a": {0: 9}}, "`a` has 9 neurons in layer 0, and the model has 8 there"),
        ({"a": {-1: 1}}, "`a` has 1 neurons in layer -1, and the model has no layer of that number"),
    ],
)
def test_sets_that_the_model_cannot_hold_are_refused(sets: dict[str, dict[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.draw_layers(sets, WIDTHS)


# Scores


def test_located_neurons_are_named_and_thresholds_are_those_of_the_stages(tmp_path: Path) -> None:
    drawing = plots.draw_scores(scores(SCORES, SCORES**3), STAGES)
    pixels(drawing, tmp_path)
    axes = drawing.figure.axes[0]
    lines = [line for line in axes.lines if line.get_linestyle() == "--"]
    # Of the first stage all of layer 2 passed; the last kept the two best of it.
    assert lines[0].get_xdata()[0] == pytest.approx(SCORES[2].min())
    assert lines[1].get_ydata()[0] == pytest.approx(SCORES[2, 14] ** 3)
    assert {"L2.15", "L2.14"} <= set(written(drawing))
    assert drawing.title == "2 of 48 neurons pass both `difference` and `gradcam`"


def test_scores_that_are_not_finite_are_left_out_and_other_shapes_refused() -> None:
    first, second = SCORES.copy(), SCORES.copy()
    first[0, 0], second[0, 1] = np.nan, -np.inf
    nothing = dict.fromkeys(STAGES, NeuronSet())
    assert plots.draw_scores(scores(first, second), nothing).title.startswith("0 of 46 neurons")
    with pytest.raises(ValueError, match="one shape"):
        plots.draw_scores(scores(first, second[1:]), nothing)
    with pytest.raises(ValueError, match="two stages"):
        plots.draw_scores({"difference": scores(first, second)["difference"]}, STAGES)


# Pictures


def test_the_region_is_outlined_and_the_picture_keeps_its_pixels(tmp_path: Path) -> None:
    picture = pixels(plots.draw_heatmaps([heat_row()], concept="star"), tmp_path)
    assert having(picture, CONCEPT).sum() > 100
    green = having(picture, "#0AC81E")
    assert green.sum() > 250 * 250, "the counterfactual fills its frame"
    top, left = np.argwhere(green).min(0)
    # The checkerboard stands to the left of the counterfactual: black and white, and no gray of a blur.
    board = picture[top + 5 : top + 255, left - 270 : left - 25]
    assert (having(board, "#000000") | having(board, "#FFFFFF")).mean() > 0.98
    empty = heat_row(region=np.zeros((16, 16), dtype=bool))
    assert not having(pixels(plots.draw_heatmaps([empty], concept="star"), tmp_path), CONCEPT).any()


def test_one_color_scale_serves_all_rows(tmp_path: Path) -> None:
    """A weak map beside a strong one is nearly as dark as no map at all."""
    strong, weak = heat_row(), heat_row(heat=heat_row().heat / 100)

    def yellow(*rows: plots.HeatRow) -> int:
        heat = pixels(plots.draw_heatmaps(rows, concept="star"), tmp_path)[:, 600:860]
        # The outline's edge is less green than the hottest color.
        return int(((heat[..., 0] > 140) & (heat[..., 1] > 190) & (heat[..., 2] < 90)).sum())

    assert yellow(weak) == yellow(strong) > 1000
    assert yellow(strong, weak) == pytest.approx(yellow(strong), rel=0.05)
    assert yellow(heat_row(heat=np.zeros((16, 16)))) == 0


def test_the_title_of_heat_maps_counts_hits_and_names_the_concept() -> None:
    away = heat_row(heat=np.pad(np.ones((2, 2)), ((0, 14), (14, 0))))
    title = plots.draw_heatmaps([heat_row(), away], concept="star").title
    assert title == "The neurons of `star` fire most inside its region in 1 of 2 pictures"


@pytest.mark.parametrize("name", ["heat", "region", "others"])
def test_a_row_whose_arrays_do_not_fit_its_picture_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` is \[8, 16\], the picture is \[16, 16\]"):
        heat_row(**{name: np.zeros((8, 16))})


def test_words_that_went_and_came_are_marked_and_equal_captions_are_not(tmp_path: Path) -> None:
    changed = pixels(plots.draw_before_after([caption_row()]), tmp_path)
    same = pixels(plots.draw_before_after([caption_row(after="a red star")]), tmp_path)
    went, came = having(changed, CONCEPT), having(changed, EDITED)
    assert went.any()
    assert came.any()
    assert np.argwhere(went)[:, 0].max() < np.argwhere(came)[:, 0].min(), "before stands above after"
    # Both marked words are the third; letters before it take the same room in either line.
    assert np.argwhere(went)[:, 1].min() == pytest.approx(np.argwhere(came)[:, 1].min(), abs=4)
    assert not having(same, CONCEPT).any()
    assert not having(same, EDITED).any()


def test_long_odd_and_empty_captions_fit_on_the_page(tmp_path: Path) -> None:
    odd = ["word " * 400, "x" * 500, "", "costs $5 and $6 \\frac{", "一只狗 🐕 und ein Bär"]
    rows = [caption_row(text, other) for text, other in zip(odd, reversed(odd), strict=True)]
    picture = pixels(plots.draw_before_after(rows), tmp_path)
    assert (picture[:, -10:] == 255).all(), "nothing runs off the right edge"
    assert (picture[-10:] == 255).all(), "nothing runs off the bottom"


def test_a_caption_that_never_named_the_concept_is_not_counted_as_silenced() -> None:
    never = plots.draw_before_after([caption_row("a tree", "a tree")])
    assert never.title == "None of these 1 captions named `star` before the edit"
    both = plots.draw_before_after([caption_row("a tree", "a tree"), caption_row()])
    assert both.title == "`star` is gone from 1 of these 1 captions that named it"
    dog, person = Concept("dog", unless=("hot dog",)), Concept("person", ("man", "woman"))
    for concept, before, after in ((dog, "a dog", "a hot dog"), (person, "a man", "a person")):
        counted = plots.draw_before_after([plots.CaptionRow(Image.new("RGB", (16, 16)), before, after, concept)])
        assert counted.title == f"`{concept.name}` is gone from 1 of these 1 captions that named it"


def painted_row(*, control: bool) -> PictureRow:
    gray, black = (Image.new("RGB", (24, 16), color) for color in ("gray", "black"))
    region = np.pad(np.ones((6, 8), bool), ((4, 6), (6, 10)))
    return PictureRow(
        "s7", {"picture": gray, "over": gray, "counterfactual": black, "control": black if control else None},
        {"over": region},
    )  # fmt: skip


def test_pictures_stand_in_their_columns_and_regions_are_outlined(tmp_path: Path) -> None:
    for control in (True, False):
        columns = np.array_split(pixels(plots.draw_pictures([painted_row(control=control)], title="t"), tmp_path), 4, 1)
        assert [bool((column < 3).all(-1).mean() > 0.2) for column in columns] == [False, False, True, control]
        assert [bool(having(column, CONCEPT).sum() > 100) for column in columns] == [False, True, False, False]


def test_a_region_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"region of `a` is \[3, 3\], the picture is \[16, 24\]"):
        PictureRow("s7", {"a": Image.new("RGB", (24, 16))}, {"a": np.zeros((3, 3), bool)})


# Effects


def test_points_are_at_their_values_and_what_was_not_measured_says_so() -> None:
    missing = Measured.missing("no encoder")
    drawing = plots.draw_effects({"mention_drop": (share(1.0), share(0.5))}, {"bleu": (missing, share(0.2))}, title="t")
    assert [x for x, _ in dots(drawing, EDITED)] == [1.0]
    assert [x for x, _ in dots(drawing, CONTROL)] == [0.5, 0.2]
    assert {"not measured: no encoder", "1.00 [0.90, 1.00]"} <= set(written(drawing))
    nothing = plots.draw_effects({"mention_drop": (share(1.0), share(0.5)), "bleu": (missing, missing)}, {}, title="t")
    assert written(nothing).count("not measured: no encoder") == 1


def test_an_axis_reaches_as_far_as_the_values_and_begins_high_where_all_are_high() -> None:
    far = Measured(7.0, 6.0, 8.0, 9), Measured(-0.5, -1.0, 0.0, 9)
    for pair, (low, high) in (
        (far, (-1, 8)),
        ((share(0.95), share(0.99)), (0.8, 1)),
        ((share(0.3), share(0.9)), (0, 1)),
    ):
        axes = plots.draw_effects({"x": pair}, {}, title="t").figure.axes[0]
        assert axes.get_xlim() == pytest.approx((low, high), abs=0.04 * (high - low))


def test_measures_without_a_value_are_left_out_and_none_at_all_is_refused() -> None:
    drawing = plots.draw_measures(
        {"a": {"one": (share(0.5), None), "two": (LACKING, None)}, "b": {"c": (LACKING, LACKING)}}, title="t"
    )
    assert len(drawing.figure.axes) == 1
    assert "two" not in " ".join(written(drawing))
    with pytest.raises(ValueError, match="no figure has a value"):
        plots.draw_measures({"a": {"two": (LACKING, LACKING)}}, title="t")


def test_the_reference_is_blue_and_random_methods_are_gray() -> None:
    drawing = plots.draw_ranking(
        {"a": {"drop": share(0.5)}, "b": {"drop": share(0.4)}, "c": {"drop": share(0.1)}},
        title="t",
        marked="a",
        faded=("c",),
    )
    assert dots(drawing, EDITED) == [(0.5, 0)]
    assert dots(drawing, CONTROL) == [(0.1, 2)]


# Sweeps


def test_no_evidence_is_hollow(tmp_path: Path) -> None:
    solid, hollow = (pixels(plots.draw_pareto([trial(evidence=one)], title="t"), tmp_path) for one in (True, False))
    assert having(solid, EDITED).sum() > having(hollow, EDITED).sum() > 0
    assert "no evidence" in plots.draw_pareto([trial(evidence=False)], title="t").looks


def test_equal_points_are_drawn_once_and_named_by_their_jobs(tmp_path: Path) -> None:
    front = {"on_front": True, "neurons": 4}
    one = plots.draw_pareto([trial(**front)], title="t")
    many = plots.draw_pareto([trial(number, **front) for number in range(3)], title="t")
    assert dots(one, EDITED) == dots(many, EDITED) == [(0.9, 0.8)]
    for drawing, label in ((one, "0"), (many, "0 +2")):
        pixels(drawing, tmp_path)
        assert label in written(drawing)


def test_trials_without_a_value_are_left_out_and_none_at_all_is_refused() -> None:
    mute = replace(trial(5), drop=LACKING)
    assert dots(plots.draw_pareto([trial(), mute], title="t"), EDITED) == [(0.9, 0.8)]
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.draw_pareto([mute], title="t")
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.draw_doses([Trial("a", 1, LACKING, LACKING)], title="t")


def test_doses_are_in_order_and_equal_numbers_of_neurons_are_their_mean() -> None:
    trials = [
        Trial("a", 4, share(1.0), share(0.5)),
        Trial("a", 2, share(0.2), share(0.9)),
        Trial("a", 4, share(0.5), share(0.5)),
    ]
    drawing = plots.draw_doses(trials, title="t")
    assert dots(drawing, CONCEPT) == [(2, 0.2), (4, 0.75)]
    assert dots(drawing, CONTROL) == []
    assert all(float(tick).is_integer() for tick in drawing.figure.axes[0].get_xticks())
    assert dots(plots.draw_doses(TRIALS, title="t"), CONTROL) != []


def test_equal_figures_of_other_neurons_count_and_equal_neurons_count_once() -> None:
    def of(drop: float, neurons: str, panel: str = "star") -> Trial:
        return Trial("a", 8, share(drop), share(0.5), panel=panel, edited=neurons)

    several = [
        of(1.0, "x"),
        of(1.0, "y"),
        of(0.5, "z"),
        of(0.5, "z"),
        Trial("a", 2, share(0.2), share(0.5), panel="star"),
    ]
    assert dots(plots.draw_doses(several, title="t"), CONCEPT) == [(2, 0.2), (8, pytest.approx(2.5 / 3))]


def test_a_peak_that_nobody_knows_is_not_zero() -> None:
    def row(peak: float | None) -> Any:
        return SimpleNamespace(layer=0, index=1, peak=peak, words=("a",), opposite=("b",))

    assert plots.draw_words([row(None)], concept="dog").title == "What neurons of `dog` say"
    assert plots.draw_words([row(None), row(-1.0)], concept="dog").title.startswith(
        "1 of 1 neurons of `dog` fire below"
    )


def test_concepts_that_are_edited_in_other_numbers_have_doses_of_their_own() -> None:
    def of(concept: str, neurons: int, drop: float) -> Trial:
        return Trial("a", neurons, share(drop), share(0.5), panel=concept)

    alike = [of("star", 2, 0.2), of("star", 4, 0.4), of("house", 2, 0.6), of("house", 4, 0.8)]
    assert dots(plots.draw_doses(alike, title="t"), CONCEPT) == [(2, 0.4), (4, pytest.approx(0.6))]
    once = [of("star", 2, 0.2), of("house", 4, 0.8)]
    assert not varied(once) and varied(alike)
    apart = plots.draw_doses([of("star", 2, 0.2), of("star", 4, 0.4), of("house", 6, 0.8)], title="t")
    assert dots(apart, CONCEPT) == [(2, 0.2), (4, 0.4), (6, 0.8)]
    assert {"star, a", "house, a"} <= set(written(apart))
    locators = [of("star", 2, 0.2), of("star", 4, 0.4), replace(of("star", 8, 0.9), locator="b")]
    both = plots.draw_doses(locators, title="t")
    assert dots(both, CONCEPT) == [(2, 0.2), (4, 0.4), (8, 0.9)] and {"a", "b"} <= set(written(both))


def test_equal_curves_stand_side_by_side_and_show_around_each_other() -> None:
    """Two curves at 1 would be one: bars are moved by points of type, not data, and the marks behind are larger."""
    drawing = plots.draw_doses([trial(n, drop=1.0, kept=1.0) for n in (1, 2, 3)], title="t")
    lines = {to_hex(line.get_color()): line for line in drawing.figure.axes[0].lines if line.get_marker() in "os"}
    before, behind = lines[CONCEPT.lower()], lines[KEPT.lower()]
    assert list(before.get_xdata()) == list(behind.get_xdata()) == [3, 6, 9]
    assert behind.get_markersize() > before.get_markersize()
    moved = [line.get_transform().transform((3, 1)) for line in (before, behind)]
    assert moved[1][0] - moved[0][0] == pytest.approx(3 / 72 * drawing.figure.dpi) and moved[0][1] == moved[1][1]


def test_a_curve_has_a_gap_where_nothing_was_measured() -> None:
    drawing = plots.draw_setting(
        ["0.8", "0.9", "1"], {"retention": [share(0.1), LACKING, share(0.9)]}, title="t", setting="q"
    )
    assert [value == value for _, value in dots(drawing, KEPT)] == [True, False, True]


def test_maps_that_do_not_fit_the_grid_or_are_empty_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the map of `retention` is \[1, 2\], and the grid \[2, 2\]"):
        plots.draw_thresholds(replace(GRID, maps={"retention": CELLS[:1]}), title="t")
    with pytest.raises(ValueError, match="no cell of any map has a value"):
        plots.draw_thresholds(replace(GRID, maps={"retention": CELLS * np.nan}), title="t")
    with pytest.raises(ValueError, match="no measure has a value"):
        plots.draw_setting(["0.9"], {"retention": [LACKING]}, title="t", setting="q")


def test_the_most_selective_cells_are_outlined_unless_all_are(tmp_path: Path) -> None:
    level = np.ones((2, 2))
    for maps, outlined in ((GRID.maps, True), ({"mention_drop": CELLS}, False), ({"selectivity": level}, False)):
        drawing = plots.draw_thresholds(replace(GRID, maps=maps), title="t")
        pixels(drawing, tmp_path)
        drawn = [one for axes in drawing.figure.axes for one in axes.collections if isinstance(one, ContourSet)]
        assert len(drawn) == (len(maps) if outlined else 0)
        assert any("outlined" in note for note in drawing.notes) == outlined


def test_a_cell_without_a_result_is_hatched(tmp_path: Path) -> None:
    unmeasured = replace(GRID, undone=np.zeros((2, 2), bool))
    failed, dashed = (
        having(pixels(plots.draw_thresholds(one, title="t"), tmp_path), "#B0B0B0").sum() for one in (GRID, unmeasured)
    )
    assert dashed < failed
    assert "-" in written(plots.draw_thresholds(unmeasured, title="t"))


def test_large_maps_are_drawn_without_numbers() -> None:
    for size, shown in ((12, True), (13, False)):
        sides = tuple(f"q{n}" for n in range(size))
        grid = plots.Grid(
            ("a", "b"), sides, sides, {"retention": np.full((size, size), 0.25)}, np.zeros((size, size), bool)
        )
        assert (".25" in written(plots.draw_thresholds(grid, title="t"))) == shown


# Matrices and the rest


def test_cells_hold_their_shares_and_none_is_blank() -> None:
    drawing = plots.draw_matrix({"a": {"a": 1.0, "b": None}, "b": {"a": 0.004, "b": 0.3}}, title="t", what="w")
    assert sorted(one.get_text() for one in drawing.figure.axes[0].texts) == ["", ".30", "0", "1"]
    with pytest.raises(ValueError, match="`cells` is empty"):
        plots.draw_matrix({}, title="t", what="w")


def test_each_picture_is_a_dot_in_the_color_of_its_kind() -> None:
    drawing = plots.draw_responses({"a": {"with": np.arange(40.0), "without": np.zeros(2)}}, title="t", scale="s")
    assert [y for _, y in dots(drawing, CONCEPT)] == list(range(40))
    with pytest.raises(ValueError, match="`responses` is empty"):
        plots.draw_responses({}, title="t", scale="s")


def test_the_figure_of_words_says_which_side_of_zero_each_neuron_fires_on() -> None:
    drawing = plots.draw_words([saying(peak) for peak in (2.0, -3.0, None)], concept="star")
    assert drawing.title == "1 of 2 neurons of `star` fire below zero in its pictures"
    bars, beside = drawing.figure.axes
    assert [bar.get_width() for bar in bars.patches] == [2, -3, 0]
    assert [text.get_text() for text in beside.texts] == ["star", "moon"] * 3


def test_streams_show_what_zeroing_changes_on_a_scale_of_its_own() -> None:
    moved = replace(STREAMS, convergence={name: values + 0.001 for name, values in STREAMS.convergence.items()})
    drawing = plots.draw_streams(STREAMS, {"located": moved, "random": STREAMS}, title="t")
    upper, lower = drawing.figure.axes[0], drawing.figure.axes[2]
    assert {round(float(line.get_ydata()[0]), 6) for line in lower.lines} == {0.001, 0}
    assert np.ptp(lower.get_ylim()) < 0.01 < np.ptp(upper.get_ylim())
    assert len(plots.draw_streams(STREAMS, {}, title="t").figure.axes) == 2
    with pytest.raises(ValueError, match="2 edits, got 3"):
        plots.draw_streams(STREAMS, dict.fromkeys("abc", STREAMS), title="t")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.draw_heatmaps([], concept="star"),
        lambda: plots.draw_words([], concept="star"),
        lambda: plots.draw_before_after([]),
        lambda: plots.draw_pictures([], title="t"),
        lambda: plots.draw_effects({}, {}, title="t"),
        lambda: plots.draw_ranking({}, title="t"),
        lambda: plots.draw_lines({}, title="t", across="x"),
    ],
)
def test_nothing_to_draw_is_an_error(draw: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw()
