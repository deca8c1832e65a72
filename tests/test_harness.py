"""lm-eval reads an edit: in memory, and as the adapter that `kedit export` writes, with the same figures.

Where it is not installed, what it asks of a model is asked here, the way it does it; where it is, both ways agree.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import kedit
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronSet

peft = pytest.importorskip("peft")
installed = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'kedit[harness]'"
)

# PEFT asks transformers in the words of an older version when it loads an adapter.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

EDIT = Edit(NeuronSet.of({0: range(0, 24, 2), 2: [1, 5]}), Zero())
TASK = "fill_in"
ROWS = [
    {"text": f"The {thing} is", "choices": [" red", " blue", " small"], "label": label}
    for label, thing in enumerate(("star", "circle", "square"))
]
Figures = list[float]
"""The log-likelihood of each choice, row after row."""


@pytest.fixture(scope="module", autouse=True)
def variables_of_libraries() -> Iterator[None]:
    """Take away what lm-eval and a library below it set for the rest of the process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("KMP_DUPLICATE_LIB_OK", "True"), ("HF_XET_HIGH_PERFORMANCE", "1")):
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with random weights as a folder that transformers' Auto classes read."""
    folder, model = tmp_path_factory.mktemp("text") / "base", tiny("llama")
    model.module.save_pretrained(folder)  # type: ignore[operator]
    model.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> HuggingFaceMLLM:
    return load(base, max_new_tokens=4)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one task of lm-eval and its rows."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    described = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / f"{TASK}.yaml").write_text(json.dumps(described))  # JSON is YAML
    return folder


def evaluate(tasks: Path, model: Any, **options: Any) -> Figures:
    """Return what lm-eval reads on the task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    read = lm_eval.simple_evaluate(
        model, tasks=[TASK], task_manager=manager, device="cpu", bootstrap_iters=0, **options
    )
    rows = sorted(read["samples"][TASK], key=lambda row: row["doc_id"])
    return [float(choice[0]) for row in rows for choice in row["filtered_resps"]]


def evaluate_in_memory(tasks: Path, model: HuggingFaceMLLM) -> Figures:
    from lm_eval.models.huggingface import HFLM

    return evaluate(tasks, HFLM(pretrained=model.module, tokenizer=model.processor, backend="causal"))


def read_by_hand(module: Any, tokenizer: Any) -> Figures:
    """Return the same, read as lm-eval does: without an attention mask, shorter texts filled up on the right."""
    pairs = [(row["text"], row["text"] + choice) for row in ROWS for choice in row["choices"]]
    texts = [(len(tokenizer.encode(asked)), tokenizer.encode(whole)) for asked, whole in pairs]
    longest = max(len(tokens) for _, tokens in texts)
    batch = torch.tensor([tokens + [0] * (longest - len(tokens)) for _, tokens in texts])
    with torch.no_grad():
        logprobs = module(batch[:, :-1]).logits.log_softmax(-1)
    return [
        sum(float(logprobs[row, place - 1, tokens[place]]) for place in range(start, len(tokens)))
        for row, (start, tokens) in enumerate(texts)
    ]


@pytest.mark.parametrize("to", ["ia3", "lora"])
def test_what_lm_eval_asks_of_a_model_is_the_same_of_the_hook_and_of_the_adapter(
    to: Any, base: Path, model: HuggingFaceMLLM, tmp_path: Path
) -> None:
    module, tokenizer = model.module, model.processor
    assert isinstance(module, PreTrainedModel) and isinstance(tokenizer, PreTrainedTokenizerBase)
    plain = read_by_hand(module, tokenizer)
    with EDIT.applied(model):
        module.eval()  # lm-eval calls both on a model that it is given
        module.tie_weights()
        edited = read_by_hand(module, tokenizer)
    adapter = kedit.export(EDIT, model, tmp_path / to, to=to).folder
    adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    assert read_by_hand(adapted, AutoTokenizer.from_pretrained(base)) == pytest.approx(edited, rel=1e-5)
    assert read_by_hand(module, tokenizer) == plain
    assert min(abs(a - b) for a, b in zip(plain, edited, strict=True)) > 1e-3


@installed
@pytest.mark.parametrize("to", ["ia3", "lora"])
def test_lm_eval_reads_the_same_from_the_hook_and_from_the_adapter(
    to: Any, base: Path, model: HuggingFaceMLLM, tasks: Path, tmp_path: Path
) -> None:
    plain = evaluate_in_memory(tasks, model)
    with EDIT.applied(model):
        edited = evaluate_in_memory(tasks, model)
    adapter = kedit.export(EDIT, model, tmp_path / to, to=to).folder
    exported = evaluate(tasks, "hf", model_args={"pretrained": str(base), "peft": str(adapter)})
    assert plain == pytest.approx(read_by_hand(model.module, model.processor), rel=1e-5)
    assert len(plain) == len(ROWS) * len(ROWS[0]["choices"])
    assert exported == pytest.approx(edited, rel=1e-5)
    assert evaluate_in_memory(tasks, model) == plain  # the hook is gone
    assert min(abs(a - b) for a, b in zip(plain, edited, strict=True)) > 1e-3


@installed
def test_the_command_of_lm_eval_takes_the_folder(
    base: Path, model: HuggingFaceMLLM, tasks: Path, tmp_path: Path
) -> None:
    adapter = kedit.export(EDIT, model, tmp_path / "ia3", to="ia3").folder
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args"]
    command += [f"pretrained={base},peft={adapter}", "--tasks", TASK, "--include_path", str(tasks), "--device", "cpu"]
    command += ["--log_samples", "--output_path", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_DATASETS_OFFLINE": "1"})
    assert ended.returncode == 0, ended.stderr[-2000:]
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    read = [float(choice[0]) for row in rows for choice in row["filtered_resps"]]
    with EDIT.applied(model):
        assert read == pytest.approx(evaluate_in_memory(tasks, model), rel=1e-5)
