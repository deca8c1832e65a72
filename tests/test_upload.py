"""The last line of a run that W&B kept offline says where it lies, and uploads it when it is run as a command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from wandb_server import serving

from kedit.cli.jobs import tell_offline
from kedit.results.tracking import WandbTracker


def command(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the command that the line about `folder` gives."""
    capsys.readouterr()
    tell_offline(folder)
    (line,) = capsys.readouterr().out.splitlines()
    told, _, words = line.partition(": wandb sync ")
    assert told == "W&B: kept offline; to upload it"
    return f"wandb sync {words}"


def test_a_run_is_told_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a run"
    for name in (
        "offline-run-20261122_100000-old",
        "offline-run-3-new",
        "offline-run-20261122_105959-old",
    ):
        (folder / "wandb" / name).mkdir(parents=True)
    assert command(folder, capsys) == f"wandb sync '{folder}'/wandb/offline-run-3-new"


def test_a_sweep_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        (tmp_path / str(number) / "wandb" / f"offline-run-1-{number}").mkdir(parents=True)
    assert command(tmp_path, capsys) == f"wandb sync {tmp_path}/*/wandb/offline-run-*"
    (tmp_path / "wandb" / "offline-run-1-summary").mkdir(parents=True)
    both = f"wandb sync {tmp_path}/wandb/offline-run-1-summary {tmp_path}/*/wandb/offline-run-*"
    assert command(tmp_path, capsys) == both


def test_nothing_is_told_where_nothing_was_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wandb" / "run-20261122_100000-online").mkdir(parents=True)
    tell_offline(tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_uploads_what_was_kept_each_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "it's a sweep"
    tracker = WandbTracker(group="thresholds")
    for number in range(3):
        tracker.start(f"job {number}", {"q": 0.9 + number / 100}, sweep / str(number))
        tracker.log({"drop": number / 2})
        tracker.finish("boom" if number == 1 else None)
    kept = [next(sweep.glob(f"{number}/wandb/offline-run-*")).name.rpartition("-")[2] for number in range(3)]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with serving() as server:
        key = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.address, "HOME": str(tmp_path), "PATH": path}
        words = {"shell": True, "cwd": tmp_path, "env": outside | key, "stdin": subprocess.DEVNULL}
        subprocess.run(command(sweep, capsys), **words, check=True, capture_output=True)
        taken, server.runs = server.runs, {}
        subprocess.run(command(sweep, capsys), **words, check=True, capture_output=True)
        assert server.runs == {}
    assert [taken[run]["displayName"] for run in kept] == ["job 0", "job 1", "job 2"]
    assert {one["groupName"] for one in taken.values()} == {"thresholds"}
    assert [json.loads(taken[run]["config"])["q"]["value"] for run in kept] == [0.9, 0.91, 0.92]
    assert [{row["drop"] for row in server.histories[run] if "drop" in row} for run in kept] == [{0.0}, {0.5}, {1.0}]
    assert [server.exit_codes[run] for run in kept] == [0, 1, 0]
