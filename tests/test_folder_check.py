"""`kedit folder check`: what a folder holds, what cannot be used, and a run that fits it."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

import kedit
from kedit.cli import folder as recipe
from kedit.cli import main
from kedit.cli.configuration import build
from kedit.cli.errors import ConfigurationError
from kedit.data.annotated import AnnotatedPictures
from kedit.paths import conf_dir
from kedit.pipelines.preparation import Counts, draw, prepare
from kedit.samples import find_concept
from tests.coco_maker import CocoMaker, mask_of, picture
from tests.page_reader import read_page

BOX = [4, 4, 12, 10]
KEYS = "evaluate.locate=5 evaluate.target=13 evaluate.retention=7"


def forty(folder: Path) -> Path:
    """Write 40 pictures: 20 of dogs, with boxes and masks, and 12 of cats; 3 cannot be used."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(mask_of(*BOX)).save(folder / "mask.png")  # type: ignore[arg-type]
    lines = []
    for number in range(40):
        picture(number).save(folder / f"{number}.png")
        dog = {"name": "dog", **({"box": BOX} if number % 2 else {"mask": "mask.png"})}
        objects: list[Any] = [dog] if number < 20 else ["cat"] if number < 32 else []
        lines.append({"image": f"{number}.png", "objects": objects})
    (folder / "39.png").write_bytes((folder / "38.png").read_bytes())
    (folder / "3.png").write_bytes(b"nothing")
    (folder / "4.png").unlink()
    lines[5]["objects"].append({"name": "cat", "polygon": [1, 1, 5, 5]})
    lines[33]["objects"].append({"name": "cat", "box": [30, 20, 40, 40]})
    (folder / "pictures.jsonl").write_text("\n".join(map(json.dumps, lines)))
    described = [
        {"name": "dog", "words": ["dog", "puppy"], "category": "animal"},
        {"name": "cat", "category": "animal"},
    ]
    (folder / "concepts.jsonl").write_text("\n".join(map(json.dumps, described)))
    return folder


def drawn_by(command: str) -> Any:
    """Return the samples that a command line of `kedit run` draws, strictly."""
    words = shlex.split(command)
    assert words[:2] == ["kedit", "run"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("run", [*words[2:], "evaluate.strict=true"])
    data = build(cfg.data)
    counts = Counts(**{key: cfg.evaluate[key] for key in ("locate", "target", "retention", "strict")})
    return draw(data, find_concept(data.concepts, cfg.concept), counts, seed=cfg.seed)


def test_a_folder_is_told_with_all_that_is_wrong_and_a_run_that_fits(tmp_path: Path) -> None:
    for stray in ("stray.JPG", "._1.png", ".ipynb_checkpoints/1.png"):
        (tmp_path / "mine" / stray).parent.mkdir(parents=True, exist_ok=True)
        picture(99).save(tmp_path / "mine" / stray, format="PNG")
    check = kedit.check_folder(forty(tmp_path / "mine"))
    assert (check.pictures, check.usable) == (40, 38)
    dog, cat = check.objects
    assert (dog.name, dog.pictures, dog.regions, dog.without, dog.words) == ("dog", 18, 18, 20, ("dog", "puppy"))
    assert (cat.name, cat.kind, cat.pictures, cat.regions, cat.without) == ("cat", "animal", 14, 1, 24)
    assert check.regions == {"boxes": 11, "polygons": 1, "masks": 10, "without": 12}
    assert {reason: count for reason, (count, _) in check.unusable.items()} == {
        "unreadable_image": 1,
        "missing_image": 1,
    }
    assert check.unusable["missing_image"][1].startswith("`4.png`: there is no")
    beyond, bad, twin, stray = check.warnings
    assert twin.startswith("1 copy of another picture, the first `39.png` of `38.png`: one may be")
    assert beyond.startswith("1 of 11 outlines reach beyond their picture, the first in `33.png`")
    assert bad.startswith(
        "1 samples have a bad region of something else, which is left out, the first `5.png`: `cat`: "
    )
    assert stray == f"1 pictures beside the listed ones are in no list, the first `{tmp_path}/mine/stray.JPG`"
    assert check.counts == Counts(5, 13, 7)
    assert check.command is not None and check.command.endswith(
        "evaluate.locate=5 evaluate.target=13 evaluate.retention=7"
    )
    parts = drawn_by(check.command)
    assert [len(part) for part in (parts.locate, parts.target, parts.near, parts.far)] == [5, 13, 7, 7]


def test_a_check_prints_itself_and_is_plain_data(tmp_path: Path) -> None:
    check = kedit.check_folder(forty(tmp_path / "mine"))
    told, page = str(check), check._repr_html_()
    assert told.splitlines()[-1] == check.command
    for part in ("38 of 40 pictures can be used", "dog, puppy", "11 boxes, 1 polygons, 10 masks, 12 without"):
        assert part in " ".join(told.split()) and part in page
    assert check.command in read_page(page, check.table()).texts
    plain = json.loads(json.dumps(check.to_json()))
    assert plain["objects"][0]["regions"] == 18 and plain["counts"]["target"] == 13
    assert plain["unusable"]["missing_image"]["count"] == 1


def test_where_enough_is_there_the_command_needs_no_counts(tmp_path: Path) -> None:
    check = kedit.check_folder(forty(tmp_path / "it's $mine"), counts=Counts(4, 5, 6))
    assert check.command is not None and "evaluate" not in check.command
    words = shlex.split(check.command)
    assert words[-2:] == ["concept=dog", "inpaint=mean"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert compose("run", words[2:]).data.folder == str(tmp_path / "it's $mine")


@pytest.mark.parametrize(
    ("instances", "images", "message"),
    [
        ("_annotations.coco.json", ".", "data.images=."),
        ("result.json", "images", "data.instances=result.json"),
        ("annotations/instances_default.json", "images/default", "data.images=images/default"),
        ("annotations/instances_train2017.json", "train2017", "data.subset=train2017"),
    ],
)
def test_an_export_is_known_by_where_its_files_lie(tmp_path: Path, instances: str, images: str, message: str) -> None:
    maker = CocoMaker(tmp_path / "made")
    for _ in range(6):
        maker.add("dog")
    made, folder = Path(maker.write()), tmp_path / "export"
    (folder / instances).parent.mkdir(parents=True)
    (folder / images).mkdir(parents=True, exist_ok=True)
    (made / "annotations/instances_val2017.json").rename(folder / instances)
    for one in (made / "val2017").iterdir():
        one.rename(folder / images / one.name)
    check = kedit.check_folder(folder)
    assert check.command is not None
    assert "data=coco2017" in check.command and message in check.command
    assert len(drawn_by(check.command).target) == 4
    asked = recipe.data_of(str(folder), ["data.boxes=xyxy"])
    assert isinstance(asked, kedit.Coco) and (asked.boxes, asked.data_set.counts["dog"]) == ("xyxy", 6)
    with pytest.raises(FileNotFoundError, match=rf"`.*{message}.*` reads what is there"):
        kedit.Coco(str(folder)).concepts  # noqa: B018


def test_too_few_pictures_are_no_run_and_why(tmp_path: Path) -> None:
    maker = CocoMaker(tmp_path / "coco")
    for _ in range(3):
        maker.add("dog")
    check = kedit.check_folder(maker.write())
    assert check.command is None and check.counts is None
    assert "at least 4 that can be used are needed" in check.why
    assert "No run is possible: 84 pictures of `dog` asked for" in " ".join(check.table().notes)


def test_where_a_rule_leaves_nothing_it_is_named(tmp_path: Path) -> None:
    check = kedit.check_folder(kedit.Folder(str(forty(tmp_path / "mine")), min_area=0.9))
    assert check.command is None
    assert "18 break `min_area`" in check.why


@pytest.mark.parametrize("objects", [[], ["dog"]])
def test_a_folder_without_places_is_no_run(tmp_path: Path, objects: list[str]) -> None:
    for number in range(8):
        picture(number).save(tmp_path / f"{number}.png")
    lines = [json.dumps({"image": f"{number}.png", "objects": objects}) for number in range(8)]
    (tmp_path / "pictures.jsonl").write_text("\n".join(lines))
    assert "`segment=clipseg" in kedit.check_folder(tmp_path).why


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["kedit folder", *words])
    return recipe.main()


def test_the_command_prints_the_check_and_no_warning_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(forty(tmp_path / "mine"))
    assert called(monkeypatch, "check", folder) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{kedit.check_folder(folder)}\n"
    assert printed.err == ""
    assert called(monkeypatch, "check", folder, "data.boxes=xyxy", "data.max_side=20") == 0
    assert "data.boxes=xyxy data.max_side=20 concept=dog" in capsys.readouterr().out


def test_the_run_that_is_printed_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begun(settings: DictConfig, *_: Any) -> None:
        raise ConfigurationError(f"begun with {settings.data.boxes}")

    assert called(monkeypatch, "check", str(forty(tmp_path / "mine")), "data.boxes=xyxy") == 0
    program, *words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert program == "kedit"
    monkeypatch.setattr("kedit.cli.run.job", begun)
    assert main([*words, f"hydra.run.dir={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "kedit: begun with xyxy"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "no folder `nowhere`"),
        (("empty",), "no list of pictures `empty/pictures.jsonl`; write one JSON object per line"),
        (("empty", "boxes=xyxy"), "`boxes=xyxy` is no setting of the data; write `data=coco2017` or `data.KEY=VALUE`"),
        (("empty", "data.box=xyxy"), "box"),
        (("empty", "data=nothing"), "nothing.yaml"),
        (("empty", "data.boxes=xxyy"), "`boxes` is one of xywh, xyxy"),
        (("twice",), "`Dog` and `dog` are two names that differ in case, white space, `_` or `-` alone"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_check_is_one_line(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "pictures.jsonl").write_text('{"image": "1.png", "objects": ["dog", "Dog"]}\n')
    assert called(monkeypatch, "check", *words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert message in printed.err


def test_what_is_prepared_has_the_pictures_that_there_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = kedit.Folder(str(forty(tmp_path / "mine")))
    prepared = prepare(data, "dog", None, Counts())
    evaluation_set = prepared.evaluation_set
    assert [len(part) for part in (prepared.pairs, evaluation_set.target, evaluation_set.near, evaluation_set.far)] == [
        5,
        13,
        13,
        7,
    ]
    (told,) = [message for message in caplog.messages if "fewer" in message]
    assert "5 (of 24) to locate with, 13 (of 60) as target, 13 (of 60) near, 7 (of 60) far" in told
    with pytest.raises(ValueError, match=f"^too few pictures: `{KEYS}` asks for what there is; 84 pictures"):
        prepare(data, "dog", None, Counts(strict=True))
    with pytest.raises(ValueError, match="`strict` is true or false, got 'no'"):
        Counts(strict="no")  # type: ignore[arg-type]


def test_data_that_cannot_run_out_are_asked_as_ever() -> None:
    assert not isinstance(kedit.Scenes(), AnnotatedPictures)
    parts = draw(kedit.Scenes(), kedit.Scenes().concepts[0], Counts(2, 3, 1), seed=0)
    assert [len(part) for part in (parts.locate, parts.target, parts.near, parts.far)] == [2, 3, 1, 1]
    assert np.asarray(parts.locate[0].image).shape == (64, 64, 3)
