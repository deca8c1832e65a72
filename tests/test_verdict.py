"""One verdict decides whether an edit worked, and every place that says so says the same."""

import ast
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kedit.cli.sweeping.leaderboard import as_json, as_markdown, best, flat
from kedit.cli.sweeping.pareto import pareto
from kedit.cli.sweeping.picture import draw, trials
from kedit.cli.sweeping.rows import read
from kedit.cli.sweeping.summary import metrics, written
from kedit.cli.table import COLUMNS, results, row
from kedit.evaluation.fluency import Fluency
from kedit.evaluation.verdict import has_evidence
from kedit.models.shipped import HERE
from kedit.pipelines.comparison.effects import Effect
from kedit.pipelines.comparison.result import Ranking
from kedit.pipelines.comparison.rows import Row, mean_row
from kedit.pipelines.run import RunResult
from kedit.pipelines.sweep import SweepResult, SweepRow
from kedit.results.reports import report_markdown, report_metrics
from kedit.results.table import show

ROOT = Path(__file__).resolve().parent.parent
SWEEP = Path(__file__).parent / "fixtures" / "sweep"
CLAIMS = ("suppresses `star` beyond", "is gone from", "Most selective", "most selective, suppresses", "Highest select")
"""What only a result with evidence is called."""
DOUBT = "No evidence that the edit suppresses `star`"
DECIDES = frozenset({"beats", "passed"})
"""What the verdict is made of; whoever looks at it instead of the verdict decides anew."""
MAY_READ = frozenset(
    {"kedit.cli.sweeping.leaderboard", "kedit.cli.sweeping.results", "kedit.page.headings", "kedit.page.tables"}
)
"""They show what the fluency guard and the test said, beside the verdict, which a leaderboard keeps under this name."""

shipped = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)


@pytest.fixture(scope="module")
def fine(star_run: RunResult) -> RunResult:
    return star_run


@pytest.fixture(scope="module")
def broken(fine: RunResult) -> RunResult:
    """The same run, but the fluency guard failed: all figures are as good as before."""
    fluency = Fluency(fine.report.fluency.groups, passed=False, why="on target samples it babbles")
    return dataclasses.replace(fine, report=dataclasses.replace(fine.report, fluency=fluency))


def claims_nothing(text: str) -> None:
    assert not [claim for claim in CLAIMS if claim in text]


@shipped
def test_a_run_that_broke_the_language_claims_nothing_anywhere(
    fine: RunResult, broken: RunResult, tmp_path: Path
) -> None:
    assert fine.report.has_evidence and not broken.report.has_evidence
    assert broken.report.verdict.startswith(f"{DOUBT}: its mention_drop of 1.00")
    titles = {name: one.title for name, one in broken.figures.items()}
    assert titles["effects"] == titles["before_after"] == DOUBT
    report = json.loads(json.dumps(broken.to_json()))
    pages = [str(broken), broken._repr_html_(), report_markdown(report), json.dumps(report), *titles.values()]
    for page in pages:
        claims_nothing(page)
    assert all(DOUBT in page for page in pages[:4])
    assert (report["evidence"], report["control"]["beats_control"]["mention_drop"]) == (False, False)
    assert type(broken.report).from_json(report, "star", len(broken.neurons)).verdict == broken.report.verdict
    numbers = report_metrics(report)  # what W&B is told
    assert (numbers["evidence"], numbers["control/beats_control/mention_drop"]) == (0, 0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    (result,) = results([str(tmp_path)])
    assert dict(zip(COLUMNS, map(show, row(result)), strict=True))["beats control"] == "no"
    assert result.summary.endswith(", no evidence: broken language")


@shipped
def test_a_run_with_evidence_says_so_in_the_same_places(fine: RunResult, tmp_path: Path) -> None:
    report = json.loads(json.dumps(fine.to_json()))
    titles = {name: one.title for name, one in fine.figures.items()}
    assert titles["effects"] == "The edit suppresses `star` beyond its layer-matched random control"
    assert "is gone from 4 of these 4" in titles["before_after"]
    assert (report["evidence"], report_metrics(report)["evidence"]) == (True, 1)
    (tmp_path / "report.json").write_text(json.dumps(report))
    (result,) = results([str(tmp_path)])
    assert dict(zip(COLUMNS, map(show, row(result)), strict=True))["beats control"] == "yes"
    assert "no evidence" not in result.summary


@shipped
def test_an_edit_that_strengthens_is_not_titled_by_what_is_gone(fine: RunResult) -> None:
    more = dataclasses.replace(fine.report, aim="more")
    titles = {name: one.title for name, one in dataclasses.replace(fine, report=more).figures.items()}
    assert (
        titles["effects"]
        == titles["before_after"]
        == "The edit strengthens `star` beyond its layer-matched random control"
    )


@shipped
def test_a_sweep_of_runs_without_evidence_has_no_best_and_no_front(fine: RunResult, broken: RunResult) -> None:
    alone = SweepResult((SweepRow("star", {}, broken),))
    assert alone.best is None and not alone.front
    for page in (str(alone), alone._repr_html_(), *(one.title for one in alone.figures.values())):
        claims_nothing(page)
    assert [one["evidence"] for one in alone.to_json()] == [False]
    both = SweepResult((SweepRow("star", {}, broken), SweepRow("star", {}, fine)))
    assert both.best is both.rows[1] and both.front == {1}


@pytest.fixture
def doubtful(tmp_path: Path) -> Path:
    """A copy of the real sweep in which no job is evidence, whatever its figures are."""
    sweep = Path(shutil.copytree(SWEEP, tmp_path / "sweep"))
    for path in sweep.glob("*/report.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"evidence": False}))
    return sweep


def test_a_leaderboard_without_evidence_names_no_best_job(doubtful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(doubtful)
    front, drawn = pareto(found), dict[str, str]()
    assert best(found) is None and front.jobs == () and front.doubtful == 5
    page = as_markdown(found, front, (), ())
    claims_nothing(page)
    assert "**No evidence**" in page and "jobs: none" not in page and "5 are no evidence" in page
    table = flat(found, front)
    columns, lines = table.columns, table.rows
    assert {line[columns.index("beats_control")] for line in lines} == {False, None}
    jobs = [job for job in as_json(found, front)["jobs"] if job["status"] == "done"]
    assert {job["beats_control"]["mention_drop"] for job in jobs} == {False}
    assert {line[columns.index("pareto")] for line in lines} == {False, None}
    assert not any(one.evidence for one in trials(found, front))
    for name in ("draw_pareto", "draw_thresholds", "draw_doses"):
        monkeypatch.setattr(f"kedit.cli.sweeping.picture.{name}", noted(name, drawn))
    draw(found, front)
    assert "No evidence at any point" in drawn["draw_pareto"] and "No evidence at any point" in drawn["draw_thresholds"]
    for title in drawn.values():
        claims_nothing(title)


def test_a_mirror_of_a_sweep_without_evidence_has_no_best_job(doubtful: Path) -> None:
    told = dict(metrics(written(doubtful)))
    assert not [name for name in told if name.startswith("best/")] and told["pareto_jobs"] == 0


def test_a_job_without_evidence_ranks_behind_those_that_have_it(tmp_path: Path) -> None:
    sweep = Path(shutil.copytree(SWEEP, tmp_path / "sweep"))
    path = sweep / "2" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"evidence": False}))
    found = read(sweep)
    first = best(found)
    assert first is not None and first[0].number == 4
    assert dict(metrics(written(sweep)))["best/job"] == 4
    assert 2 not in pareto(found).jobs


def test_a_comparison_says_which_method_broke_the_language() -> None:
    figures = dict.fromkeys(("mention_drop", "retention", "selectivity", "logprob_drop", "substitutions"), half())
    rows = [
        Row("star", "4", name, effect=Effect(figures, None, {}, broken=why))
        for name, why in (("two_stage", "it babbles"), ("gradcam", None))
    ]
    ranking = Ranking("star", "4", rows)
    assert ranking.table().notes == ("two_stage: no evidence: broken language, it babbles",)
    assert [one.label for one in rows] == ["two_stage (broken language)", "gradcam"]
    assert [one["broken_language"] for one in ranking.to_json()["rows"]] == ["it babbles", None]
    mean = mean_row(
        [rows[0], dataclasses.replace(rows[0], concept="moon"), dataclasses.replace(rows[1], method="two_stage")]
    )
    assert (mean.label, mean.broken) == ("two_stage (broken language: 2 of 3)", "with the neurons of star, moon")


def half() -> Any:
    from kedit.evaluation.statistics import Measured

    return Measured(0.5, 0.4, 0.6, 9)


def noted(name: str, drawn: dict[str, str]) -> Any:
    """Return a stand-in for a way of drawing that writes its title down."""

    class Nothing:
        def save(self, path: Path, style: object = None) -> None:
            path.write_bytes(b"")

    def note(*_: object, title: str, **__: object) -> Nothing:
        drawn[name] = title
        return Nothing()

    return note


@pytest.mark.parametrize(
    ("report", "says"),
    [
        ({"evidence": True, "fluency": {"passed": False}}, True),
        ({"control": {"beats_control": {"mention_drop": True}}, "fluency": {"passed": True}}, True),
        ({"control": {"beats_control": {"mention_drop": True}}, "fluency": {"passed": False}}, False),
        ({"control": {"beats_control": {"mention_drop": False}}}, False),
        ({"fluency": {"passed": False}}, None),
        ({}, None),
    ],
)
def test_a_report_of_any_version_says_whether_there_is_evidence(report: dict[str, Any], says: bool | None) -> None:
    assert has_evidence(report) is says


def test_nothing_else_decides() -> None:
    offenses = [
        f"{path.relative_to(ROOT)}:{line}: `{name}` is for the verdict; read `has_evidence`"
        for path in sorted([*(ROOT / "kedit").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])
        if (ROOT / "kedit" / "evaluation") not in path.parents
        if ".".join(path.relative_to(ROOT).with_suffix("").parts) not in MAY_READ
        for name, line in looked_at(path)
    ]
    assert not offenses, "\n".join(offenses)


def looked_at(path: Path) -> Iterator[tuple[str, int]]:
    """Yield where a module looks at what the verdict is made of, as an attribute or in a report."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in DECIDES:
            yield node.attr, node.lineno
        elif isinstance(node, ast.Constant) and node.value == "beats_control":
            yield "beats_control", node.lineno
