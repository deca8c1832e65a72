"""Laws of every figure: equal bytes, no text on another, nothing cut off, colors that stay apart."""

import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html import escape
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

import kedit.plots as plots
from kedit.cli.configuration import figure_style
from kedit.evaluation.statistics import Measured
from kedit.inspection import Streams
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.paths import conf_dir
from kedit.plots import Curve, Drawing, HeatRow, Look, PictureRow, Style, Trial
from kedit.plots.lines import MODALITIES
from kedit.plots.marks import FAR
from kedit.plots.style import (
    BASELINE,
    CONCEPT,
    CONTROL,
    EARLIER,
    EDITED,
    KEPT,
    PALETTE,
    SERIES,
    looks_of,
    name,
    sentence,
    setting_name,
)  # fmt: skip
from kedit.samples import Concept

WIDTHS = {0: 8, 1: 8, 2: 8}
LACKING = Measured.missing("no caption named it")


def share(value: float, n: int = 24) -> Measured:
    return Measured(value, max(0, value - 0.1), min(1, value + 0.1), n)


def heat_row(**changed: object) -> HeatRow:
    board = np.indices((16, 16)).sum(0) % 2 * 255
    region, others = np.zeros((16, 16), dtype=bool), np.zeros((16, 16), dtype=bool)
    region[4:10, 4:10], others[12:15, 1:15] = True, True
    row: dict[str, Any] = {
        "original": Image.fromarray(board.astype(np.uint8)).convert("RGB"),
        "counterfactual": Image.new("RGB", (16, 16), (10, 200, 30)),
        "heat": region * 2.0,
        "region": region,
        "caption": "a star that costs $5 and $6",
        "others": others,
    }
    return HeatRow(**{**row, **changed})


def caption_row(before: str = "a red star", after: str = "a red shape") -> plots.CaptionRow:
    return plots.CaptionRow(Image.new("RGB", (16, 16), (0, 128, 0)), before, after, Concept("star"))


def scores(*maps: NDArray[np.float64]) -> dict[str, NeuronScores]:
    return {
        stage: NeuronScores(torch.tensor(one), "s") for stage, one in zip(("difference", "gradcam"), maps, strict=True)
    }


def trial(number: int = 0, drop: float = 0.8, kept: float = 0.9, **more: Any) -> Trial:
    told: dict[str, Any] = {"locator": "two_stage", "neurons": 3 * number, "panel": "star"}
    told |= {"control_drop": share(0.0), "control_kept": share(1.0)} | more
    return Trial(number=number, drop=share(drop), kept=share(kept), **told)


def saying(peak: float | None, words: tuple[str, ...] = ("star",), opposite: tuple[str, ...] = ("moon",)) -> Any:
    return SimpleNamespace(layer=31, index=1517, peak=peak, words=words, opposite=opposite)


CLOSE = 5 + np.linspace(0, 0.3, 16).reshape(2, 8) ** 2
SCORES = np.linspace(-1, 1, 48).reshape(3, 16)
STAGES = {
    "difference": NeuronSet(tuple(NeuronId(2, n) for n in range(16))),
    "gradcam": NeuronSet((NeuronId(2, 15), NeuronId(2, 14))),
}
TRIALS = [trial(n, drop=n / 6, kept=1 - n / 12, on_front=True) for n in range(6)]
OTHERS = [trial(n, 0.5, 0.5 + n / 10, locator=locator) for n, locator in enumerate(("gradcam", "nam", "random"))]
CELLS = np.array([[0.2, 0.9], [np.nan, 0.4]])
GRID = plots.Grid(
    ("difference.q", "gradcam.q"), ("0.9", "0.95"), ("0.8", "0.9"),
    {"mention_drop": CELLS, "retention": CELLS, "selectivity": CELLS, "neurons": CELLS * 2000}, np.isnan(CELLS),
)  # fmt: skip
STREAMS = Streams({"image": np.full((4, 3), 0.3), "text": np.full((4, 3), 0.6)}, {"image": np.full((4, 3), 0.2)}, None)
METHODS = ("two_stage", "gradcam", "act_unembed", "random_layer_matched")
PICTURE = Image.new("RGB", (24, 16), "gray")
REGION = np.pad(np.ones((6, 8), bool), ((4, 6), (6, 10)))

FIGURES: dict[str, Callable[[], Drawing]] = {
    "draw_answers": lambda: plots.draw_answers({"color": (share(0.9), share(0.4), LACKING)}, title="t"),
    "draw_before_after": lambda: plots.draw_before_after([caption_row(), caption_row("a tree", "")]),
    "draw_benchmark": lambda: plots.draw_benchmark(
        {method: {"plain": 0.4, "polysemantic": None, "mean": 0.4} for method in METHODS},
        {"forwards": ["1"] * 4, "memory": ["0.6x"] * 4}, title="t", marked="two_stage",
    ),
    "draw_doses": lambda: plots.draw_doses(
        [trial(n, n / 9, locator=one) for n in range(1, 9) for one in METHODS], title="t"
    ),
    "draw_effects": lambda: plots.draw_effects(
        {"mention_drop": (share(1.0), share(0.1)), "substitutions": (share(0.1), share(0.0))},
        {"objects": (share(1.0), share(0.95)), "text": (LACKING, share(0.9)), "bleu": (share(0.96), share(0.97))},
        title="The edit suppresses `star` beyond its layer-matched random control",
    ),
    "draw_heatmaps": lambda: plots.draw_heatmaps([heat_row(), heat_row(others=None)], concept="star"),
    "draw_intervals": lambda: plots.draw_intervals(
        {f"neurons in common ({n})": {method: [(share(0.3), Look("red"))] for method in METHODS} for n in range(6)},
        {"scenes": Look("red"), "scenes_soft": Look("blue")}, title="t", columns=3,
    ),
    "draw_layers": lambda: plots.draw_layers({one: {0: 3, 1: 1} for one in METHODS}, WIDTHS, candidates={0: 8, 2: 8}),
    "draw_lines": lambda: plots.draw_lines(
        {"a": {"c": Curve([1, 2], [share(0.1), share(0.2)], Look("red"))}}, title="t", across="x", bars=True
    ),
    "draw_matrix": lambda: plots.draw_matrix(
        {one: dict.fromkeys(METHODS, 0.5) for one in METHODS}, title="t", notes=["n = 7 to 8 pictures a cell"],
        what="captions that lose the word", rows="concept whose neurons are edited", columns="concept of the pictures",
    ),
    "draw_measures": lambda: plots.draw_measures(
        {"words": {"decodes to the concept": (share(0.9), share(0.2))}, "stability": {"halves": (share(0.5), None)}},
        title="t",
    ),
    "draw_pareto": lambda: plots.draw_pareto([*TRIALS, *(replace(one, panel="house") for one in OTHERS)], title="t"),
    "draw_pictures": lambda: plots.draw_pictures(
        [PictureRow("s7", {"picture": PICTURE, "over": PICTURE}, {"over": REGION}, frozenset({"picture"}))], title="t"
    ),
    "draw_ranking": lambda: plots.draw_ranking(
        {one: {"mention_drop": share(0.5), "retention": LACKING, "selectivity": share(0.4)} for one in METHODS},
        title="t", marked="two_stage", faded=("random_layer_matched",),
    ),
    "draw_responses": lambda: plots.draw_responses(
        {one: {"with it": np.arange(9.0), "without it": np.zeros(2)} for one in ("located", "random")},
        title="t", scale="s",
    ),
    "draw_scores": lambda: plots.draw_scores(scores(SCORES, SCORES**3), STAGES),
    "draw_setting": lambda: plots.draw_setting(
        ["0.8", "0.9", "null"], {"mention_drop": [share(0.1), LACKING, share(0.9)]}, title="t", setting="gradcam.q"
    ),
    "draw_streams": lambda: plots.draw_streams(STREAMS, {"located neurons zeroed": STREAMS}, title="t"),
    "draw_thresholds": lambda: plots.draw_thresholds(GRID, title="t"),
    "draw_words": lambda: plots.draw_words(
        [saying(3.5 - n, ("$tar", "estrellas", "*") * 9, ("house",)) for n in range(20)], concept="star"
    ),
    "one concept": lambda: plots.draw_pareto(TRIALS, title="t"),
    "two concepts": lambda: plots.draw_matrix({"star": {"star": None, "moon": 0.2}}, title="t", what="in common"),
    "many layers of several": lambda: plots.draw_layers(
        {one: {n: n for n in range(30)} for one in "abcde"}, dict.fromkeys(range(30), 1536)
    ),
    "many layers": lambda: plots.draw_layers({"": {n: 10 * n for n in range(32)}}, dict.fromkeys(range(32), 11008)),
    "close points": lambda: plots.draw_scores(
        scores(CLOSE, CLOSE[::-1] + 1), dict.fromkeys(STAGES, NeuronSet(tuple(NeuronId(0, n) for n in range(8))))
    ),
}  # fmt: skip


def texts_of(drawing: Drawing, path: Path, style: Style, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Save a drawing and return what it writes: the box of each text in pixels by the text and a number."""
    written, draw = list[Text](), Text.draw

    def watched(text: Text, *more: Any, **options: Any) -> None:
        draw(text, *more, **options)
        if text.get_visible() and text.get_text().strip():
            written.append(text)

    with patch.context() as here:
        here.setattr(Text, "draw", watched)
        drawing.save(path, style)
    distinct = enumerate(dict.fromkeys(written))
    return {f"{text.get_text()} ({number})": text.get_window_extent() for number, text in distinct}


def test_every_figure_is_held_to_the_laws_below() -> None:
    assert {one for one in plots.__all__ if one.startswith("draw_")} == {
        one for one in FIGURES if one.startswith("draw_")
    }


@pytest.mark.parametrize("figure", FIGURES)
def test_no_text_lies_on_another_or_is_cut_off_and_equal_input_gives_equal_bytes(
    figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, drawing = dict(matplotlib.rcParams), FIGURES[figure]()
    for style in (Style(), Style(titles=False, width="single")):
        path = tmp_path / f"{style.width}.png"
        boxes = texts_of(drawing, path, style, monkeypatch)
        with Image.open(path) as image:
            picture, (across, up) = np.asarray(image.convert("RGB")), image.size
        assert across == (600 if style.width == "single" and drawing.narrow else 1200)
        assert picture.std() > 10, "the page is not blank"
        cut = [text for text, box in boxes.items() if box.x0 < 0 or box.y0 < 0 or box.x1 > across or box.y1 > up]
        assert not cut, f"{figure} cuts off {cut} at {style.width} width"
        on = [
            (one, other)
            for (one, a), (other, b) in combinations(boxes.items(), 2)
            if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
        ]
        assert not on, f"{figure} writes one text on another at {style.width} width: {on}"
        code = [text for text in boxes if re.search(r"\w_\w", text)]
        assert not code, f"{figure} writes {code}, which nobody but a machine does"
    FIGURES[figure]().save(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "double.png").read_bytes()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("kind", ["pdf", "svg"])
def test_text_stays_text_where_a_file_can_hold_it(kind: str, tmp_path: Path) -> None:
    for number in range(2):
        FIGURES["draw_effects"]().save(tmp_path / f"{number}.{kind}")
    content = (tmp_path / f"0.{kind}").read_bytes()
    assert content == (tmp_path / f"1.{kind}").read_bytes()
    assert b"concept no longer named" in content if kind == "svg" else b"/Type /Font" in content


def test_in_one_column_of_a_paper_panels_stand_one_above_the_other(tmp_path: Path) -> None:
    drawing, heights = FIGURES["draw_thresholds"](), []
    for width in ("single", "double"):
        drawing.save(tmp_path / "a.png", Style(width=width))  # type: ignore[arg-type]
        panels = drawing.figure.axes
        heights.append(len({round(axes.get_position().y0, 3) for axes in panels}))
        named = [bool(axes.yaxis.get_tick_params()["labelleft"]) for axes in panels]
        places = [axes.get_position() for axes in panels]
        assert all(place.height * drawing.figure.get_figheight() > 0.9 for place in places), "in inches"
        for axes, place in zip(panels, places, strict=True):
            (bar,) = [one.get_position() for one in axes.child_axes]
            assert 0 < bar.x0 - place.x1 < 0.1 and (bar.y0, bar.y1) == pytest.approx((place.y0, place.y1))
    assert heights == [4, 2]
    assert named == [True, False, True, False]


def test_a_title_can_be_left_to_the_caption_and_a_drawing_shows_itself(tmp_path: Path) -> None:
    drawing = FIGURES["draw_layers"]()
    drawing.save(tmp_path / "plain.png", Style(titles=False))
    drawing.save(tmp_path / "titled.png")
    plain, titled = (Image.open(io.BytesIO((tmp_path / f"{one}.png").read_bytes())) for one in ("plain", "titled"))
    assert plain.height < titled.height
    # The same figure with fewer pixels, which a notebook keeps.
    inline = Image.open(io.BytesIO(drawing._repr_png_()))
    assert inline.width == 640 and inline.width / inline.height == pytest.approx(titled.width / titled.height, rel=0.01)
    assert f'alt="{escape(drawing.title)}' in drawing.html()


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"format": "gif"}, "`format` is png, pdf or svg; got 'gif'"),
        ({"width": 3}, "`width` is single or double; got 3"),
        ({"titles": "no"}, "`titles` is true or false; got 'no'"),
    ],
)
def test_a_style_that_there_is_not_is_refused(style: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        Style(**style)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], Style()),
        (["figures=false"], False),
        (["figures=true"], True),
        (["figures.format=pdf", "figures.titles=false", "figures.width=single"], Style("pdf", False, "single")),
        (["experiment=thresholds"], False),
        (["experiment=thresholds", "figures={format: pdf}"], Style("pdf")),
    ],
)
def test_a_command_has_figures_of_a_style_or_none(words: list[str], asked: Style | bool) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert figure_style(compose("run", words)) == asked


def test_labels_keep_off_the_points_and_those_that_are_far_have_a_line(tmp_path: Path) -> None:
    drawing = FIGURES["close points"]()
    drawing.save(tmp_path / "a.png")
    (axes,) = drawing.figure.axes
    labels = [one for one in axes.texts if one.get_text()]
    assert len(labels) == 8
    points = axes.transData.transform([one.xy for one in labels])
    boxes = [one.get_window_extent() for one in labels]
    assert not any(box.count_contains(points) for box in boxes)
    ways = [np.clip(at, box.min, box.max) - at for at, box in zip(points, boxes, strict=True)]
    far = sum(np.hypot(*way) > FAR * drawing.figure.dpi / 72 for way in ways)
    assert sum(not one.get_text() for one in axes.texts) == far > 0


# Colours and names


def seen(color: str, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a color as CIE L*a*b* after `matrix` on linear RGB."""
    coded = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    xyz = to_xyz @ np.clip(matrix @ linear, 0, 1) / (0.9505, 1.0, 1.089)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


BLINDNESS = {
    # Machado, Oliveira and Fernandes 2009, severity 1.
    "none": np.eye(3),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
}


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_the_palette_stays_apart_for_eyes_of_every_kind(blindness: str) -> None:
    """A difference of 2.3 is just seen (Mahy et al. 1994); marks of few pixels need several times that."""
    labs = {color: seen(color, BLINDNESS[blindness]) for color in (*PALETTE, "#FFFFFF")}
    apart = {(one, other): float(np.linalg.norm(labs[one] - labs[other])) for one, other in combinations(labs, 2)}
    assert min(apart.values()) > 16, min(apart, key=lambda pair: apart[pair])


def test_the_simulation_tells_colors_that_fail() -> None:
    """Okabe and Ito's green is a gray to some."""
    green, gray = "#009E73", "#8C8C8C"
    apart = {name: np.linalg.norm(seen(green, one) - seen(gray, one)) for name, one in BLINDNESS.items()}
    assert apart["deuteranopia"] < 16 < apart["none"]


def test_no_two_series_differ_by_color_alone() -> None:
    assert len({one.mark for one in SERIES}) == len(SERIES)
    assert all(one.color in PALETTE for one in SERIES)


def test_a_color_with_a_meaning_is_that_of_no_other_series() -> None:
    meant = {EDITED, CONTROL, BASELINE, CONCEPT, KEPT, EARLIER}
    assert not meant & {one.color for one in (*SERIES, *MODALITIES.values())}


def test_the_marked_locator_keeps_its_look_and_random_ones_come_last() -> None:
    looks = looks_of(["random", "nam", "two_stage", "gradcam", "random_layer_matched", "nam"], "two_stage")
    assert list(looks) == ["two_stage", "gradcam", "nam", "random", "random_layer_matched"]
    assert looks["two_stage"] == looks_of(["two_stage"], "two_stage")["two_stage"]
    assert len(set(looks.values())) == len(looks)
    assert "two_stage" not in looks_of(["nam"], "two_stage")


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("mention_drop", "concept no longer named"),
        ("fire_hydrant", "fire hydrant"),
        ("random_layer_matched (broken language)", "random, layer-matched (broken language)"),
        ("locate.stages.q", "locate.stages.q"),
        ("a_b c_d", "a_b c_d"),
    ],
)
def test_words_are_as_people_write_them_and_keys_as_they_are_typed(word: str, written: str) -> None:
    assert name(word) == written
    assert sentence(f"of `{word}`: `x`") == f"of “{written}”: “x”"


@pytest.mark.parametrize(
    ("key", "written"),
    [
        ("gradcam.q", "Grad-CAM: quantile"),
        ("difference.of_max", "difference: share of the highest score"),
        ("edit.last_layer", "edit: last layer"),
        ("factor", "factor"),
    ],
)
def test_an_axis_says_what_a_setting_is(key: str, written: str) -> None:
    assert setting_name(key) == written


# What drawing loads


def test_importing_plots_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, kedit.plots as plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.draw_layers({'': {0: 1}}, {0: 10, 1: 10}).save(pathlib.Path(sys.argv[1]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.png")], check=True, cwd=Path(__file__).parents[1])
    plots.draw_layers({"": {0: 1}}, {0: 10, 1: 10}).save(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes(), "equal in another process"
