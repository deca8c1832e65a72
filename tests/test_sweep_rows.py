"""What the job folders of a sweep tell, whatever became of the jobs; short names; the Pareto set; progress."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedit.cli.sweeping.overrides import settings, short_keys, shown, swept_by_job, swept_keys
from kedit.cli.sweeping.pareto import pareto
from kedit.cli.sweeping.progress import duration, job_line, time_left
from kedit.cli.sweeping.results import FIGURES, Result
from kedit.cli.sweeping.rows import read

REAL = Path(__file__).parent / "fixtures" / "sweep"
DIFFERENCE, GRADCAM = "locate.stages.difference.select.q", "locate.stages.gradcam.select.q"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A copy of the real sweep: jobs 1 to 5 done, 0 and 6 failed, 7 killed, 8 never started."""
    return Path(shutil.copytree(REAL, tmp_path / "sweep"))


def change(report: Path, *path: str, value: object) -> None:
    """Set one place of a report."""
    whole = json.loads(report.read_text())
    part = whole
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    report.write_text(json.dumps(whole))


# Rows


def test_each_job_is_a_row_whatever_became_of_it(sweep: Path) -> None:
    rows = read(sweep).rows
    assert [row.number for row in rows] == list(range(9))
    assert [row.status for row in rows] == ["failed", *["done"] * 5, "failed", "running", "missing"]
    assert rows[6].why is not None and rows[6].why.endswith("`q` is a quantile between 0 and 1, got 1.5")
    assert rows[8].why == "it never started"
    assert [row.why for row in rows if row.result is not None] == [None] * 5
    assert rows[7].swept == {"difference.q": "1.5", "gradcam.q": "0.95"}


def test_a_row_holds_what_its_report_says(sweep: Path) -> None:
    report = json.loads((sweep / "1" / "report.json").read_text())
    result = read(sweep).rows[1].result
    assert result is not None
    assert (result.concept, result.model, result.locator) == ("star", "scenes", "two_stage")
    assert (result.operator, result.positions, result.neurons) == ("Zero()", "all", 51)
    assert result.figures["mention_drop"].to_json() == report["suppression"]["mention_drop"]
    assert result.figures["control_retention"].to_json() == report["control"]["retention"]["overall"]
    assert result.weakest == report["weakest_retention"] == "bleu"
    assert (result.fluent, result.evidence, result.p) == (True, True, 0.03125)
    assert result.summary == "star: 51 neurons, drop 1.00, kept 0.35"


def test_a_multirun_without_a_plan_is_read_from_its_numbered_folders(sweep: Path) -> None:
    planned = read(sweep)
    (sweep / "sweep.json").unlink()
    (sweep / "figures").mkdir()
    (sweep / "7" / ".hydra" / "overrides.yaml").write_text("- a: [")  # damaged
    found = read(sweep)
    assert [row.number for row in found.rows] == list(range(8))  # of job 8 there is no trace
    assert [row.overrides for row in found.rows] == [*(row.overrides for row in planned.rows[:7]), ()]
    assert [row.status for row in found.rows] == [row.status for row in planned.rows[:8]]
    assert found.keys == planned.keys


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("suppression",), {}, "`suppression.mention_drop` is a measured value with `value`, `low`, `high` and `n`"),
        (
            ("retention", "overall", "value"),
            "much",
            "`retention.overall` has the value 'much', which is no finite number",
        ),
        (("selectivity", "value"), float("nan"), "`selectivity` has the value nan, which is no finite number"),
        (("selectivity", "value"), 10**400, "which is no finite number"),
        (("neurons", "count"), 1.5, "`neurons.count` is a whole number, got 1.5"),
        (("concept",), None, "`concept` is a word, got None"),
    ],
)
def test_a_damaged_report_is_told_in_its_row_and_the_rest_goes_on(
    path: Sequence[str], value: object, message: str, sweep: Path
) -> None:
    change(sweep / "2" / "report.json", *path, value=value)
    rows = read(sweep).rows
    assert rows[2].status == "damaged"
    assert rows[2].why is not None and message in rows[2].why
    assert [row.number for row in rows if row.result is not None] == [1, 3, 4, 5]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"task": {}}', "\N{SNOWMAN}"])
def test_a_report_that_is_none_is_told_too(content: str, sweep: Path) -> None:
    (sweep / "2" / "report.json").write_text(content)
    row = read(sweep).rows[2]
    assert (row.status, row.result) == ("damaged", None)
    assert row.why is not None and row.why.startswith("its STATUS is `done`, but report.json is no ")


def test_a_report_that_is_gone_is_told_without_the_place_of_the_sweep(sweep: Path) -> None:
    (sweep / "2" / "report.json").unlink()
    assert read(sweep).rows[2].why == "its STATUS is `done`, but there is no report.json"


def test_a_reason_does_not_say_where_the_sweep_lies(sweep: Path) -> None:
    (sweep / "0" / "STATUS").write_text(f"failed: OSError: cannot read `{sweep}/0/cache`\n")
    assert read(sweep).rows[0].why == "OSError: cannot read `0/cache`"


def test_what_an_older_report_lacks_is_not_measured(sweep: Path) -> None:
    report = json.loads((sweep / "1" / "report.json").read_text())
    del report["positions"], report["control"], report["fluency"], report["retention"]["others"]
    result = Result.of(report)
    assert (result.positions, result.fluent, result.evidence, result.p) == (None, None, None, None)
    lacking = {name for name in FIGURES if result.figures[name].value is None}
    assert lacking == {"others", "control_mention_drop", "control_retention"}


def test_equal_neuron_sets_are_found_and_a_lost_one_equals_none(sweep: Path) -> None:
    assert read(sweep).same_neurons() == {}
    found = json.loads((sweep / "2" / "neurons.json").read_text())
    (sweep / "4" / "neurons.json").write_text(json.dumps(found | {"neurons": found["neurons"][::-1]}, indent=3))
    for number in (3, 5):
        (sweep / str(number) / "neurons.json").write_text("damaged")
    assert read(sweep).same_neurons() == {4: 2}


def test_a_folder_that_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`.*/none` is no sweep: it does not exist"):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"it holds neither sweep\.json nor numbered job folders; give the folder"):
        read(tmp_path)


@pytest.mark.parametrize("plan", ["", "{}", "[]", '{"jobs": "all"}', '{"jobs": []}', '{"jobs": [[1]]}'])
def test_a_damaged_plan_is_refused(plan: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(plan)
    with pytest.raises(ValueError, match=r"sweep\.json` is damaged"):
        read(tmp_path)


# Overrides


def test_settings_are_those_that_the_overrides_set() -> None:
    found = settings(["concept=star", "+a.b=1=2", "++c=", "~locate.stages.gradcam"])
    assert found == {"concept": "star", "a.b": "1=2", "c": "", "locate.stages.gradcam": "deleted"}


def test_only_settings_that_differ_are_swept() -> None:
    jobs = [["concept=star", "seed=1", f"{GRADCAM}=0.5"], ["concept=star", "seed=2", f"{GRADCAM}=0.5", "edit=scale"]]
    assert swept_keys(jobs) == ["seed", "edit"]
    assert swept_by_job(jobs) == [{"seed": "1"}, {"seed": "2", "edit": "scale"}]
    assert shown(swept_by_job(jobs)[1]) == "seed=2 edit=scale"
    assert swept_by_job([["a=1"]]) == [{}]


def test_keys_are_shortened_for_people() -> None:
    keys = [DIFFERENCE, GRADCAM, "concept", "locate.site", "edit.factor", "model.generation.max_new_tokens"]
    told = ["difference.q", "gradcam.q", "concept", "locate.site", "edit.factor", "model.max_new_tokens"]
    assert list(short_keys(keys).values()) == told
    assert short_keys([GRADCAM]) == {GRADCAM: "gradcam.q"}


def test_names_that_would_be_shared_are_spelled_out() -> None:
    one, other = "locate.stages.a.select.q", "locate.stages.a.scorer.q"
    assert short_keys([one, other]) == {one: "a.select.q", other: "a.scorer.q"}
    assert short_keys([one, "a.q"]) == {one: "a.select.q", "a.q": "a.q"}
    assert short_keys([one, "a.select.q"]) == {one: one, "a.select.q": "a.select.q"}


@given(
    st.lists(
        st.lists(st.sampled_from(["locate", "stages", "select", "scorer", "a", "b", "q"]), min_size=1, max_size=6).map(
            ".".join
        ),
        unique=True,
        max_size=8,
    )
)
def test_short_names_are_never_ambiguous(keys: list[str]) -> None:
    names = short_keys(keys)
    assert list(names) == keys
    assert len(set(names.values())) == len(keys)


# The Pareto set


def test_ties_stay_and_what_has_no_value_or_is_no_evidence_is_counted(sweep: Path) -> None:
    assert pareto(read(sweep)).jobs == (2,)
    for number in (1, 3):
        report = sweep / str(number) / "report.json"
        report.write_text((sweep / "2" / "report.json").read_text())
    change(sweep / "3" / "report.json", "fluency", "passed", value=False)
    change(sweep / "4" / "report.json", "suppression", "mention_drop", "value", value=None)
    found = pareto(read(sweep))
    # Job 5 edited no neuron.
    assert (found.jobs, found.unmeasured, found.doubtful) == ((1, 2), 1, 2)


def test_jobs_compete_within_their_concept(sweep: Path) -> None:
    change(sweep / "1" / "report.json", "concept", value="house")
    assert pareto(read(sweep)).jobs == (1, 2)


# Progress


def test_a_job_is_told_in_one_line() -> None:
    swept = {"difference.q": "0.9", "gradcam.q": "0.5"}
    told = job_line(12, 100, swept, "star: 14 neurons, drop 1.00, kept 0.98", 0.4, 180.0)
    assert told == (
        "[ 12/100] difference.q=0.9 gradcam.q=0.5   star: 14 neurons, drop 1.00, kept 0.98, 0.4 s; 3 min left"
    )
    assert job_line(4, 4, {}, "failed: a\nb", 12.3, 0.0) == "[4/4] failed: a b, 12 s"
    assert job_line(1, 4, {}, "done", 0.0, None) == "[1/4] done, 0.0 s"


@pytest.mark.parametrize(
    ("seconds", "message"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (99.0, "99 s"), (100, "2 min"), (3600, "1 h"), (7500, "2 h 5 min")],
)
def test_time_spans_have_the_digits_that_matter(seconds: float, message: str) -> None:
    assert duration(seconds) == message


def test_nothing_is_promised_before_a_job_has_run() -> None:
    assert time_left(40, 100, []) is None


def test_equal_jobs_take_their_time_each_and_workers_share_it() -> None:
    assert time_left(3, 10, [4.0, 4.0, 4.0]) == 28
    assert time_left(3, 10, [4.0, 4.0, 4.0], workers=2) == 14
    assert time_left(10, 10, [4.0] * 10) == 0


def test_loading_the_model_is_not_expected_again() -> None:
    assert time_left(2, 10, [60.0, 4.0]) == 32


def test_the_estimate_is_right_on_average_where_most_jobs_are_instant() -> None:
    seconds = [4.0 if number % 10 < 3 else 0.05 for number in range(100)]
    for finished in range(30, 91, 10):
        told = time_left(finished, 100, seconds[:finished])
        assert told == pytest.approx(sum(seconds[finished:]), rel=0.1)


def test_the_estimate_follows_a_change_of_pace_within_twenty_jobs() -> None:
    assert time_left(60, 100, [0.05] * 40 + [4.0] * 20) == pytest.approx(160)


def test_reading_takes_no_model_and_no_hydra() -> None:
    script = (
        f"import sys; from kedit.cli.sweeping.rows import read; read({str(REAL)!r}); "
        "print({'torch', 'hydra', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
