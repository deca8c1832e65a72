"""One table of many runs."""

import json
import os
import sys
from pathlib import Path

import pytest

from kedit.cli.table import COLUMNS, main, printed, results, row
from kedit.results.table import Table, show


def measured(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": value, "high": value, "n": 9}


def write_run(folder: Path, concept: str, drop: float | None) -> None:
    folder.mkdir(parents=True)
    report = {
        "model": "scenes",
        "concept": concept,
        "locator": "two_stage",
        "operator": "Zero()",
        "neurons": {"count": 3},
        "weakest_retention": "text",
        "selectivity": measured(0.7),
        "suppression": {name: measured(drop) for name in ("mention_drop", "substitutions")},
        "retention": {"overall": measured(0.96), "others": measured(None)},
        "control": {"suppression": {"mention_drop": measured(0.04)}, "beats_control": {"mention_drop": True}},
    }
    (folder / "report.json").write_text(json.dumps(report))


def test_jobs_are_listed_by_number_and_not_by_letter(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        write_run(tmp_path / str(number), f"c{number}", 1.0)
    assert [one.concept for one in results([str(tmp_path)])] == ["c0", "c2", "c10"]


def test_a_row_shows_values_with_intervals_and_says_what_is_missing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "star", 0.5)
    (result,) = results([str(tmp_path)])
    cells = dict(zip(COLUMNS, map(show, row(result)), strict=True))
    assert cells["mention_drop"] == "0.50 [0.50, 0.50]"
    assert cells["control drop"] == "0.04 [0.04, 0.04]"
    assert cells["others"] == "n/a (no reason given)"
    assert cells["beats control"] == "yes"


def test_a_run_that_broke_the_language_beats_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "star", 1.0)
    path = tmp_path / "run" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fluency": {"passed": False, "why": "it babbles"}}))
    (result,) = results([str(tmp_path)])
    assert show(row(result)[-1]) == "no"


def test_the_table_has_as_many_cells_in_each_line(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "star", 0.5)
    lines = Table(COLUMNS, tuple(row(one) for one in results([str(tmp_path)]))).markdown().splitlines()
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}


def test_the_newest_run_comes_last_and_the_jobs_of_a_sweep_stay_together(tmp_path: Path) -> None:
    for age, name in enumerate(("sweep/1", "z", "sweep/0", "a")):
        write_run(tmp_path / name, name.replace("/", ""), 1.0)
        os.utime(tmp_path / name / "report.json", (100 + age, 100 + age))
    assert [one.concept for one in results([str(tmp_path)])] == ["z", "sweep0", "sweep1", "a"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({}, "-"),
        ({"positions": "image"}, "image"),
        ({"positions": "image", "phase": "both"}, "image"),
        ({"positions": "all", "phase": "decode"}, "all (decode)"),
    ],
)
def test_the_positions_are_told_and_a_phase_that_is_not_both(said: dict[str, str], shown: str, tmp_path: Path) -> None:
    write_run(tmp_path / "run", "star", 0.5)
    path = tmp_path / "run" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    (result,) = results([str(tmp_path)])
    cells = dict(zip(COLUMNS, map(show, row(result)), strict=True))
    assert (cells["positions"], cells["folder"]) == (shown, str(tmp_path / "run"))


def test_a_terminal_shows_the_end_of_a_long_folder_and_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "2026-11-22" / "10-00-00" / "7", "fire hydrant", 0.5)
    monkeypatch.setenv("COLUMNS", "80")
    found = list(results([str(tmp_path)]))
    text = printed(found, terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    assert "│ …26-11-22/10-00-00/7 │" in text
    assert text.count("0.50 [0.50, 0.50]") == 2 and "fire hydrant" in text
    assert f"| {tmp_path}/2026-11-22/10-00-00/7 |" in printed(found, terminal=False)


@pytest.mark.parametrize(("words", "code"), [([], 2), (["--columns", "n"], 2), (["--help"], 0), (["-h"], 0)])
def test_how_it_is_used_is_told(
    words: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedit table", *words])
    assert main() == code
    said = capsys.readouterr()
    assert "usage: kedit table FOLDER" in (said.err if code else said.out)


def test_a_folder_without_runs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedit table", str(tmp_path)])
    assert main() == 2
    assert str(tmp_path) in capsys.readouterr().err
