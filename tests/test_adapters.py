"""A folder of an adapter is the model that it was trained on with the adapter in it, or a line says what is missing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.models import adapters
from kedit.models.adapters import DESCRIPTION, WEIGHTS
from kedit.models.loading import load, wrap
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronSet
from kedit.prompts import Prompt

PROMPTS = [Prompt("Hi"), Prompt("What is the color of it?")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, model = tmp_path_factory.mktemp("base"), tiny("llava")
    model.module.save_pretrained(folder)  # type: ignore[operator]
    model.processor.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """What `PeftModel.save_pretrained` writes, by hand: a LoRA of rank 1 on the last output projection."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    described = {
        "peft_type": "LORA", "base_model_name_or_path": str(base), "r": 1, "lora_alpha": 2, "lora_dropout": 0.0,
        "target_modules": "model.language_model.layers.2.mlp.down_proj", "bias": "none", "task_type": None,
    }  # fmt: skip
    (folder / DESCRIPTION).write_text(json.dumps(described))
    at, drawn = "base_model.model.model.language_model.layers.2.mlp.down_proj", torch.Generator().manual_seed(0)
    weights = {
        f"{at}.lora_A.weight": torch.randn(1, 24, generator=drawn),
        f"{at}.lora_B.weight": torch.randn(16, 1, generator=drawn),
    }
    save_file(weights, folder / WEIGHTS)
    return folder


def by_hand(folder: Path) -> torch.Tensor:
    """Return what the adapter adds to the weight."""
    weights = load_file(folder / WEIGHTS)
    down, up = (next(one for name, one in weights.items() if part in name) for part in ("lora_A", "lora_B"))
    return 2.0 * up @ down


@pytest.mark.parametrize("with_processor", [True, False], ids=["own processor", "base's processor"])
def test_an_adapter_is_loaded_merged_into_its_model(with_processor: bool, adapter: Path) -> None:
    pytest.importorskip("peft")
    own = tiny("llava")
    if with_processor:
        own.processor.save_pretrained(adapter)
    path = "model.language_model.layers.2.mlp.down_proj.weight"
    own.module.get_parameter(path).add_(by_hand(adapter))
    model = load(adapter, max_new_tokens=8)
    assert model.name == "adapter"
    assert type(model.module) is type(own.module)
    assert torch.allclose(model.module.get_parameter(path), own.module.get_parameter(path), atol=1e-6)
    assert model.ask(PROMPTS) == own.ask(PROMPTS) != tiny("llava").ask(PROMPTS)
    assert not any(weight.requires_grad for weight in model.module.parameters())


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")  # peft asks so
def test_a_model_of_peft_in_memory_is_read_as_what_it_is_inside(adapter: Path) -> None:
    peft = pytest.importorskip("peft")
    own, merged = tiny("llava"), load(adapter, max_new_tokens=8)
    adapted = peft.PeftModel.from_pretrained(own.module, str(adapter))
    model = wrap(adapted, own.processor, max_new_tokens=8)
    assert type(model.module) is type(merged.module)
    assert model.ask(PROMPTS) == merged.ask(PROMPTS)
    half = NeuronSet.of({layer: range(0, 24, 2) for layer in range(3)})
    logits = []
    for edited, one in ((adapted, model), (merged, merged)):
        with torch.no_grad(), Edit(half, Zero()).applied(edited):
            logits.append(one.logits(one.read(PROMPTS, [(), ()])))
    # An edit of neurons is one of the adapter's input, too.
    assert torch.allclose(*logits, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")  # peft asks so
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_virtual_tokens_of_peft_are_refused(kind: str) -> None:
    peft = pytest.importorskip("peft")
    own = tiny("gpt2")
    described = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(ValueError, match=r"the adapter \(P[A-Z_]+\) puts 4 virtual tokens before the prompt"):
        wrap(peft.get_peft_model(own.module, described), own.processor)


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").touch()


def described(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / DESCRIPTION
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def half_described(folder: Path) -> None:
    (folder / DESCRIPTION).write_text("{")


def beside_a_model(folder: Path) -> None:
    (folder / "model.safetensors").touch()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (without_weights, FileNotFoundError, r"has its weights as pickles \(`adapter_model.bin`\)"),
        (half_described, FileNotFoundError, r"incomplete or broken: `adapter_config.json` is no JSON"),
        (beside_a_model, ValueError, r"holds a whole model and an adapter .* move one of them away"),
        (
            described(num_virtual_tokens=8, peft_type="PREFIX_TUNING"),
            ValueError,
            r"\(PREFIX_TUNING\) puts 8 virtual tok",
        ),
        (described(base_model_name_or_path=None), FileNotFoundError, r"an adapter \(LORA\) whose .* names no model"),
        (
            described(base_model_name_or_path="/nowhere/base"),
            FileNotFoundError,
            r"is an adapter \(LORA\) of `/nowhere/base`: no model folder",
        ),
        (
            described(base_model_name_or_path="somebody/base"),
            FileNotFoundError,
            r"is an adapter of `somebody/base`: no folder .* Set `model.download=true` to fetch it",
        ),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_told_from_a_model(
    spoil: Callable[[Path], None], error: type[Exception], message: str, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: name)  # nothing of peft is called before these
    spoil(adapter)
    with pytest.raises(error, match=message) as raised:
        load(adapter)
    assert "\n" not in str(raised.value)


def test_without_peft_an_adapter_says_what_to_install_or_to_do(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"is an adapter \(LORA\) of `.*base.*`, .* `pip install peft`; or merge it"):
        load(adapter)


def test_a_weight_of_the_adapter_that_is_not_in_its_file_is_not_made_up(adapter: Path) -> None:
    pytest.importorskip("peft")
    file = adapter / WEIGHTS
    weights = load_file(file)
    save_file({name: one for name, one in weights.items() if "lora_A" in name}, file)
    with pytest.raises(FileNotFoundError, match=r"incomplete or broken: .*missing adapter keys"):
        load(adapter)


def test_a_folder_of_a_whole_model_is_no_adapter(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "whole"))
    assert load(folder, max_new_tokens=8).ask(PROMPTS) == tiny("llava").ask(PROMPTS)
