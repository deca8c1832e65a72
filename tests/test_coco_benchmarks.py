"""CHAIR and POPE of a folder in COCO's format, from its files to the report: the figures are counted again here."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kedit
from kedit.data.pope import Pope
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.pipelines.run import RunResult
from kedit.prompts import Prompt
from kedit.samples import Sample
from tests.coco_maker import CocoMaker, rle

N = {"locate": 3, "target": 5, "retention": 3, "controls": 0}
QUESTION = "is there {} ?"
NAMES = [concept.name for concept in kedit.Scenes().concepts]
NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")
CONDITIONS = ("before", "after")
Row = Mapping[str, str]
"""A line of captions.jsonl."""
Ask = tuple[str, str, bool]
"""A picture's id, the thing asked about, and whether it is annotated there."""


def pictures() -> Iterator[Sample]:
    """Yield drawn pictures of three things: enough with a star, with a thing of its kind, and without."""
    left, number, kin = {"star": 8, "near": 3, "far": 3}, 0, {"moon", "tree", "house"}
    while any(left.values()):
        sample, number = kedit.Scenes().sample(number), number + 1
        part = "star" if "star" in sample.objects else "near" if sample.objects & kin else "far"
        if len(sample.objects) == 3 and left[part]:
            left[part] -= 1
            yield sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose annotators erred, so that a model which sees well names what is not annotated.

    Of four pictures, one is right; in one a sign or figure is neither annotated nor in the caption, in one it is in the
    caption alone, and in one it has another's name.
    """
    maker = CocoMaker(tmp_path_factory.mktemp("world") / "coco", dict.fromkeys(NAMES, "sign"))
    maker.categories |= dict.fromkeys(("star", "moon", "tree", "house"), "thing")
    for number, sample in enumerate(pictures()):
        wrong = next((name for name in sorted(sample.objects) if maker.categories[name] == "sign"), None)
        names = {name: name for name in sample.objects}
        caption = sample.references[0]
        if wrong and number % 4 in (0, 1):
            del names[wrong]
        if wrong and number % 4 == 0:
            caption = "a picture"
        if wrong and number % 4 == 2:
            caption = "a picture"
            names[wrong] = next(other for other in NAMES if other not in sample.objects)
        outlines = [(names[name], rle(np.asarray(sample.regions[name]))) for name in sorted(names)]
        maker.add(*outlines, captions=[caption], image=sample.image)
    return Path(maker.write())


@pytest.fixture(scope="module")
def model() -> HuggingFaceMLLM:
    return kedit.load("scenes")


@pytest.fixture(scope="module")
def result(model: HuggingFaceMLLM, folder: Path) -> RunResult:
    data, counts = kedit.Coco(str(folder)), kedit.Counts(**N)
    return kedit.run(model, data, "star", counts=counts, chair=True, pope=Pope(QUESTION))


@pytest.fixture(scope="module")
def saved(result: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("runs") / "star", figures=False, page=False)


@pytest.fixture(scope="module")
def rows(saved: Path) -> list[Row]:
    return [json.loads(line) for line in (saved / "captions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def report(saved: Path) -> Any:
    return json.loads((saved / "report.json").read_text())


@pytest.fixture(scope="module")
def annotated(folder: Path) -> dict[str, set[str]]:
    """What is annotated in each picture, by its id."""
    content = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    found: dict[str, set[str]] = {str(one["id"]): set() for one in content["images"]}
    for one in content["annotations"]:
        found[str(one["image_id"])].add(names[one["category_id"]])
    return found


def values(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: figure["value"] for name, figure in figures.items()}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("group", ["target", "retention"])
def test_chair_is_what_is_counted_in_the_captions_and_the_annotation(
    group: str, condition: str, rows: list[Row], report: Any, annotated: dict[str, set[str]], folder: Path
) -> None:
    there = {key: set(names) for key, names in annotated.items()}
    for one in json.loads((folder / "annotations" / "captions_val2017.json").read_text())["annotations"]:
        there[str(one["image_id"])].update(NAME.findall(one["caption"]))
    captions = [
        (NAME.findall(row[condition]), there[row["id"]])
        for row in rows
        if row["group"] in (("target",) if group == "target" else ("near", "far"))
    ]
    assert len(captions) == N["target"] if group == "target" else 2 * N["retention"]
    others = [([name for name in named if name != "star"], shown - {"star"}) for named, shown in captions]

    def wrong(some: list[tuple[list[str], set[str]]]) -> list[int]:
        return [sum(name not in shown for name in named) for named, shown in some]

    def chair(some: list[tuple[list[str], set[str]]]) -> tuple[float, float]:
        return sum(wrong(some)) / sum(len(named) for named, _ in some), np.mean([n > 0 for n in wrong(some)])

    named_right = sum(len(set(named) & shown) for named, shown in others)
    expected = dict(zip(("chair_i", "chair_s"), chair(others), strict=True))
    expected |= {"recall": named_right / sum(len(shown) for _, shown in others)}
    expected |= dict(zip(("chair_i_all", "chair_s_all"), chair(captions), strict=True))
    assert values(report["chair"][group][condition]) == pytest.approx(expected)
    assert 0 < expected["chair_i"] < 1 and 0 < expected["recall"] < 1, "nothing that the count could miss"


@pytest.fixture(scope="module")
def asked(rows: list[Row], annotated: dict[str, set[str]]) -> dict[str, list[Ask]]:
    """What POPE has to ask: about the star in each held-out picture, and `popular` things where three are there.

    That is each thing that is there, and the three which most pictures show and this one does not.
    """
    frequent = Counter(name for names in annotated.values() for name in names)
    order = sorted(frequent, key=lambda name: (-frequent[name], name))
    found: dict[str, list[Ask]] = {"target": [], "popular": []}
    for key in (row["id"] for row in rows):
        there = annotated[key]
        found["target"].append((key, "star", "star" in there))
        if len(there) == 3:
            absent = [name for name in order if name not in there][:3]
            found["popular"] += [(key, name, name in there) for name in (*sorted(there), *absent)]
    return found


@pytest.fixture(scope="module")
def answers(model: HuggingFaceMLLM, result: RunResult, asked: dict[str, list[Ask]]) -> dict[str, dict[Ask, bool]]:
    """Whether the model says yes to each question, before the edit and after it."""
    samples = (*result.evaluation_set.target, *result.evaluation_set.retention)
    images = {sample.id: sample.image for sample in samples if isinstance(sample, Sample)}
    once = list(dict.fromkeys(ask for some in asked.values() for ask in some))
    things = {name: f"an {name}" if name == "arrow" else f"a {name}" for name in NAMES}
    prompts = [Prompt(f"is there {things[name]} ?", images[key]) for key, name, _ in once]

    def ask() -> dict[Ask, bool]:
        texts = [one.text for one in model.ask(prompts)]
        assert set(texts) == {"yes", "no"}
        return {ask: text == "yes" for ask, text in zip(once, texts, strict=True)}

    before = ask()
    with kedit.Edit(result.neurons, kedit.Zero()).applied(model):
        return {"before": before, "after": ask()}


def test_pope_asks_about_the_concept_in_each_held_out_picture(
    asked: dict[str, list[Ask]], answers: dict[str, dict[Ask, bool]], report: Any
) -> None:
    present = [ask for ask in asked["target"] if ask[2]]
    absent = [ask for ask in asked["target"] if not ask[2]]
    assert (len(present), len(absent)) == (N["target"], 2 * N["retention"])
    found = {condition: values(report["pope"][condition]["text"]["target"]) for condition in CONDITIONS}
    for condition, said in answers.items():
        assert found[condition]["present_yes"] == pytest.approx(np.mean([said[ask] for ask in present]))
        assert found[condition]["absent_yes"] == pytest.approx(np.mean([said[ask] for ask in absent]))
    denied = [not answers["after"][ask] for ask in present if answers["before"][ask]]
    assert found["after"]["denied"] == pytest.approx(np.mean(denied)) and any(denied)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_popes_popular_questions_are_those_of_the_annotation_and_are_scored_by_it(
    condition: str, asked: dict[str, list[Ask]], answers: dict[str, dict[Ask, bool]], report: Any
) -> None:
    kinds = ("random", "popular", "adversarial")
    assert {report["pope"]["questions"][kind] for kind in kinds} == {len(asked["popular"])}

    def score(some: list[Ask]) -> dict[str, float]:
        pairs = [(there, answers[condition][key, name, there]) for key, name, there in some]
        hits, yes = sum(there and said for there, said in pairs), sum(said for _, said in pairs)
        n_there, right = sum(there for there, _ in pairs), sum(there == said for there, said in pairs)
        shares = {"accuracy": right / len(pairs), "yes_rate": yes / len(pairs)}
        return shares | {"precision": hits / yes, "recall": hits / n_there, "f1": 2 * hits / (yes + n_there)}

    sections, besides = report["pope"][condition]["text"], [ask for ask in asked["popular"] if ask[1] != "star"]
    assert 0 < len(besides) < len(asked["popular"])
    assert values(sections["all_popular"]) == pytest.approx(score(asked["popular"]))
    assert values(sections["popular"]) == pytest.approx(score(besides))
    assert 0.5 < sections["popular"]["accuracy"]["value"] < 1, "nothing that the score could miss"
