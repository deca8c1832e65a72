"""`kedit.task` as a notebook calls it: one call, one result that prints and saves itself."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import kedit
from kedit.edit.plan import PatchPlan
from kedit.edit.reference import CounterfactualMean
from kedit.evaluation.answers import right
from kedit.evaluation.task import ALL
from kedit.models.mllm import MLLM
from kedit.models.shipped import HERE
from kedit.pipelines.task import TaskResult
from kedit.results.run_folder import Run
from tests.page_reader import EVIL, read_page

pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)

FEW = kedit.Counts(locate=2, target=3, controls=1)


@pytest.fixture(scope="module")
def model(scenes_model: MLLM) -> MLLM:
    return scenes_model


@pytest.fixture(scope="module")
def result(model: MLLM) -> TaskResult:
    return kedit.task(model, kedit.Scenes(), locate=kedit.Miner(ratio=0.3), counts=FEW)


def test_the_neurons_are_those_of_the_modalities_together_and_answers_are_marked(result: TaskResult) -> None:
    assert set(result.neurons) == {neuron for some in result.modalities.values() for neuron in some}
    answered = zip(result.question_split.evaluate, result.before, strict=True)
    share = [right(question, answer) for question, answer in answered]
    assert result.report.before[ALL].value == pytest.approx(sum(share) / len(share))
    assert all(row.before != row.after for row in result.examples)


def test_a_task_prints_itself_as_text_and_as_html(result: TaskResult) -> None:
    for text in (str(result), result._repr_html_()):
        assert "right answers of scenes" in text and "background" in text
        assert all(row.question in text for row in result.examples)
    assert result.report.verdict in result.table().notes
    strange = dataclasses.replace(result, model=EVIL)
    assert len(read_page(strange._repr_html_(), strange.table()).pictures) == 1


def test_what_a_task_saves_is_what_it_says(result: TaskResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "task")
    assert Run(folder).status == "done"
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(result.to_json()))
    assert {path.stem for path in (folder / "figures").iterdir()} == set(result.figures) == {"layers", "score"}
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [tuple(row.values()) for row in rows] == [tuple(row) for row in result.answers]
    assert kedit.NeuronSet.load(folder / "neurons.json") == result.neurons


def test_questions_may_be_given_in_place_of_a_data_set(model: MLLM, result: TaskResult) -> None:
    again = kedit.task(model, result.question_split, locate=kedit.Miner(ratio=0.3), counts=FEW)
    assert (again.report, again.answers, again.sets) == (result.report, result.answers, result.sets)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"locate": kedit.two_stage()}, "finds a concept in counterfactual pictures"),
        ({"edit": PatchPlan(CounterfactualMean())}, "`edit=patch` needs counterfactual pictures"),
        ({"match": "fuzzy"}, "`match` is contains or exact, got 'fuzzy'"),
    ],
    ids=["locate", "edit", "match"],
)
def test_what_a_task_has_no_use_for_is_told_before_the_model_runs(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kedit.task(None, kedit.Scenes(), **wrong)  # type: ignore[arg-type]
