"""Ways of painting a concept out: what is compared with what, and the command on the shipped model."""

import json
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import experiments.counterfactual_sources.run as recipe
from experiments.counterfactual_sources.agreement import Examiner, Found, agreement
from experiments.counterfactual_sources.painting import AGAIN, Counts, Painted, Studio
from experiments.counterfactual_sources.rows import row
from kedit.data.inpaint import Exact, MeanFill
from kedit.data.scenes import Scenes
from kedit.edit.operators import Zero
from kedit.edit.plan import Plan
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.statistics import Measured
from kedit.locate.activation import Activation
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.neurons import NeuronScores
from kedit.pipelines.comparison.effects import Effect, Trial
from kedit.samples import Counterfactual


def found(first: Sequence[float], last: Sequence[float], source: str = "one", **more: object) -> Found:
    """Return what two stages found in one layer: the first passes its four best, the last its two best of those."""
    scores = {name: NeuronScores(torch.tensor([values]), name) for name, values in (("first", first), ("last", last))}
    passed = TopK(4)(scores["first"])
    stages = {"first": passed, "last": TopK(2)(scores["last"], passed)}
    return replace(Found(source, [True], scores=scores, stages=stages), **more)  # type: ignore[arg-type]


ONE = found([6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6])


def test_a_source_agrees_with_itself_fully() -> None:
    assert agreement(ONE, ONE, 3) == pytest.approx({"neurons": 1, "first_stage": 1, "ranks": 1})


def test_the_reference_candidates_alone_are_ranked() -> None:
    other = found([6, 5, 4, 3, 2, 1], [4, 3, 2, 1, 60, 70])
    alike = agreement(ONE, other, 3)
    # Of the candidates 0-3 the order is reversed; 4 and 5, which agree, are none.
    assert alike == pytest.approx({"neurons": 0, "first_stage": 1, "ranks": -1})


def test_the_best_of_the_first_stage_are_compared_whatever_passes_it() -> None:
    other = found([3, 5, 4, 6, 2, 1], [1, 2, 3, 4, 5, 6])
    alike = agreement(ONE, other, 3)
    assert alike is not None
    assert alike["first_stage"] == pytest.approx(2 / 4)
    assert alike["neurons"] == 1


def test_what_found_no_neurons_agrees_with_nothing() -> None:
    assert agreement(ONE, Found("other", [], why="all still named"), 3) is None


def effect(drop: float, kept: float) -> Effect:
    figures = {"mention_drop": drop, "retention": kept, "selectivity": min(drop, kept)}
    return Effect({name: Measured(value, value, value, 9) for name, value in figures.items()}, "text", {})


def test_a_row_pools_the_pictures_and_averages_over_concepts() -> None:
    concepts = {
        "star": {
            "exact": found([6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], "exact", effect=effect(1.0, 0.9)),
            "mean": found([6, 5, 4, 3, 2, 1], [4, 3, 2, 1, 5, 6], "mean", effect=effect(0.5, 0.9), n_pairs=4),
        },
        "moon": {
            "exact": replace(ONE, source="exact", effect=effect(0.6, 0.7)),
            "mean": replace(ONE, source="mean", removed=[True, False, False], effect=effect(0.3, 0.8), n_pairs=2),
        },
    }
    painted = [Painted("mean", [], 0.2, skipped=1), Painted("mean", [], 0.3)]
    made = row("tiny", painted, "exact", concepts, top=3)
    assert (made.figures["removed"].value, made.figures["removed"].n) == (0.5, 4)
    assert (made.figures["neurons"].value, made.figures["neurons"].n) == (0.5, 2)
    assert made.figures["mention_drop"].value == pytest.approx(0.4)
    assert made.differences["mention_drop"].value == pytest.approx(-0.4)
    assert made.differences["retention"].value == pytest.approx(0.05)
    assert (made.pairs, made.size, made.seconds, made.skipped) == (3, 2, 0.25, 1)
    own = row("tiny", [Painted("exact", [], 0.1)], "exact", concepts, top=3)
    assert own.figures["neurons"].value is None


def test_the_second_run_of_the_reference_sees_other_pictures() -> None:
    studio = Studio(Scenes(), {"exact": Exact(), "mean": MeanFill()}, "exact", Counts(3, 2, 1), seed=4)
    star = next(one for one in Scenes().concepts if one.name == "star")
    split = studio.split(star)
    exact, mean, again = studio.painted(star, split)
    assert [one.source for one in (exact, mean, again)] == ["exact", "mean", "exact" + AGAIN]
    seen = [{pair.sample.id for pair in one.pairs} for one in (exact, mean, again)]
    assert seen[0] == seen[1]
    assert all(len(one) == 3 for one in seen)
    held = {sample.id for sample in (*split.target, *split.near, *split.far)}
    assert seen[0].isdisjoint(seen[2] | held)
    assert seen[2].isdisjoint(held)


def test_a_source_that_removes_nothing_is_found_out_and_locates_nothing(planted: Planted) -> None:
    pairs = [without(picture(name, (number,)), STAR_CONCEPT) for number, name in enumerate("abc")]
    lazy = [Counterfactual(pair.sample, pair.concept, pair.sample.image) for pair in pairs]
    locator = Locator({"activation": Stage(Activation(), TopK(1))})
    evaluation_set = EvaluationSet(STAR_CONCEPT, (STAR_CONCEPT,), (picture("held", (5,)),))
    trial = Trial(planted.model, evaluation_set, Plan(Zero()), pairs, Similarity(None))
    examiner = Examiner(planted.model, locator)

    honest = examiner.found(Painted("honest", pairs, 0.0), trial)
    assert honest.removed == [True] * 3
    assert honest.left == frozenset()
    assert (honest.n_pairs, len(honest.neurons or ())) == (3, 1)

    left = examiner.found(Painted("lazy", lazy, 0.0), trial)
    assert left.removed == [False] * 3
    assert left.left == {"a", "b", "c"}
    assert left.neurons is None
    assert "no pair" in left.why


FEW = ["concepts=[star]", "evaluate.locate=4", "evaluate.target=4", "evaluate.retention=2", "~model@models.scenes_soft"]


def inodes(store: Path) -> dict[str, int]:
    """Return what tells an entry that was written again, as entries are written by replacing the file."""
    return {path.name: path.stat().st_ino for path in store.rglob("*") if path.is_file()}


def test_the_command_compares_the_sources_and_goes_on_from_what_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cheap = ["~inpaint@sources.diffusers", "~inpaint@sources.blur", "~inpaint@sources.telea"]
    cheap += ["~inpaint@sources.navier_stokes"]
    monkeypatch.setattr(
        sys,
        "argv",
        ["run.py", "hydra.run.dir=out", "store=kept", *FEW, *cheap],
    )
    with chdir(tmp_path):
        assert recipe.main() == 0
        first = json.loads((tmp_path / "out" / "report.json").read_text())
        kept = inodes(tmp_path / "kept")
        assert recipe.main() == 0
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert inodes(tmp_path / "kept") == kept != {}
    rows = {one["source"]: one for one in first["rows"]}
    assert set(rows) == {"exact", "mean", "exact" + AGAIN}
    for name, one in rows.items():
        assert one["removed"]["n"] == 4
        assert one["mention_drop"]["value"] is not None
        assert (one["neurons"]["value"] is None) == (name == "exact")
    timeless = [
        [{key: value for key, value in one.items() if key != "seconds_a_picture"} for one in report["rows"]]
        for report in (first, again)
    ]
    assert timeless[0] == timeless[1]
    for figure in ("pictures_scenes.png", "sources.png"):
        with Image.open(tmp_path / "out" / "figures" / figure) as drawn:
            assert drawn.width == 1200
    assert "| mean |" in (tmp_path / "out" / "report.md").read_text()
    assert "## scenes" in capsys.readouterr().out


def test_an_unknown_reference_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(
        sys,
        "argv",
        ["run.py", f"hydra.run.dir={tmp_path}", "reference=truth", *FEW],
    )
    assert recipe.main() == 2
    assert "`reference` is one of exact" in capsys.readouterr().err
