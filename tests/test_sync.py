"""`kedit sync` uploads what is not uploaded yet, says what it did, and never waits for a server that is not there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from wandb_server import Server, serving

from experiments.sync import main
from kedit.tracking import WandbTracker
from kedit.uploading import OfflineRun, offline_runs

ROOT = Path(__file__).resolve().parent.parent
KEY = "0" * 40

SEVERAL = """
import contextlib, io, json, os, sys, time
import wandb
from experiments.sync import main

for name, environment, words in json.loads(sys.stdin.read()):
    os.environ.update(environment)
    sys.argv = ["kedit sync", *words]
    began, out, err = time.monotonic(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main()
    told = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seconds": time.monotonic() - began}
    print("TOLD", json.dumps({name: told}), flush=True)
    wandb.teardown()  # so that the next one reads the environment anew
    for variable in environment:
        del os.environ[variable]
"""


@dataclass(frozen=True)
class Told:
    """What one command line did."""

    code: int
    out: str
    err: str
    seconds: float


def outside(**variables: str) -> dict[str, str]:
    """Return an environment in which nothing tells W&B where to go or who it is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_") and name != "NETRC"}
    return {name: value for name, value in kept.items() if not name.lower().endswith("_proxy")} | variables


def commands(*lines: tuple[str, dict[str, str], list[str]], home: Path) -> dict[str, Told]:
    """Run `kedit sync` several times, one after the other, in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL],
        input=json.dumps(lines), capture_output=True, text=True, check=True, cwd=home,
        env=outside(HOME=str(home), PYTHONPATH=str(ROOT)),
    )  # fmt: skip
    told: dict[str, Told] = {}
    for line in done.stdout.splitlines():
        if line.startswith("TOLD "):
            told |= {name: Told(**one) for name, one in json.loads(line[5:]).items()}
    return told


@dataclass(frozen=True)
class Sweep:
    """Three offline runs, the second one failed, and what came of uploading them while the third was refused."""

    folder: Path
    runs: list[OfflineRun]
    server: Server
    told: dict[str, Told]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    home = tmp_path_factory.mktemp("home")
    folder = tmp_path_factory.mktemp("multirun") / "concept=star"
    tracker = WandbTracker(group="thresholds")
    for number in range(3):
        tracker.start(f"job {number}", {"q": 0.9 + number / 100}, folder / str(number))
        tracker.log({"drop": number / 2})
        tracker.finish("boom" if number == 1 else None)
    runs = offline_runs(folder)
    with serving() as server:
        server.refused = {runs[2].id}
        key = {"WANDB_API_KEY": KEY}
        told = commands(
            ("no key", {}, [str(folder)]),
            ("no server", key | {"WANDB_BASE_URL": "http://127.0.0.1:9"}, [str(folder)]),
            ("dry", {}, [str(folder), "dry=true"]),
            ("upload", key | {"WANDB_BASE_URL": server.address}, [str(folder)]),
            home=home,
        )
        server.refused = set()
        # The first was uploaded before it was written to, as a run that was still going on.
        os.utime(runs[0].file.with_suffix(".wandb.synced"), (1e9, 1e9))
        told |= commands(("again", key | {"WANDB_BASE_URL": server.address}, [str(folder)]), home=home)
        assert {path.name for path in home.iterdir()} <= {".cache"}
        yield Sweep(folder, runs, server, told)


def shown(run: OfflineRun) -> str:
    return f"{run.folder.parent.parent.name}/wandb/{run.folder.name}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "reason"),
    [("no key", "there is no API key for https://"), ("no server", "http://127.0.0.1:9 cannot be reached")],
)
def test_without_a_key_or_a_server_there_is_one_line_and_no_wait(sweep: Sweep, scenario: str, reason: str) -> None:
    told = sweep.told[scenario]
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert told.err.startswith(f"kedit: cannot upload 3 runs: {reason}")
    assert told.seconds < 20


@pytest.mark.slow
def test_a_dry_run_lists_and_needs_no_key(sweep: Sweep) -> None:
    told = sweep.told["dry"]
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines() == [
        *(f"to upload: {shown(run)}" for run in sweep.runs),
        "3 to upload, 0 of 3 were uploaded before",
    ]


@pytest.mark.slow
def test_each_run_has_its_line_and_one_that_fails_has_its_reason(sweep: Sweep) -> None:
    told = sweep.told["upload"]
    assert told.code == 1
    *lines, last = told.out.splitlines()
    assert sorted(lines) == [f"uploaded: {shown(run)}" for run in sweep.runs[:2]]
    assert last == "2 uploaded, 1 failed, 0 of 3 were uploaded before"
    (complaint,) = told.err.splitlines()
    assert complaint.startswith(f"failed: {shown(sweep.runs[2])}: ")
    assert f"no room for {sweep.runs[2].id}" in complaint


@pytest.mark.slow
def test_what_was_uploaded_is_left_alone_unless_it_has_grown_since(sweep: Sweep) -> None:
    told = sweep.told["again"]
    assert (told.code, told.err) == (0, "")
    *lines, last = told.out.splitlines()
    assert sorted(lines) == [f"uploaded: {shown(sweep.runs[number])}" for number in (0, 2)]
    assert last == "2 uploaded, 0 failed, 1 of 3 were uploaded before"


@pytest.mark.slow
def test_the_server_has_the_runs_of_the_sweep_as_they_were_kept(sweep: Sweep) -> None:
    taken = [sweep.server.runs[run.id] for run in sweep.runs]
    assert [one["displayName"] for one in taken] == ["job 0", "job 1", "job 2"]
    assert {one["groupName"] for one in taken} == {"thresholds"}
    assert [json.loads(one["config"])["q"]["value"] for one in taken] == [0.9, 0.91, 0.92]
    drops = [{row["drop"] for row in sweep.server.histories[run.id] if "drop" in row} for run in sweep.runs]
    assert drops == [{0.0}, {0.5}, {1.0}]
    assert [sweep.server.exit_codes[run.id] for run in sweep.runs] == [0, 1, 0]


# --- wrong commands, in this process


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{there}"], "no offline run of W&B below `{there}`; `tracker=wandb` makes runs leave one"),
        (["{there}/none"], "there is no folder `{there}/none`"),
        (["{there}", "{there}"], "`kedit sync FOLDER` takes one folder, got 2"),
        (["dry=true"], "`kedit sync FOLDER` takes one folder, got 0"),
        (["{there}", "dray=true"], "cannot read `dray=true`; nearest: `dry=`"),
        (["{there}", "patience=0"], "`patience=0`: an age is a whole number and a unit"),
    ],
)
def test_a_wrong_command_is_one_line(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedit sync", *(word.format(there=tmp_path) for word in words)])
    assert main() == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert told.format(there=tmp_path) in said.err


def test_only_folders_that_hold_a_run_are_runs(tmp_path: Path) -> None:
    whole = tmp_path / "a" / "wandb" / "offline-run-20260101_000000-abc"
    for folder in (whole, tmp_path / "offline-run-20260101_000000-abc", whole.with_name("offline-run-2-empty")):
        folder.mkdir(parents=True)
    (whole / "run-abc.wandb").write_bytes(b"")
    assert offline_runs(tmp_path) == [OfflineRun(whole)] == offline_runs(whole)
    assert not OfflineRun(whole).uploaded
    (whole / "run-abc.wandb.synced").write_bytes(b"")
    assert OfflineRun(whole).uploaded
