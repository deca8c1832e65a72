"""POPE's questions and its reading of answers, by the original's rules, and figures that were counted by hand."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from kedit.data.coco import Coco
from kedit.data.folder import Folder
from kedit.data.pope import RULES, Annotations, Pope, made, published
from kedit.data.scenes import Scenes
from kedit.evaluation.pope import Answers, measure_pope, says_yes
from kedit.samples import Concept, Question, Sample, Split, find_concept
from tests.coco_maker import CocoMaker, small_world

YES = ("yes", "Yes, there is a dog.", "", "NO", "none", "nobody", "There is a dog. No, wait", ".No", "no\nmore", "Nope")
NO = ("no", "No", "No.", "No, there is not.", "There is not a dog", "yes and no", "there is, no, no dog")
ASK = {name: f"Is there a {name} in the image?" for name in ("dog", "cat", "car", "bus", "person", "tree")}


def sample(name: str, *objects: str) -> Sample:
    return Sample(name, Image.new("RGB", (4, 4)), (), frozenset(objects))


@pytest.mark.parametrize("answer", [*YES, *NO])
def test_an_answer_is_read_by_the_original_rule(answer: str) -> None:
    assert says_yes(answer) == (answer in YES)


ANNOTATED = [
    *[frozenset({"dog", "cat", "car"})] * 3,
    *[frozenset({"dog", "person"})] * 4,
    *[frozenset({"bus", "car"})] * 2,
    frozenset({"tree", "cat"}),
]
SHOWN = sample("1", "dog", "cat", "car")


def questions(kind: str, shown: Sample = SHOWN, seed: int = 0) -> list[tuple[str, str]]:
    """Return what is asked about, and the answer."""
    annotations = Annotations.of(ANNOTATED, ASK)
    asked = [one for one in made([shown], annotations, ASK, seed) if one.kind == kind]
    return [(one.text.removeprefix("Is there a ").removesuffix(" in the image?"), one.answer) for one in asked]


def test_frequencies_are_counted_over_pictures() -> None:
    annotations = Annotations.of(ANNOTATED, ASK)
    # dog 7, car 5, cat 4 and person 4 (by name), bus 2, tree 1.
    assert annotations.by_frequency == ("dog", "car", "cat", "person", "bus", "tree")
    assert annotations.beside["car"] == ("cat", "dog", "bus")
    assert annotations.beside["dog"] == ("person", "car", "cat")
    assert Annotations.of(ANNOTATED, {"dog": 0, "cat": 0}).by_frequency == ("dog", "cat")


@pytest.mark.parametrize("kind", RULES)
def test_three_things_that_are_there_alternate_with_three_that_are_not(kind: str) -> None:
    asked = questions(kind)
    assert [answer for _, answer in asked] == ["yes", "no"] * 3
    there, absent = [thing for thing, _ in asked[::2]], [thing for thing, _ in asked[1::2]]
    assert sorted(there) == ["car", "cat", "dog"] and sorted(absent) == ["bus", "person", "tree"]
    assert there == [thing for thing, _ in questions("random")[::2]], "each kind asks about the same things"


def test_popular_ones_are_the_most_frequent_that_are_not_there() -> None:
    assert [thing for thing, _ in questions("popular")[1::2]] == ["person", "bus", "tree"]


def test_adversarial_ones_come_most_often_with_what_was_just_asked() -> None:
    # Beside a dog is a person, beside a car a bus and beside a cat a tree, unless they were asked about already.
    expected = {"dog": "person", "car": "bus", "cat": "tree"}
    asked = questions("adversarial")
    assert {yes[0]: no[0] for yes, no in zip(asked[::2], asked[1::2], strict=True)} == expected


def test_without_anything_beside_it_an_adversarial_one_is_any() -> None:
    alone = Annotations.of([frozenset({"dog"}), frozenset({"bus"}), frozenset({"tree"})], ASK)
    some = [sample(str(number), "dog", "cat", "car") for number in range(40)]
    absent = Counter(one.text for one in made(some, alone, ASK, 0) if one.kind == "adversarial" and one.answer == "no")
    assert set(absent) == {ASK["bus"], ASK["tree"]}


def test_the_seed_and_the_picture_alone_decide_what_is_asked() -> None:
    annotations = Annotations.of(ANNOTATED, ASK)
    some = [sample(str(number), "dog", "cat", "car") for number in range(8)]
    told = {seed: [(one.text, one.sample.id) for one in made(some, annotations, ASK, seed)] for seed in (0, 1)}  # type: ignore[union-attr]
    assert told[0] == [(one.text, one.sample.id) for one in made(some, annotations, ASK, 0)]  # type: ignore[union-attr]
    assert told[0] != told[1]
    alone = [(one.text, "3") for one in made(some[3:4], annotations, ASK, 0)]
    assert alone == [one for one in told[0] if one[1] == "3"]


def test_pictures_with_fewer_than_three_things_are_not_asked_about() -> None:
    assert questions("random", sample("1", "dog", "cat")) == []
    assert questions("random", sample("1", "dog", "cat", "spoon")) == [], "a spoon is no concept"


def test_where_too_few_things_are_absent_yes_and_no_stay_equally_many() -> None:
    crowded = sample("1", "dog", "cat", "car", "bus")
    assert [answer for _, answer in questions("random", crowded)] == ["yes", "no"] * 2


def test_the_article_changes_and_the_question_does_not(tmp_path: Path) -> None:
    maker = CocoMaker(tmp_path, {"apple": "food", "dog": "animal"})
    maker.add("apple")
    asked = Pope().questions(Coco(maker.write()), Concept("apple"), Split((), (sample("1", "apple"),), (), ()), seed=0)
    assert [one.text for one in asked] == ["Is there an apple in the image?"] * 2 + ["Is there a dog in the image?"]
    assert [(one.kind, one.answer) for one in asked] == [("target", "yes"), ("alone", ""), ("alone", "")]


def test_the_picture_world_is_asked_in_its_own_words() -> None:
    data = Scenes()
    star = find_concept(data.concepts, "star")
    split = data.split(star, locate=1, target=12, retention=6, seed=3)
    asked = Pope().questions(data, star, split, seed=3)
    kinds = Counter(one.kind for one in asked)
    assert kinds["target"] == 24 and kinds["alone"] == 12 and len({kinds[kind] for kind in RULES}) == 1
    for one in asked:
        if one.sample is not None:
            (name,) = [concept.name for concept in data.concepts if concept.mentioned_in(one.text)]
            assert one.answer == ("yes" if name in one.sample.objects else "no")
            assert one.text in (f"is there a {name} ?", f"is there an {name} ?")
    assert {one.sample.id for one in asked if one.sample}.isdisjoint(one.id for one in split.locate)
    custom = Pope(question="{} ?").questions(data, star, split, seed=3)
    assert custom[0].text == "a star ?"
    for question in ("is there a star ?", "{} or {} ?", 3):
        with pytest.raises(ValueError, match=r"has `\{\}` once"):
            Pope(question=question)  # type: ignore[arg-type]


# Published questions


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_published_questions_are_read_with_their_pictures(tmp_path: Path) -> None:
    data = Coco(small_world(tmp_path / "coco").write())
    first, second, third = sorted(record.id for record in data.data_set.records)[:3]
    opened = data.data_set.sample(next(record for record in data.data_set.records if record.id == first))
    file = write(
        tmp_path / "coco_pope_popular.json",
        {"image": f"COCO_val2014_{int(first):012}.jpg", "text": "Is there a dog in the image?", "label": "yes"},
        {"image": f"{int(second):012}.jpg", "question": "Is there a cat?", "answer": "No", "category": "random"},
        {"image": third, "text": "Is there a bus in the image?", "label": "no"},
        {"image": "COCO_val2014_000000999999.jpg", "text": "Is there a dog in the image?", "label": "no"},
    )
    found = published([file], data, [opened], frozenset({third}))
    assert [(one.text, one.answer, one.kind) for one in found] == [
        ("Is there a dog in the image?", "yes", "popular"), ("Is there a cat?", "no", "random"),
    ]  # fmt: skip
    assert found[0].sample is opened and found[1].sample is not None and found[1].sample.id == second
    asked = Pope(files=(file,)).questions(data, Concept("dog"), Split((), (opened,), (), ()), seed=0)
    assert Counter(one.kind for one in asked) == {"target": 1, "popular": 2, "random": 1, "alone": 5}


def test_what_is_wrong_with_published_questions_is_told(tmp_path: Path) -> None:
    data = Coco(small_world(tmp_path / "coco").write())
    name = data.data_set.records[0].id
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        published(["nowhere.json"], data, [], frozenset())
    odd = write(tmp_path / "odd.json", {"image": name, "text": "a dog?", "label": "maybe"})
    with pytest.raises(ValueError, match=r"odd.json`, line 1: `label` is yes or no, got 'maybe'"):
        published([odd], data, [], frozenset())
    # Elsewhere than in COCO, the number in a file's name is not the picture's id.
    frame = f"frame_{int(name)}.jpg"
    other = write(tmp_path / "other.json", *({"image": one, "text": "a dog?", "label": "no"} for one in ("x", frame)))
    with pytest.raises(ValueError, match="the data has none of the pictures"):
        published([other], data, [], frozenset())
    with pytest.raises(ValueError, match="which this data set has not"):
        published([other], Scenes(), [], frozenset())
    with pytest.raises(TypeError, match="the files of POPE are paths, got 3"):
        Pope(files=(3,))  # type: ignore[arg-type]


def found_by(data: Coco | Folder, names: list[str], folder: Path) -> dict[str, str]:
    """Return the id of the picture that each name means; names that mean none are left out."""
    file = write(folder / "asked.json", *({"image": name, "text": name, "label": "no"} for name in names))
    return {one.text: one.sample.id for one in published([file], data, [], frozenset()) if one.sample is not None}


def test_a_picture_is_meant_by_its_file_before_another_one_by_its_id(tmp_path: Path) -> None:
    maker = CocoMaker(tmp_path / "cvat")  # which counts its pictures from 1, and their files from 0
    for number in range(3):
        maker.add("dog", file_name=f"{number}.png")
    names = ["1.png", "1", "3", "3.png", "deep/2.png", "000000000002.jpg"]
    expected = {"1.png": "2", "1": "2", "3": "3", "deep/2.png": "3", "000000000002.jpg": "2"}
    assert found_by(Coco(maker.write()), names, tmp_path) == expected
    lines = [
        {"image": name, "id": own} for name, own in (("0.png", "1"), ("1.png", "two"), ("a/x.png", 3), ("b/x.png", 4))
    ]
    write(tmp_path / "pictures.jsonl", *lines)
    for line in lines:
        (tmp_path / str(line["image"])).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / str(line["image"]))
    names = ["1.png", "1", "two.jpg", "x.png", "b\\x.png", "c/x.png", "3"]
    expected = {"1.png": "two", "1": "two", "two.jpg": "two", "b\\x.png": "4", "3": "3"}
    assert found_by(Folder(str(tmp_path)), names, tmp_path) == expected


def test_a_number_of_coco_is_no_id_where_files_have_such_numbers(tmp_path: Path) -> None:
    maker = CocoMaker(tmp_path / "again")
    maker.add("dog", file_name="COCO_val2014_000000000042.png")
    maker.add("cat", file_name="000000000001.png")
    names = ["000000000001.jpg", "COCO_val2014_000000000042.jpg", "COCO_val2014_000000000002.jpg"]
    assert found_by(Coco(maker.write()), names, tmp_path) == dict(zip(names[:2], ("2", "1"), strict=True))


# What is measured

DOG = Concept("dog")
WITH, WITHOUT = sample("1", "dog", "cat", "car"), sample("2", "cat", "car", "bus")
POLLS = (
    Question(ASK["dog"], "yes", "target", WITH),
    Question(ASK["dog"], "no", "target", WITHOUT),
    Question(ASK["cat"], "yes", "popular", WITH),
    Question(ASK["bus"], "no", "popular", WITH),
    Question(ASK["dog"], "yes", "popular", WITH),
    Question(ASK["person"], "no", "popular", WITH),
    Question(ASK["cat"], "yes", "popular", WITHOUT),
    Question(ASK["dog"], "no", "popular", WITHOUT),
    Question(ASK["dog"], "", "alone"),
    Question(ASK["cat"], "", "alone"),
)
BEFORE = Answers(("Yes", "No", "Yes, there is.", "No.", "yes", "Yes", "yes", "no", "no", "yes"), (2.0,) * 10)
AFTER = Answers(("No", "yes", "No", "no", "no", "yes", "yes", "yes", "yes", "yes"), (-1.0,) * 10)
REPORT = measure_pope(DOG, POLLS, BEFORE, AFTER, [BEFORE, AFTER])


def values(condition: str, section: str, parse: str = "text") -> dict[str, float | None]:
    return {name: figure.value for name, figure in getattr(REPORT, condition)[parse][section].items()}


def test_accuracy_precision_recall_f1_and_yes_rate_are_those_counted_by_hand() -> None:
    # Of cat yes, bus no, person yes (wrong) and cat yes:
    assert values("before", "popular") == pytest.approx(
        {"accuracy": 3 / 4, "precision": 2 / 3, "recall": 1.0, "f1": 4 / 5, "yes_rate": 3 / 4}
    )
    assert values("before", "all_popular")["accuracy"] == pytest.approx(5 / 6)
    assert values("after", "popular") == pytest.approx(
        {"accuracy": 1 / 2, "precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "yes_rate": 1 / 2}
    )
    assert values("control", "popular")["accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert REPORT.before["text"]["popular"]["accuracy"].n == 2, "pictures are the samples"


def test_the_concept_is_told_where_it_is_and_where_it_is_not() -> None:
    assert values("before", "target") == {"present_yes": 1.0, "absent_yes": 0.0}
    assert values("after", "target") == {"present_yes": 0.0, "absent_yes": 1.0, "denied": 1.0}
    assert values("control", "target") == {"present_yes": 0.5, "absent_yes": 0.5, "denied": 0.5}


def test_what_was_right_of_other_things_is_kept_or_lost_by_the_picture() -> None:
    # Right before: cat and bus in the dog's picture, of which the cat is lost, and the cat in the other.
    assert values("after", "kept") == {"same_picture": 1 / 2, "other_picture": 1.0, "alone": 1.0}
    assert values("control", "kept") == {"same_picture": 3 / 4, "other_picture": 1.0, "alone": 1.0}
    assert "kept" not in REPORT.before["text"]


def test_log_odds_are_read_beside_the_words() -> None:
    told = values("after", "target", "log_odds")
    assert told["log_odds_present"] == told["log_odds_absent"] == -1.0 and told["present_yes"] == 0.0
    assert values("control", "target", "log_odds")["log_odds_present"] == 0.5
    assert values("before", "popular", "log_odds")["yes_rate"] == 1.0
    assert values("after", "popular", "log_odds")["precision"] is None, "it never says yes"
    without = dataclasses.replace(BEFORE, log_odds=None)
    found = measure_pope(DOG, POLLS, without, without, [])
    assert found.after["log_odds"]["popular"]["accuracy"].why == "the model has no token for yes, or none for no"
    assert found.control["text"]["target"]["present_yes"].why == "no random control was run"


def test_an_edit_that_changes_nothing_keeps_everything() -> None:
    found = measure_pope(DOG, POLLS, BEFORE, BEFORE, [BEFORE])
    assert {figure.value for figure in found.after["text"]["kept"].values()} == {1.0}
    assert found.after["text"]["target"]["denied"].value == 0.0
    assert found.after["text"]["popular"] == found.before["text"]["popular"]


def test_the_report_counts_the_questions() -> None:
    content = json.loads(json.dumps(REPORT.to_json()))
    assert content["questions"] == {"target": 2, "popular": 6, "alone": 2}
    assert content["after"]["text"]["target"]["denied"]["n"] == 1
