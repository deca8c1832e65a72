"""Sweeps: what is finished is not run again, what fails does not end the rest, and nothing is lost to a kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir, suppress
from pathlib import Path

import pytest

import experiments.run as recipe
from experiments import sharing
from experiments.sweeps import alone, statuses
from kedit.models.shipped import HERE
from kedit.pipelines import run as pipeline

pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)

ROOT = Path(__file__).resolve().parent.parent
LEAST = ("evaluate.locate=2", "evaluate.target=2", "evaluate.retention=1", "evaluate.controls=1", "figures=false")
GRID = ("concept=star,house", "locate.stages.gradcam.select.of_max=0.05,0.5")
BOARDS = ("leaderboard.csv", "leaderboard.json", "leaderboard.md")
RESULTS = ("report.json", "neurons.json", "captions.jsonl", "scores.safetensors")


@pytest.fixture
def sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `kedit run -m WORDS` in `tmp_path`, in this process, with a store of its own; return code, out and err."""
    monkeypatch.setenv("KEDIT_STORE", str(tmp_path / "store"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kedit run", "-m", *words, *LEAST])
        capsys.readouterr()
        with chdir(tmp_path):
            code = recipe.main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def board(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in BOARDS}


def jobs_run(out: str) -> int:
    return sum(line.startswith("[") for line in out.splitlines()) - jobs_skipped(out)


def jobs_skipped(out: str) -> int:
    return sum(line.startswith("[") and line.endswith("   finished before") for line in out.splitlines())


# --- going on


def test_a_sweep_in_the_folder_of_an_old_one_runs_only_what_is_not_finished(
    sweep: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, _ = sweep("concept=star,house", "hydra.sweep.dir=one")
    assert (code, jobs_run(out), jobs_skipped(out)) == (0, 2, 0)
    folder = tmp_path / "one"
    before = board(folder)

    (folder / "1" / "report.json").unlink()
    (folder / "1" / "STATUS").unlink()
    for name in BOARDS:
        (folder / name).unlink()
    code, out, err = sweep("concept=star,house", "hydra.sweep.dir=one")
    assert (code, err) == (0, "")
    assert (jobs_run(out), jobs_skipped(out)) == (1, 1)
    assert "[1/2] concept=star   finished before" in out
    assert board(folder) == before


def test_the_jobs_of_a_sweep_leave_what_single_runs_leave(
    sweep: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep("concept=house", "locate.stages.gradcam.select.of_max=0.05,0.5", "hydra.sweep.dir=many")
    sharing.forget()
    alone = ["concept=house", "locate.stages.gradcam.select.of_max=0.5", "store=null", "hydra.run.dir=alone", *LEAST]
    monkeypatch.setattr(sys, "argv", ["kedit run", *alone])
    with chdir(tmp_path):
        assert recipe.main() == 0
    for name in RESULTS:
        assert (tmp_path / "many" / "1" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_two_processes_cannot_work_on_one_sweep(sweep: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    with alone(tmp_path / "one"):
        code, out, err = sweep("concept=star,house", "hydra.sweep.dir=one")
    assert (code, out) == (2, "")
    assert "another process is working on this sweep in `one`" in err
    assert not list(tmp_path.glob("one/*/STATUS"))


def test_a_folder_that_cannot_be_made_is_named(sweep: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    code, _, err = sweep("concept=star,house", "hydra.sweep.dir=taken/one")
    assert code == 1
    assert "Not a directory: `taken/one`" in err


# --- failing jobs


def test_a_job_that_fails_does_not_end_the_sweep(sweep: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, err = sweep("concept=star,unicorn,house", "hydra.sweep.dir=one")
    assert code == 1
    assert "no concept `unicorn`" in err
    told = statuses(tmp_path / "one")
    assert (told["0"], told["2"]) == ("done", "done")
    assert told["1"].startswith("failed: ConfigurationError: no concept `unicorn`")
    assert "no concept `unicorn`" in (tmp_path / "one" / "leaderboard.md").read_text()
    assert "1 failed" in out
    assert "Traceback" in (tmp_path / "one" / "1" / "kedit.log").read_text()


def test_a_value_that_cannot_be_composed_is_one_line_and_no_leaderboard(
    sweep: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = sweep("concept=star,house", "edit=zero,nothing", "hydra.sweep.dir=one")
    assert (code, out, err) == (2, "", "kedit: no `edit=nothing`; options of `edit`: amplify, patch, scale, zero\n")
    assert not list((tmp_path / "one").glob("leaderboard*"))


def test_an_unknown_way_to_take_errors_is_refused(sweep: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = sweep("concept=star,house", "on_error=ignore")
    assert code == 2
    assert "`on_error` is continue or stop; got ignore" in err


# --- the weights


def test_a_job_that_leaves_other_weights_fails_and_the_next_gets_the_model_anew(
    sweep: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, spoiled = pipeline.HeatMaps, []

    def spoil(model: object, *more: object, **options: object) -> object:
        if not spoiled:
            spoiled.append(model)
            next(model.module.parameters()).data.add_(1.0)  # type: ignore[attr-defined]
        return draw(model, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "HeatMaps", spoil)
    sharing.forget()
    code, _, err = sweep("concept=star,house", "hydra.sweep.dir=one")
    told = statuses(tmp_path / "one")
    assert code == 1
    assert told["0"].startswith("failed: ChangedWeightsError: the weights of `scenes` are not what they were")
    assert told["1"] == "done"
    assert "something wrote to them" in err


def test_a_job_that_fails_with_other_weights_hands_them_to_no_other(
    sweep: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, spoiled = pipeline.HeatMaps, []

    def spoil(model: object, *more: object, **options: object) -> object:
        if not spoiled:
            spoiled.append(model)
            next(model.module.parameters()).data.add_(1.0)  # type: ignore[attr-defined]
            raise RuntimeError("out of memory")
        assert model is not spoiled[0]
        return draw(model, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "HeatMaps", spoil)
    sharing.forget()
    code, _, _ = sweep("concept=star,house", "hydra.sweep.dir=one")
    assert code == 1
    assert statuses(tmp_path / "one") == {"0": "failed: RuntimeError: out of memory", "1": "done"}


# --- kill -9


def started(folder: Path, store: Path) -> subprocess.Popen[bytes]:
    words = ["run", "-m", *GRID, *LEAST, "hydra.sweep.dir=swept"]
    env = os.environ | {"KEDIT_STORE": str(store), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kedit", *words]
    with (folder / "out").open("ab") as out:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True)


def killed_after(process: subprocess.Popen[bytes], begun: Callable[[], bool], seconds: float) -> bool:
    """Kill a process `seconds` after `begun`, and return whether it was still there."""
    while not begun() and process.poll() is None:
        time.sleep(0.01)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return True


def survives(tmp_path: Path, kills: int) -> None:
    """Kill a sweep at `kills` random moments, let it end, and compare it with one that nobody disturbed."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for folder in (calm, rough):
        folder.mkdir()
    assert started(calm, calm / "store").wait(300) == 0
    chance, log = random.Random(0), rough / "swept" / "multirun.yaml"
    hits = 0
    for _ in range(kills):
        log.unlink(missing_ok=True)
        hits += killed_after(started(rough, rough / "store"), log.is_file, chance.uniform(0, 6))
    assert hits > 0, "every sweep ended before it was killed"
    assert started(rough, rough / "store").wait(300) == 0
    assert board(rough / "swept") == board(calm / "swept")
    for number in range(4):
        for name in RESULTS:
            assert (rough / "swept" / str(number) / name).read_bytes() == (
                calm / "swept" / str(number) / name
            ).read_bytes()
    assert json.loads((rough / "swept" / "leaderboard.json").read_text())["counts"]["done"] == 4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_that_is_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    survives(tmp_path, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_that_is_killed_twenty_times_ends_as_one_that_was_not(tmp_path: Path) -> None:
    survives(tmp_path, 20)
