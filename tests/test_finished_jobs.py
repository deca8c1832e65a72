"""A job of a sweep is not run again while all that decides it is what it was; whatever differs runs it again."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kedit.cli import sweep_folder as sweeps
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported, run_folder
from kedit.cli.sweep_folder import key_of, statuses
from kedit.results.run_folder import write_atomic, write_json

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
CONF = {
    "recipe.yaml": """
defaults:
  - _self_
  - edit: zero
  - experiment: null
  - override /hydra/hydra_logging: none
  - override /hydra/job_logging: none
  - override /hydra/help: null
  - override /hydra/hydra_help: null
  - override /hydra/output: null
  - override /hydra/env: null
seed: 0
match: contains
on_error: continue
overwrite: false
data: {folder: data}
model: {path: model}
tracker: {_target_: kedit.results.tracking.NoTracker}
hydra:
  sweep: {dir: swept, subdir: "${hydra.job.num}"}
  callbacks: {sweep: {_target_: kedit.cli.sweep_callbacks.Sweeping}}
""",
    "edit/zero.yaml": "factor: 0",
    "edit/scale.yaml": "factor: 0.5",
    "edit/amplify.yaml": "factor: 2",
    "experiment/grid.yaml": """# @package _global_
hydra: {sweeper: {params: {match: "'a b',c", seed: "7,8"}}}
""",
}
INPUTS = (
    *("data/pictures.jsonl", "data/pictures/1.png", "data/masks/deep/1.png", "data/questions.jsonl"),
    "model/model.safetensors",
)


class Recipe:
    """A recipe that notes which jobs it ran, and does `then` in each."""

    def __init__(self, conf: Path) -> None:
        self.conf = str(conf)
        self.seeds: list[int] = []
        self.then: Callable[[DictConfig], object] = lambda settings: None

    def main(self) -> None:
        @hydra.main(version_base="1.3", config_path=self.conf, config_name="recipe")
        @reported
        def recipe(cfg: DictConfig) -> tuple[float, float]:
            with run_folder(cfg, {}):
                self.seeds.append(cfg.seed)
                self.then(cfg)
            return cfg.seed / 2, math.nan

        recipe()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    for name, content in (CONF | dict.fromkeys(INPUTS, "one")).items():
        path = tmp_path / "conf" / name if name in CONF else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Recipe(tmp_path / "conf")


@pytest.fixture
def kedit(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Sweep the recipe, over two seeds unless others are given, in `tmp_path/swept`; return the exit code."""

    def call(*words: str) -> int:
        seeds = [] if any(word.startswith("seed=") for word in words) else ["seed=1,2"]
        monkeypatch.setattr(sys, "argv", ["kedit", "-m", *seeds, *words])
        recipe.seeds = []
        with chdir(tmp_path):
            return guarded(recipe.main)

    return call


def output() -> Path:
    """Return the folder of the job that runs."""
    return Path(HydraConfig.get().runtime.output_dir)


def change(file: Path) -> None:
    """Write another content of the same length, and set the old time."""
    times = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


# --- what is finished


def test_a_finished_job_is_left_alone_and_told_and_returns_what_it_returned(
    kedit: Command, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (kedit(), recipe.seeds) == (0, [1, 2])
    capsys.readouterr()
    status = (tmp_path / "swept" / "1" / "STATUS").stat()
    found, once = [], sweeps.once
    monkeypatch.setattr("kedit.cli.jobs.once", lambda *words: found.append(once(*words)))
    assert (kedit(), recipe.seeds) == (0, [])
    assert capsys.readouterr().out == "[1/2] seed=1   finished before\n[2/2] seed=2   finished before\n"
    assert (tmp_path / "swept" / "1" / "STATUS").stat().st_ino == status.st_ino
    assert [drop for drop, _ in found] == [0.5, 1.0]
    assert all(math.isnan(retention) for _, retention in found)


def test_what_happens_after_a_failure_is_no_part_of_a_job(kedit: Command, recipe: Recipe) -> None:
    kedit("seed=1")
    kedit("seed=1", "on_error=stop")
    assert recipe.seeds == []


def test_a_job_that_is_not_done_runs_again(kedit: Command, recipe: Recipe, tmp_path: Path) -> None:
    kedit("seed=range(0,4)")
    (tmp_path / "swept" / "0" / "STATUS").write_text("running\n")
    (tmp_path / "swept" / "1" / "STATUS").unlink()
    (tmp_path / "swept" / "2" / "KEY").write_text('{"key": "another", "returned": null}')
    kedit("seed=range(0,5)")
    assert recipe.seeds == [0, 1, 2, 4]


@pytest.mark.parametrize("status", ["running\n", "failed: ValueError\n", "", None])
def test_only_done_is_done(tmp_path: Path, status: str | None) -> None:
    write_json(tmp_path / "KEY", {"key": "same", "returned": None})
    assert sweeps.finished(tmp_path, "same") is None
    write_atomic(tmp_path / "STATUS", "done\n")
    assert sweeps.finished(tmp_path, "same") is not None
    (tmp_path / "STATUS").unlink()
    if status is not None:
        write_atomic(tmp_path / "STATUS", status)
    assert sweeps.finished(tmp_path, "same") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"key": "another"}', '{"key": null}'])
def test_a_key_that_is_damaged_or_another_vouches_for_nothing(tmp_path: Path, content: str) -> None:
    write_atomic(tmp_path / "STATUS", "done\n")
    write_atomic(tmp_path / "KEY", content)
    assert sweeps.finished(tmp_path, "same") is None
    assert sweeps.finished(tmp_path, None) is None


def test_a_larger_grid_keeps_the_jobs_that_are_equal(kedit: Command, recipe: Recipe) -> None:
    kedit("seed=1")
    kedit("seed=1,2")
    assert recipe.seeds == [2]


def test_a_sweep_may_stop_at_the_first_failure_and_go_on_later(
    kedit: Command, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(settings: DictConfig) -> None:
        if settings.seed == 1:
            raise ConfigurationError("no seed `1`")

    recipe.then = refuse
    # No job is done: the command was wrong.
    assert (kedit("on_error=stop"), recipe.seeds) == (2, [1])
    assert capsys.readouterr().err == "kedit: job 0 (seed=1, on_error=stop): no seed `1`\n"
    assert list(statuses(tmp_path / "swept")) == ["0"]
    assert (kedit(), recipe.seeds) == (1, [1, 2])
    assert statuses(tmp_path / "swept") == {"0": "failed: ConfigurationError: no seed `1`", "1": "done"}
    assert (kedit("on_error=stop"), recipe.seeds) == (1, [1])


# --- what is stale


def test_another_content_of_an_input_file_runs_every_job_again(kedit: Command, recipe: Recipe, tmp_path: Path) -> None:
    kedit()
    change(tmp_path / "data" / "masks" / "deep" / "1.png")
    kedit()
    assert recipe.seeds == [1, 2]


def test_a_model_that_only_some_jobs_name_counts_for_those(kedit: Command, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"one")
    kedit("seed=1", "model.path=model,other")
    change(tmp_path / "other" / "model.safetensors")
    paths = []
    recipe.then = lambda settings: paths.append(settings.model.path)
    kedit("seed=1", "model.path=model,other")
    assert paths == ["other"]


def test_files_that_change_while_a_job_runs_leave_it_unfinished(kedit: Command, recipe: Recipe, tmp_path: Path) -> None:
    recipe.then = lambda settings: change(tmp_path / "data" / "questions.jsonl")
    kedit("seed=1")
    assert not (tmp_path / "swept" / "0" / "KEY").exists()
    recipe.then = lambda settings: None
    kedit("seed=1")
    assert recipe.seeds == [1]
    kedit("seed=1")
    assert recipe.seeds == []


def killed(settings: DictConfig) -> None:
    raise KeyboardInterrupt


def left(folder: Path) -> dict[str, str]:
    """Return what a sweep has to leave; a kill may leave a draft beside it."""
    names = ("sweep.json", "*/STATUS", "*/KEY", "*/result.json")
    return {str(path.relative_to(folder)): path.read_text() for name in names for path in folder.glob(name)}


def test_a_sweep_goes_on_to_the_same_end_from_whatever_a_kill_leaves(
    kedit: Command, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept, write, moments = tmp_path / "swept", os.fsync, list[Path]()

    def watch(handle: int) -> None:
        """Keep what a process that is killed at this moment leaves, which is before or after a file gets its name."""
        write(handle)
        moments.append(shutil.copytree(swept, tmp_path / "killed" / str(len(moments))))

    recipe.then = lambda settings: write_json(output() / "result.json", settings.seed)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", watch)
        assert kedit() == 0
    expected = left(swept)
    assert len(expected) == 1 + 2 * 3 and len(moments) == 2 * (1 + 2 * 4)
    for moment in moments[::5]:
        shutil.rmtree(swept)
        shutil.copytree(moment, swept)
        assert kedit() == 0
        assert left(swept) == expected, moment.name
        assert [str(seed - 1) for seed in recipe.seeds] == [job for job in "01" if not (moment / job / "KEY").exists()]


SCRIPT = """
import sys
import time
from pathlib import Path

import hydra

from kedit.cli.jobs import guarded, reported, run_folder


@hydra.main(version_base="1.3", config_path="conf", config_name="recipe")
@reported
def recipe(cfg):
    with run_folder(cfg, {}) as (kept, _):
        while cfg.seed == 2 and Path("hang").exists():
            time.sleep(0.01)
        kept.save_json("result.json", cfg.seed)


sys.exit(guarded(recipe))
"""


def test_a_process_that_is_killed_lets_go_of_the_sweep_and_its_jobs_run_again(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(SCRIPT)
    (tmp_path / "hang").touch()
    words = [sys.executable, "recipe.py", "-m", "seed=1,2"]
    around: dict[str, Any] = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    with subprocess.Popen(words, **around) as process:
        while not (tmp_path / "swept" / "1" / "STATUS").is_file() and process.poll() is None:
            time.sleep(0.01)
        second = subprocess.run(words, **around, capture_output=True, text=True, check=False)
        process.kill()
    assert second.returncode == 2
    assert second.stderr.startswith("kedit: another process is working on this sweep in `swept`")
    assert statuses(tmp_path / "swept") == {"0": "done", "1": "running"}
    (tmp_path / "hang").unlink()
    last = subprocess.run(words, **around, capture_output=True, text=True, check=False)
    assert (last.returncode, last.stdout) == (0, "[1/2] seed=1   finished before\n")
    assert statuses(tmp_path / "swept") == {"0": "done", "1": "done"}


def test_a_single_run_in_the_folder_of_a_job_takes_its_place(
    kedit: Command, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kedit("seed=1")
    monkeypatch.setattr(sys, "argv", ["kedit", "seed=2", "hydra.run.dir=swept/0", "overwrite=true"])
    with chdir(tmp_path):
        assert guarded(recipe.main) == 0
    assert (kedit("seed=1"), recipe.seeds) == (2, [])
    kedit("seed=1", "overwrite=true")
    assert recipe.seeds == [1]


def test_an_old_key_never_vouches_for_new_results(kedit: Command, recipe: Recipe, tmp_path: Path) -> None:
    kedit("seed=1")
    recipe.then = killed
    assert kedit("seed=2", "overwrite=true") == 130
    (tmp_path / "swept" / "0" / "STATUS").write_text("done\n")  # as if it was killed a moment later
    recipe.then = lambda settings: None
    kedit("seed=1", "overwrite=true")
    assert recipe.seeds == [1]


def test_a_wrong_command_in_the_folder_of_a_sweep_costs_no_finished_job(
    kedit: Command, recipe: Recipe, tmp_path: Path
) -> None:
    kedit("seed=1")
    for _ in range(2):
        assert kedit("seed=1", "edit=nothing,zero") == 2
    kedit("seed=1")
    assert recipe.seeds == []
    assert statuses(tmp_path / "swept") == {"0": "done"}


@pytest.mark.parametrize("changed", ["jobs", "inputs"])
def test_what_another_sweep_left_does_not_count_as_done(
    kedit: Command, recipe: Recipe, tmp_path: Path, changed: str
) -> None:
    kedit("seed=1,2,3")
    assert statuses(tmp_path / "swept") == dict.fromkeys("012", "done")
    if changed == "inputs":
        change(tmp_path / "data" / "pictures" / "1.png")
    recipe.then = killed
    words = ["seed=5,2,6", "overwrite=true"] if changed == "jobs" else ["seed=1,2"]
    assert kedit(*words) == 130
    # Job 0 is interrupted, the others do not start.
    kept = {"1": "done"} if changed == "jobs" else {}
    assert statuses(tmp_path / "swept") == {"0": "failed: interrupted"} | kept


def key(settings: dict[str, Any], **chosen: str) -> str:
    running = {"job": {"config_name": "recipe"}, "runtime": {"choices": {"edit": "zero", **chosen}}}
    return key_of(settings, OmegaConf.create(running))


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_file_is_part_of_the_key(recipe: Recipe, tmp_path: Path, name: str) -> None:
    settings = {"data": {"folder": str(tmp_path / "data")}, "model": {"path": str(tmp_path / "model")}}
    before = key(settings)
    os.utime(tmp_path / name, (1, 1))
    assert key(settings) == before
    change(tmp_path / name)
    assert key(settings) != before


def test_settings_choices_and_the_recipe_are_part_of_the_key() -> None:
    settings = {"seed": 1, "edit": {"factor": 0}}
    same = [
        key(settings),
        key(settings | {"on_error": "stop", "store": None}),
        key(settings, **{"hydra/launcher": "ray"}),
    ]
    assert len(set(same)) == 1
    others = [key({**settings, "seed": 2}), key({**settings, "more": None}), key(settings, edit="scale")]
    assert len({*same, *others}) == 4


@pytest.mark.parametrize("part", ["code", "libraries"])
def test_sources_and_libraries_are_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    before = key({})
    if part == "code":
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "edit.py").write_text("A = 1")
        monkeypatch.setattr(sweeps, "PACKAGE", tmp_path / "package")
    else:
        monkeypatch.setattr(sweeps, "of_libraries", lambda *names: dict.fromkeys(names, "0"))
    assert key({}) == before, "whoever edits a file does not change the code that is running"
    sweeps._code.cache_clear()
    try:
        assert key({}) != before
    finally:
        sweeps._code.cache_clear()


# --- the plan


def test_the_jobs_that_are_listed_beforehand_are_those_that_run(kedit: Command, recipe: Recipe, tmp_path: Path) -> None:
    words = ["seed=range(1,3)", "edit=glob(*l*)", "++edit.factor=null", "+words='x,y'", "experiment=grid"]
    assert kedit(*words) == 0
    plan = json.loads((tmp_path / "swept" / "sweep.json").read_text())["jobs"]
    folders = sorted((tmp_path / "swept").glob("*/.hydra/overrides.yaml"), key=lambda path: int(path.parts[-3]))
    assert [list(OmegaConf.load(one)) for one in folders] == plan
    assert len(recipe.seeds) == len(plan) == 2 * 2 * 2


def test_a_value_that_cannot_be_composed_ends_the_sweep_before_its_first_job(
    kedit: Command, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kedit("edit=zero,nothing") == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "kedit: no `edit=nothing`; options of `edit`: amplify, scale, zero\n")
    assert recipe.seeds == []


def test_jobs_whose_order_nobody_knows_are_not_listed(kedit: Command, recipe: Recipe, tmp_path: Path) -> None:
    kedit("seed=1")
    assert kedit("seed=shuffle(1,2)") == 0
    assert not (tmp_path / "swept" / "sweep.json").exists()
    assert statuses(tmp_path / "swept") == {"0": "done", "1": "done"}
    assert kedit("seed=shuffle(1,2)", "edit=scale") == 2, "what is not shuffled differs"


def test_values_that_cannot_be_counted_are_refused_in_one_line(
    kedit: Command, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kedit("seed=interval(1,2)") == 2
    assert capsys.readouterr().err == "kedit: BasicSweeper does not support sweep type : INTERVAL_SWEEP\n"
    assert recipe.seeds == []
