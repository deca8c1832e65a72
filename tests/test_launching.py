"""Whoever launches the jobs of a sweep, their results are the same, and their threads are shared out."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from kedit.cli.errors import PLUGINS, explained
from kedit.cli.launching import threads_for, workers_of
from kedit.models.shipped import HERE
from kedit.paths import conf_dir
from tests import slurm

ROOT = Path(__file__).resolve().parent.parent
LEAST = ("evaluate.locate=1", "evaluate.target=1", "evaluate.retention=0", "evaluate.controls=0", "evaluate.text=false")
COUNT = st.integers(1, 200)

needs_ray = pytest.mark.skipif(
    not list(distributions(name="hydra-ray-launcher")), reason="`pip install 'kedit[ray]'` brings it"
)
LAUNCHERS = ["joblib", "submitit_local", "slurm", pytest.param("ray", marks=needs_ray)]


# --- threads


@given(COUNT, COUNT)
def test_threads_are_shared_out_so_that_all_workers_together_fit_the_machine(workers: int, cpus: int) -> None:
    threads = threads_for(workers, cpus, None)
    assert threads >= 1
    assert threads * workers <= cpus or threads == 1
    assert (threads + 1) * workers > cpus
    assert threads_for(1, cpus, None) == cpus


@given(COUNT, COUNT, COUNT)
def test_threads_that_the_user_wants_do_not_depend_on_what_runs_beside(workers: int, cpus: int, wanted: int) -> None:
    assert threads_for(workers, cpus, wanted) == wanted


@pytest.mark.parametrize(("workers", "cpus"), [(0, 2), (2, 0), (-1, 2)])
def test_no_worker_and_no_cpu_are_refused(workers: int, cpus: int) -> None:
    with pytest.raises(ValueError, match=f"got {workers} and {cpus}"):
        threads_for(workers, cpus, None)


@pytest.mark.parametrize(
    ("words", "workers"),
    [
        ("", 1),
        ("launch=joblib", 2),
        ("launch=joblib hydra.launcher.n_jobs=3", 3),
        ("launch=joblib hydra.launcher.n_jobs=-1", 8),
        ("launch=joblib hydra.launcher.n_jobs=-3", 6),
        ("launch=joblib hydra.launcher.n_jobs=-20", 1),
        ("launch=submitit_local", 2),
        ("launch=submitit_local hydra.sweeper.max_batch_size=null", 8),
        ("launch=slurm", 1),
        pytest.param("launch=ray", 2, marks=needs_ray),
        pytest.param("launch=ray ~hydra.launcher.ray.init.num_cpus", 8, marks=needs_ray),
        pytest.param("launch=ray hydra.launcher.ray.remote.num_cpus=2", 1, marks=needs_ray),
        pytest.param("launch=ray hydra.launcher.ray.remote.num_cpus=0.5", 4, marks=needs_ray),
    ],
)
def test_a_launcher_says_how_many_jobs_share_eight_cpus(words: str, workers: int) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = compose("run", words.split(), return_hydra_config=True).hydra
    # What only a running job knows is missing, and not asked for.
    parts = {key: OmegaConf.to_container(node[key], resolve=False) for key in ("launcher", "sweeper")}
    assert workers_of(parts, 8) == workers


# --- plugins


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugin_that_is_not_installed_is_told_with_what_brings_it(plugin: str) -> None:
    group, _, option = plugin.rpartition("/")
    error = MissingConfigException("not found", missing_cfg_file=plugin, options=["basic"])
    assert explained(error) == (
        f"`{group}={option}` is a plugin of Hydra's that is not installed; `pip install 'kedit[{PLUGINS[plugin]}]'`"
    )


# --- sweeps


needs_model = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launching")
    (folder / "bin").mkdir()
    (folder / "home").mkdir()
    slurm.place(folder / "bin")
    return folder


@dataclass(frozen=True)
class Swept:
    """What a sweep over three concepts left, the last of which there is not, and the same once more."""

    folder: Path
    code: int
    err: str
    code_again: int
    """Of the same command in the same folder."""

    def status(self, job: int) -> str:
        return (self.folder / str(job) / "STATUS").read_text()

    def results(self, job: int) -> dict[str, Any]:
        """Return what a job left, without the seconds it took."""
        report = json.loads((self.folder / str(job) / "report.json").read_text())
        report["cost"] = {key: value for key, value in report["cost"].items() if not key.endswith("seconds")}
        files = {name: (self.folder / str(job) / name).read_bytes() for name in ("neurons.json", "captions.jsonl")}
        return {"report.json": report, **files}


@cache
def swept(folder: Path, launcher: str | None) -> Swept:
    """Run a sweep in `folder`, where there is a Slurm, and nothing is written to the user's home."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "HOME": str(folder / "home")}
    where = folder / str(launcher)
    words = ["concept=star,house,strr", f"hydra.sweep.dir={where}", *LEAST]
    if launcher is not None:
        words.append(f"launch={launcher}")
    command = [sys.executable, "-m", "kedit", "run", "-m", *words]
    first, again = (
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        for _ in range(2)
    )
    return Swept(where, first.returncode, first.stderr, again.returncode)


@needs_model
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_leaves_the_results_of_hydras_own(folder: Path, launcher: str) -> None:
    expected, found = swept(folder, None), swept(folder, launcher)
    for job in (0, 1):
        assert (expected.status(job), found.status(job)) == ("done\n", "done\n"), found.err
        assert found.results(job) == expected.results(job)
    # submitit makes a folder `%j` where it is told to put a job's number into its folder's name.
    assert not list(folder.rglob("*%j*"))


@needs_model
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", [None, *LAUNCHERS])
def test_a_job_that_fails_in_a_worker_is_told_and_fails_the_command(folder: Path, launcher: str | None) -> None:
    found = swept(folder, launcher)
    assert found.code in (1, 2)
    assert "no concept `strr` in the data; nearest: star, tree" in found.err
    assert found.status(2).startswith("failed: ConfigurationError: no concept `strr`")
    assert "Traceback" not in found.err


@needs_model
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", [None, *LAUNCHERS])
def test_a_worker_does_not_run_again_what_is_finished(folder: Path, launcher: str | None) -> None:
    found = swept(folder, launcher)
    logs = [(found.folder / str(job) / "kedit.log").read_text().count("overrides: ") for job in range(3)]
    assert logs == [1, 1, 2]
    assert found.code_again == found.code
