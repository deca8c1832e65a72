"""Fillings are kept by content: what decides the result decides the key, and what is kept is what was made."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kedit.data import inpaint_cache
from kedit.data.inpaint_diffusers import DiffusersFill
from kedit.data.inpaint_opencv import OpenCVFill
from kedit.data.inpaint_pipeline import files_digest
from kedit.samples import Concept, Sample
from kedit.store import Store
from tests.tiny_diffusion import saved

A = Concept("a")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("stable_diffusion", tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def fill(folder: Path, tmp_path: Path) -> DiffusersFill:
    return DiffusersFill(str(folder), steps=2, cache=str(tmp_path / "cache"))


def noisy(name: str = "s7", seed: int = 0, left: int = 30) -> Sample:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 56, 3)).astype(np.uint8)
    region = np.zeros((24, 56), bool)
    region[6:15, left : left + 10] = True
    return Sample(name, Image.fromarray(pixels), regions={"a": region, "b": region})


def painted(inpaint: DiffusersFill | OpenCVFill, sample: Sample) -> NDArray[np.uint8]:
    return np.array(inpaint(sample, A).image)


def entries(inpaint: DiffusersFill | OpenCVFill) -> list[str]:
    assert inpaint.cache is not None
    return [entry.key for entry in Store(Path(inpaint.cache)).ls()]


def test_the_second_time_no_pipeline_is_loaded_and_the_picture_is_the_same(fill: DiffusersFill) -> None:
    first = painted(fill, noisy())
    assert len(entries(fill)) == 1
    again = replace(fill)
    assert np.array_equal(painted(again, noisy()), first)
    assert "_loaded" not in vars(again)
    assert np.array_equal(painted(replace(fill, cache=None), noisy()), first)


def test_an_entry_is_a_picture_that_any_program_opens(fill: DiffusersFill) -> None:
    first = painted(fill, noisy())
    assert fill.cache is not None
    with Image.open(Store(Path(fill.cache)).path(entries(fill)[0])) as kept:
        assert kept.format == "PNG"
        assert np.array_equal(np.array(kept), first)


def test_an_entry_says_what_it_was_made_from(fill: DiffusersFill) -> None:
    painted(fill, noisy())
    assert fill.cache is not None
    (entry,) = Store(Path(fill.cache)).ls()
    assert entry.kind == "counterfactual"
    assert (entry.about["method"], entry.about["steps"], entry.about["noise"]) == ("diffusers", 2, [0, "s7"])
    assert (entry.about["height"], entry.about["width"]) == (24, 56)


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"steps": 1}, {"guidance": 2.0}, {"strength": 0.6}, {"side": 64}, {"prompt": "b"},
     {"negative_prompt": "b"}, {"dilation": 1}, {"dtype": "bfloat16"}],
    ids=str,
)  # fmt: skip
def test_what_decides_the_result_decides_the_key(fill: DiffusersFill, options: dict[str, object]) -> None:
    painted(fill, noisy())
    painted(replace(fill, **options), noisy())
    assert len(entries(fill)) == 2


def test_another_picture_another_region_and_another_sample_have_entries_of_their_own(fill: DiffusersFill) -> None:
    for sample in (noisy(), noisy(seed=1), noisy(left=20), noisy("other")):
        painted(fill, sample)
    assert len(entries(fill)) == 4
    replace(fill, control=True)(noisy(), A)
    assert len(entries(fill)) == 5


def test_another_concept_in_the_same_place_shares_the_entry_unless_the_prompt_names_it(fill: DiffusersFill) -> None:
    for concept in (A, Concept("b")):
        fill(noisy(), concept)
    assert len(entries(fill)) == 1
    for concept in (A, Concept("b")):
        replace(fill, prompt="{concept}")(noisy(), concept)
    assert len(entries(fill)) == 3


def test_weights_that_were_trained_on_make_another_key(tmp_path: Path) -> None:
    folder = saved("stable_diffusion", tmp_path / "trained")
    before = files_digest(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    held = weights.read_bytes()
    assert files_digest(folder) == before
    weights.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    assert files_digest(folder) != before
    weights.write_bytes(held)
    (folder / "notes.md").write_text("about it")
    assert files_digest(folder) == before


@pytest.mark.parametrize("place", [0.0, 0.31, 0.77, 1.0])
def test_of_large_weights_every_number_counts(tmp_path: Path, place: float) -> None:
    levels = np.random.default_rng(0).integers(0, 256, 12 << 20).astype(np.uint8)
    (tmp_path / "large.safetensors").write_bytes(levels.tobytes())
    before = files_digest(tmp_path)
    levels[int(place * (len(levels) - 1))] ^= 1
    (tmp_path / "large.safetensors").write_bytes(levels.tobytes())
    assert files_digest(tmp_path) != before


def test_the_code_that_paints_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = inpaint_cache.versions()
    monkeypatch.setattr(inpaint_cache, "of_code", lambda *rooms: ",".join(rooms))
    assert before != inpaint_cache.versions()
    assert "data/inpaint_diffusers" in str(inpaint_cache.versions()["code"])


def test_a_damaged_entry_is_named_and_painted_again(fill: DiffusersFill, caplog: pytest.LogCaptureFixture) -> None:
    first = painted(fill, noisy())
    assert fill.cache is not None
    path = Store(Path(fill.cache)).path(entries(fill)[0])
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING, "kedit"):
        assert np.array_equal(painted(replace(fill), noisy()), first)
    assert f"`{path}` is not what was put there" in caplog.text
    assert len(path.read_bytes()) > 100


def test_a_cache_that_cannot_be_written_loses_no_picture(
    fill: DiffusersFill, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    nowhere = replace(fill, cache=str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "kedit"):
        for name in ("one", "two"):
            assert np.array_equal(painted(nowhere, noisy(name)), painted(replace(fill, cache=None), noisy(name)))
    assert caplog.text.count("cannot keep results in") == 1


@pytest.mark.parametrize(
    "change", [{"method": "navier_stokes"}, {"radius": 5.0}, {"dilation": 4}], ids=str
)  # fmt: skip
def test_fillings_of_opencv_are_kept_where_a_folder_is_given(tmp_path: Path, change: dict[str, object]) -> None:
    plain = OpenCVFill()
    kept = replace(plain, cache=str(tmp_path))
    for _ in range(2):
        assert np.array_equal(painted(kept, noisy()), painted(plain, noisy()))
    assert len(entries(kept)) == 1
    painted(replace(kept, **change), noisy())
    assert len(entries(kept)) == 2


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    painted(OpenCVFill(cache="~/kept"), noisy())
    assert len(Store(tmp_path / "kept").ls()) == 1
