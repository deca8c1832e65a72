"""The jobs as a notebook calls them: one call, one result that prints and saves itself."""

import json
from pathlib import Path
from typing import Any

import pytest

import kedit
from kedit.models.mllm import MLLM
from kedit.pipelines.locate import prepare
from kedit.pipelines.run import RunResult
from kedit.runs import Run

FEW = kedit.Counts(locate=4, target=6, retention=3, controls=1)


@pytest.fixture(scope="module")
def model() -> MLLM:
    return kedit.load("scenes")


@pytest.fixture(scope="module")
def result(model: MLLM) -> RunResult:
    return kedit.run(model, kedit.Scenes(), "star", counts=FEW)


def test_one_call_locates_edits_and_measures(result: RunResult) -> None:
    assert result.concept == "star" and result.locator == "two_stage" and result.operator == "Zero()"
    assert len(result.neurons) > 0
    assert result.report.suppression["mention_drop"].value == 1.0
    assert result.report.suppression["mention_drop"].n == 6
    assert result.report.control.seeds == 1
    target = [row for row in result.captions if row.group == "target"]
    assert len(target) == 6 and all("star" in row.before and "star" not in row.after for row in target)


def test_the_result_prints_itself_as_text_and_as_html(result: RunResult) -> None:
    for told in (str(result), result._repr_html_()):
        assert "retention: BLEU" in told and "bleu" not in told
        assert "mention_drop" in told and "1.00 [" in told and result.examples[0].after in told
    assert result.report.verdict in result.table().notes


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
    ("wrong", "error", "told"),
    [
        ({"concept": "stra"}, LookupError, "no concept `stra` in the data; nearest: star"),
        ({"counts": kedit.Counts(locate=10**6)}, ValueError, "10"),
        ({"select": kedit.TopK(1), "locate": kedit.Miner()}, ValueError, "`select` replaces the selectors"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_model_runs(wrong: dict[str, Any], error: Any, told: str) -> None:
    asked = {"concept": "star", "counts": FEW} | wrong
    with pytest.raises(error, match=told):
        kedit.run(None, kedit.Scenes(), **asked)


@pytest.mark.parametrize(("name", "least"), [("locate", 1), ("target", 1), ("retention", 0), ("controls", 0)])
def test_counts_below_the_least_are_refused(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is {least} or more, got {least - 1}"):
        kedit.Counts(**{name: least - 1})
