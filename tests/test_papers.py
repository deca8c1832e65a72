"""The studies of published protocols: their tables by hand, what is refused, and both commands from end to end."""

import json
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments.miner_2024 import masking, tables
from experiments.miner_2024 import run as miner_study
from experiments.miner_2024.questions import write_questions
from experiments.sato_takagi_2025 import captions
from experiments.sato_takagi_2025 import run as caption_study
from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.statistics import Measured
from kedit.locate.miner import Miner
from kedit.models.shipped import HERE
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronSet
from kedit.samples import Concept, Sample

PICTURE = Image.new("RGB", (8, 8))
DOG, CAT = Concept("dog"), Concept("cat")
EVALUATION_SET = EvaluationSet(
    DOG, (DOG, CAT),
    target=(
        Sample("1", PICTURE, ("a dog on grass here",), frozenset({"dog"})),
        Sample("2", PICTURE, (), frozenset({"dog"})),
    ),
    far=(Sample("3", PICTURE, ("a cat on a mat",)),),
)  # fmt: skip
BEFORE = Outputs(("a dog on grass today", "nothing at all here"), far=("a cat on a mat",))
EDITED = Outputs(("red red red red", "nothing at all here"), far=("a cat on a mat",))


class Same(Similarity):
    """1 for equal texts and 0 for others, by every metric."""

    def __call__(self, predictions: Any, references: Any) -> dict[str, list[float]]:
        alike = [float(text in wanted) for text, wanted in zip(predictions, references, strict=True)]
        return dict.fromkeys(captions.METRICS, alike)


def lines(concept: str, method: str, *edited: Outputs) -> captions.Line:
    figures = captions.score_captions(EVALUATION_SET, BEFORE, edited, Same(), captions.UNEDITED, 0)
    return captions.Line(concept, method, 3, captions.UNEDITED, figures)


def test_captions_that_stay_are_wholly_alike_and_only_those_that_named_the_concept_count() -> None:
    figures = captions.score_captions(EVALUATION_SET, BEFORE, [BEFORE], Same(), captions.UNEDITED, 0)
    assert {one.value for one in figures.values()} == {1.0}
    assert (figures["target", "bleu"].n, figures["others", "bleu"].n) == (1, 1)


def test_of_several_edits_each_picture_counts_with_its_mean() -> None:
    figures = captions.score_captions(EVALUATION_SET, BEFORE, [BEFORE, EDITED], Same(), captions.UNEDITED, 0)
    assert figures["target", "rougeL"].value == 0.5
    assert figures["others", "rougeL"].value == 1.0


def test_captions_beside_references_leave_out_pictures_without() -> None:
    figures = captions.score_captions(EVALUATION_SET, BEFORE, [BEFORE], Same(), captions.REFERENCES, 0)
    assert (figures["target", "bleu"].value, figures["others", "bleu"].value) == (0.0, 1.0)
    bare = replace(EVALUATION_SET, far=(replace(EVALUATION_SET.far[0], references=()),))
    missing = captions.score_captions(bare, BEFORE, [BEFORE], Same(), captions.REFERENCES, 0)["others", "bleu"]
    assert missing.why == "there are no reference captions"


def test_means_are_over_concepts_and_come_first() -> None:
    found = captions.with_means([lines("dog", "mine", BEFORE), lines("cat", "mine", EDITED)])
    assert [line.concept for line in found] == ["dog", "cat", "mean"]
    assert (found[-1].figures["target", "bleu"].value, found[-1].figures["target", "bleu"].n) == (0.5, 2)
    first, *_ = captions.tables(found)
    assert first.title.startswith("mean: ") and len(first.columns) == len(first.rows[0])
    alone = [lines("dog", "mine", BEFORE)]
    assert captions.with_means(alone) == alone


def test_settings_mask_each_modality_each_strategy_with_each_mix_and_each_share() -> None:
    mixes = {"one": [0.0, 1.0, 0.0, 0.0, 0.0], "two": [1.0, 0.0, 0.0, 0.0, 0.0]}
    found = list(masking.list_settings(Miner(ratio=0.02), ["text", "image"], ["LA_MU", "random"], mixes, [0.1, 0.02]))
    assert [one.name for one in found if one.part == masking.MODALITY] == ["all", "text", "image"]
    assert len([one for one in found if one.part == masking.STRATEGY]) == 4
    assert [one.miner.ratio for one in found if one.part == masking.SHARE] == [0.02, 0.1]
    assert len(set(found)) == len(found)


def test_a_modalitys_neurons_are_its_own_and_stable_as_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"text": NeuronSet([(0, 1), (0, 2)]), "image": NeuronSet([(0, 2), (1, 5)])}
    halves = [{"text": NeuronSet([(0, 1), (0, 2)])}, {"text": NeuronSet([(0, 1), (0, 3)])}]
    report: Any = type("Report", (), {"lost": Measured.missing("-"), "comparison": type("C", (), {"difference": None})})
    table = tables.modalities(sets, halves, dict.fromkeys(sets, report))
    text, image = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert text["specificity (ours)"].value == 0.5  # type: ignore[union-attr]
    assert text["invariance (ours)"].value == pytest.approx(1 / 3)  # type: ignore[union-attr]
    assert image["invariance (ours)"].why == "no half finds a neuron"  # type: ignore[union-attr]


def command(study: Any, words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a study in `folder`, and leave its files in `out`."""
    monkeypatch.setattr("sys.argv", ["run.py", "hydra.run.dir=out", *words])
    monkeypatch.setenv("KEDIT_STORE", str(folder / "store"))
    with chdir(folder):
        return int(study.main())


def complete(node: Any) -> bool:
    """Return whether every measured figure has a value."""
    if isinstance(node, dict):
        return node["value"] is not None if "value" in node else all(map(complete, node.values()))
    return all(map(complete, node)) if isinstance(node, list) else node is not None


@pytest.mark.slow
@pytest.mark.skipif(not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not there")
def test_the_caption_metrics_of_each_method_are_there_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["evaluate.locate=2", "evaluate.target=4", "evaluate.retention=2", "evaluate.controls=1"]
    words = ["concepts=[star]", "baselines=[pan_multimodal,random_layer_matched]", "evaluate.text=false", *few]
    assert command(caption_study, words, tmp_path, monkeypatch) == 0
    rows = json.loads((tmp_path / "out" / "captions.json").read_text())
    methods = ["unedited", "two_stage", "pan_multimodal", "random_layer_matched"]
    assert list(dict.fromkeys(row["method"] for row in rows)) == methods
    assert complete(rows) and len(rows) == 2 * len(methods)
    bleu = {row["method"]: row["target: BLEU"]["value"] for row in rows if row["beside"] == captions.UNEDITED}
    assert bleu["two_stage"] < 0.9 < bleu["random_layer_matched"] <= bleu["unedited"] == 1.0
    assert (tmp_path / "out" / "figures" / "effects.png").is_file() and (tmp_path / "out" / "captions.csv").is_file()
    assert "**star: captions beside the reference captions**" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("family", "medium"), [pytest.param("qwen2_vl", "video", marks=pytest.mark.slow), ("qwen2_audio", "audio")]
)
def test_every_table_of_miner_is_full_on_a_tiny_model(
    family: str, medium: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_questions(family, tmp_path)
    words = [
        "model=tiny", f"model.family={family}", "data=folder", "data.folder=.", "data.questions_file=questions.jsonl",
        "locate.ratio=0.25", "strategies=[LA_MU]", "mixes={one: [0.0,0.5,0.5,0.0,0.0]}", "ratios=[]", "pictures=2",
        "evaluate.controls=1", "evaluate.locate=2", "evaluate.target=3",
    ]  # fmt: skip
    assert command(miner_study, ["~mixes", "+" + words.pop(7), *words], tmp_path, monkeypatch) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert complete(report)
    assert [row["modality"] for row in report["modalities"]][-1] == medium
    assert {row["benchmark"] for row in report["benchmarks"]} >= {"texts", "all"}
    assert f"masked: {medium} alone" in report["benchmarks"][0]
    assert ("depths" in report) == (family == "qwen2_vl")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.md", "neurons.json", *(f"report_{name}.csv" for name in report if name != "verdict")} <= left
    assert "Right answers with a budget of 25.0%" in capsys.readouterr().out


def test_what_is_answered_once_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kedit.data.folder import Folder
    from kedit.edit.operators import Zero
    from kedit.edit.plan import Plan
    from kedit.models.huggingface import HuggingFaceMLLM
    from kedit.results.cache import Cache

    write_questions("qwen2_audio", tmp_path)
    question_split = Folder(str(tmp_path), questions_file="questions.jsonl").split_questions(
        locate=2, evaluate=2, seed=0
    )
    model = tiny("qwen2_audio")
    cache = Cache.of_model(tmp_path / "store", model)
    neurons = NeuronSet([(0, 1), (1, 2)], "act")
    first = masking.Masking(model, question_split, Plan(Zero()), cache, 1, "exact", 0).report(neurons)
    monkeypatch.setattr(HuggingFaceMLLM, "ask", None)
    again = masking.Masking(model, question_split, Plan(Zero()), cache, 1, "exact", 0).report(neurons)
    assert again.to_json() == first.to_json()


def test_sounds_are_no_pictures_and_the_study_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_questions("qwen2_vl", tmp_path)
    words = ["model=tiny", "model.family=qwen2_audio", "data=folder", "data.folder=.", "evaluate.target=2"]
    assert command(miner_study, [*words, "data.questions_file=questions.jsonl"], tmp_path, monkeypatch) == 2
    message = capsys.readouterr().err
    assert "reads audio and text, not image" in message and message.count("\n") == 1
