"""lmms-eval reads an edit of a model of pictures: in memory, and as the checkpoint that `kedit export` writes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import kedit
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.shipped import HERE
from kedit.prompts import Prompt
from kedit.samples import Sample

WHY = "lmms-eval is not installed; kedit/edit/README.md says how"
pytest.importorskip("lmms_eval", reason=WHY)
pytestmark = pytest.mark.slow  # lmms-eval reads in the list of all its tasks

TASK, QUESTION = "is_there_a_star", "is there a star ?"
BASE = HERE / "scenes"


@pytest.fixture(scope="module", autouse=True)
def variable_of_a_library() -> Iterator[None]:
    """Take away what decord, below lmms-eval, adds to the path for the rest of the process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.environ["PATH"])
        import_module("lmms_eval.models.chat.llava_hf")
        yield


@pytest.fixture(scope="module")
def model() -> HuggingFaceMLLM:
    return kedit.load("scenes")


@pytest.fixture(scope="module")
def edit(model: HuggingFaceMLLM) -> Edit:
    counts = kedit.Counts(locate=4)
    return Edit(kedit.locate_neurons(model, kedit.Scenes(), "star", counts=counts).neurons, Zero())


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Pictures with a star and without."""
    return [kedit.Scenes().sample(number) for number in range(16)]


@pytest.fixture(scope="module")
def tasks(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one task of lmms-eval and its rows."""
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"image": one.image, "question": QUESTION, "answer": "yes" if "star" in one.objects else "no"}
        for one in samples
    ]
    DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(folder / "rows")
    described = {
        "task": TASK,
        "dataset_path": str(folder / "rows"),
        "dataset_kwargs": {"load_from_disk": True},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_visual": "image",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": 8},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / f"{TASK}.yaml").write_text(json.dumps(described))  # JSON is YAML
    return folder


def read(answers: Any) -> list[str]:
    """Return the model's answers, by the row: lmms-eval hands over a list for each, and writes its only entry down."""
    told = [row["filtered_resps"] for row in sorted(answers, key=lambda row: row["doc_id"])]
    return [one if isinstance(one, str) else one[0] for one in told]


@pytest.fixture(scope="module")
def answers(model: HuggingFaceMLLM, edit: Edit, samples: list[Sample]) -> tuple[list[str], list[str]]:
    """What kedit reads, unedited and edited."""
    prompts = [Prompt(QUESTION, one.image) for one in samples]
    plain = [one.text for one in model.ask(prompts)]
    with edit.applied(model):
        edited = [one.text for one in model.ask(prompts)]
    assert set(plain) == {"yes", "no"} and plain != edited
    return plain, edited


@pytest.mark.parametrize("condition", ["unedited", "edited"])
def test_lmms_eval_reads_what_kedit_reads(
    condition: str, edit: Edit, tasks: Path, answers: tuple[list[str], list[str]]
) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models.chat.llava_hf import LlavaHf
    from lmms_eval.tasks import TaskManager

    harness = LlavaHf(pretrained=str(BASE), device="cpu", device_map="cpu", dtype="float32")
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    plain, edited = answers
    with edit.applied(harness.model) if condition == "edited" else nullcontext():
        found = simple_evaluate(harness, tasks=[TASK], task_manager=manager)
    assert read(found["samples"][TASK]) == (edited if condition == "edited" else plain)


def test_the_command_of_lmms_eval_takes_the_merged_checkpoint(
    model: HuggingFaceMLLM, edit: Edit, tasks: Path, answers: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    merged = kedit.export(edit, model, tmp_path / "merged", to="merged").folder
    command = [sys.executable, "-m", "lmms_eval", "--model", "llava_hf", "--model_args"]
    command += [f"pretrained={merged},device=cpu,device_map=cpu,dtype=float32", "--tasks", TASK]
    command += ["--include_path", str(tasks), "--batch_size", "1", "--log_samples"]
    command += ["--output_path", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_DATASETS_OFFLINE": "1"})
    assert ended.returncode == 0, ended.stderr[-2000:]
    (samples,) = (tmp_path / "out").rglob("*_samples_*.jsonl")
    assert read(map(json.loads, samples.read_text().splitlines())) == answers[1]
