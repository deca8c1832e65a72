"""Models of every kind are loaded by what they say of themselves; what cannot be loaded is told in one line."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from kedit.models.loading import load
from kedit.models.placing import Placement
from kedit.models.tasks import TaskError
from kedit.models.tiny.families import FAMILIES, tiny
from kedit.models.tiny.tokens import byte_tokenizer
from kedit.prompts import Prompt

SENTENCEPIECE = Path(__file__).parent / "fixtures" / "minigpt4_tiny" / "llama" / "tokenizer.model"
PROMPTS = [Prompt("Hi"), Prompt("What is the color of it?")]


def saved(family: str, folder: Path) -> Path:
    """Write the tiny model of `family` and its processor or tokenizer as files."""
    model = tiny(family)
    model.module.save_pretrained(folder)  # type: ignore[operator]
    model.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("gpt2", tmp_path_factory.mktemp("saved") / "gpt2")


def described(folder: Path, **changes: object) -> None:
    """Write `changes` into the configuration of a saved model."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# --- what is loaded


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bert"}))
def test_a_saved_model_is_loaded_for_its_own_task_and_says_the_same(family: str, tmp_path: Path) -> None:
    model, own = load(saved(family, tmp_path / family), max_new_tokens=8), tiny(family)
    assert type(model.module) is type(own.module)
    assert model.media == own.media
    asked = [*PROMPTS, *([Prompt("What is it?", Image.new("RGB", (40, 30), "red"))] if "image" in own.media else [])]
    assert model.ask(asked) == own.ask(asked)
    assert model.name == family
    assert not any(weight.requires_grad for weight in model.module.parameters())


def test_a_model_in_the_working_folder_is_called_as_that_folder(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gpt2)
    assert load(".").name == "gpt2"
    (gpt2 / "inside").mkdir()
    monkeypatch.chdir(gpt2 / "inside")
    assert load("..").name == "gpt2"


def test_a_saved_masked_model_predicts_the_same_at_its_mask(tmp_path: Path) -> None:
    model, asked = load(saved("bert", tmp_path)), [Prompt("it is [MASK].")]
    assert model.architecture == "encoder"
    assert torch.equal(*(one.logits(one.read(asked, [()])) for one in (model, tiny("bert"))))


def test_a_tokenizer_that_cannot_pad_pads_with_its_mark_of_an_end(gpt2: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(gpt2, tmp_path / "gpt2"))
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    model = load(folder, max_new_tokens=8)
    assert model.tokenizer.pad_token == model.tokenizer.eos_token
    assert [one.tokens for one in model.ask(PROMPTS)] == [one.tokens for one in tiny("gpt2").ask(PROMPTS)]


def test_a_tokenizer_may_be_a_sentencepiece_model_alone(tmp_path: Path) -> None:
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=512, **size)).save_pretrained(tmp_path)
    shutil.copy(SENTENCEPIECE, tmp_path)
    model = load(tmp_path, max_new_tokens=3)
    assert len(model.tokenizer) <= 512
    assert model.tokenizer.decode(model.tokenizer("a picture", add_special_tokens=False).input_ids) == "a picture"
    assert all(0 < len(one.tokens) <= 3 for one in model.ask(PROMPTS))


def test_half_precision_is_kept_where_asked_for(gpt2: Path) -> None:
    assert {weight.dtype for weight in load(gpt2, dtype="bfloat16").module.parameters()} == {torch.bfloat16}


# --- what is not


def only_pickles(folder: Path) -> None:
    torch.save(tiny("gpt2").module.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def another_tokenizer(folder: Path) -> None:
    byte_tokenizer([f"<{number}>" for number in range(9)]).save_pretrained(folder)


def classifier(folder: Path) -> None:
    described(folder, architectures=[BertForSequenceClassification.__name__])


def without_a_head(folder: Path) -> None:
    described(folder, architectures=["GPT2Model"])


def half_a_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def other_sizes(folder: Path) -> None:
    described(folder, n_embd=8)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (only_pickles, FileNotFoundError, r"weights as pickles \(`pytorch_model.bin`\), which run code when"),
        (no_tokenizer, FileNotFoundError, "incomplete or broken: .*okenizer"),
        (another_tokenizer, ValueError, r"knows 268 tokens, and GPT2LMHeadModel embeds 259: it is the tokenizer of"),
        (
            classifier,
            TaskError,
            "is a BertForSequenceClassification, which transformers lists under none of image-text",
        ),
        (without_a_head, TaskError, "is a GPT2Model, which transformers lists under none of"),
        (half_a_file, FileNotFoundError, "incomplete or broken: .{10}"),
        (other_sizes, FileNotFoundError, "incomplete or broken: .{10}"),
    ],
)
def test_a_trap_is_named(
    gpt2: Path, tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    folder = Path(shutil.copytree(gpt2, tmp_path / "spoiled"))
    spoil(folder)
    with pytest.raises(error, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_the_folder_of_a_run_is_told_from_a_model(tmp_path: Path) -> None:
    for name in ("neurons.json", "STATUS"):
        (tmp_path / name).write_text("")
    with pytest.raises(FileNotFoundError, match="is the folder of a run, whose edit is no weights yet: `kedit export"):
        load(tmp_path)


def test_a_file_is_told_from_a_folder(gpt2: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"model.safetensors` is a file; .* give `.*gpt2` if they lie beside it"
    ):
        load(gpt2 / "model.safetensors")


OWN_CODE = """
from pathlib import Path
from transformers import GPT2Config, GPT2LMHeadModel
Path({mark!r}).write_text("run")
class OwnConfig(GPT2Config):
    model_type = "own-gpt2"
class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""


def test_code_that_lies_with_a_model_is_run_only_where_the_user_says_so(
    gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])  # transformers adds the folder of such code for good
    folder, mark = Path(shutil.copytree(gpt2, tmp_path / "own")), tmp_path / "mark"
    (folder / "own.py").write_text(OWN_CODE.format(mark=str(mark)))
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    described(folder, model_type="own-gpt2", architectures=["OwnModel"], auto_map=own)
    with pytest.raises(ValueError, match=r"own` brings Python code of its own, .* set `trust_remote_code=true`"):
        load(folder)
    assert not mark.exists()
    assert type(load(folder, trust_remote_code=True).module).__name__ == "OwnModel"
    assert mark.read_text() == "run"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("maskd", r"`task` is one of .*, got 'maskd'; did you mean `masked`\?"),
        ("masked", "transformers has no model of type `gpt2` for the task masked"),
        ("image-text-to-text", "transformers has no model of type `gpt2` for the task image-text-to-text"),
    ],
)
def test_a_task_that_the_model_is_not_for_is_refused(gpt2: Path, task: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load(gpt2, task=task)  # type: ignore[arg-type]


def test_a_processor_of_which_only_the_tokenizer_is_there_is_refused(tmp_path: Path) -> None:
    folder = saved("llava", tmp_path)
    (folder / "processor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"incomplete or broken: .{10}"):
        load(folder)


# --- where it goes


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"device_map": "auto", "device": "cpu"}, "`device_map` places the weights, so `device` stays `auto`"),
        ({"max_memory": {"cpu": "1GiB"}}, "`max_memory` is read by `device_map`, which is not set"),
        ({"offload_folder": "/tmp"}, "`offload_folder` is read by `device_map`, which is not set"),
        ({"quantization": "2bit"}, "`quantization` is 8bit, 4bit or null, got '2bit'"),
        ({"dtype": "fp16"}, "`dtype=fp16` is called `float16` here"),
        ({"dtype": "int8"}, "`dtype` is auto, float32, float16 or bfloat16, got 'int8'"),
        ({"device": "gpu"}, "`device` is auto, cpu, cuda, cuda:0 and so on, got 'gpu'"),
        ({"device": "cuda:99"}, r"`device` is 'cuda:99', and PyTorch sees (no|\d+) CUDA devices"),
    ],
)
def test_a_place_that_is_not_there_is_refused_before_anything_is_read(asked: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("/nowhere", **asked)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so nothing is missing")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_fewer_bits_without_their_package_or_a_gpu_are_refused(bits: str) -> None:
    with pytest.raises(ValueError, match=rf"`quantization={bits}` needs (the package `bitsandbytes`|a GPU)"):
        load("/nowhere", quantization=bits)  # type: ignore[arg-type]


def test_weights_are_spread_as_asked() -> None:
    spread = Placement(device_map="auto", max_memory={"0": "1GiB", "cpu": "2GiB"}, offload_folder="~/there").options()
    assert (spread["device_map"], spread["max_memory"]) == ("auto", {0: "1GiB", "cpu": "2GiB"})
    assert spread["offload_folder"] == str(Path.home() / "there")
    assert "device_map" not in Placement(device="cpu").options()


def test_a_configuration_that_names_no_architecture_is_known_by_its_type(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=259))
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    described(tmp_path, architectures=None)
    assert isinstance(load(tmp_path).module, GPT2LMHeadModel)
