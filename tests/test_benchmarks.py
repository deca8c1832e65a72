"""CHAIR and POPE of a run: on the picture world and in COCO's format, with no work that nobody asked for."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_refusals import prepared as squares
from test_refusals import sample

import kedit
from kedit.data.pope import Pope
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.tiny.families import tiny
from kedit.models.yes_no import first_tokens, log_odds
from kedit.pipelines.run import RunResult
from kedit.prompts import Prompt
from kedit.samples import Question
from tests.coco_maker import CocoMaker, rle

FEW = kedit.Counts(locate=4, target=6, retention=4, controls=1, text=False)


@pytest.fixture(scope="module")
def model(scenes_model: HuggingFaceMLLM) -> HuggingFaceMLLM:
    return scenes_model


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def result(model: HuggingFaceMLLM, store: Path) -> RunResult:
    return kedit.run(model, kedit.Scenes(), "star", counts=FEW, chair=True, pope=True, store=store)


def value(report: Any, path: str) -> Any:
    for key in path.split("/"):
        report = report[key]
    return report["value"]


def test_a_run_tells_what_the_edit_does_to_hallucination_and_to_questions(result: RunResult) -> None:
    report = json.loads(json.dumps(result.to_json()))
    assert report["chair"]["words"] == "kedit's own words"
    for condition in ("before", "after", "control"):
        assert value(report, f"chair/target/{condition}/chair_i") == 0.0
    assert value(report, "chair/target/after/recall") == 1.0
    before, after, control = (
        value(report, f"pope/{condition}/text/target/present_yes") for condition in ("before", "after", "control")
    )
    assert after < before == control
    assert value(report, "pope/after/log_odds/target/log_odds_present") < 0
    assert value(report, "pope/after/text/kept/same_picture") == 1.0
    assert value(report, "literature/M-generality") == value(report, "suppression/mention_drop") == 1.0
    assert value(report, "literature/T-generality") == value(report, "pope/after/text/target/denied") >= 0.5
    assert value(report, "literature/locality without a picture") is not None


def test_the_figures_are_printed_with_their_words(result: RunResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path, figures=False)
    for text in (str(result), result._repr_html_(), (folder / "report.md").read_text(encoding="utf-8")):
        plain = unescape(text).replace("\n", " ")
        assert "CHAIR, of the objects besides star; objects by kedit's own words" in plain
        assert "random, popular and adversarial of all but star" in plain and "questions: target 14" in plain
    assert "**in the literature's terms:** M-generality 1.000" in (folder / "report.md").read_text(encoding="utf-8")


def test_chair_reads_what_is_written_anyway_and_what_is_off_costs_nothing(
    model: HuggingFaceMLLM, result: RunResult, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was run again")

    for name in ("ask", "caption", "logits"):
        monkeypatch.setattr(type(model), name, refuse)
    whole = result.to_json()
    by_chair = kedit.run(model, kedit.Scenes(), "star", counts=FEW, chair=True, store=store).to_json()
    assert by_chair["chair"] == whole["chair"] and "pope" not in by_chair
    plain = kedit.run(model, kedit.Scenes(), "star", counts=FEW, store=store).to_json()
    assert plain.keys() == whole.keys() - {"chair", "pope"}
    assert plain["suppression"] == whole["suppression"]
    # Answers are kept for later jobs as captions are.
    again = kedit.run(model, kedit.Scenes(), "star", counts=FEW, chair=True, pope=True, store=store)
    assert again.to_json() == whole


def coco(folder: Path, n: int = 30) -> str:
    """Write scenes as a data set in COCO's format, the first of them with stars, and return its folder."""
    data = kedit.Scenes()
    maker = CocoMaker(folder, {one.name: str(one.category) for one in data.concepts})
    split = data.split("star", locate=n // 3, target=n // 3, retention=n // 6, seed=5)
    for one in (*split.locate, *split.target, *split.near, *split.far):
        outlines = [(name, rle(np.asarray(region))) for name, region in one.regions.items()]
        maker.add(*outlines, captions=one.references[:1], image=one.image)
    return maker.write()


def test_a_folder_in_cocos_format_is_asked_with_the_users_synonyms_and_published_questions(
    model: HuggingFaceMLLM, tmp_path: Path
) -> None:
    data = kedit.Coco(coco(tmp_path / "coco"))
    synonyms, file = tmp_path / "synonyms.txt", tmp_path / "coco_pope_adversarial.json"
    synonyms.write_text("star\n" + "\n".join(one.name for one in data.concepts if one.name != "star"))
    rows = [
        {"image": f"COCO_val2014_{number:012}.jpg", "text": "is there a moon ?", "label": "no"}
        for number, shown in enumerate(data.annotations(seed=0), 1)
        if "moon" not in shown
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    asked = Pope("is there {} ?", (file,))
    report = kedit.run(model, data, "star", counts=replace(FEW, controls=0), chair=synonyms, pope=asked).to_json()
    assert report["chair"]["words"] == str(synonyms)
    assert value(report, "chair/target/after/recall") > 0.8
    n_asked = report["pope"]["questions"]["adversarial"]
    assert 0 < n_asked < len(rows), "none about the pictures that were located with"
    assert value(report, "pope/before/text/adversarial/accuracy") > 0.5
    assert value(report, "pope/after/text/target/present_yes") < value(report, "pope/before/text/target/present_yes")


def test_wrong_switches_are_told_before_anything_runs(model: HuggingFaceMLLM) -> None:
    with pytest.raises(TypeError, match="`pope` is true, false, or a `Pope`, got str 'yes'"):
        kedit.run(model, kedit.Scenes(), "star", pope="yes")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"no file `nowhere\.txt` of synonyms"):
        kedit.run(model, kedit.Scenes(), "star", chair="nowhere.txt")


def test_a_question_of_several_kinds_is_asked_once(model: HuggingFaceMLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from kedit.pipelines.benchmarks import poll

    asked: list[int] = []

    def count(self: Any, prompts: Sequence[Prompt], **_: Any) -> Any:
        asked.append(len(prompts))
        return ask(self, prompts)

    ask = type(model).ask
    monkeypatch.setattr(type(model), "ask", count)
    one = kedit.Scenes().sample(0)
    questions = [Question("is there a star ?", "no", kind, one) for kind in ("random", "popular", "target")]
    answers, _ = poll(model, [*questions, Question("is there a star ?", "", "alone")], [], lambda items, *_: items)
    assert asked == [2] and len(answers.texts) == 4 and len(set(answers.texts[:3])) == 1
    assert answers.log_odds is not None and len(set(answers.log_odds[:3])) == 1


def test_yes_is_likelier_than_no_where_the_model_says_yes(model: HuggingFaceMLLM) -> None:
    tokens = first_tokens(model)
    assert tokens is not None
    assert [model.words(some) for some in tokens] == [["yes"], ["no"]]
    samples = [kedit.Scenes().sample(number) for number in range(12)]
    prompts = [Prompt(f"is there a {name} ?", one.image) for one in samples for name in ("star", "tree")]
    odds = log_odds(model, prompts, [nullcontext, nullcontext])
    assert odds is not None and odds[0] == odds[1]
    answers = [one.text for one in model.ask(prompts)]
    assert {*answers} == {"yes", "no"}
    assert [one > 0 for one in odds[0]] == [text == "yes" for text in answers]


def test_a_model_without_the_words_has_no_log_odds() -> None:
    other = tiny("llava")
    if first_tokens(other) is None:
        assert log_odds(other, [Prompt("is there a star ?")]) is None
    else:
        pytest.fail("the tiny model has words for yes and no now: take another one")


def test_questions_about_pictures_that_cannot_be_read_are_left_out() -> None:
    from kedit.pipelines.readable import readable

    qwen, given = tiny("qwen2_vl", max_new_tokens=3), squares((32, 32))
    target = given.evaluation_set.target
    elsewhere = [sample(name, size) for name, size in (("good", (32, 32)), ("bad", (2200, 10)))]
    polls = [Question("is there a dog ?", "yes", "target", one) for one in (*target, *elsewhere)]
    found = readable(qwen, given._replace(polls=(*polls, Question("is there a dog ?", "", "alone"))))
    assert [one.sample.id if one.sample else None for one in found.polls] == ["target 0", "good", None]
    assert found.skipped["model_cannot_read"] == 3
