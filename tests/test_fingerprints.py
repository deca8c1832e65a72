"""Digests: equal things have equal ones, and whatever could change a result changes them."""

import json
import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import date
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kedit import fingerprints
from kedit.data.coco import Coco
from kedit.data.folder import Folder
from kedit.fingerprints import (
    of_code,
    of_files,
    of_libraries,
    of_pair,
    of_picture,
    of_question,
    of_sample,
    stamps_of_files,
)
from kedit.models.identity import UnhashableWeightsError, identity, weights_digest
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT, Planted, picture, without
from kedit.models.planted import planted as planted_again
from kedit.prompts import Sound, Video
from kedit.samples import Counterfactual, Question, Sample


def test_a_picture_is_its_mode_its_size_and_its_pixels() -> None:
    one = Image.new("RGB", (4, 6), (1, 2, 3))
    assert of_picture(one) == of_picture(one.copy())
    others = [Image.new("RGB", (6, 4), (1, 2, 3)), Image.new("RGB", (4, 6), (1, 2, 4)), one.convert("RGBA")]
    assert len({of_picture(other) for other in (one, *others)}) == 4
    red, blue = Image.new("P", (4, 6)), Image.new("P", (4, 6))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    assert red.tobytes() == blue.tobytes() and of_picture(red) != of_picture(blue)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"references": ("another caption",)},
        {"objects": frozenset({"house"})},
        {"image": Image.new("RGB", (16, 16))},
        {"regions": {"star": np.ones((16, 16), bool)}},
        {"regions": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_part_of_a_sample_counts(change: dict[str, object]) -> None:
    sample = picture("one", star=(3,))
    assert of_sample(sample) == of_sample(picture("one", star=(3,)))
    assert of_sample(replace(sample, **change)) != of_sample(sample)  # type: ignore[arg-type]


def test_a_pair_is_the_sample_the_concept_and_both_pictures() -> None:
    sample = picture("one", star=(3,), house=(5,))
    pair = without(sample, STAR_CONCEPT)
    others = [
        without(sample, HOUSE_CONCEPT),
        Counterfactual(sample, replace(STAR_CONCEPT, words=("star", "sun")), pair.image),
        Counterfactual(sample, STAR_CONCEPT, pair.image, control=sample.image),
        without(picture("two", star=(3,), house=(5,)), STAR_CONCEPT),
    ]
    assert len({of_pair(one) for one in (pair, *others)}) == 5


def test_a_question_is_its_prompt_and_its_answers() -> None:
    wave = np.zeros(8, np.float32)
    questions = [
        Question("what?", "a star", "kind"),
        Question("what?", "a house", "kind"),
        Question("what?", "a star", "other"),
        Question("what?", "a star", "kind", others=("star",)),
        Question("what?", "a star", "kind", sample=picture("one")),
        Question("what?", "a star", "kind", sound=Sound(wave, 8000)),
        Question("what?", "a star", "kind", sound=Sound(wave, 16000)),
        Question("what?", "a star", "kind", video=Video((Image.new("RGB", (2, 2)),) * 2, 1.0)),
        Question("what?", "a star", "kind", video=Video((Image.new("RGB", (2, 2)),) * 2, 2.0)),
    ]
    assert len({of_question(one) for one in questions}) == len(questions)


def test_code_is_the_source_of_the_rooms_that_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "one.py").write_text("A = 1\n")
    (tmp_path / "alone.py").write_text("B = 1\n")
    monkeypatch.setattr(fingerprints, "PACKAGE", tmp_path)

    def fresh(*rooms: str) -> str:
        of_code.cache_clear()
        return of_code(*rooms)

    before = fresh("room"), fresh("alone"), fresh("room", "alone")
    (tmp_path / "room" / "one.py").write_text("A = 2\n")
    after = fresh("room"), fresh("alone"), fresh("room", "alone")
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, False]
    with pytest.raises(LookupError, match="no module `nowhere`"):
        fresh("nowhere")
    of_code.cache_clear()


def test_a_library_that_is_not_installed_has_no_version() -> None:
    found = of_libraries("torch", "no-such-library")
    assert found["torch"]
    assert found["no-such-library"] is None


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A data folder with a list, a picture and a mask below it, a picture elsewhere, and a model folder."""
    folder = tmp_path / "inputs"
    for name in ("data/pictures/1.png", "data/masks/deep/1.png", "model/weights", "elsewhere/é.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"one")
    lines = [{"image": "pictures/1.png", "caption": f"/{'x' * 300}"}, {"image": str(folder / "elsewhere" / "é.png")}]
    (folder / "data" / "pictures.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def settings(inputs: Path) -> dict[str, object]:
    return {"data": {"folder": str(inputs / "data")}, "model": {"path": str(inputs / "model")}, "concept": "star"}


@pytest.mark.parametrize(
    "name", ["data/pictures.jsonl", "data/pictures/1.png", "data/masks/deep/1.png", "model/weights", "elsewhere/é.png"]
)
def test_any_input_file_counts_by_its_content_and_not_by_its_time(inputs: Path, name: str) -> None:
    file, about = inputs / name, settings(inputs)
    before, content, times = of_files(about), file.read_bytes(), file.stat()
    assert list(before) == [str(inputs / "data"), str(inputs / "model")]
    os.utime(file, (1, 1))
    assert of_files(about) == before
    # As long as before, and with the old time: only the content tells.
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert of_files(about) != before
    file.write_bytes(content)
    assert of_files(about) == before


OUTSIDE = (
    *("../o/x.png", "..\\o\\x.png", "real/../../o/x.png", "../o/x.PNG", "../o/x.Png", "link/../x.png"),
    *("./../o/x.png", "\u00e9/../../o/x.png", 'a "b" c/../../o/x.png', "{top}/o/x.png", "{top}\\o\\x.png"),
)


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("escaped", [True, False])
def test_a_picture_outside_counts_however_a_list_spells_its_path(tmp_path: Path, name: str, escaped: bool) -> None:
    for folder in ("data/real", "data/\u00e9", 'data/a "b" c', "o/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "o" / "deep")
    Image.new("RGB", (9, 9)).save(tmp_path / "o" / "x.png")
    line = {"caption": 'a "dog"... / \\ ', "image": name.format(top=tmp_path), "objects": ["dog"]}
    (tmp_path / "data" / "pictures.jsonl").write_text(json.dumps(line, ensure_ascii=escaped) + "\n", encoding="utf-8")
    assert len(list(Folder(str(tmp_path / "data")).samples("dog"))) == 1
    about = {"data": {"folder": str(tmp_path / "data")}}
    before = of_files(about)
    Image.new("RGB", (9, 9), "white").save(tmp_path / "o" / "x.png")
    assert of_files(about) != before


@pytest.mark.parametrize("images", [".", "images", "images/default"])
@pytest.mark.parametrize("name", ["{up}../o/x.png", "..\\{up}o\\x.PNG"])
def test_a_picture_outside_that_coco_lists_counts_from_the_folder_of_pictures(
    tmp_path: Path, images: str, name: str
) -> None:
    up = "../" * len(Path(images).parts)
    (tmp_path / "data" / images).mkdir(parents=True)
    (tmp_path / "o").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "o" / "x.png")
    listed = {"images": [{"id": 1, "file_name": name.format(up=up)}], "annotations": [], "categories": []}
    (tmp_path / "data" / "list.json").write_text(json.dumps(listed))
    data = Coco(str(tmp_path / "data"), instances="list.json", images=images, captions=None)
    assert len(list(data.pictures())) == 1
    about = {"data": {"folder": str(tmp_path / "data"), "instances": "list.json", "images": images}}
    before = of_files(about)
    Image.new("RGB", (9, 9), "white").save(tmp_path / "o" / "x.png")
    assert of_files(about) != before


def test_a_file_more_and_another_name_count(inputs: Path) -> None:
    about, found = settings(inputs), []
    found.append(of_files(about))
    (inputs / "data" / "pictures" / "3.png").write_bytes(b"three")
    found.append(of_files(about))
    (inputs / "data" / "pictures" / "3.png").rename(inputs / "data" / "pictures" / "4.png")
    found.append(of_files(about))
    assert all(one != other for one, other in combinations(found, 2))


def test_a_folder_behind_a_link_counts_once_even_if_it_links_back(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "behind").mkdir()
    (tmp_path / "behind" / "5.png").write_bytes(b"five")
    (tmp_path / "behind" / "back").symlink_to(inputs / "data")
    (inputs / "data" / "linked").symlink_to(tmp_path / "behind")
    before = of_files(settings(inputs))
    (tmp_path / "behind" / "5.png").write_bytes(b"FIVE")
    assert of_files(settings(inputs)) != before


def test_what_kedit_writes_is_no_input(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs / "data")
    about = {"data": {"folder": "."}, "store": "store", "inpaint": {"cache": "cache"}, "concept": "pictures"}
    before = of_files(about)
    for name in ("out/.hydra/config.yaml", "many/0/report.json", "many/multirun.yaml"):
        (inputs / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / "data" / name).write_text("new")
    assert of_files(about) == before
    assert list(before) == ["."]
    (inputs / "data" / "pictures" / "1.png").write_bytes(b"two")
    assert of_files(about) != before


@pytest.mark.parametrize(
    "text", ["star", "no/such/file", "kedit.edit.Plan", "", "~nobody/x", "x" * 5000, "a\0b", "a\nb"]
)
def test_a_text_that_names_no_file_is_left_out(text: str) -> None:
    assert of_files({"path": text, "words": [text, None, 1]}) == {}


def test_files_that_cannot_be_read_are_no_error(inputs: Path) -> None:
    (inputs / "data" / "gone.png").symlink_to(inputs / "nowhere")
    os.mkfifo(inputs / "data" / "pipe")
    assert of_files(settings(inputs))


def test_stamps_tell_a_change_that_hides_behind_the_old_time(inputs: Path) -> None:
    file, before = inputs / "data" / "pictures" / "1.png", stamps_of_files(settings(inputs))
    assert stamps_of_files(settings(inputs)) == before
    times = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert stamps_of_files(settings(inputs)) != before


# --- models


def test_two_models_of_the_same_weights_are_the_same(planted: Planted) -> None:
    other = planted_again()
    assert identity(other.model) == identity(planted.model)
    assert weights_digest(other.model.module) == weights_digest(planted.model.module)


def test_a_model_stays_the_same_when_it_is_used(planted: Planted) -> None:
    fresh = planted_again().model
    before = identity(fresh)
    fresh.caption([picture("one", star=(3,)).image, picture("two").image])
    fresh.tokenizer("a text", truncation=True, max_length=4)
    assert identity(fresh) == before


def test_a_model_stays_the_same_when_it_is_saved(tmp_path: Path) -> None:
    fresh = planted_again().model
    before = identity(fresh)
    fresh.module.save_pretrained(tmp_path)  # type: ignore[operator]
    fresh.processor.save_pretrained(tmp_path)
    assert identity(fresh) == before


def _weight(found: Planted) -> object:
    next(found.model.module.parameters()).data += 1e-6
    return found.model


def _buffer(found: Planted) -> object:
    found.model.module.register_buffer("extra", torch.zeros(1))
    return found.model


def _generation(found: Planted) -> object:
    found.model.module.generation_config.repetition_penalty = 1.3
    return found.model


def _template(found: Planted) -> object:
    found.model.processor.chat_template = "{{ messages }}"
    return found.model


@pytest.mark.parametrize(
    "change",
    [
        _weight,
        _buffer,
        _generation,
        _template,
        lambda found: replace(found.model, prompt="what is this :"),
        lambda found: replace(found.model, max_new_tokens=5),
    ],
    ids=["a weight", "a buffer", "generation", "the template", "the prompt", "the length"],
)
def test_what_changes_what_a_model_says_changes_its_identity(
    planted: Planted, change: Callable[[Planted], object]
) -> None:
    assert identity(change(planted_again())) != identity(planted.model)  # type: ignore[arg-type]


def test_a_template_that_writes_todays_date_makes_another_model_of_another_day(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return date(2031, 1, 2)

    def told() -> list[str | None]:
        return [identity(one) for one in (plain, dated)]

    plain, dated = planted.model, deepcopy(planted.model)
    dated.processor.chat_template = "{{ strftime_now('%d %b %Y') }}"
    before = told()
    monkeypatch.setattr("kedit.models.identity.date", Tomorrow)
    after = told()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_the_batch_size_is_a_part_of_a_models_identity_as_it_moves_the_last_digits(planted: Planted) -> None:
    assert identity(replace(planted.model, batch_size=1)) != identity(planted.model)


def test_half_precision_is_another_model() -> None:
    one, other = planted_again(), planted_again()
    other.model.module.half()
    assert weights_digest(one.model.module) != weights_digest(other.model.module)


def test_weights_that_are_not_in_memory_cannot_be_hashed() -> None:
    module = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(UnhashableWeightsError, match="`weight` is not in memory"):
        weights_digest(module)


def test_a_sample_that_renders_itself_is_known_by_what_is_seen() -> None:
    plain = picture("one", star=(3,))
    drawn = Sample(plain.id, plain.image, plain.references, plain.objects, plain.regions, lambda name: plain.image)
    assert of_sample(drawn) == of_sample(plain)
