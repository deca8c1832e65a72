"""Repainting by diffusers: the region alone, by seed and sample alone, and what is no pipeline is a clear error."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kedit.data.inpaint import grown
from kedit.data.inpaint_diffusers import DiffusersFill
from kedit.data.pairs import counterfactuals
from kedit.data.pictures import SampleError
from kedit.samples import Concept, Sample
from tests.tiny_diffusion import saved, stable_diffusion

A = Concept("a")
HEIGHT, WIDTH = 45, 70
CLASSES = {
    "stable_diffusion": "StableDiffusionInpaintPipeline",
    "text_to_image": "StableDiffusionInpaintPipeline",
    "paint_by_example": "PaintByExamplePipeline",
    "repaint": "RePaintPipeline",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a saved pipeline."""
    home = tmp_path_factory.mktemp("pipelines")
    return lambda name: home / name if (home / name).is_dir() else saved(name, home / name)


@pytest.fixture(scope="module")
def fill(folder: Callable[[str], Path]) -> DiffusersFill:
    """Return the inpainter that most tests vary; it keeps nothing."""
    return DiffusersFill(str(folder("stable_diffusion")), steps=2, cache=None)


def noisy(name: str = "s7", inside: tuple[int, int, int] | None = None) -> Sample:
    """Return a picture of which no pixel is like another, with a region that reaches no border."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[10:20, 30:45] = True
    if inside:
        pixels[region] = inside
    return Sample(name, Image.fromarray(pixels), regions={"a": region})


def painted(inpaint: DiffusersFill, sample: Sample, concept: Concept = A) -> NDArray[np.uint8]:
    return np.array(inpaint(sample, concept).image)


# --- the region


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("side", [None, 32])
def test_outside_the_grown_region_not_one_pixel_changes_and_inside_most_do(
    folder: Callable[[str], Path], name: str, side: int | None
) -> None:
    sample = noisy()
    inpaint = DiffusersFill(str(folder(name)), steps=2, side=side, dilation=3, cache=None)
    before, after = np.array(sample.image), painted(inpaint, sample)
    region = grown(sample.regions["a"], 3)
    assert after.shape == before.shape
    assert np.array_equal(after[~region], before[~region])
    assert (after != before).any(-1)[region].mean() > 0.9


@pytest.mark.parametrize("options", [{}, {"strength": 0.5}, {"side": 32}], ids=str)
def test_what_was_inside_leaves_no_trace(fill: DiffusersFill, options: dict[str, float]) -> None:
    inpaint = replace(fill, **options, dilation=0)
    red, blue = noisy(inside=(255, 0, 0)), noisy(inside=(0, 0, 255))
    assert np.array_equal(painted(inpaint, red), painted(inpaint, blue))


def test_a_control_repaints_as_many_pixels_elsewhere_and_leaves_the_counterfactual_as_it_is(
    fill: DiffusersFill,
) -> None:
    sample = noisy()
    pair = replace(fill, control=True)(sample, A)
    assert pair.control is not None
    region = grown(sample.regions["a"], fill.dilation)
    changed = (np.array(pair.control) != np.array(sample.image)).any(-1)
    assert not changed[region].any()
    assert 0.9 * region.sum() < changed.sum() <= region.sum()
    assert np.array_equal(np.array(pair.image), painted(fill, sample))


# --- what it depends on


def test_the_result_depends_on_seed_and_sample_and_not_on_the_order(fill: DiffusersFill) -> None:
    one, other = noisy("one"), noisy("other")
    again, seeded = replace(fill), replace(fill, seed=1)
    first, second = painted(fill, one), painted(fill, other)
    torch.rand(3)
    assert np.array_equal(painted(again, other), second)
    assert np.array_equal(painted(again, one), first)
    assert not np.array_equal(first, second)
    assert not np.array_equal(painted(seeded, one), first)


@pytest.mark.parametrize(
    "options", [{"steps": 3}, {"guidance": 2.0}, {"strength": 0.6}, {"prompt": "b"}, {"negative_prompt": "b"}], ids=str
)
def test_every_setting_reaches_the_pipeline(fill: DiffusersFill, options: dict[str, object]) -> None:
    plain = replace(fill, prompt="a")
    assert not np.array_equal(painted(replace(plain, **options), noisy()), painted(plain, noisy()))


def test_a_prompt_may_name_the_concept(fill: DiffusersFill) -> None:
    named = painted(replace(fill, prompt="{concept} b"), noisy())
    assert np.array_equal(named, painted(replace(fill, prompt="a b"), noisy()))
    assert not np.array_equal(named, painted(fill, noisy()))


@pytest.mark.parametrize(("name", "kind"), CLASSES.items())
def test_the_class_that_fits_the_folder_is_found(folder: Callable[[str], Path], name: str, kind: str) -> None:
    assert DiffusersFill(str(folder(name)))._kind.__name__ == kind


def test_a_class_may_be_named(folder: Callable[[str], Path]) -> None:
    inpaint = DiffusersFill(str(folder("text_to_image")), "StableDiffusionInpaintPipeline", steps=1, cache=None)
    automatic = replace(inpaint, pipeline=None)
    assert np.array_equal(painted(inpaint, noisy()), painted(automatic, noisy()))


@pytest.mark.parametrize(
    ("name", "options", "takes"),
    [
        ("paint_by_example", {"strength": 0.5}, "`PaintByExamplePipeline` takes no `strength`; leave out"),
        ("repaint", {"guidance": 2.0}, "`RePaintPipeline` takes no `guidance_scale`; leave out `inpaint.guidance`"),
        ("repaint", {"prompt": "grass"}, "takes no `prompt`"),
    ],
)
def test_a_setting_that_the_pipeline_does_not_take_is_refused(
    folder: Callable[[str], Path], name: str, options: dict[str, object], takes: str
) -> None:
    with pytest.raises(ValueError, match=takes):
        DiffusersFill(str(folder(name)), cache=None, **options)(noisy(), A)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` is a whole number, 1 or more, or null; got 0"),
        ({"side": 8}, "`side` is a whole number, 16 or more"),
        ({"strength": 1.5}, "`strength` is above 0 and at most 1, or null; got 1.5"),
        ({"dtype": "int8"}, "`dtype` is auto, float32, bfloat16 or float16, got 'int8'"),
        ({"dilation": -1}, "`dilation` is a whole number"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusersFill("nowhere", **options)  # type: ignore[arg-type]


# --- what a pipeline may do wrong


def test_a_picture_that_the_safety_checker_withholds_is_skipped_and_counted(folder: Callable[[str], Path]) -> None:
    inpaint = DiffusersFill(str(folder("checked")), steps=1, cache=None)
    with pytest.raises(SampleError, match="`s7`: the pipeline's safety checker withheld the picture"):
        inpaint(noisy(), A)
    with pytest.raises(
        ValueError, match="`a` could be painted out of none of 2 pictures: 2 withheld_by_safety_checker"
    ):
        counterfactuals(inpaint, [noisy("one"), noisy("two")], A)


@pytest.mark.parametrize(("value", "found"), [(-9.0, r"one color, \[0, 0, 0\]"), (float("nan"), "returned no numbers")])
def test_a_picture_of_one_color_is_no_counterfactual(tmp_path: Path, value: float, found: str) -> None:
    pipeline = stable_diffusion()
    last = pipeline.vae.decoder.conv_out
    last.weight.data.zero_()
    last.bias.data.fill_(value)
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(SampleError, match=found) as raised:
        DiffusersFill(str(tmp_path), steps=1, cache=None)(noisy(), A)
    assert raised.value.reason == "blank_counterfactual"


def test_one_color_is_right_where_the_picture_has_no_other(tmp_path: Path) -> None:
    pipeline = stable_diffusion()
    last = pipeline.vae.decoder.conv_out
    last.weight.data.zero_()
    last.bias.data.fill_(9.0)
    pipeline.save_pretrained(tmp_path)
    pixels = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    white = pixels.copy()
    pixels[noisy().regions["a"]] = (200, 0, 0)
    sample = replace(noisy(), image=Image.fromarray(pixels))
    assert np.array_equal(painted(DiffusersFill(str(tmp_path), steps=1, cache=None), sample), white)


# --- what is no pipeline


def test_a_folder_that_is_missing_or_holds_no_pipeline_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no pipeline folder `/no/such`; give the folder that has its"):
        DiffusersFill("/no/such", cache=None)(noisy(), A)
    with pytest.raises(FileNotFoundError, match=r"no pipeline of that name in the local cache; set `inpaint.download"):
        DiffusersFill("nobody/nothing", cache=None)(noisy(), A)
    with pytest.raises(ValueError, match=r"is no pipeline of diffusers: it has no `model_index.json`"):
        DiffusersFill(str(tmp_path), cache=None)(noisy(), A)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index.json` cannot be read"):
        DiffusersFill(str(tmp_path), cache=None)(noisy(), A)
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match="does not name the class of a pipeline"):
        DiffusersFill(str(tmp_path), cache=None)(noisy(), A)


@pytest.mark.parametrize("name", ["logging", "AutoencoderKL", "NoSuchPipeline", "os.system"])
def test_a_name_that_is_no_pipeline_of_diffusers_is_refused(fill: DiffusersFill, name: str) -> None:
    with pytest.raises(ValueError, match=f"has no pipeline `{name}`; name one that does with `inpaint.pipeline`"):
        replace(fill, pipeline=name)(noisy(), A)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionControlNetInpaintPipeline"])
def test_a_pipeline_that_does_not_inpaint_from_mask_and_text_is_refused(fill: DiffusersFill, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` does not inpaint a picture by a mask and a text alone"):
        replace(fill, pipeline=name)(noisy(), A)


def broken(tmp_path: Path, damage: Callable[[Path], object]) -> DiffusersFill:
    damage(saved("stable_diffusion", tmp_path / "broken"))
    return DiffusersFill(str(tmp_path / "broken"), steps=1, cache=None)


def index_with(**parts: object) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | parts))

    return write


def pickled(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def cut(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (index_with(unet=["antigravity", "Model"]), "the part `unet` .* is `Model` of `antigravity`; parts come from"),
        (index_with(unet=["diffusers", "NoSuchModel"]), "is `NoSuchModel` of `diffusers`"),
        (index_with(_class_name="DDPMPipeline"), "knows no way to inpaint with a `DDPMPipeline`"),
        (pickled, "diffusion_pytorch_model.bin` are a pickle, which is not loaded"),
        (cut, "cannot be loaded as `StableDiffusionInpaintPipeline`"),
    ],
)
def test_a_broken_folder_is_named_and_nothing_foreign_is_imported(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        broken(tmp_path, damage)(noisy(), A)


def test_a_device_that_is_not_there_is_named(fill: DiffusersFill) -> None:
    with pytest.raises(ValueError, match="cannot paint on the device `xla`"):
        replace(fill, device="xla")(noisy(), A)


def test_the_pipeline_is_loaded_once_and_let_go_after_the_pairs(fill: DiffusersFill) -> None:
    inpaint = replace(fill)
    assert "_loaded" not in vars(inpaint)
    inpaint(noisy(), A)
    pipeline = vars(inpaint)["_loaded"]
    inpaint(noisy(), A)
    assert vars(inpaint)["_loaded"] is pipeline
    pairs = counterfactuals(inpaint, [noisy("one"), noisy("two")], A)
    assert [pair.sample.id for pair in pairs.made] == ["one", "two"]
    assert pairs.skipped == {}
    assert "_loaded" not in vars(inpaint)
