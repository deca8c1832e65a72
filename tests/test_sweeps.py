"""Sweeps: what is finished is not run again, what fails does not end the rest, and nothing is lost to a kill."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from omegaconf import DictConfig, OmegaConf

import kedit.cli.run as recipe
from kedit.cli import sharing
from kedit.cli.sweep_folder import alone, statuses
from kedit.models.shipped import HERE
from kedit.pipelines import run as pipeline

pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)

ROOT = Path(__file__).resolve().parent.parent
LEAST = (
    "evaluate.locate=2",
    "evaluate.target=2",
    "evaluate.retention=1",
    "evaluate.controls=1",
    "evaluate.text=false",
    "figures=false",
    "page=false",
)
GRID = ("concept=star,house", "locate.stages.gradcam.select.of_max=0.05,0.5")
BOARDS = ("leaderboard.csv", "leaderboard.json", "leaderboard.md")
RESULTS = ("report.json", "neurons.json", "captions.jsonl", "scores.safetensors")


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def jobs(self, *, before: bool) -> int:
        """Return how many jobs it ran, or found finished before."""
        lines = [line for line in self.out.splitlines() if line.startswith("[")]
        return sum(line.endswith("   finished before") is before for line in lines)


Command = Callable[..., Ended]


def command(folder: Path, *words: str) -> Ended:
    """Run `kedit run` in `folder`, in this process, with a store of its own."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as out, io.StringIO() as err:
        patch.setenv("KEDIT_STORE", str(folder / "store"))
        patch.setattr(sys, "argv", ["kedit run", *words, *LEAST])
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            code = recipe.main()
        return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture
def sweep(tmp_path: Path) -> Command:
    """Sweep in `tmp_path/one`."""
    return lambda *words: command(tmp_path, "-m", "hydra.sweep.dir=one", *words)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A sweep over three concepts, of which there is no second, which nobody changes, and how it ended."""
    folder = tmp_path_factory.mktemp("swept")
    return folder / "one", command(folder, "-m", "hydra.sweep.dir=one", "concept=star,unicorn,house")


def board(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in BOARDS}


# --- failing jobs and going on


def test_a_job_that_fails_does_not_end_the_sweep(swept: tuple[Path, Ended]) -> None:
    folder, ended = swept
    assert (ended.code, ended.jobs(before=False), ended.jobs(before=True)) == (1, 2, 0)
    assert "kedit: job 1 (concept=unicorn" in ended.err and "no concept `unicorn`" in ended.err
    told = statuses(folder)
    assert (told["0"], told["2"]) == ("done", "done")
    assert told["1"].startswith("failed: ConfigurationError: no concept `unicorn`")
    assert "no concept `unicorn`" in (folder / "leaderboard.md").read_text()
    assert "1 failed" in ended.out
    assert "Traceback" in (folder / "1" / "kedit.log").read_text()


def test_a_sweep_in_the_folder_of_an_old_one_runs_only_what_is_not_finished(
    swept: tuple[Path, Ended], sweep: Command, tmp_path: Path
) -> None:
    shutil.copytree(swept[0], tmp_path / "one")
    for name in ("2/report.json", "2/STATUS", *BOARDS):
        (tmp_path / "one" / name).unlink()
    ended = sweep("concept=star,unicorn,house")
    assert (ended.code, ended.err) == (1, swept[1].err)
    assert (ended.jobs(before=False), ended.jobs(before=True)) == (1, 1)
    assert "[1/3] concept=star   finished before" in ended.out
    assert board(tmp_path / "one") == board(swept[0])


def test_the_jobs_of_a_sweep_leave_what_single_runs_leave(swept: tuple[Path, Ended], tmp_path: Path) -> None:
    sharing.forget()
    assert command(tmp_path, "concept=house", "store=null", "hydra.run.dir=alone").code == 0
    for name in RESULTS:
        assert (swept[0] / "2" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_two_processes_cannot_work_on_one_sweep(sweep: Command, tmp_path: Path) -> None:
    with alone(tmp_path / "one"):
        ended = sweep("concept=star,house")
    assert (ended.code, ended.out) == (2, "")
    assert "another process is working on this sweep in `one`" in ended.err
    assert not list(tmp_path.glob("one/*/STATUS"))


def test_a_folder_that_cannot_be_made_is_named(sweep: Command, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a file")
    ended = sweep("concept=star,house")
    assert ended.code == 1
    assert "File exists: `one`" in ended.err


def test_a_value_that_cannot_be_composed_is_one_line_and_no_leaderboard(sweep: Command, tmp_path: Path) -> None:
    text = "kedit: no `edit=nothing`; options of `edit`: amplify, none, patch, scale, zero\n"
    assert sweep("concept=star,house", "edit=zero,nothing") == (2, "", text)
    assert not list((tmp_path / "one").glob("leaderboard*"))


def test_an_unknown_way_to_take_errors_is_refused(sweep: Command) -> None:
    ended = sweep("concept=star", "on_error=ignore")
    assert ended.code == 2
    assert "`on_error` is continue or stop; got ignore" in ended.err


# --- the weights


def test_a_job_that_leaves_other_weights_fails_and_the_next_gets_the_model_anew(
    sweep: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, spoiled = pipeline.HeatMaps, []

    def spoil(model: object, *more: object, **options: object) -> object:
        if not spoiled:
            spoiled.append(model)
            next(model.module.parameters()).data.add_(1.0)  # type: ignore[attr-defined]
        return draw(model, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "HeatMaps", spoil)
    sharing.forget()
    ended = sweep("concept=star,house")
    told = statuses(tmp_path / "one")
    assert ended.code == 1
    assert told["0"].startswith("failed: ChangedWeightsError: the weights of `scenes` are not what they were")
    assert told["1"] == "done"
    assert "something wrote to them" in ended.err


def test_a_job_that_fails_with_other_weights_hands_them_to_no_other() -> None:
    node = OmegaConf.load(ROOT / "conf" / "model" / "scenes.yaml")
    assert isinstance(node, DictConfig)
    sharing.forget()
    with sharing.unchanged(node) as found:
        first = found.model
    with pytest.raises(RuntimeError, match="out of memory"), sharing.unchanged(node) as found:
        assert found.model is first
        next(first.module.parameters()).data.add_(1.0)
        raise RuntimeError("out of memory")
    with sharing.unchanged(node) as found:
        assert found.model is not first


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
