"""Qwen's models without torchvision: their processors, positions in three directions, edits, captions and grids."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor, Qwen2AudioProcessor

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.inspection.grid import token_grids
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.locate.target import Target
from kedit.models.frames import QWEN3, Frames, assembled, read_processor
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.media import resampled
from kedit.models.mllm import MODALITIES
from kedit.models.tiny.families import tiny
from kedit.models.tiny.tokens import byte_tokenizer
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt, Sound, Video
from kedit.samples import Concept, Counterfactual, Sample

GOLDEN = Path(__file__).parent / "fixtures" / "qwen_videos"
SEEING = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FAMILIES = (*SEEING, "qwen2_audio")
CLASSES = dict(zip(SEEING, ("Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Qwen3VLProcessor"), strict=True))


@pytest.fixture(scope="module")
def models() -> dict[str, HuggingFaceMLLM]:
    return {family: tiny(family) for family in FAMILIES}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def sound(seconds: float, seed: int = 0, rate: int = 16000) -> Sound:
    wave = np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate)).astype(np.float32)
    return Sound(wave, rate)


def video(n_frames: int, seed: int = 0, rate: float = 2.0) -> Video:
    return Video(tuple(picture(24, 16, seed + n) for n in range(n_frames)), rate)


def prompts(family: str) -> list[list[Prompt]]:
    """Return batches of prompts of different lengths, one for each medium."""
    texts = [Prompt("hello"), Prompt("what is the name of this?")]
    if family == "qwen2_audio":
        return [texts, [Prompt("what?", sound=sound(0.3)), Prompt("who sings?", sound=sound(1.1, 1))]]
    pictures = [Prompt("what?", image=picture(24, 16)), Prompt("what is it?", image=picture(40, 32, 1))]
    return [texts, pictures, [Prompt("what?", video=video(3)), Prompt("who is it?", video=video(4, 9))]]


@contextmanager
def image_edit(model: HuggingFaceMLLM) -> Iterator[None]:
    """Zero half of the neurons of each layer where pictures are."""
    half = NeuronSet(tuple(NeuronId(layer, index) for layer in range(3) for index in range(0, 24, 2)), "mid")
    with Edit(half, Zero(), positions="image").applied(model):
        yield


def processed(model: HuggingFaceMLLM, videos: list[Video]) -> dict[str, Any]:
    asked = [Prompt("what is it?", video=one) for one in videos]
    return dict(model.read(asked, [()] * len(asked)).inputs)


# --- processors


@pytest.mark.parametrize("family", SEEING)
def test_videos_are_read_as_the_familys_own_processor_reads_them(
    family: str, models: dict[str, HuggingFaceMLLM]
) -> None:
    recorded = load_file(GOLDEN / "golden.safetensors")
    as_is, resized = (
        Video(tuple(Image.fromarray(frame.numpy()) for frame in recorded[key]), rate)
        for key, rate in (("frames", 2.0), ("resized_frames", 0.5))
    )
    expected = {key.partition(".")[2]: one for key, one in recorded.items() if key.startswith(family + ".")}
    made = processed(models[family], [as_is, resized])
    assert set(made) == set(expected)
    patches, real = made.pop("pixel_values_videos"), expected.pop("pixel_values_videos")
    for key, value in made.items():
        assert torch.equal(value, expected[key]), key
    untouched = int(made["video_grid_thw"][0].prod())
    assert torch.allclose(patches[:untouched], real[:untouched], atol=1e-6)
    # Pillow and torchvision round a few pixels of what they resize to other gray levels.
    apart = (patches - real).abs()
    assert apart.max() < 0.035 and apart.mean() < 1e-3


@pytest.mark.parametrize(("family", "own"), [("qwen2_vl", Frames()), ("qwen3_vl", QWEN3)])
def test_frames_are_resized_to_the_grids_of_the_familys_own_processor(family: str, own: Frames) -> None:
    for n_frames, width, height, *grid in json.loads((GOLDEN / "grids.json").read_text())[family]:
        made = own([[Image.new("RGB", (width, height), "gray")] * n_frames])
        assert made["video_grid_thw"].tolist() == [grid], (n_frames, width, height)
        assert made["pixel_values_videos"].shape == (np.prod(grid), 3 * 2 * own.patch_size**2)


@pytest.mark.parametrize("family", SEEING)
def test_a_saved_model_is_loaded_with_a_processor_that_does_the_same(
    family: str, models: dict[str, HuggingFaceMLLM], tmp_path: Path
) -> None:
    model = models[family]
    model.module.save_pretrained(tmp_path)  # type: ignore[operator]
    model.processor.save_pretrained(tmp_path)
    again = load(tmp_path, batch_size=4, max_new_tokens=8)
    assert type(again.processor).__mro__[1].__name__ == CLASSES[family]
    assert again.processor.video_processor == model.processor.video_processor
    for batch in prompts(family):
        assert again.ask(batch) == model.ask(batch)


def test_the_processor_of_qwen2_audio_is_read_as_it_is(models: dict[str, HuggingFaceMLLM], tmp_path: Path) -> None:
    model = models["qwen2_audio"]
    model.module.config.save_pretrained(tmp_path)
    model.processor.save_pretrained(tmp_path)
    again = read_processor(str(tmp_path), local_only=True)
    assert type(again) is type(model.processor) is Qwen2AudioProcessor
    assert replace(model, processor=again).ask(prompts("qwen2_audio")[1]) == model.ask(prompts("qwen2_audio")[1])


def test_a_folder_with_the_files_of_the_hub_is_enough(models: dict[str, HuggingFaceMLLM], tmp_path: Path) -> None:
    model = models["qwen2_vl"]
    model.module.config.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    pixels = {"min_pixels": 256, "max_pixels": 2304, "patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    about = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels | about))
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": model.processor.chat_template}))
    processor = read_processor(str(tmp_path), local_only=True)
    assert processor.chat_template == model.processor.chat_template
    assert processor.video_processor == Frames(256, 2304, patch_size=4)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    seen = processor(text=[text], images=[picture(24, 16)], return_tensors="pt")
    assert seen["image_grid_thw"].tolist() == [[1, 4, 6]]


def test_a_medium_that_the_model_does_not_take_is_refused(models: dict[str, HuggingFaceMLLM]) -> None:
    with pytest.raises(ValueError, match="reads audio and text, not image"):
        models["qwen2_audio"].caption([picture(24, 16)])
    with pytest.raises(ValueError, match="reads image and text and video, not audio"):
        models["qwen2_vl"].ask([Prompt("what?", sound=sound(0.2))])
    with pytest.raises(TypeError, match="take no `fps`; install torchvision"):
        Frames()([[picture(28, 28)]], fps=2)


# --- what stands where


@pytest.mark.parametrize("family", FAMILIES)
def test_there_are_as_many_placeholders_as_features_and_the_processor_says_where(
    family: str, models: dict[str, HuggingFaceMLLM]
) -> None:
    model = models[family]
    for batch in prompts(family):
        read = model.read(batch, [()] * len(batch))
        medium = batch[0].medium
        counts = (read.modalities == MODALITIES.index(medium)).sum(1).tolist()
        if medium in ("image", "video"):
            assert counts == [int(grid.prod()) // 4 for grid in read.inputs[f"{medium}_grid_thw"]]
            told = {"image": 1, "video": 2}[medium]
            assert torch.equal(read.inputs["mm_token_type_ids"] == told, read.modalities == MODALITIES.index(medium))
        elif medium == "audio":
            frames = read.inputs["feature_attention_mask"].sum(1).tolist()
            assert counts == [((one - 1) // 2 + 1 - 2) // 2 + 1 for one in frames]
        assert ((read.modalities == 0) == (read.inputs["attention_mask"] == 0)).all()
        assert model.logits(read).isfinite().all()


@pytest.mark.parametrize("family", SEEING)
def test_the_image_tokens_lie_on_the_grid_of_merged_patches(family: str, models: dict[str, HuggingFaceMLLM]) -> None:
    model = models[family]
    batch = model.teacher_forced([picture(24, 16), picture(40, 32)], [(), ()])
    assert token_grids(model.module, batch) == [(2, 3), (4, 5)]


@pytest.mark.parametrize("family", SEEING)
def test_the_order_and_the_shape_of_a_picture_matter_to_its_positions(
    family: str, models: dict[str, HuggingFaceMLLM]
) -> None:
    model = models[family]
    wide, tall = (
        model.logits(model.teacher_forced([Image.new("RGB", size, "red")], [()])) for size in ((40, 16), (16, 40))
    )
    # The same ten patches of one color, two by five and five by two: only the rotary positions differ.
    assert not torch.allclose(wide, tall, atol=1e-4)


# --- batches, caches and edits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_says_what_each_prompt_says_alone(family: str, models: dict[str, HuggingFaceMLLM]) -> None:
    model = models[family]
    prefixes: list[tuple[int, ...]] = [(20, 30, 40), (50,)]
    for batch in prompts(family):
        together = model.logits(model.read(batch, prefixes))
        alone = [model.logits(model.read([one], [prefix])) for one, prefix in zip(batch, prefixes, strict=True)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-4)
        assert model.ask(batch) == [model.ask([one])[0] for one in batch]


def generated(model: HuggingFaceMLLM, batch: list[Prompt], **options: Any) -> tuple[Tensor, Tensor]:
    inputs = model.read(batch, [()] * len(batch)).inputs
    settings = {"do_sample": False, "min_new_tokens": 5, "max_new_tokens": 5, "output_logits": True}
    made = model.module.generate(**inputs, **settings, return_dict_in_generate=True, pad_token_id=0, **options)  # type: ignore[operator]
    return made.sequences[:, -5:], torch.stack(made.logits, 1)


@pytest.mark.parametrize("family", SEEING)
def test_generation_with_a_cache_and_without_agree_under_an_edit_of_image_positions(
    family: str, models: dict[str, HuggingFaceMLLM]
) -> None:
    model = models[family]
    batch = prompts(family)[1]
    _, plain = generated(model, batch)
    with image_edit(model):
        cached, some = generated(model, batch)
        uncached, others = generated(model, batch, use_cache=False)
    assert torch.equal(cached, uncached) and torch.allclose(some, others, atol=1e-4)
    assert (some[:, 0] - plain[:, 0]).abs().max() > 0.01


@pytest.mark.parametrize("family", SEEING)
def test_generated_tokens_are_those_of_teacher_forcing(family: str, models: dict[str, HuggingFaceMLLM]) -> None:
    model = models[family]
    for batch in prompts(family)[1:]:
        tokens, logits = generated(model, batch)
        forced = model.logits(model.read(batch, [tuple(row.tolist()[:4]) for row in tokens]), n_last=5)
        assert torch.allclose(forced, logits, atol=1e-4)


@pytest.mark.parametrize("family", SEEING)
def test_what_a_model_was_shown_before_does_not_change_what_it_says(
    family: str, models: dict[str, HuggingFaceMLLM]
) -> None:
    fresh, used = tiny(family), models[family]
    batches = prompts(family)
    expected = [fresh.ask(batch) for batch in batches]
    # The last passes before leave the offsets of another picture, another batch size, in the model.
    for before in (*batches, [Prompt("x", image=picture(48, 16))]):
        for batch, answers in zip(batches, expected, strict=True):
            used.logits(used.read(before, [(20,)] * len(before)))
            assert used.ask(batch) == answers
    text = batches[0]
    used.logits(used.read(batches[1], [(), ()]))
    seen = used.logits(used.read(text, [(), ()]))
    assert torch.allclose(seen, tiny(family).logits(fresh.read(text, [(), ()])), atol=1e-4)


@pytest.mark.parametrize("family", SEEING)
def test_two_stage_filtering_runs_on_pictures_of_any_shape(family: str, models: dict[str, HuggingFaceMLLM]) -> None:
    pictures = [picture(24, 16), picture(40, 32, 1)]
    pairs = [
        Counterfactual(Sample(str(n), one), Concept("star"), Image.new("RGB", one.size))
        for n, one in enumerate(pictures)
    ]
    stages = {"difference": Stage(ActivationDifference(), TopK(30)), "gradcam": Stage(GradCAM(), TopK(5))}
    locator = Locator(stages, target=Target(on_missing="force"))
    located = locator.select(locator.score(models[family], pairs))
    assert len(located) == 5


def test_other_families_with_a_video_processor_take_pictures_and_refuse_videos() -> None:
    tokenizer = byte_tokenizer(["<image>", "<video>"])
    pictures = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 32]])
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "patch_size": 8, "unknown": 1}
    processor = assembled(LlavaOnevisionProcessor, pictures, tokenizer, {}, settings)
    seen = processor(text=["<image>what?"], images=[picture(32, 32)], return_tensors="pt")
    assert int((seen["input_ids"] == processor.image_token_id).sum()) > 16
    with pytest.raises(ValueError, match="the videos of LlavaOnevisionProcessor need torchvision"):
        processor(text=["<video>what?"], videos=[[picture(32, 32)]])


# --- sounds


def test_a_sound_that_is_longer_than_the_model_hears_is_cut_with_a_warning(
    models: dict[str, HuggingFaceMLLM], caplog: pytest.LogCaptureFixture
) -> None:
    assert models["qwen2_audio"].ask([Prompt("what?", sound=sound(2.5))])
    assert "1 of 1 sounds are cut to the 2 s that the model hears" in caplog.text


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (8000, 16000), (22050, 16000), (48000, 16000)])
def test_a_tone_is_the_same_tone_at_another_rate_and_one_too_high_for_it_is_gone(old: int, new: int) -> None:
    def tone(rate: int, pitch: float) -> np.ndarray:
        return np.sin(2 * np.pi * pitch * np.arange(rate) / rate).astype(np.float32)

    made = resampled(Sound(tone(old, 440.0), old), new)
    assert len(made) == new
    # The ends are silent beyond the recording, which the filter sees.
    assert np.abs(made - tone(new, 440.0))[200:-200].max() < 2e-3
    if old > 2 * 10_000 > new:
        assert np.abs(resampled(Sound(tone(old, 10_000.0), old), new))[200:-200].max() < 0.02


def test_the_model_hears_what_was_recorded_at_another_rate(models: dict[str, HuggingFaceMLLM]) -> None:
    model = models["qwen2_audio"]
    times = {rate: np.arange(rate) / rate for rate in (16000, 32000)}
    low, high = (Sound((0.3 * np.sin(2 * np.pi * 300 * time)).astype(np.float32), rate) for rate, time in times.items())
    one, other = (model.logits(model.read([Prompt("what?", sound=heard)], [()])) for heard in (low, high))
    noise = model.logits(model.read([Prompt("what?", sound=sound(1.0))], [()]))
    assert (one - other).abs().max() < 0.1 * (one - noise).abs().max()
