"""A processor that lacks what its model needs is named with the setting; in a folder, it is completed and told."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kedit.models.loading import load, wrap
from kedit.models.tiny.families import tiny

GRAY = Image.new("RGB", (40, 30), "gray")
LLAVA = [("patch_size", None), ("patch_size", 5), ("vision_feature_select_strategy", None)]
LLAVA += [("vision_feature_select_strategy", "full"), ("num_additional_image_tokens", 0)]
WRONG = [("llava", *one) for one in LLAVA] + [("llava_next", *one) for one in LLAVA]
WRONG += [("llava_onevision", "num_image_tokens", None), ("llava_onevision", "vision_feature_select_strategy", None)]
WRONG += [
    ("blip2", "num_query_tokens", None),
    ("blip2", "num_query_tokens", 7),
    ("instructblip", "num_query_tokens", None),
]


@pytest.mark.parametrize(("family", "key", "value"), WRONG)
def test_a_processor_that_counts_other_tokens_than_its_model_is_named_with_the_setting(
    family: str, key: str, value: Any
) -> None:
    model = tiny(family)
    right = getattr(model.processor, key)
    setattr(model.processor, key, value)
    with pytest.raises(ValueError, match=rf"`{key}` of the processor .* set `processor.{key} = {right!r}`"):
        wrap(model.module, model.processor)
    setattr(model.processor, key, right)
    assert wrap(model.module, model.processor, max_new_tokens=2).caption(GRAY)


@pytest.mark.parametrize(("family", "key"), [("idefics3", "image_seq_len"), ("internvl", "image_seq_length")])
def test_a_count_that_only_the_model_can_refute_is_named_with_the_settings_it_comes_from(family: str, key: str) -> None:
    model = tiny(family)
    processor = copy.deepcopy(model.processor)
    setattr(processor, key, getattr(processor, key) + 1)
    with pytest.raises(ValueError, match=rf"do not match.*; the processor of `short` counts .*{key}="):
        wrap(model.module, processor, name="short").caption(GRAY)


def test_what_the_files_of_a_processor_leave_out_is_set_to_what_the_model_needs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tiny("llava")
    own.module.save_pretrained(tmp_path)  # type: ignore[operator]
    own.processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    content = json.loads(file.read_text())
    for key in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"):
        del content[key]
    file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        model = load(tmp_path, max_new_tokens=8)
    assert {key for key in ("patch_size", "vision_feature_select_strategy") if f"says no `{key}`" in caplog.text} == {
        "patch_size", "vision_feature_select_strategy",
    }  # fmt: skip
    assert model.caption(GRAY) == own.caption(GRAY)


def test_a_model_without_numbers_is_refused() -> None:
    own = tiny("llava")
    nowhere = copy.deepcopy(own.module).to("meta")
    with pytest.raises(ValueError, match=r"weights of `.*`, such as `.*`, are on the meta device and hold no numbers"):
        wrap(nowhere, own.processor)


def test_a_model_in_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = tiny("llama")
    with monkeypatch.context() as patch:
        patch.setattr(type(own.module), "tp_size", 2)
        with pytest.raises(ValueError, match=r"are in pieces in several processes .*: load the whole model in one"):
            wrap(own.module, own.processor)
    own.module.get_input_embeddings().weight.data = torch.empty(0)  # type: ignore[operator]  # as ZeRO 3 leaves it
    with pytest.raises(ValueError, match="are in pieces in several processes"):
        wrap(own.module, own.processor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_read_on_a_cpu(dtype: torch.dtype, tmp_path: Path) -> None:
    own = tiny("llava")
    own.module.save_pretrained(tmp_path)  # type: ignore[operator]
    own.processor.save_pretrained(tmp_path)
    model = load(tmp_path, dtype=dtype, device=torch.device("cpu"), max_new_tokens=4)
    assert {weight.dtype for weight in model.module.parameters()} == {dtype}
    assert len(model.caption([GRAY, GRAY])) == 2


ASKED = {
    "num_beams": 3, "min_new_tokens": 6, "min_length": 20, "forced_bos_token_id": 5, "forced_eos_token_id": 6,
    "repetition_penalty": 5.0, "do_sample": True, "temperature": 9.0, "suppress_tokens": [3, 4, 5],
    "no_repeat_ngram_size": 1, "num_return_sequences": 2, "early_stopping": True,
}  # fmt: skip


@pytest.mark.parametrize("family", ["llava", "t5"])
def test_answers_are_greedy_whatever_the_checkpoint_asks_for(family: str) -> None:
    own, asked = tiny(family), ["Hi", "What is the color of it?"]
    model = wrap(copy.deepcopy(own.module), own.processor, max_new_tokens=8)
    for key, value in ASKED.items():
        setattr(model.module.generation_config, key, value)
    assert model.ask(asked) == own.ask(asked)
