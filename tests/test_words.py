"""Words as captions write them: public reports of other tools, with the right answer."""

import pytest

from kedit.data.coco_words import UNLESS, WORDS
from kedit.samples import Concept
from kedit.words import bleu_tokens, numbers, plural, whole_words


@pytest.mark.parametrize(
    ("name", "text", "is_named"),
    [
        # yufengm/Adaptive#4: hyphens
        ("fire hydrant", "a red fire-hydrant", True),
        ("traffic light", "two traffic-lights", True),
        ("t-shirt", "three t shirts", True),
        ("dog", "a dog-friendly café", True),
        # Growstuff/growstuff#624: plurals
        *(("tomato", "three tomatoes", True), ("potato", "potatoes on a plate", True), ("photo", "photos", True)),
        *(("knife", "two knives", True), ("leaf", "leaves", True), ("roof", "red roofs", True)),
        *(("woman", "two women", True), ("mouse", "mice", True), ("goose", "geese", True), ("tooth", "teeth", True)),
        *(("child", "children", True), ("person", "people", True), ("ox", "oxen", True), ("quiz", "quizzes", True)),
        *(("cactus", "cacti", True), ("octopus", "octopuses", True), ("house", "a hice", False)),
        # IDEA-Research/Grounded-Segment-Anything#339: underscores
        ("fire_hydrant", "a fire hydrant", True),
        ("fire_hydrant", "a hydrant", False),
    ],
)
def test_the_parts_of_a_name_are_joined_in_any_way_and_stand_in_any_number(
    name: str, text: str, is_named: bool
) -> None:
    assert Concept(name).mentioned_in(text) is is_named


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dog", "a hot-dog in a bun"),
        ("dog", "hot dogs"),
        ("bear", "a child with a teddy-bear"),
        ("bear", "teddy_bears"),
    ],
)
def test_a_phrase_that_means_something_else_does_so_with_a_hyphen_as_well(name: str, text: str) -> None:
    concept = Concept(name, (name, *WORDS[name]), None, UNLESS[name])
    assert not concept.mentioned_in(text)
    assert concept.mentioned_in(f"{text} and a {name}")


@pytest.mark.parametrize(
    ("word", "text", "place"),
    [
        # BerriAI/litellm#32089: scripts that put no space between words
        ("狗", "一只狗在沙发上", 2),
        ("犬", "ソファの上に犬がいる", 6),
        ("イヌ", "大きなイヌだ", 3),
        ("สุนัข", "มีสุนัขบนโซฟา", 2),
        ("dog", "一只dog在沙发上", 2),
        ("개", "검은 개가 있다", 3),
    ],
)
def test_a_word_is_found_where_nothing_separates_it(word: str, text: str, place: int) -> None:
    assert Concept(word).first_mention(text) == (place, place + len(word))


@pytest.mark.parametrize(("word", "text"), [("개", "무지개가 있다"), ("dog", "dogma"), ("猫", "一只狗")])
def test_a_part_of_another_word_is_none(word: str, text: str) -> None:
    assert not Concept(word).mentioned_in(text)


@pytest.mark.parametrize("word", ["-", "__", " - "])
def test_a_name_of_nothing_but_hyphens_is_found_as_it_is(word: str) -> None:
    pattern = whole_words([word])
    assert pattern.search(f"a {word.strip()} b")
    assert not pattern.search("a b")


@pytest.mark.parametrize(
    ("word", "other"),
    [("bus", "a bi-plane in the sky"), ("boot", "a beet salad"), ("safe", "a goalkeeper saves a ball"),
     ("cafe", "the caves of the coast")],
)  # fmt: skip
def test_a_plural_that_is_another_word_is_none(word: str, other: str) -> None:
    assert not Concept(word).mentioned_in(other)
    assert Concept(word).mentioned_in(f"two {plural(word)}")


@pytest.mark.parametrize(
    ("word", "several"),
    [("wife", "wives"), ("cactus", "cacti"), ("foot", "feet"), ("bus", "buses"), ("boot", "boots"), ("tooth", "teeth")],
)
def test_irregular_plurals_are_found(word: str, several: str) -> None:
    assert Concept(word).mentioned_in(f"two {several}")


def test_a_word_counts_itself_among_its_numbers() -> None:
    assert {"knife", "knives"} <= numbers("knife")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a dog", "13a"),
        ("", "13a"),
        ("개", "13a"),
        ("一只狗", "zh"),
        ("一只dog", "zh"),
        ("犬がいる", "char"),
        ("สุนัข", "char"),
    ],
)
def test_bleu_counts_the_tokens_of_the_script(text: str, name: str) -> None:
    assert bleu_tokens(text) == name
