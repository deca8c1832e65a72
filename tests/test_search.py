"""Searching for thresholds with optuna, where it is installed."""

from importlib.metadata import distributions
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from kedit.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not list(distributions(name="hydra-optuna-sweeper")), reason="needs hydra-optuna-sweeper"),
]
SMALL = ["evaluate.locate=8", "evaluate.target=6", "evaluate.retention=3", "evaluate.controls=0", "figures=false"]


def search(folder: Path, *more: str) -> int:
    words = ["experiment=pareto", "concept=star", *SMALL, "store=null", f"hydra.sweep.dir={folder}", *more]
    return main(["run", "-m", *words])


def test_a_search_maximizes_what_a_job_returns_and_ends_with_the_pareto_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(tmp_path, "hydra.sweeper.n_trials=3") == 0
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert len(found.solutions) >= 1
    assert all(len(one["values"]) == 2 and min(one["values"]) >= 0 for one in found.solutions)
    printed = capsys.readouterr().out
    assert "[3/3] difference.q=" in printed
    assert (tmp_path / "leaderboard.csv").is_file()
    assert search(tmp_path, "hydra.sweeper.n_trials=3") == 0
    assert capsys.readouterr().out.count("finished before") == 3
    assert OmegaConf.load(tmp_path / "optimization_results.yaml") == found


def test_a_trial_that_fails_does_not_end_the_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused = "locate.stages.gradcam.select.of_max=choice(2.0)"
    assert search(tmp_path, "hydra.sweeper.n_trials=2", refused) != 0
    found = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert found.solutions == []
    assert [(tmp_path / str(number) / "STATUS").read_text()[:6] for number in (0, 1)] == ["failed", "failed"]
