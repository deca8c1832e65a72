"""`kedit inspect` through its command line: what it measures, what it leaves, and what it says of what is missing."""

import csv
import io
import json
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

import kedit.cli.inspect_neurons as recipe
from kedit.models.shipped import HERE

pytestmark = [
    pytest.mark.skipif(
        not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
    ),
    # The first of them loads every library and draws every figure, which a busy machine takes minutes for.
    pytest.mark.timeout(600),
]

SMALL = ("evaluate.locate=4", "evaluate.target=4", "evaluate.retention=3", "evaluate.controls=2", "splits=1",
         "shares=[0.5]", "singles=2", "permutations=1", "others=1")  # fmt: skip
FIGURES = {"concepts", "convergence", "heatmaps", "layers", "measures", "sensitivity", "words"}
SECTIONS = {"words", "heat maps", "sensitivity", "stability", "moved by zeroing"}


def inspected(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run `kedit inspect WORDS` in `folder`; return the exit code, what it said and what it complained of."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kedit inspect", "hydra.run.dir=out", *words])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with chdir(folder):
            code = recipe.main()
    return code, out.getvalue(), err.getvalue()


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "inspect.json").read_text())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, str, str]]:
    """One run that several tests read, and where it lies."""
    folder = tmp_path_factory.mktemp("good")
    return folder, inspected(folder, "concept=star", *SMALL)


def test_a_run_measures_every_section_and_draws_its_figures(good: tuple[Path, tuple[int, str, str]]) -> None:
    folder, (code, out, err) = good
    assert (code, err) == (0, "")
    report = report_of(folder)
    assert set(report["measures"]) == SECTIONS
    assert {path.stem for path in (folder / "out" / "figures").iterdir()} == FIGURES
    assert (folder / "out" / "STATUS").read_text() == "done\n"
    for section in SECTIONS:
        assert section in out


def test_every_measure_is_a_value_with_an_interval_and_n_or_says_why_not(
    good: tuple[Path, tuple[int, str, str]],
) -> None:
    lacking = set()
    for section in report_of(good[0])["measures"].values():
        for name, row in section.items():
            for figure in row.values():
                assert set(figure) >= {"value", "low", "high", "n"}
                if figure["value"] is None:
                    lacking.add(name)
                    assert figure["why"]
                elif figure["low"] is not None:
                    assert figure["low"] <= figure["value"] <= figure["high"]
    assert lacking == {"CLIPScore with pictures"}


def test_the_located_neurons_of_the_shipped_model_point_at_the_concept_and_random_ones_do_not(
    good: tuple[Path, tuple[int, str, str]],
) -> None:
    maps = report_of(good[0])["measures"]["heat maps"]
    peak = maps["peak inside the region"]
    assert peak["located"]["value"] > 0.5 > peak["random"]["value"]
    assert maps["IoU with the region"]["difference"]["low"] > 0


def test_the_pages_hold_the_table_the_words_and_every_figure(good: tuple[Path, tuple[int, str, str]]) -> None:
    folder = good[0] / "out"
    page, decoded = (folder / "inspect.md").read_text(), json.loads((folder / "decode.json").read_text())
    assert all(f"![{name}.png](figures/{name}.png)" in page for name in FIGURES)
    assert "| heat maps | IoU with the region |" in page
    neurons = json.loads((folder / "neurons.json").read_text())["neurons"]
    assert [[one["layer"], one["index"]] for one in decoded] == neurons
    assert all(len(one["words"]) == len(one["raw"]) == len(one["opposite"]) == 10 for one in decoded)
    rows = list(csv.DictReader(io.StringIO((folder / "neurons.csv").read_text())))
    assert [[int(row["layer"]), int(row["neuron"])] for row in rows] == neurons
    assert [row["words"] for row in rows] == [" ".join(one["words"]) for one in decoded]
    assert [row["opposite words"] for row in rows] == [" ".join(one["opposite"]) for one in decoded]
    assert [row["fires"] for row in rows] == [one["fires"] for one in decoded]
    assert (folder / "decode.md").read_text().count("\n| ") == len(neurons) + 2


def test_without_a_located_neuron_every_line_says_so_and_the_run_ends_well(tmp_path: Path) -> None:
    words = ("locate=difference", "locate.stages.difference.select.k=0")
    code, out, _ = inspected(tmp_path, "concept=star", *SMALL, *words)
    assert code == 0
    report = report_of(tmp_path)
    assert report["neurons"]["count"] == 0
    rows = [row["located"] for section in report["measures"].values() for row in section.values()]
    assert {(row["value"], row["why"]) for row in rows} == {(None, "no neuron was located")}
    assert "no IoU with the region: no neuron was located" in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("concept=unicorn",), "no concept `unicorn`"),
        (("evaluate.controls=0",), "`evaluate.controls` is a whole number, 1 or more; got 0"),
        (("clip={_target_: kedit.models.clip_score.ClipScore, path: nowhere}",), "no CLIP folder `nowhere`"),
    ],
)
def test_a_wrong_command_ends_with_one_line(words: tuple[str, ...], line: str, tmp_path: Path) -> None:
    code, _, err = inspected(tmp_path, *words)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert line in err
