"""A task: modalities told apart on mixed prompts, questions marked, and the job from the command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_media import TONE, wav
from test_qwen import picture, sound, video

import kedit.cli.task as recipe
from kedit.cli import sharing, table
from kedit.data.folder import Folder
from kedit.evaluation.answers import right
from kedit.evaluation.task import ALL, judged
from kedit.locate.miner import UNION, Miner
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.planted import Planted
from kedit.models.shipped import HERE
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronSet
from kedit.prompts import Prompt
from kedit.samples import Concept, Counterfactual, Question, Sample

TEXTS = [Prompt("what is the name of this?"), Prompt("who?"), Prompt("is it so?")]
PICTURES = [Prompt("what?", image=picture(24, 16)), Prompt("what is it?", image=picture(40, 32, 1))]
VIDEOS = [Prompt("what?", video=video(3)), Prompt("who is it?", video=video(4, 9))]
SOUNDS = [Prompt("what?", sound=sound(0.3)), Prompt("who sings?", sound=sound(1.1, 1))]


@pytest.fixture(scope="module")
def models() -> dict[str, HuggingFaceMLLM]:
    return {family: tiny(family) for family in ("qwen2_vl", "qwen2_audio")}


# --- MINER on prompts


def test_on_pictures_after_the_captioning_prompt_it_is_what_counterfactual_pairs_give(planted: Planted) -> None:
    model = planted.model
    images = [picture(32, 32, seed) for seed in range(3)]
    pairs = [Counterfactual(Sample(str(n), image), Concept("star"), image) for n, image in enumerate(images)]
    known = Miner().score(model, pairs)
    found = Miner().score_prompts(model, {"pictures": [Prompt(model.prompt, image) for image in images]})
    assert list(found) == list(known) == ["text", "special", "image"]
    for name, one in found.items():
        torch.testing.assert_close(one.values, known[name].values)
        assert one.site == "act" and one.provenance["forwards"] == "3" and one.provenance["concept"] == "none"
        assert one.provenance["samples"] == "pictures x 3"


@pytest.mark.parametrize(
    ("family", "sets", "modalities"),
    [
        ("qwen2_vl", {"a": TEXTS, "b": PICTURES, "c": VIDEOS}, ["text", "special", "image", "video"]),
        ("qwen2_audio", {"a": TEXTS, "b": SOUNDS}, ["text", "special", "audio"]),
    ],
)
def test_a_mixed_batch_is_split_into_its_modalities(
    family: str, sets: dict[str, list[Prompt]], modalities: list[str], models: dict[str, HuggingFaceMLLM]
) -> None:
    model = models[family]
    pooled = Miner().score_prompts(model, {"all": [one for some in sets.values() for one in some]})
    apart = Miner().score_prompts(model, sets)
    assert list(pooled) == list(apart) == modalities
    medium = modalities[-1]
    own = Miner().score_prompts(model, {"own": [one for some in sets.values() for one in some if one.medium == medium]})
    # Only the prompts that have a modality say something of it, in whatever company.
    for one in (pooled, apart):
        torch.testing.assert_close(one[medium].values, own[medium].values, atol=1e-5, rtol=1e-5)
    singly = [Miner().score_prompts(model, {"one": some}) for some in sets.values()]
    mean = torch.stack([one["text"].values for one in singly]).mean(0)
    torch.testing.assert_close(apart["text"].values, mean, atol=1e-5, rtol=1e-5)
    picked = Miner(ratio=0.25).select_each(apart)
    assert all(len(picked[name]) == 18 // len(modalities) for name in modalities) and len(picked[UNION]) <= 18


def test_no_prompts_are_refused(models: dict[str, HuggingFaceMLLM]) -> None:
    with pytest.raises(ValueError, match="nothing to locate in: no prompts in `b`"):
        Miner().score_prompts(models["qwen2_vl"], {"a": TEXTS, "b": []})


# --- marks


@pytest.mark.parametrize(
    ("message", "contains", "exact"),
    [
        ("A red star", True, True), ("it is a red  star.", True, False), ("a red starfish", False, False),
        ("", False, False), ("star red a", False, False), ("a sun", True, True),
    ],
)  # fmt: skip
def test_an_answer_is_right_if_it_has_the_words_of_a_right_one(message: str, contains: bool, exact: bool) -> None:
    question = Question("what is it?", "a red star", "image", others=("a sun",))
    assert (right(question, message), right(question, message, "exact")) == (contains, exact)


def test_what_is_no_word_is_compared_as_it_is() -> None:
    assert right(Question("which sign?", "+", "fact"), " + ") and not right(Question("which sign?", "+", "fact"), "-")
    with pytest.raises(ValueError, match="`match` is contains or exact, got 'regex'"):
        right(Question("?", "a", "fact"), "a", "regex")  # type: ignore[arg-type]


def example_questions(n: int = 20) -> list[Question]:
    return [Question(f"{number}?", "yes", "image" if number % 2 else "audio") for number in range(n)]


def test_the_report_has_shares_by_kind_with_wilson_intervals() -> None:
    asked = example_questions()
    before = ["yes"] * 18 + ["no"] * 2
    after = ["no"] * 10 + ["yes"] * 8 + ["no"] * 2
    controls = [before, ["no", *before[1:]]]
    report = judged(asked, before, after, controls, neurons=7)
    assert list(report.before) == ["audio", "image", ALL]
    assert (report.before[ALL].value, report.after[ALL].value, report.after["image"].value) == (0.9, 0.4, 0.4)
    assert report.before["image"].n == 10 and report.before["image"].high == pytest.approx(0.982, abs=1e-3)
    assert report.by_seed == (0.9, 0.85) and report.control[ALL].value == pytest.approx(0.875)
    assert report.lost.value == pytest.approx(10 / 18) and report.comparison.beats
    assert report.verdict.startswith("The located neurons matter more than random ones: the share of right answers")
    content = report.to_json()
    assert set(content) == {"score", "lost", "control", "fluency", "evidence", "verdict"} and json.dumps(content)


def test_a_report_claims_nothing_without_evidence() -> None:
    asked = example_questions(4)
    right_ones, wrong = ["yes"] * 4, ["no"] * 4
    assert "answers none of 4 questions right" in judged(asked, wrong, wrong, [wrong], neurons=3).verdict
    assert "no neuron was located" in judged(asked, right_ones, wrong, [right_ones], neurons=0).verdict
    assert "no random control was run" in judged(asked, right_ones, wrong, [], neurons=3).verdict
    nothing = judged(asked, wrong, wrong, [wrong], neurons=3).to_json()["control"]
    assert "no answer was right before the edit" in json.dumps(nothing) and "no random" not in json.dumps(nothing)
    alike = judged(asked, right_ones, wrong, [wrong, wrong], neurons=3)
    assert not alike.comparison.beats and alike.verdict.startswith("No evidence that these neurons matter more")
    silent = judged(asked[:3], right_ones[:3], [""] * 3, [right_ones[:3]] * 3, neurons=3)
    assert silent.lost.value == 1.0 and not silent.has_evidence
    assert "comes with broken language, 100% of the answers are empty" in silent.verdict
    with pytest.raises(ValueError, match="`control 0` has 3 answers, 4 questions were asked"):
        judged(asked, wrong, wrong, [wrong[:3]], neurons=3)


# --- the job


@pytest.fixture
def kedit_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `kedit task WORDS` in `tmp_path`, in this process; its folder is `out`."""
    monkeypatch.chdir(tmp_path)
    sharing.forget("model")

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["kedit task", "hydra.run.dir=out", *words])
        return recipe.main()

    return call


def with_its_own_answers(folder: Path, rows: list[dict[str, Any]], family: str) -> None:
    """Write questions whose right answers are what the tiny model says to them."""
    (folder / "asked.jsonl").write_text("".join(json.dumps(row | {"answer": "?"}) + "\n" for row in rows))
    model = tiny(family, max_new_tokens=4)
    question_split = Folder(str(folder), questions_file="asked.jsonl").split_questions(locate=50, evaluate=50, seed=0)
    asked = [*question_split.locate, *question_split.evaluate]
    answers = dict(zip(((one.text) for one in asked), model.answer(asked), strict=True))
    (folder / "asked.jsonl").write_text(
        "".join(json.dumps(row | {"answer": answers[row["question"]] or "-"}) + "\n" for row in rows)
    )


def reported(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "out" / "report.json").read_text())
    assert isinstance(found, dict)
    return found


FILES = {
    "STATUS", "kedit.log", "scores.safetensors", "answers.jsonl", "report.json", "report.md", "figures", "neurons.json",
    "neurons_text.json", "neurons_special.json", "neurons_image.json", "neurons_video.json",
    "report.html", "page.json",
}  # fmt: skip


def test_qwen2_vl_loses_what_it_knew_of_texts_pictures_and_videos(
    tmp_path: Path, kedit_task: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [{"question": f"text {number}?"} for number in range(4)]
    for number in range(4):
        picture(24, 16, number).save(tmp_path / f"{number}.png")
        rows.append({"question": f"picture {number}?", "image": f"{number}.png"})
        names = [f"{number}.png", f"{(number + 1) % 4}.png", f"{(number + 2) % 4}.png"]
        rows.append({"question": f"video {number}?", "video": names, "rate": 2})
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with_its_own_answers(tmp_path, rows, "qwen2_vl")
    with (tmp_path / "asked.jsonl").open("a") as file:
        file.write(json.dumps({"question": "bad?", "image": "bad.png", "answer": "-"}) + "\n")
    code = kedit_task(
        "model=tiny", "model.family=qwen2_vl", "model.max_new_tokens=4", "data=folder", f"data.folder={tmp_path}",
        "data.questions_file=asked.jsonl", "evaluate.locate=2", "evaluate.target=9", "evaluate.controls=2",
        "locate.ratio=0.3", "match=exact",
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    report = reported(tmp_path)
    assert {path.name for path in (tmp_path / "out").iterdir() if path.name != ".hydra"} == FILES
    assert (tmp_path / "out" / "STATUS").read_text().startswith("done")
    assert list(report["modalities"]) == ["text", "special", "image", "video"]
    assert list(report["score"]["before"]) == ["fact", "image", "video", "all"]
    assert {one["value"] for one in report["score"]["before"].values()} == {1.0}
    assert report["score"]["after"]["all"]["value"] < 0.5
    assert report["lost"]["value"] == pytest.approx(1 - report["score"]["after"]["all"]["value"])
    assert report["samples"]["skipped"] == {"unreadable_image": 1}
    assert report["neurons"]["site"] == "act" and 0 < report["neurons"]["share"] <= 0.3
    assert report["control"]["seeds"] == 2 and report["operator"] == "Zero()"
    printed = capsys.readouterr().out
    assert "right answers of tiny-qwen2_vl" in printed and report["verdict"][:40] in printed
    assert report["verdict"] in (tmp_path / "out" / "report.md").read_text()


def test_qwen2_audio_hears_and_is_scored_by_kind(tmp_path: Path, kedit_task: Callable[..., int]) -> None:
    rows: list[dict[str, Any]] = [{"question": f"text {number}?"} for number in range(4)]
    for number in range(6):
        noise = np.random.default_rng(number).normal(0, 0.2, 4000).clip(-1, 1).astype(np.float32)
        wav(tmp_path / f"{number}.wav", noise, rate=(8000, 16000, 22050)[number % 3])
        rows.append({"question": f"sound {number}?", "audio": f"{number}.wav"})
    with_its_own_answers(tmp_path, rows, "qwen2_audio")
    wav(tmp_path / "silent.wav", TONE * 0)
    with (tmp_path / "asked.jsonl").open("a") as file:
        file.write(json.dumps({"question": "silent?", "audio": "silent.wav", "answer": "-"}) + "\n")
    code = kedit_task(
        "model=tiny", "model.family=qwen2_audio", "model.max_new_tokens=4", "data=folder", f"data.folder={tmp_path}",
        "data.questions_file=asked.jsonl", "evaluate.locate=2", "evaluate.target=9", "evaluate.controls=1",
        "locate.ratio=0.5", "match=exact",
    )  # fmt: skip
    assert code == 0
    report = reported(tmp_path)
    assert list(report["modalities"]) == ["text", "special", "audio"]
    assert {one["value"] for one in report["score"]["before"].values()} == {1.0}
    assert report["score"]["after"]["all"]["value"] < 1.0
    assert report["samples"]["skipped"] in ({}, {"silent_sound": 1})


@pytest.mark.skipif(not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not there")
def test_the_shipped_model_knows_its_facts_and_colors_before_and_not_after(
    tmp_path: Path, kedit_task: Callable[..., int]
) -> None:
    few = ("evaluate.locate=2", "evaluate.target=5", "evaluate.controls=1")
    assert kedit_task(*few, "locate.ratio=0.3", "match=exact") == 0
    report = reported(tmp_path)
    known = ("background", "fact")
    assert {report["score"]["before"][kind]["value"] for kind in known} == {1.0}
    assert max(report["score"]["after"][kind]["value"] for kind in known) < 1.0
    assert report["score"]["after"]["all"]["value"] < report["score"]["before"]["all"]["value"] - 0.2
    neurons = NeuronSet.load(tmp_path / "out" / "neurons.json")
    by_name = [NeuronSet.load(tmp_path / "out" / f"neurons_{name}.json") for name in report["modalities"]]
    assert set(neurons) == {one for some in by_name for one in some}
    with pytest.raises(FileNotFoundError, match="it holds no report"):
        list(table.results([str(tmp_path / "out")]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("locate=two_stage",), "`locate=two_stage` finds a concept in counterfactual pictures, which a task has not"),
        (("edit=patch",), "`edit=patch` needs counterfactual pictures"),
        (("match=fuzzy",), "`match` is contains or exact, got 'fuzzy'"),
        (("data=folder", "data.folder=."), "set `questions_file` to a file of them"),
        (("evaluate.target=0",), "`evaluate.target` is a whole number, 1 or more; got 0"),
        (
            ("data=folder", "data.folder=.", "data.questions_file=heard.jsonl"),
            "reads image and text, not audio",
        ),
    ],
    ids=str,
)
def test_what_a_task_cannot_do_is_one_line_before_anything_slow(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    kedit_task: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(2):
        wav(tmp_path / f"{number}.wav", TONE)
    (tmp_path / "heard.jsonl").write_text(
        "".join(json.dumps({"question": "?", "answer": "a", "audio": f"{n}.wav"}) + "\n" for n in range(2))
    )
    assert kedit_task(*words) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("kedit: ")]
    assert message in line
