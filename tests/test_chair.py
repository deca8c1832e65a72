"""CHAIR by the original's rules, on captions that were counted by hand."""

import logging
from pathlib import Path

import pytest
from PIL import Image

from kedit.data.coco_words import UNLESS, WORDS
from kedit.evaluation.chair import TWO_WORDS, OwnWords, Synonyms, measure_chair, object_words
from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.samples import Concept, Sample

LINES = """person, man, woman, child, passenger, adult, baby
bird
dog, puppy
elephant
train
airplane, jet
tie
toilet
chair, seat, arm chair
wine glass
hot dog
tv, television
skis, ski
dining table, table
"""
READ = {
    "A Dog, two dogs and a puppy.": ["dog", "dog", "dog"],
    "the dog's tail": ["dog"],
    "men, women and children": ["person", "person", "person"],
    "televisions and skis": ["tv", "skis"],
    # Two words that are one, in any number.
    "two hot dogs": ["hot dog"],
    "a wine glass, wine glasses": ["wine glass", "wine glass"],
    "a man in a bow tie": ["person", "tie"],
    # Words for people that are none before an animal or a vehicle.
    "a baby bird": ["bird"],
    "two baby elephants and a baby": ["elephant", "person"],
    "an adult elephant": ["elephant"],
    "a passenger jet and its passengers": ["airplane", "person"],
    # A toilet's seat is no chair, wherever it is named.
    "a toilet seat": ["toilet"],
    "a toilet with its seat up": ["toilet"],
    "a seat": ["chair"],
    # What its table of two words lacks is read word by word.
    "a dining table": ["dining table"],
    "an arm chair": ["chair"],
    # One word to the original's tokenizer.
    "a hot-dog": [],
    "nothing at all": [],
}
DOG, CAT, CAR, PERSON = (Concept("dog"), Concept("cat"), Concept("car"), Concept("person", ("person", "man")))


def sample(name: str, *objects: str, references: tuple[str, ...] = ()) -> Sample:
    return Sample(name, Image.new("RGB", (4, 4)), references, frozenset(objects))


EVALUATION_SET = EvaluationSet(
    DOG,
    (DOG, CAT, CAR, PERSON),
    (sample("1", "dog", "car"), sample("2", "dog", references=("a man with a dog",))),
    (sample("3", "cat"),),
)
BEFORE = Outputs(("a dog, a cat and a cat in a car", "a dog and a person"), ("a dog and a cat",))
AFTER = Outputs(("a cat, a cat and a cat in a car", "a cat and a person"), ("a shape and a cat",))


@pytest.fixture
def synonyms(tmp_path: Path) -> Path:
    (tmp_path / "synonyms.txt").write_text(LINES)
    return tmp_path / "synonyms.txt"


def test_a_text_is_read_by_the_original_rules(synonyms: Path) -> None:
    words = Synonyms.read(synonyms)
    assert {text: words.named(text) for text in READ} == READ
    assert words.object_of("hot_dog") == "hot dog" and words.object_of("puppy") == "dog"
    assert words.object_of("spoon") is None


def test_the_table_of_two_words_has_no_entry_of_other_lengths() -> None:
    assert {len(pair.split()) for pair in TWO_WORDS} == {2}
    assert TWO_WORDS["adult cub"] == "cub" and TWO_WORDS["hot dog"] == "hot dog"


def test_kedits_own_words_are_read_with_their_phrases_and_the_same_exceptions() -> None:
    named = ("person", "bird", "elephant", "train", "dog", "hot dog", "wine glass", "tie", "toilet", "chair")
    words = OwnWords(tuple(Concept(one, (one, *WORDS.get(one, ())), None, UNLESS.get(one, ())) for one in named))
    read = {
        "an adult elephant and a baby bird": ["bird", "elephant"],
        "two adult birds, an adult": ["bird", "person"],
        "a passenger train with passengers": ["person", "train"],
        "hot dogs and dogs": ["dog", "hot dog"],
        "glasses of wine": ["wine glass"],
        "a toilet seat": ["toilet"],
    }
    assert {text: sorted(words.named(text)) for text in read} == read


def test_the_figures_are_those_counted_by_hand() -> None:
    words = object_words(True, EVALUATION_SET.vocabulary)
    assert words is not None
    found = measure_chair(EVALUATION_SET, BEFORE, AFTER, [BEFORE, AFTER], words)

    def values(condition: str, group: str = "target") -> dict[str, float | None]:
        return {name: figure.value for name, figure in getattr(found, condition)[group].items()}

    # Besides the dog: cat, cat and car, of which a car is there; a person, who is in the reference alone.
    assert values("before") == pytest.approx(
        {"chair_i": 2 / 4, "chair_s": 1 / 2, "recall": 2 / 2, "chair_i_all": 2 / 6, "chair_s_all": 1 / 2}
    )
    # The dog has become a cat in both.
    assert values("after") == pytest.approx(
        {"chair_i": 4 / 6, "chair_s": 1.0, "recall": 1.0, "chair_i_all": 4 / 6, "chair_s_all": 1.0}
    )
    # Of each caption the mean over the seeds: 2.5 of 3.5 and 0.5 of 1.5.
    assert values("control")["chair_i"] == pytest.approx(3 / 5)
    assert values("control")["chair_s"] == pytest.approx(3 / 4)
    # A concept that is wrongly named and then no longer lowers plain CHAIR; the other objects do not show it.
    assert (values("before", "retention")["chair_i_all"], values("after", "retention")["chair_i_all"]) == (0.5, 0.0)
    assert values("before", "retention")["chair_i"] == values("after", "retention")["chair_i"] == 0.0
    assert found.before["target"]["chair_i"].n == 2


def test_recall_falls_where_other_objects_are_no_longer_named() -> None:
    words = OwnWords(EVALUATION_SET.vocabulary)
    silent = Outputs(("a dog", "a dog and a person"), ("a thing",))
    found = measure_chair(EVALUATION_SET, BEFORE, silent, [], words)
    assert found.after["target"]["recall"].value == 1 / 2
    assert found.after["retention"]["recall"].value == 0.0
    assert found.after["retention"]["chair_i"].why == "there is nothing to count"
    assert found.control["target"]["chair_i"].why == "no random control was run"


def test_the_report_names_the_list_of_words(synonyms: Path) -> None:
    for chair, name in ((True, "kedit's own words"), (synonyms, str(synonyms))):
        words = object_words(chair, [DOG])
        assert words is not None
        report = measure_chair(EVALUATION_SET, BEFORE, AFTER, [], words).to_json()
        assert report["words"] == name and set(report) == {"words", "target", "retention"}
    assert object_words(False, [DOG]) is None


def test_objects_that_the_synonyms_lack_do_not_count(synonyms: Path) -> None:
    words = Synonyms.read(synonyms)
    found = measure_chair(EVALUATION_SET, BEFORE, AFTER, [], words)
    # Neither cat nor car is in the list: of the first caption nothing is left, of the second the person.
    assert found.before["target"]["chair_i"].n == found.before["target"]["recall"].n == 1


def test_what_is_wrong_with_a_file_of_synonyms_is_told(
    tmp_path: Path, synonyms: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt` of synonyms; each line is `object, synonym"):
        object_words(tmp_path / "nowhere.txt", [DOG])
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(ValueError, match="has no synonyms"):
        object_words(str(tmp_path / "empty"), [DOG])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="no text in UTF-8"):
        object_words(tmp_path / "bytes", [DOG])
    with pytest.raises(ValueError, match="none of the data's concepts, such as spoon"):
        object_words(synonyms, [Concept("spoon")])
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        Synonyms.read(synonyms)
    assert "2 synonyms of several words" in caplog.text and "arm chair, dining table" in caplog.text
