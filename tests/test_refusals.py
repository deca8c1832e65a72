"""Pictures that a model cannot read are passed over, counted and told once; where none is left, that is an error."""

import dataclasses
import logging
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kedit.data.inpaint import MeanFill
from kedit.edit.operators import Zero
from kedit.edit.plan import Plan
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.locate.difference import ActivationDifference
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.locate.target import Target
from kedit.models import refusals as room
from kedit.models.mllm import TeacherForced
from kedit.models.refusals import refusals
from kedit.models.tiny.families import tiny
from kedit.pipelines.locate import locate_prepared
from kedit.pipelines.readable import Prepared, readable, readable_questions, with_readable_pairs
from kedit.pipelines.run import run_prepared
from kedit.samples import Concept, Question, QuestionSplit, Sample

DOG = Concept("dog")
BANNER, PANORAMA, SQUARE = (2200, 10), (400, 40), (32, 32)


def sample(name: str, size: tuple[int, int], *objects: str) -> Sample:
    width, height = size
    region = np.zeros((height, width), bool)
    region[: height // 2, : width // 3] = True
    drawn = np.random.default_rng(len(name)).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Sample(name, Image.fromarray(drawn), ("a dog",), frozenset(objects), {"dog": region} if objects else {})


def prepared(*sizes: tuple[int, int], rest: tuple[int, int] = BANNER) -> Prepared:
    """Return pairs of those sizes, two target pictures and two others, one of each of the size `rest`."""
    pairs = [MeanFill()(sample(f"located {n}", size, "dog"), DOG) for n, size in enumerate(sizes)]
    target = (sample("target 0", SQUARE, "dog"), sample("target 1", rest, "dog"))
    evaluation_set = EvaluationSet(DOG, (DOG,), target, (sample("near", rest),), (sample("far", SQUARE),))
    return Prepared(evaluation_set, pairs, {"too_small": 1})


@pytest.fixture(scope="module")
def qwen() -> Any:
    return tiny("qwen2_vl", max_new_tokens=3)


def locator() -> Locator:
    return Locator({"s": Stage(ActivationDifference(), TopK(3))}, target=Target(on_missing="force"))


def test_a_picture_that_the_processor_refuses_is_named_and_others_of_odd_shapes_are_not(qwen: Any) -> None:
    images = [Image.new("RGB", size) for size in (SQUARE, BANNER, PANORAMA, (10, 2200))]
    found = refusals(qwen, images)
    assert set(found) == {1, 3}
    assert found[1].startswith("2200 x 10 pixels: absolute aspect ratio must be smaller than 200")
    assert refusals(tiny("llava"), images) == {}


def test_pictures_of_usual_shapes_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_refusal", lambda *_: "tried")
    images = [Image.new("RGB", size) for size in (SQUARE, (99, 10), (100, 10), (200, 20))]
    assert refusals(None, images) == {2: "tried", 3: "tried"}


@pytest.mark.parametrize("spoil", ["no token", "NaN"])
def test_a_grid_that_degenerates_is_a_refusal(spoil: str) -> None:
    whole = tiny("llava")

    class Degenerate(type(whole)):  # type: ignore[misc]
        def teacher_forced(self, *given: Any) -> TeacherForced:
            batch = super().teacher_forced(*given)
            return dataclasses.replace(batch, token_types=batch.token_types * 0 + 1) if spoil == "no token" else batch

        def logits(self, *given: Any, **named: Any) -> Any:
            return super().logits(*given, **named) * (float("nan") if spoil == "NaN" else 1.0)

    model = Degenerate(whole.module, whole.processor)
    reason = {"no token": "no token of the sequence stands for it", "NaN": "its logits are NaN"}[spoil]
    assert refusals(model, [Image.new("RGB", BANNER)]) == {0: f"2200 x 10 pixels: {reason}"}


def test_what_cannot_be_read_is_left_out_counted_and_told_once(qwen: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = readable(qwen, prepared(SQUARE, BANNER, PANORAMA))
    assert [pair.sample.id for pair in found.pairs] == ["located 0", "located 2"]
    assert [one.id for one in (*found.evaluation_set.target, *found.evaluation_set.retention)] == ["target 0", "far"]
    assert found.skipped == {"too_small": 1, "model_cannot_read": 3}
    assert [record.getMessage() for record in caplog.records] == [
        "skipped 3 pictures that `tiny-qwen2_vl` cannot read (model_cannot_read), the first of 2200 x 10 pixels: "
        "absolute aspect ratio must be smaller than 200, got 220.0"
    ]
    assert readable(qwen, found) is found


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (prepared(BANNER), "1 pairs to locate with"),
        (
            Prepared(dataclasses.replace(prepared(SQUARE).evaluation_set, target=[sample("t", BANNER, "dog")]), [], {}),
            "1 pictures of the",
        ),
    ],
)
def test_where_nothing_can_be_read_that_is_an_error(given: Prepared, what: str, qwen: Any) -> None:
    with pytest.raises(ValueError, match=rf"can read none of {what}.*; the first has 2200 x 10 pixels: absolute"):
        readable(qwen, given)


def test_a_shard_may_have_no_picture_left(qwen: Any) -> None:
    assert with_readable_pairs(qwen, prepared(BANNER)).pairs == []
    assert with_readable_pairs(qwen, prepared(BANNER)).skipped == {"too_small": 1, "model_cannot_read": 1}


def test_a_question_split_is_asked_about_what_can_be_read(qwen: Any) -> None:
    fact = Question("what is it?", "a dog", "fact")
    asked = [dataclasses.replace(fact, sample=sample("a", size, "dog"), kind="seen") for size in (SQUARE, BANNER)]
    question_split = readable_questions(qwen, QuestionSplit((asked[1], fact), (asked[0], asked[1], fact)))
    assert (question_split.locate, question_split.evaluate) == ((fact,), (asked[0], fact))
    assert question_split.skipped == {"model_cannot_read": 2}


def test_a_run_goes_on_without_the_picture_and_its_report_counts_it(qwen: Any) -> None:
    asked = prepared(SQUARE, BANNER)
    assert locate_prepared(qwen, asked, locator()).to_json()["samples"]["skipped"]["model_cannot_read"] == 3
    result = run_prepared(qwen, asked, locator(), Plan(Zero()), controls=1)
    assert result.to_json()["samples"]["skipped"]["model_cannot_read"] == 3
    assert len(result.captions) == 2
