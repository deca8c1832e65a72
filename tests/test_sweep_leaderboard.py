"""What a sweep leaves at its end: ranked tables, figures, a table in the terminal, and a mirror in W&B."""

import csv
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kedit.cli.leaderboard as recipe
from kedit.cli.sweeping import picture
from kedit.cli.sweeping.axes import grid, highest, line, numeric_keys, ordered
from kedit.cli.sweeping.leaderboard import HEADER, as_csv, as_json, as_markdown, flat, ranked
from kedit.cli.sweeping.pareto import pareto
from kedit.cli.sweeping.rows import read
from kedit.cli.sweeping.summary import TABLES, chosen, lines, table, terminal, written
from kedit.results.tracking import NoTracker, WandbTracker
from tests.wandb_reader import offline_run

REAL = Path(__file__).parent / "fixtures" / "sweep"
FIGURES = ["dose.png", "pareto.png", "thresholds.png"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A copy of the real sweep: jobs 1 to 5 done, 0 and 6 failed, 7 killed, 8 never started."""
    return Path(shutil.copytree(REAL, tmp_path / "sweep"))


def large(folder: Path, side: int = 10) -> Path:
    """Lay out a sweep of `side` x `side` jobs with the reports and neurons of the real one."""
    jobs = [
        [f"locate.stages.difference.select.q=0.{row}", f"locate.stages.gradcam.select.q=0.{column}"]
        for row in range(side)
        for column in range(side)
    ]
    for number in range(len(jobs)):
        shutil.copytree(REAL / str(1 + number % 5), folder / str(number))
    (folder / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*folder.glob("leaderboard.*"), *folder.glob("figures/*")]}


# Tables


def test_jobs_are_ranked_by_selectivity_then_mention_drop_then_number(sweep: Path) -> None:
    assert [row.number for row, _ in ranked(read(sweep))] == [2, 4, 1, 3, 5]
    for number in (1, 3):
        shutil.copy(sweep / "2" / "report.json", sweep / str(number) / "report.json")
    report = json.loads((sweep / "2" / "report.json").read_text())
    report["selectivity"] = {"value": None, "low": None, "high": None, "n": 0, "why": "the fluency guard failed"}
    (sweep / "2" / "report.json").write_text(json.dumps(report))
    assert [row.number for row, _ in ranked(read(sweep))] == [1, 3, 4, 5, 2]


def test_jobs_as_selective_as_the_first_are_counted(sweep: Path) -> None:
    def first_line() -> str:
        found = read(sweep)
        return next(line for line in as_markdown(found, pareto(found), [], []).splitlines() if "Highest" in line)

    assert " more as high" not in first_line()
    for number in (1, 3):
        shutil.copy(sweep / "2" / "report.json", sweep / str(number) / "report.json")
    assert ", and 2 more as high, " in first_line()
    found = read(sweep)
    drawing = picture._pareto(found, picture.trials(found, pareto(found)))
    assert not isinstance(drawing, str) and "(with 2 more), the most selective, suppresses" in drawing.title


def test_the_csv_has_one_line_for_each_job_and_a_header_that_stays(sweep: Path) -> None:
    found = read(sweep)
    rows = list(csv.DictReader(as_csv(found, pareto(found)).splitlines()))
    assert [row["number"] for row in rows] == [str(number) for number in range(9)]
    assert list(rows[0]) == [*HEADER, "swept.difference.q", "swept.gradcam.q"]
    report = json.loads((sweep / "4" / "report.json").read_text())
    for name, where in (("retention", report["retention"]["overall"]), ("selectivity", report["selectivity"])):
        told = [rows[4][f"{name}{part}"] for part in ("", "_low", "_high", "_n")]
        assert [float(one) for one in told] == [where[key] for key in ("value", "low", "high", "n")]
    assert (rows[4]["status"], rows[4]["swept.difference.q"], rows[4]["pareto"]) == ("done", "0.9", "False")
    assert (rows[2]["pareto"], rows[7]["status"], rows[7]["neurons"]) == ("True", "running", "")
    assert rows[6]["why"].endswith("got 1.5")


def test_a_sweep_over_concepts_has_both_columns() -> None:
    found = read(REAL)
    renamed = type(found)(found.folder, found.rows, {"concept": "concept"})
    columns = flat(renamed, pareto(renamed)).columns
    assert len(set(columns)) == len(columns)
    assert {"concept", "swept.concept"} <= set(columns)


def test_the_json_nests_the_same_and_names_swept_keys_and_the_pareto_set(sweep: Path) -> None:
    found = read(sweep)
    content = json.loads(json.dumps(as_json(found, pareto(found))))
    assert content["swept"] == {
        "difference.q": "locate.stages.difference.select.q",
        "gradcam.q": "locate.stages.gradcam.select.q",
    }
    assert content["counts"] == {"jobs": 9, "done": 5, "failed": 2, "running": 1, "missing": 1}
    assert content["ranking"] == [2, 4, 1, 3, 5]
    assert content["pareto"] == {"jobs": [2], "left_out": {"not_measured": 0, "no_evidence": 1}}
    report = json.loads((sweep / "2" / "report.json").read_text())
    assert content["jobs"][2]["mention_drop"] == report["suppression"]["mention_drop"]
    assert content["jobs"][2]["beats_control"] == {"mention_drop": True, "p": 0.03125}
    assert content["jobs"][0]["status"] == "failed"


def test_the_page_ranks_and_tells_failed_jobs_last_with_their_reason(sweep: Path) -> None:
    shutil.copy(sweep / "2" / "neurons.json", sweep / "4" / "neurons.json")
    found = read(sweep)
    page = as_markdown(found, pareto(found), ["figures/pareto.png"], ["There is no dose.png: so it is."])
    body = [line for line in page.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in body[2:]] == [f"| {number}" for number in (2, 4, 1, 3, 5, 0, 6, 7, 8)]
    assert len({line.replace("\\|", "").count("|") for line in body}) == 1
    assert "| 2 | 0.5 | 0.998 | 2 | 1.00 [0.61, 1.00] |" in body[2]
    assert body[2].endswith("| yes, p = 0.031 | Pareto set |")
    assert "same neurons as job 2" in body[3]
    assert body[-3].endswith("`q` is a quantile between 0 and 1, got 1.5 |")
    assert body[-1].endswith("| missing: it never started |")
    assert "# Leaderboard of 9 jobs: 5 done, 2 failed, 1 running, 1 missing" in page
    assert "concept `star`, model `scenes`, locator `two_stage`, operator `Zero()`, positions `all`" in page
    assert "n: mention_drop 6, retention 5 to 8," in page
    assert "95 % intervals over samples" in page
    assert "![figures/pareto.png](figures/pareto.png)" in page
    assert page.endswith("There is no dose.png: so it is.\n")


# Axes


def test_values_are_in_the_order_of_numbers_and_words_come_last() -> None:
    assert ordered(["10", "null", "0.95", "0.9", "10"]) == ("0.9", "0.95", "10", "null")


def test_maps_hold_what_each_job_found_where_it_belongs(sweep: Path) -> None:
    found = read(sweep)
    assert numeric_keys(found) == ["difference.q", "gradcam.q"]
    maps, jobs = grid(found, ("difference.q", "gradcam.q"))
    assert (maps.rows, maps.columns, jobs) == (("0.5", "0.9", "1.5"), ("0.5", "0.95", "0.998"), 1)
    np.testing.assert_equal(maps.maps["neurons"], [[np.nan, 51, 2], [102, 10, 0], [np.nan] * 3])
    assert maps.undone.tolist() == [[True, False, False], [False] * 3, [True] * 3]
    assert np.argwhere(maps.best).tolist() == [[0, 2]] and highest(maps) == "1.00, at 1 of 9 points"
    maps.maps["selectivity"][1, 1] = maps.maps["selectivity"][0, 2]
    assert highest(maps) == "1.00, at 2 of 9 points"


def test_seeds_are_no_axis_and_are_averaged_over(tmp_path: Path) -> None:
    jobs = [[f"seed={seed}", f"locate.stages.gradcam.select.q={q}"] for seed in (1, 2, 3) for q in (0.5, 0.9)]
    for number, real in enumerate((1, 2, 3, 4, 5, 2)):
        shutil.copytree(REAL / str(real), tmp_path / str(number))
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    found = read(tmp_path)
    assert numeric_keys(found) == ["gradcam.q"]
    values, measures, count = line(found, "gradcam.q")
    assert (values, count) == (("0.5", "0.9"), 3)
    kept = [result.figures["retention"].value or 0 for _, result in found.done]
    assert [one.value for one in measures["retention"]] == pytest.approx([sum(kept[::2]) / 3, sum(kept[1::2]) / 3])
    assert {one.low for one in measures["retention"]} == {None}


# All of it


def test_equal_reports_give_equal_bytes_wherever_and_whenever(sweep: Path, tmp_path: Path) -> None:
    board = written(sweep, page=False)
    first = contents(sweep)
    assert sorted(first) == sorted([*TABLES, *FIGURES])
    assert (board.complete, board.lacking) == (False, ())
    other = Path(shutil.copytree(REAL, tmp_path / "elsewhere" / "other"))
    for _ in range(2):
        written(other, page=False)
        assert contents(other) == first
    assert not any(str(tmp_path).encode() in content for content in first.values())
    assert list(sweep.rglob(".*.png")) == []


def test_a_sweep_that_failed_altogether_says_why_and_keeps_no_old_figure(sweep: Path) -> None:
    for number in range(1, 6):
        (sweep / str(number) / "STATUS").write_text("failed: OutOfMemoryError: no room\n")
    (sweep / "figures").mkdir()
    (sweep / "figures" / "pareto.png").write_bytes(b"old")
    board = written(sweep)
    assert board.figures == ()
    assert list((sweep / "figures").iterdir()) == []
    page = (sweep / "leaderboard.md").read_text()
    assert "**No job has a result.**" in page
    assert "There is no pareto.png: no job has both a mention_drop and a retention." in page
    assert "jobs 1, 2, 3, 4, 5 failed: OutOfMemoryError: no room" in list(lines(board))
    terminal(board)


def test_the_figures_of_a_sweep_have_the_style_of_its_jobs(sweep: Path) -> None:
    assert all(figure.endswith(".png") for figure in written(sweep, page=False).figures)
    (sweep / "0" / ".hydra").mkdir(exist_ok=True)
    for asked, format in (("{format: svg, titles: false}", "svg"), ("false", "png"), ("{format: gif}", "png")):
        (sweep / "0" / ".hydra" / "config.yaml").write_text(f"figures: {asked}\n")
        board = written(sweep, page=False)
        assert board.figures == tuple(f"figures/{name}.{format}" for name in ("pareto", "thresholds", "dose"))
        assert {one.suffix for one in (sweep / "figures").iterdir()} == {f".{format}"}


def test_one_job_gives_a_leaderboard_and_says_what_cannot_be_drawn(sweep: Path) -> None:
    (sweep / "sweep.json").write_text(json.dumps({"jobs": [["concept=star"]]}))
    shutil.rmtree(sweep / "0")
    (sweep / "1").rename(sweep / "0")
    board = written(sweep)
    assert board.complete
    assert board.figures == ("figures/pareto.png",)
    assert board.lacking == (
        "There is no thresholds.png: no setting with numbers differs between the jobs.",
        "There is no dose.png: all jobs edit the same number of neurons (51).",
    )


def test_the_terminal_shows_few_rows_of_many_jobs_each_neuron_set_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = large(tmp_path / "large")
    began = time.process_time()
    found = read(folder)
    assert time.process_time() - began < 1
    assert len(found.rows) == 100
    board = written(folder, page=False)
    assert [(row.number, others) for row, _, others in chosen(board)] == [(1, 19), (3, 19), (0, 19), (2, 19), (4, 19)]
    assert table(board).row_count == 5
    capsys.readouterr()
    terminal(board)
    printed = capsys.readouterr().out
    assert "Leaderboard of 100 jobs: 100 done" in printed
    assert f"files: {folder} (leaderboard.csv" in printed
    assert max(map(len, printed.splitlines()[:12])) <= 120


class Notebook(NoTracker):
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.tables: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = {}
        self.figures: dict[str, bytes] = {}

    def log(self, metrics: Mapping[str, float]) -> None:
        self.numbers |= metrics

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.tables[name] = columns, rows

    def figure(self, name: str, path: Path) -> None:
        self.figures[name] = path.read_bytes()


def test_a_tracker_is_told_the_counts_the_best_job_the_table_and_the_figures(sweep: Path) -> None:
    notebook = Notebook()
    written(sweep, notebook, page=False)
    numbers = notebook.numbers
    assert [numbers[name] for name in ("jobs", "done", "without_result", "pareto_jobs")] == [9, 5, 4, 1]
    assert [numbers[f"best/{name}"] for name in ("job", "neurons", "selectivity", "retention")] == [2, 2, 1, 1]
    columns, rows = notebook.tables["leaderboard"]
    assert [dict(zip(columns, row, strict=True))["status"] for row in rows[5:]] == [
        *("done", "failed", "running", "missing")
    ]
    assert {f"{name}.png": drawn for name, drawn in notebook.figures.items()}.items() <= contents(sweep).items()
    assert sorted(notebook.figures) == ["dose", "pareto", "thresholds"]


@pytest.mark.slow
def test_the_table_and_the_figures_are_mirrored_offline(sweep: Path, tmp_path: Path) -> None:
    tracker = WandbTracker(project="p", mode="offline")
    tracker.start("summary", {}, tmp_path / "summary")
    written(sweep, tracker)
    tracker.finish()
    found = offline_run(tmp_path / "summary")
    summary = found["summary"]
    assert (summary["jobs"], summary["done"], summary["without_result"], summary["pareto_jobs"]) == (9, 5, 4, 1)
    assert (summary["best/job"], summary["best/neurons"], summary["best/selectivity"]) == (2, 2, 1)
    (files,) = (tmp_path / "summary").glob("wandb/offline-run-*/files")
    content = json.loads((files / summary["leaderboard.path"]).read_text())
    assert (content["columns"][:3], len(content["data"])) == (["number", "status", "why"], 9)
    for name in ("pareto", "thresholds", "dose"):
        drawn = (sweep / "figures" / f"{name}.png").read_bytes()
        assert (files / summary[f"{name}.path"]).read_bytes() == drawn


# The command


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["kedit leaderboard", *words])
    return recipe.main()


def test_the_command_ranks_and_fails_when_a_job_has_no_result(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, str(sweep)) == 1
    printed = capsys.readouterr().out
    assert "job 7 running: it was killed, or still runs: its STATUS is `running`" in printed
    assert (sweep / "leaderboard.md").is_file()


def test_the_command_is_content_when_every_job_is_done(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (0, 6, 7):
        shutil.rmtree(sweep / str(number))
    (sweep / "sweep.json").unlink()
    assert call(monkeypatch, str(sweep)) == 0


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--help"], 0)])
def test_no_folder_is_a_wrong_command(
    words: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *words) == code
    printed = capsys.readouterr()
    assert "kedit leaderboard FOLDER" in (printed.err if code else printed.out)


def test_a_folder_that_is_no_sweep_is_a_wrong_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, str(tmp_path)) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"kedit: `{tmp_path}` is no sweep")
    assert message.count("\n") == 1
