"""Charts of sweeps draw what they are given, refuse what they cannot draw, and equal input gives equal bytes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kedit.inspection.sweep_charts import TAG, draw_pareto, tag_places
from kedit.inspection.threshold_charts import Grid, draw_dose, draw_threshold_lines, draw_thresholds
from kedit.inspection.trials import Trial, looks_of

VERMILLION, BLUE = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)
LACKING = {"value": None, "low": None, "high": None, "n": 0, "why": "no caption named it"}


def share(value: float) -> dict[str, Any]:
    return {"value": value, "low": max(0, value - 0.1), "high": min(1, value + 0.1), "n": 24}


def trial(number: int = 0, drop: float = 0.8, kept: float = 0.9, **more: Any) -> Trial:
    told: dict[str, Any] = {"panel": "star", "locator": "two_stage", "label": "gradcam.q=0.9", "neurons": 3 * number}
    told |= {"control_drop": share(0.0), "control_kept": share(1.0)} | more
    return Trial(number, drop=share(drop), kept=share(kept), **told)


TRIALS = [trial(n, drop=n / 6, kept=1 - n / 12, on_front=True) for n in range(6)]
BASELINES = [trial(n, 0.5, 0.5 + n / 10, locator=name) for n, name in enumerate(("gradcam", "nam", "random"))]
CELLS = np.array([[0.2, 0.9], [np.nan, 0.4]])
GRID = Grid(
    ("difference.q", "gradcam.q"), ("0.9", "0.95"), ("0.8", "0.9"),
    {"mention_drop": CELLS, "selectivity": CELLS, "neurons": CELLS * 2000}, np.isnan(CELLS),
)  # fmt: skip
LINES = {"mention_drop": [share(0.1), LACKING, share(0.9)]}

# Those of one concept and over two settings are held to the same in test_sweep_leaderboard.py, on real reports.
CHARTS: dict[str, Callable[[Path], None]] = {
    "panels": partial(draw_pareto, [*TRIALS, *(replace(one, panel="house") for one in BASELINES)], title="t"),
    "lines": partial(draw_threshold_lines, ["0.8", "0.9", "null"], LINES, title="t", name="gradcam.q"),
}


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def count(path: Path, color: tuple[int, int, int]) -> int:
    return int((pixels(path) == color).all(-1).sum())


@pytest.mark.parametrize("name", CHARTS)
def test_equal_input_gives_equal_bytes_and_all_is_in_color(name: str, tmp_path: Path) -> None:
    for file in ("a.png", "b.png"):
        CHARTS[name](tmp_path / file)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert len(np.unique(pixels(tmp_path / "a.png").reshape(-1, 3), axis=0)) > 20


def test_the_marked_locator_keeps_its_look_and_random_ones_come_last() -> None:
    looks = looks_of(["random", "nam", "two_stage", "gradcam", "random_layer_matched", "nam"], "two_stage")
    assert list(looks) == ["two_stage", "gradcam", "nam", "random", "random_layer_matched"]
    assert looks["two_stage"] == looks_of(["two_stage"], "two_stage")["two_stage"]
    assert len(set(looks.values())) == len(looks)
    assert "two_stage" not in looks_of(["nam"], "two_stage")


def test_a_locator_is_drawn_in_its_color_and_broken_language_hollow(tmp_path: Path) -> None:
    draw_pareto([trial()], tmp_path / "one.png", title="t")
    draw_pareto([replace(trial(), fluent=False)], tmp_path / "broken.png", title="t")
    draw_pareto([trial(locator="gradcam")], tmp_path / "other.png", title="t")
    assert count(tmp_path / "one.png", VERMILLION) > count(tmp_path / "broken.png", VERMILLION) > 0
    assert count(tmp_path / "other.png", VERMILLION) == 0 < count(tmp_path / "other.png", BLUE)


def test_equal_points_are_drawn_once(tmp_path: Path) -> None:
    draw_pareto([trial()], tmp_path / "one.png", title="t")
    draw_pareto([trial(), trial(1), trial(2)], tmp_path / "many.png", title="t")
    assert (pixels(tmp_path / "one.png") == pixels(tmp_path / "many.png")).all()


def test_trials_without_a_value_are_left_out_and_none_at_all_is_refused(tmp_path: Path) -> None:
    mute = replace(trial(5), drop=LACKING)
    draw_pareto([trial()], tmp_path / "one.png", title="t")
    draw_pareto([trial(), mute], tmp_path / "both.png", title="t")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "both.png").read_bytes()
    for draw in (draw_pareto, draw_dose):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw([replace(mute, kept=LACKING)], tmp_path / "no.png", title="t")
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize("seed", range(5))
def test_tags_never_lie_on_each_other_and_not_on_points_where_there_is_room(seed: int) -> None:
    draws = np.random.default_rng(seed)
    others = [(float(x), float(y)) for x, y in draws.uniform(0, 1, (30, 2)) * (7.0, 4.4)]
    # The front of a sweep crowds into a corner.
    points = [(6.8 - 0.05 * n, 4.0 + 0.05 * n) for n in range(8)]
    tags = tag_places(points, [*others, *points], (7.0, 4.4))
    for number, tag in enumerate(tags):
        assert 0 < tag[0] < 7 and 0 < tag[1] < 4.4
        for other in tags[:number]:
            assert abs(tag[0] - other[0]) >= TAG[0] or abs(tag[1] - other[1]) >= TAG[1]
    (alone,) = tag_places([(3.0, 2.0)], [(3.0, 2.0), *others], (7.0, 4.4))
    assert all(abs(alone[0] - x) >= TAG[0] or abs(alone[1] - y) >= TAG[1] for x, y in others)


def test_maps_that_do_not_fit_the_grid_or_are_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the map of `retention` is \[1, 2\], and the grid \[2, 2\]"):
        draw_thresholds(replace(GRID, maps={"retention": CELLS[:1]}), tmp_path / "no.png", title="t")
    with pytest.raises(ValueError, match="no cell of any map has a value"):
        draw_thresholds(replace(GRID, maps={"retention": CELLS * np.nan}), tmp_path / "no.png", title="t")
    with pytest.raises(ValueError, match="no measure has a value"):
        draw_threshold_lines(["0.9"], {"retention": [LACKING]}, tmp_path / "no.png", title="t", name="q")


def test_the_most_selective_cells_are_framed_in_every_map(tmp_path: Path) -> None:
    draw_thresholds(GRID, tmp_path / "one.png", title="t")
    draw_thresholds(replace(GRID, maps={"mention_drop": CELLS}), tmp_path / "none.png", title="t")
    assert count(tmp_path / "none.png", VERMILLION) == 0 < count(tmp_path / "one.png", VERMILLION)


def test_a_cell_without_a_result_is_hatched(tmp_path: Path) -> None:
    draw_thresholds(GRID, tmp_path / "failed.png", title="t")
    draw_thresholds(replace(GRID, undone=np.zeros((2, 2), bool)), tmp_path / "unmeasured.png", title="t")
    hatch = (0xB0, 0xB0, 0xB0)
    assert count(tmp_path / "unmeasured.png", hatch) < count(tmp_path / "failed.png", hatch)


def test_large_maps_are_drawn_without_numbers(tmp_path: Path) -> None:
    sides = tuple(str(n) for n in range(13))
    cells = np.full((13, 13), 0.25)
    grid = Grid(("a", "b"), sides, sides, {"retention": cells}, np.zeros((13, 13), bool))
    draw_thresholds(grid, tmp_path / "large.png", title="t")
    small = replace(
        grid, rows=sides[:12], columns=sides[:12], maps={"retention": cells[:12, :12]}, undone=grid.undone[:12, :12]
    )
    draw_thresholds(small, tmp_path / "small.png", title="t")

    def colors(path: Path) -> int:
        """Return the colors inside the map, below the title and left of the color bar."""
        return len(np.unique(pixels(path)[130:400, 200:500].reshape(-1, 3), axis=0))

    assert colors(tmp_path / "large.png") <= 2 < colors(tmp_path / "small.png")


def test_random_neurons_are_gray_beside_the_dose(tmp_path: Path) -> None:
    draw_dose(TRIALS, tmp_path / "with.png", title="t")
    without = [replace(one, control_drop=LACKING, control_kept=LACKING) for one in TRIALS]
    draw_dose(without, tmp_path / "without.png", title="t")
    assert count(tmp_path / "with.png", VERMILLION) > 200
    assert (pixels(tmp_path / "with.png") != pixels(tmp_path / "without.png")).any()
