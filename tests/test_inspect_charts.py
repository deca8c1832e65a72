"""Charts of inspection draw what they are given, refuse what they cannot draw, and equal input gives equal bytes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kedit.inspection.convergence import Streams
from kedit.inspection.layer_charts import draw_layer_histograms
from kedit.inspection.measure_charts import draw_matrix, draw_measures, draw_responses
from kedit.inspection.stream_charts import draw_streams

BLUE = (0x00, 0x72, 0xB2)
VERMILLION = (0xD5, 0x5E, 0x00)
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
LACKING = {"value": None, "low": None, "high": None, "n": 0, "why": "no grid"}
WIDTHS = {0: 8, 1: 8}
STREAMS = Streams({"image": np.full((4, 3), 0.3), "text": np.full((4, 3), 0.6)}, {"image": np.full((4, 3), 0.2)}, None)

CHARTS: dict[str, Callable[[Path], None]] = {
    "layers": partial(draw_layer_histograms, {"a": {0: 3, 1: 1}, "b": {}}, WIDTHS),
    "measures": partial(draw_measures, {"one": (FIGURE, FIGURE), "two": (LACKING, None)}, title="t"),
    "matrix": partial(draw_matrix, np.eye(3), ["a", "b", "c"], title="t"),
    "responses": partial(draw_responses, {"a": {"with": np.arange(3.0), "without": np.zeros(2)}}, title="t", scale="s"),
    "streams": partial(draw_streams, {"unedited": STREAMS, "zeroed": STREAMS}, title="t"),
}


def count(path: Path, color: tuple[int, int, int]) -> int:
    with Image.open(path) as image:
        pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
    return int((pixels == color).all(-1).sum())


@pytest.mark.parametrize("name", CHARTS)
def test_equal_input_gives_equal_bytes_and_all_is_in_color(name: str, tmp_path: Path) -> None:
    for file in ("a.png", "b.png"):
        CHARTS[name](tmp_path / file)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_bars_are_shares_so_that_sets_of_different_sizes_compare(tmp_path: Path) -> None:
    draw_layer_histograms({"few": {0: 1}}, WIDTHS, tmp_path / "few.png", title="t")
    draw_layer_histograms({"many": {0: 8}}, WIDTHS, tmp_path / "many.png", title="t")
    assert count(tmp_path / "few.png", BLUE) == count(tmp_path / "many.png", BLUE) > 0


def test_a_half_as_full_layer_has_a_bar_half_as_high(tmp_path: Path) -> None:
    draw_layer_histograms({"a": {0: 4}, "b": {0: 2, 1: 2}}, WIDTHS, tmp_path / "both.png", title="t")
    draw_layer_histograms({"a": {0: 4}, "b": {}}, WIDTHS, tmp_path / "one.png", title="t")
    both, one = count(tmp_path / "both.png", BLUE), count(tmp_path / "one.png", BLUE)
    assert both / one == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({}, "`sets` is empty"),
        ({"a": {0: 9}}, "set `a` has 9 neurons in layer 0, and the model has 8 there"),
        ({"a": {2: 1}}, "set `a` has 1 neurons in layer 2, and the model has no layer of that number"),
    ],
)
def test_sets_that_the_model_cannot_hold_are_refused(
    sets: dict[str, dict[int, int]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_layer_histograms(sets, WIDTHS, tmp_path / "no.png")
    assert not list(tmp_path.iterdir())


def test_measures_without_any_value_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the measures has a value"):
        draw_measures({"one": (LACKING, LACKING)}, tmp_path / "no.png", title="t")


def test_a_table_that_does_not_fit_its_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a table of 2 names is \[2, 2\] and not empty, got \[3, 3\]"):
        draw_matrix(np.eye(3), ["a", "b"], tmp_path / "no.png", title="t")


def test_each_picture_is_a_dot_in_the_color_of_its_kind(tmp_path: Path) -> None:
    draw_responses({"a": {"with": np.arange(40.0)}}, tmp_path / "with.png", title="t", scale="s")
    assert count(tmp_path / "with.png", BLUE) == 0
    with pytest.raises(ValueError, match="`responses` is empty"):
        draw_responses({}, tmp_path / "no.png", title="t", scale="s")


def test_a_modality_keeps_its_color_and_more_conditions_than_line_styles_are_refused(tmp_path: Path) -> None:
    draw_streams({"unedited": STREAMS}, tmp_path / "one.png", title="t")
    assert count(tmp_path / "one.png", BLUE) > 0
    assert count(tmp_path / "one.png", VERMILLION) > 0
    with pytest.raises(ValueError, match="1 to 3 conditions, got 4"):
        draw_streams({str(n): STREAMS for n in range(4)}, tmp_path / "no.png", title="t")
