"""`python -m experiments.false_discoveries.run`: shares by hand, what is refused, and both commands from end to end."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.false_discoveries import run
from experiments.false_discoveries.grid import locators, split
from experiments.false_discoveries.planted import understood
from experiments.false_discoveries.rates import rate_of, rows, told
from kedit.cli.configuration import ConfigurationError
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.locate.difference import ActivationDifference
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import Quantile, TopK
from kedit.models.planted import STAR_CONCEPT, picture
from kedit.models.planted.nulls import null_pairs, planted_nulls


@dataclass(frozen=True)
class Counted:
    false_share: float
    power: float = 0.5
    anything: bool = False


def calibrate(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py", *words])
        return run.main()


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(Path(run.__file__).parent), version_base="1.3"):
        return compose("config", list(overrides))


def test_a_promise_is_broken_where_the_whole_interval_lies_above_the_rate() -> None:
    kept = rate_of("difference", 0.1, [Counted(share) for share in (0.0, 0.3, 0.1, 0.2)], 0)
    broken = rate_of("gradcam", 0.1, [Counted(share) for share in (0.2, 0.3, 0.25, 0.2)], 0)
    assert (kept.kept, broken.kept) == (True, False)
    assert told([kept]) == "No stage makes more false discoveries than asked for, as far as 4 models can tell"
    assert told([kept, broken]).startswith("More false discoveries than asked for: gradcam at 0.1 (0.23")
    assert rows([kept])[0][:2] == ["difference", "0.1"]


def test_the_planted_pictures_differ_where_they_should_and_nowhere_else() -> None:
    import numpy as np

    for pair in null_pairs(6, 1):
        region = pair.sample.regions["star"]
        original, painted = np.array(pair.sample.image), np.array(pair.image)
        assert (original[region, 0] == 255).all()
        assert (painted[..., 0] == 0).all()
        assert (original[~region] == painted[~region]).all()
        assert pair.control is not None
        control = np.array(pair.control)
        assert (control[region] == original[region]).all()
        # As many patches are drawn again elsewhere; a texture may come out the same.
        assert 0 < (control != original).any(-1).sum() <= region.sum()
    assert all((np.array(pair.sample.image)[..., 0] == 0).all() for pair in null_pairs(3, 1, shown=False))


def test_the_planted_roles_lie_within_each_other_and_depend_on_the_seed() -> None:
    one, again, other = (planted_nulls(seed) for seed in (4, 4, 5))
    assert one.speakers <= one.readers
    assert (len(one.speakers), len(one.readers)) == (8, 32)
    assert one.readers == again.readers != other.readers


def test_only_tests_have_false_discoveries_to_count() -> None:
    with pytest.raises(ConfigurationError, match="counts the false discoveries of `select=auto`"):
        understood(composed("select=knee"))
    with pytest.raises(ConfigurationError, match=r"shares above 0 and below 1, got \[0.1, 1.0\]"):
        understood(composed("planted.rates=[0.1,1.0]"))


def test_a_grid_has_every_pair_of_quantiles() -> None:
    cfg = composed()
    two = Locator({name: Stage(ActivationDifference(), Quantile(0.5, of_max=0.2)) for name in ("a", "b")})
    points = locators(two, cfg)
    found = {tuple(stage.select.q for stage in one.stages.values()) for one in points}  # type: ignore[attr-defined]
    assert len(found) == len(points) == 100
    assert {stage.select.of_max for one in points for stage in one.stages.values()} == {0.2}  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="moves the quantiles of two stages"):
        locators(Locator({"a": Stage(ActivationDifference(), TopK(3))}), cfg)


def test_the_halves_of_an_evaluation_set_share_no_sample() -> None:
    target = tuple(picture(f"t{n}", star=(n,)) for n in range(5))
    near = tuple(picture(f"n{n}", house=(n,)) for n in range(4))
    first, second = split(EvaluationSet(STAR_CONCEPT, (STAR_CONCEPT,), target, near))
    assert (len(first.target), len(second.target), len(first.near), len(second.near)) == (3, 2, 2, 2)
    ids = [{sample.id for sample in half.target + half.retention} for half in (first, second)]
    assert ids[0].isdisjoint(ids[1])


def test_the_promise_is_kept_on_a_few_planted_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["planted.models=2", "planted.pictures=24", "planted.rates=[0.05,0.2]"]
    assert calibrate(*asked, f"hydra.run.dir={tmp_path}") == 0
    assert "No stage makes more false discoveries" in capsys.readouterr().out
    rates = json.loads((tmp_path / "calibration.json").read_text())["rates"]
    assert [(one["stage"], one["q"]) for one in rates] == [
        ("difference", 0.05),
        ("difference", 0.2),
        ("gradcam", 0.05),
        ("gradcam", 0.2),
    ]
    assert rates[0]["power"]["value"] > 0.5
    assert rates[0]["power"]["value"] <= rates[1]["power"]["value"]
    assert (tmp_path / "figures/calibration.png").is_file()
    assert "| gradcam | 0.2 |" in (tmp_path / "calibration.md").read_text()


@pytest.mark.slow
def test_the_promise_is_kept_on_many_planted_models(tmp_path: Path) -> None:
    assert calibrate("planted.models=40", f"hydra.run.dir={tmp_path}") == 0
    rates = json.loads((tmp_path / "calibration.json").read_text())["rates"]
    assert all(one["false_discoveries"]["value"] <= 1.2 * one["q"] + 0.01 for one in rates)
    # Where nothing is to be found, a rate is the chance of finding anything.
    assert all((one["any_under_the_null"]["low"] or 0) <= one["q"] for one in rates)


@pytest.mark.slow
def test_what_is_chosen_is_put_beside_the_best_of_a_grid(tmp_path: Path) -> None:
    asked = ["grid.concepts=[star]", "grid.first=[0.9,0.95]", "grid.last=[0.5,0.9]"]
    counts = ["evaluate.locate=24", "evaluate.target=20", "evaluate.retention=10"]
    assert calibrate("against=grid", *asked, *counts, f"hydra.run.dir={tmp_path}") == 0
    found = json.loads((tmp_path / "grid.json").read_text())["rows"]
    assert [row["by"] for row in found] == ["select=auto", "the locator's own", "the best of the grid"]
    assert all(0 <= row["above"] <= 1 for row in found)
    best = found[-1]
    # The best point of the grid is one that no other point exceeds where it was chosen.
    assert all(row["above"] <= best["above"] + 1e-9 for row in found if row["by"] == "the locator's own")
