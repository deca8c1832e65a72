"""The jobs as a notebook calls them: one call, one result that prints and saves itself."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest

import kedit
from kedit.models.mllm import MLLM
from kedit.neurons import ids_from
from kedit.pipelines import sweep as pipeline
from kedit.pipelines.preparation import prepare
from kedit.pipelines.run import RunResult
from kedit.pipelines.sweep import SweepResult, SweepRow
from kedit.plots import Style
from kedit.results.run_folder import FinishedRunError, Run
from tests.page_reader import EVIL, read_page

FEW = kedit.Counts(locate=4, target=6, retention=3, controls=1)
"""Those of `star_run`."""
SILENT = dataclasses.replace(FEW, text=False)


@pytest.fixture(scope="module")
def model(scenes_model: MLLM) -> MLLM:
    return scenes_model


@pytest.fixture(scope="module")
def result(star_run: RunResult) -> RunResult:
    return star_run


def test_one_call_locates_edits_and_measures(result: RunResult) -> None:
    assert result.concept == "star" and result.locator == "two_stage" and result.operator == "Zero()"
    assert len(result.neurons) > 0
    assert result.report.suppression["mention_drop"].value == 1.0
    assert result.report.suppression["mention_drop"].n == 6
    assert result.report.control.seeds == 1
    target = [row for row in result.captions if row.group == "target"]
    assert len(target) == 6 and all("star" in row.before and "star" not in row.after for row in target)


def test_a_folder_with_fewer_pictures_than_asked_for_is_measured_on_those(
    model: MLLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split, lines = kedit.Scenes().split(kedit.Concept("star"), locate=6, target=6, retention=2, seed=5), []
    for number, sample in enumerate((*split.locate, *split.target, *split.near, *split.far)):
        sample.image.save(tmp_path / f"{number}.png")
        places = {name: np.argwhere(region) for name, region in sample.regions.items()}
        boxes = {name: (*at.min(0)[::-1], *at.max(0)[::-1] + 1) for name, at in places.items()}
        objects = [{"name": name, "box": [int(side) for side in box]} for name, box in boxes.items()]
        lines.append(json.dumps({"image": f"{number}.png", "objects": objects}))
    (tmp_path / "pictures.jsonl").write_text("\n".join(lines))
    result = kedit.run(model, kedit.Folder(str(tmp_path), boxes="xyxy"), "star", counts=kedit.Counts(controls=1))
    (message,) = caplog.messages
    assert "3 (of 24) to locate with, 9 (of 60) as target, 0 (of 60) near, 4 (of 60) far" in message
    counted = result.to_json()["samples"]
    assert (counted["located"], counted["target"], counted["retention"]) == (3, 9, 4)
    drop = result.report.suppression["mention_drop"]
    assert drop.n == sum("star" in row.before for row in result.captions if row.group == "target") <= 9
    assert drop.value == 1.0 and drop.low is not None and drop.low < 0.75


def test_text_only_questions_can_be_left_out() -> None:
    asked, silent = (
        prepare(kedit.Scenes(), "star", None, dataclasses.replace(FEW, text=text)).evaluation_set.questions
        for text in (True, False)
    )
    assert asked == kedit.Scenes().questions and silent == ()
    with pytest.raises(ValueError, match="`text` is true or false, got 'no'"):
        kedit.Counts(text="no")  # type: ignore[arg-type]


def test_the_result_prints_itself_as_text_and_as_html(result: RunResult) -> None:
    for text in (str(result), result._repr_html_()):
        assert "retention: BLEU" in text and "bleu" not in text
        assert "mention_drop" in text and "1.00 [" in text and result.examples[0].after in text
    assert result.report.verdict in result.table().notes


def test_in_a_notebook_a_result_has_the_numbers_of_its_table_and_a_figure(result: RunResult) -> None:
    strange = replace(result, model=EVIL, operator=EVIL)
    seen = read_page(strange._repr_html_(), strange.table())
    assert len(seen.pictures) == 1 and seen.texts.count(result.report.verdict) == 1
    page, report = read_page(result.report._repr_html_()), result.report
    figures = [*report.suppression.values(), *report.retention.values(), *report.control.suppression.values()]
    assert {one.why or str(one) for one in figures} <= set(page.texts) and report.verdict in page.texts


def test_what_is_saved_is_whole_and_reads_back(result: RunResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "star")
    assert Run(folder).status == "done"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(result.to_json()))
    read = type(result.report).from_json(report, "star", len(result.neurons))
    assert read == result.report
    figures = {one.stem for one in (folder / "figures").iterdir()}
    assert figures == set(result.figures) == {"layers", "before_after", "scores", "effects", "heatmaps"}
    named = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [tuple(row.values()) for row in named] == [tuple(row) for row in result.captions]
    other = replace(result, skipped={"invented": 1})
    with pytest.raises(FinishedRunError):
        other.save(folder, figures=False)
    other.save(folder, figures=False, overwrite=True)
    assert not (folder / "figures").exists()


def test_figures_are_saved_in_the_style_that_is_asked_for_and_cleared_with_their_run(
    result: RunResult, tmp_path: Path
) -> None:
    folder = result.save(tmp_path / "star", figures=Style(format="svg", titles=False, width="single"))
    drawn = {one.name: one.read_text() for one in (folder / "figures").iterdir()}
    assert set(drawn) == {f"{name}.svg" for name in result.figures}
    assert 'width="288pt"' in drawn["effects.svg"] and "concept no longer named" in drawn["effects.svg"]
    assert " ".join(result.figures["effects"].title.split()[:2]) not in drawn["effects.svg"]
    assert "![effects](figures/effects.svg)" in (folder / "report.md").read_text()
    (folder / "figures" / "mine.svg").write_text("mine")
    replace(result, skipped={"invented": 1}).save(folder, figures=False, overwrite=True)
    assert [one.name for one in (folder / "figures").iterdir()] == ["mine.svg"]


def test_a_store_gives_the_same_without_running_the_model_again(
    model: MLLM, result: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kedit.run(model, kedit.Scenes(), "star", counts=FEW, store=tmp_path)
    assert first.to_json() == result.to_json()

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was run again")

    for name in ("ask", "caption", "logits"):
        monkeypatch.setattr(type(model), name, refuse)
    assert kedit.run(model, kedit.Scenes(), "star", counts=FEW, store=tmp_path).to_json() == result.to_json()
    located = kedit.locate_neurons(model, kedit.Scenes(), "star", counts=FEW, store=tmp_path)
    assert located.neurons == result.neurons


def test_locating_alone_finds_what_a_run_edits_and_leaves_the_same_files(
    model: MLLM, result: RunResult, tmp_path: Path
) -> None:
    located = kedit.locate_neurons(model, kedit.Scenes(), "star", counts=FEW)
    assert located.neurons == result.neurons and set(located.figures) == {"layers", "scores"}
    alone, whole = located.save(tmp_path / "alone"), result.save(tmp_path / "whole", figures=False)
    for name in ("scores.safetensors", "neurons.json"):
        assert (alone / name).read_bytes() == (whole / name).read_bytes()
    report = json.loads((alone / "locate.json").read_text(encoding="utf-8"))
    assert report == located.to_json() and report["neurons"] == result.to_json()["neurons"]
    assert {one.stem for one in (alone / "figures").iterdir()} == set(located.figures)
    assert Run(alone).status == "done"


def test_what_was_located_prints_itself_by_stage(model: MLLM) -> None:
    located = kedit.locate_neurons(model, kedit.Scenes(), "star", counts=FEW, select=kedit.TopK(3))
    for text in (str(located), located._repr_html_()):
        assert "`star` in scenes by two_stage: 4 samples" in text and "neurons: 3 (" in text
    assert len(read_page(located._repr_html_(), located.table()).pictures) == 1
    assert located.to_json()["samples"]["skipped"]["caption_does_not_name_it"] == 0
    first, last = located.table().to_json()
    assert first["neurons"] == len(located.located.stages["difference"]) > 3 == last["neurons"]
    assert (last["stage"], last["chosen by"]) == ("gradcam", repr(kedit.TopK(3)))
    assert last["highest score"] == located.scores["gradcam"].values.max().item()


def test_without_an_inpainter_a_region_is_filled_where_the_data_cannot_draw(model: MLLM) -> None:
    class Photographs(kedit.Scenes):
        def split(self, *args: Any, **kwargs: Any) -> Any:
            from dataclasses import replace

            found = super().split(*args, **kwargs)
            return replace(found, locate=tuple(replace(one, render_without=None) for one in found.locate))

    drawn, filled = (prepare(data, "star", None, FEW) for data in (kedit.Scenes(), Photographs()))
    assert len(drawn.pairs) == len(filled.pairs) == 4
    assert drawn.pairs[0].image.tobytes() != filled.pairs[0].image.tobytes()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"concept": "stra"}, LookupError, "no concept `stra` in the data; nearest: star"),
        ({"select": kedit.TopK(1), "locate": kedit.Miner()}, ValueError, "`select` replaces the selectors"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_model_runs(wrong: dict[str, Any], error: Any, message: str) -> None:
    asked = {"concept": "star", "counts": FEW} | wrong
    for job in (kedit.run, kedit.locate_neurons):
        with pytest.raises(error, match=message):
            job(None, kedit.Scenes(), **asked)


@pytest.mark.parametrize(("name", "least"), [("locate", 1), ("target", 1), ("retention", 0), ("controls", 0)])
def test_counts_below_the_least_are_refused(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is {least} or more, got {least - 1}"):
        kedit.Counts(**{name: least - 1})


# --- sweep

SELECT = {"gradcam": [kedit.TopK(3), kedit.Quantile(0.0, at_most=3), kedit.TopK(0)]}
"""The first two choose the same neurons, the last none."""


class Counted(NamedTuple):
    result: SweepResult
    scored: int
    measured: int


@pytest.fixture(scope="module")
def swept(model: MLLM) -> Counted:
    score, measure = Mock(side_effect=kedit.Locator.score), Mock(side_effect=pipeline.run_prepared)
    with pytest.MonkeyPatch.context() as patch:
        # A method, which a mock alone is not.
        patch.setattr(kedit.Locator, "score", lambda *words, **options: score(*words, **options))
        patch.setattr(pipeline, "run_prepared", measure)
        result = kedit.sweep(model, kedit.Scenes(), ["star", "house"], SELECT, counts=SILENT)
    return Counted(result, score.call_count, measure.call_count)


def test_a_sweep_scores_each_concept_once_and_measures_each_set_once(swept: Counted) -> None:
    rows = swept.result.rows
    assert [(row.concept, len(row.run.neurons)) for row in rows] == [
        (concept, n) for concept in ("star", "house") for n in (3, 3, 0)
    ]
    assert (swept.scored, swept.measured) == (2, 4)
    assert rows[0].run is rows[1].run and list(swept.result.distinct) == [0, 2, 3, 5]
    assert [row.select["gradcam"] for row in rows[:3]] == SELECT["gradcam"]


def test_a_point_of_a_sweep_is_what_a_run_finds(model: MLLM, swept: Counted) -> None:
    stages = kedit.two_stage().stages
    locator = kedit.Locator({**stages, "gradcam": kedit.Stage(stages["gradcam"].scorer, kedit.TopK(3))})
    alone = kedit.run(model, kedit.Scenes(), "house", locate=locator, counts=SILENT)
    assert swept.result.rows[3].run.to_json() == alone.to_json()


def test_the_table_of_a_sweep_tells_what_is_no_evidence_and_what_is_best(swept: Counted) -> None:
    table, best = swept.result.table(), swept.result.best
    assert [row["evidence"] for row in table.to_json()] == [row.run.report.has_evidence for row in swept.result.rows]
    assert not swept.result.rows[2].run.report.has_evidence
    assert best is not None and best.run.report.has_evidence and best.run.report.verdict in table.notes[1]
    assert table.notes[0] == "6 points choose 4 distinct sets of neurons"
    assert len(read_page(swept.result._repr_html_(), table).pictures) == 1
    assert all(told in swept.result._repr_html_() for told in ("TopK(k=3)", "Quantile(q=0.0, at_most=3)", *table.notes))
    assert table.notes[0] in str(swept.result) and "house" in str(swept.result)


def test_the_front_is_what_no_row_of_the_concept_beats(swept: Counted) -> None:
    def place(row: SweepRow) -> tuple[float, float]:
        drop, kept = row.run.report.suppression["mention_drop"].value, row.run.report.retention["overall"].value
        assert drop is not None and kept is not None and row.run.report.fluency.passed
        return drop, kept

    rows = swept.result.rows
    for number, row in enumerate(rows):
        rivals = [place(other) for other in rows if other.concept == row.concept]
        beaten = any(all(a >= b for a, b in zip(one, place(row), strict=True)) and one != place(row) for one in rivals)
        assert (number in swept.result.front) is not beaten


def test_what_a_sweep_saves_has_a_folder_for_each_distinct_set(swept: Counted, tmp_path: Path) -> None:
    folder = swept.result.save(tmp_path / "sweep")
    assert Run(folder).status == "done"
    rows = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    assert [row["measured"] for row in rows] == [0, 0, 2, 3, 3, 5]
    assert sorted(one.name for one in folder.iterdir() if one.is_dir()) == ["0", "2", "3", "5", "figures"]
    for number, run in swept.result.distinct.items():
        assert Run(folder / str(number)).status == "done"
        report = json.loads((folder / str(number) / "report.json").read_text(encoding="utf-8"))
        assert report["neurons"]["count"] == len(run.neurons)
    assert {one.stem for one in (folder / "figures").iterdir()} == {"pareto", "dose"}
    assert len((folder / "leaderboard.csv").read_text(encoding="utf-8").splitlines()) == 1 + 6


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"select": {"gradcm": [kedit.TopK(1)]}}, LookupError, "no stage `gradcm`; its stages: difference, gradcam"),
        ({"select": {}}, ValueError, "`select` names at least one stage"),
        ({"select": {"gradcam": []}}, ValueError, "each with at least one selector"),
        ({"locate": kedit.Miner()}, LookupError, "its stages: none"),
        ({"concepts": "star"}, ValueError, "`concepts` is a list of names, at least one; got 'star'"),
        ({"concepts": ["star", "stra"]}, LookupError, "no concept `stra` in the data; nearest: star"),
    ],
)
def test_a_sweep_that_cannot_be_done_is_told_before_the_model_runs(
    wrong: dict[str, Any], error: Any, message: str
) -> None:
    asked = {"concepts": ["star"], "select": SELECT, "counts": FEW} | wrong
    with pytest.raises(error, match=message):
        kedit.sweep(None, kedit.Scenes(), **asked)


def test_heat_maps_are_of_the_pictures_that_neurons_were_located_with(model: MLLM) -> None:
    """A caption that does not name the concept has no place in the scores, nor has its picture here."""
    few = dataclasses.replace(FEW, locate=3)
    result = kedit.run(model, kedit.Scenes(), "star", counts=few)
    silent = dataclasses.replace(result.located.captions[1], text="a moon", tokens=())
    told = [result.located.captions[0], silent, result.located.captions[2]]
    locator = kedit.two_stage()
    scores = locator.score(model, result.located.pairs, captions=told)
    located = dataclasses.replace(result.located, scores=scores, captions=told)
    assert [caption for _, caption in located.used] == [told[0], told[2]]
    maps = dataclasses.replace(result.heat_maps, located=located)
    assert maps.measures["pointing"]["n"] == located.sample_counts["located"] == 2


def test_names_of_pictures_may_hold_commas(model: MLLM) -> None:
    """Exports of other tools call pictures `scene, 12.png`."""
    pairs = prepare(kedit.Scenes(), "star", None, FEW).pairs
    renamed = [dataclasses.replace(one, sample=dataclasses.replace(one.sample, id=f"scene, {place}"))
               for place, one in enumerate(pairs)]  # fmt: skip
    scores = kedit.two_stage().score(model, renamed)
    assert ids_from(scores["gradcam"].provenance["samples"]) == [one.sample.id for one in renamed]
    assert ids_from("one,two") == ["one", "two"]


def test_methods_are_not_ranked_by_an_edit_that_strengthens(model: MLLM) -> None:
    with pytest.raises(ValueError, match=r"ranked by what their edit takes, and `Scale\(factor=2.0\)` strengthens"):
        kedit.compare(
            model, kedit.Scenes(), "star", methods=["gradcam"], reference="gradcam", edit=kedit.amplify(), counts=FEW
        )
