"""Drawing under an edit: what is measured, from known outcomes, and the whole job on a tiny Janus."""

import json
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.Image import Image

import kedit
import kedit.cli.draw as recipe
from kedit.data.scenes import Scenes
from kedit.edit.plan import Plan
from kedit.evaluation.drawings import Asked, Outcome, drawing_scores, judge_drawings
from kedit.locate.locator import Locator, Stage
from kedit.locate.nam import NAM
from kedit.locate.selection import TopK
from kedit.locate.shipped import shipped
from kedit.locate.target import Target
from kedit.models.tiny.families import tiny
from kedit.pipelines.draw import IMAGE, RANDOM, TEXT, UNEDITED, DrawResult, draw_prepared
from kedit.pipelines.preparation import Counts, prepare
from kedit.pipelines.seers import BySegmenter, Finder, Seen, seer_of
from kedit.samples import Concept, Mask, Sample

STAR, MOON, TREE = Concept("star"), Concept("moon"), Concept("tree")


def names(*words: str) -> tuple[frozenset[str], ...]:
    """Return a set for each text of names."""
    return tuple(frozenset(one.split()) for one in words)


ASKED = Asked(
    STAR,
    names("star moon", "star", "star tree", "moon tree", "moon"),
    3,
    names("star moon", "star"),
    (STAR, MOON, TREE),
)
BEFORE = Outcome(
    names("star moon", "star", "tree", "moon tree", "star"),
    (True, True, True, True, False),
    (0.1,) * 5,
    ("a star and a moon", "a star"),
)
AFTER = Outcome(
    names("moon", "star", "", "moon", "moon"), (True,) * 3 + (False, True), (0.2,) * 5, ("a moon", "a star")
)


# --- what is measured


def test_scores_are_of_what_the_unedited_model_drew_and_said() -> None:
    assert drawing_scores(ASKED, BEFORE, AFTER) == {
        "drawing_drop": [1.0, 0.0],
        "drawn_others": [1.0, 0.0],
        "drawn_objects": [0.5],
        "valid": [0.0],
        "unasked": [0.0],
        "caption_drop": [1.0, 0.0],
        "caption_others": [1.0],
    }


def test_nothing_changes_without_an_edit() -> None:
    scores = drawing_scores(ASKED, BEFORE, BEFORE)
    assert {one for name in ("drawing_drop", "caption_drop") for one in scores[name]} == {0.0}
    assert {one for name in ("drawn_others", "drawn_objects", "valid", "caption_others") for one in scores[name]} == {1}


def test_the_report_has_each_edit_its_control_and_how_far_the_tokenizer_is_off() -> None:
    report = judge_drawings(ASKED, BEFORE, {"I": AFTER, "T": BEFORE}, [BEFORE, AFTER], neurons=3)
    assert report.main.suppression["drawing_drop"].value == 0.5
    assert report.arms["T"].suppression["drawing_drop"].value == 0
    assert report.control is not None
    assert report.control.suppression["drawing_drop"].value == 0.25
    assert report.main.reconstruction.value == pytest.approx(0.1)
    assert (report.arms["T"].reconstruction.low, report.arms["T"].reconstruction.high) == (0.0, 0.0)
    assert report.before.value == pytest.approx(2 / 3)
    assert not report.has_evidence
    assert report.verdict.startswith("No evidence that the edit takes `star` out of drawings: the drawings are broken")


def many(**after: Any) -> tuple[Asked, Outcome, Outcome]:
    """Return 40 drawings that all show a star and a moon, what was asked, and the same changed."""
    asked = Asked(STAR, names(*["star moon"] * 30, *["moon"] * 10), 30)
    before = Outcome(names(*["star moon"] * 30, *["moon"] * 10), (True,) * 40, (0.1,) * 40)
    return asked, before, replace(before, **after)


def test_a_concept_that_goes_alone_is_evidence() -> None:
    asked, before, after = many(seen=names(*["moon"] * 40))
    report = judge_drawings(asked, before, {"I": after}, [before, before, before], neurons=5)
    assert report.has_evidence
    assert report.selectivity.value == 1
    assert report.verdict.startswith("The edit takes `star` out of drawings: 1.00 [0.89, 1.00] of 30 drawings lose it")


def test_a_concept_that_goes_with_all_else_is_none() -> None:
    asked, before, after = many(seen=names(*["moon"] * 40), valid=(False,) * 40)
    report = judge_drawings(asked, before, {"I": after}, [before], neurons=5)
    assert not report.has_evidence
    assert report.selectivity.value is None
    assert "the drawings are broken, only 0.00 [0.00, 0.28] of the whole drawings stay whole" in report.verdict


def test_an_edit_that_random_neurons_equal_is_none() -> None:
    asked, before, after = many(seen=names(*["moon"] * 40))
    assert not judge_drawings(asked, before, {"I": after}, [after], neurons=5).has_evidence
    assert not judge_drawings(asked, before, {"I": after}, [], neurons=5).has_evidence


def test_outcomes_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="`I` has 40 drawings and 0 captions; 5 and 2 were asked for"):
        judge_drawings(ASKED, BEFORE, {"I": many()[1]}, [], neurons=1)
    with pytest.raises(ValueError, match="there is no edit to judge"):
        judge_drawings(ASKED, BEFORE, {}, [], neurons=1)


# --- who sees


def test_the_finder_sees_what_a_scene_shows() -> None:
    sample = Scenes().sample(1_000_000)
    concepts = Scenes().concepts
    seen = Finder()(sample.image, concepts)
    assert set(seen.regions) == sample.objects
    assert seen.valid
    for name, region in seen.regions.items():
        assert (region == sample.regions[name]).all()


class Left:
    """A segmenter that finds stars in the left half, and a trace of moons."""

    refines = False

    def __call__(self, sample: Sample, concept: Concept) -> Mask:
        mask = np.zeros((sample.image.height, sample.image.width), bool)
        mask[:, : mask.shape[1] // 2] = concept.name == "star"
        mask[0, 0] = True
        return mask


def test_a_segmenter_sees_what_covers_enough() -> None:
    seen = BySegmenter(Left())(Scenes().sample(0).image, [STAR, MOON])
    assert set(seen.regions) == {"star"}
    assert seen.valid is None
    assert seer_of(Scenes(), Left()) != Finder()
    assert seer_of(Scenes(), None) == Finder()


def test_drawings_of_other_data_need_a_segmenter_that_finds_by_name() -> None:
    with pytest.raises(ValueError, match=r"`segment=clipseg segment\.path=FOLDER`"):
        seer_of(kedit.Prompts, None)  # type: ignore[arg-type]
    boxed = Left()
    boxed.refines = True
    with pytest.raises(ValueError, match="drawn pictures have no boxes"):
        BySegmenter(boxed)


# --- the whole job


class Bright:
    """Sees a star where a picture of random codes is brighter than most, and all else everywhere."""

    def __call__(self, picture: Image, concepts: Sequence[Concept]) -> Seen:
        pixels = np.asarray(picture.convert("L"), float)
        mask = pixels > 128
        return Seen({one.name: mask for one in concepts if one.name != "star" or pixels.mean() > 100}, True)


@pytest.fixture(scope="module")
def result() -> DrawResult:
    model = tiny("janus", batch_size=16, max_new_tokens=4)
    prepared = prepare(Scenes(), "star", None, Counts(locate=3, target=3, retention=1, text=False))
    forced = Locator({"nam": Stage(NAM(), TopK(1))}, target=Target(on_missing="force"))
    return draw_prepared(
        model, prepared, shipped("nam_image").limited(4), forced, Plan(kedit.Zero()), Bright(), controls=2
    )


def test_as_many_neurons_are_located_by_the_word_as_by_the_drawings(result: DrawResult) -> None:
    assert [len(some) for some in result.sets.values()] == [4, 4]
    assert list(result.outputs) == [UNEDITED, IMAGE, TEXT, RANDOM]
    assert result.locators == {IMAGE: "nam_image", TEXT: "nam"}
    assert all(len(one.drawings) == 5 for one in result.outputs.values())


def test_the_result_prints_itself_and_leaves_a_folder(result: DrawResult, tmp_path: Path) -> None:
    assert "drawings without it now" in str(result)
    assert "I-neurons (4)" in str(result)
    folder = result.save(tmp_path / "draw")
    report = json.loads((folder / "report.json").read_text())
    assert report["drawn_concept"] == "star"
    assert set(report["drawings"]) == {IMAGE, TEXT}
    assert report["samples"]["target"] == 3
    rows = [json.loads(line) for line in (folder / "drawings.jsonl").read_text().splitlines()]
    assert [row["group"] for row in rows] == ["target"] * 3 + ["retention"] * 2 + ["caption"] * 3
    assert {"drawings.png", "layers.png"} <= {one.name for one in (folder / "figures").iterdir()}
    assert (folder / "STATUS").read_text() == "done\n"
    page = (folder / "report.html").read_text()
    assert "drawings without it now" in page
    assert "T-neurons" in page
    with pytest.raises(FileExistsError, match="holds a finished run with another result"):
        replace(result, model="another").save(folder)


def test_what_cannot_draw_or_be_drawn_with_is_refused_in_one_line() -> None:
    janus, scenes = tiny("janus"), Scenes()
    with pytest.raises(ValueError, match=r"`tiny-llava` .* draws no pictures; models that do are"):
        kedit.draw(tiny("llava"), scenes, "star", progress=False)
    with pytest.raises(ValueError, match="stage `difference` needs counterfactual, which a drawing does not have"):
        kedit.draw(janus, scenes, "star", locate="difference", progress=False)
    with pytest.raises(LookupError, match="no concept `sun` in the data"):
        kedit.draw(janus, scenes, "sun", progress=False)
    with pytest.raises(ValueError, match="none of 2 drawings of `tiny-janus` that were asked for `star` shows it"):
        kedit.draw(janus, scenes, "star", counts=Counts(locate=2, target=1, retention=0), progress=False)


# --- the command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=scenes",), "draws no pictures; models that do are Janus, Emu3 and GILL"),
        (("locate=two_stage",), "stage `difference` needs counterfactual, which a drawing does not have"),
        (("edit=patch",), "`edit=patch` needs counterfactual pictures, which drawings have not; use `edit=zero`"),
        (("words=name",), "no method `name`; nearest: "),
        (("concept=sun",), "no concept `sun` in the data"),
    ],
)
def test_the_command_tells_in_one_line_what_cannot_be(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ("evaluate.locate=1", "evaluate.target=1", "evaluate.retention=0", "progress=false")
    monkeypatch.setattr(sys, "argv", ["kedit draw", *few, *words])
    with chdir(tmp_path):
        assert recipe.main() == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kedit: ")]
    assert len(said) == 1
    assert message in said[0]


@pytest.mark.slow
def test_the_shipped_model_draws_under_an_edit_and_leaves_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("evaluate.locate=8", "evaluate.target=10", "evaluate.retention=4", "evaluate.controls=2")
    monkeypatch.setattr(sys, "argv", ["kedit draw", *few, f"hydra.run.dir={tmp_path / 'run'}"])
    with chdir(tmp_path):
        assert recipe.main() == 0
    assert "drawings without it now" in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["drawn_before"]["value"] >= 0.8
    assert (tmp_path / "run" / "figures" / "drawings.png").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
