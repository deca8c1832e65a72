"""Concepts find whole words in any number; samples and splits refuse what would spoil a measurement."""

import dataclasses
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kedit.samples import Concept, Counterfactual, Sample, Split, find_concept, mentioned, silent
from kedit.words import plural

STAR = Concept("star")


def sample(name: str = "one", size: tuple[int, int] = (4, 3), **fields: object) -> Sample:
    return Sample(name, Image.new("RGB", size), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(("star", "stars"), ("box", "boxes"), ("bus", "buses"), ("bench", "benches"), ("dish", "dishes")),
        *(("berry", "berries"), ("toy", "toys"), ("y", "ys"), ("BERRY", "BERRies"), ("TOY", "TOYs")),
        *(("hot dog", "hot dogs"), ("house", "houses"), ("quiz", "quizes"), ("c++", "c++s")),
    ],
)
def test_plurals_are_the_regular_english_ones(word: str, expected: str) -> None:
    assert plural(word) == expected


@pytest.mark.parametrize(
    ("words", "text", "span"),
    [
        ((), "a red star", (6, 10)),
        ((), "Two STARS and a star.", (4, 9)),
        ((), "star-shaped", (0, 4)),
        ((), "the star's light", (4, 8)),
        ((), "starfish, a start, costar and star_1", None),
        ((), "", None),
        (("berry",), "some berries", (5, 12)),
        (("BERRY",), "some berries", (5, 12)),
        (("box",), "boxes", (0, 5)),
        (("dog", "puppy"), "two puppies", (4, 11)),
        (("dog",), "a puppy", None),
        (("traffic light",), "one traffic\n  light", (4, 19)),
        (("traffic light",), "traffic lights", (0, 14)),
        (("traffic light",), "traffic. light", None),
        ((" star ",), "stars", (0, 5)),
    ],
)
def test_a_mention_is_a_whole_word_in_any_number_and_case(
    words: tuple[str, ...], text: str, span: tuple[int, int] | None
) -> None:
    concept = Concept("star", words)
    assert concept.first_mention(text) == span
    assert concept.mentioned_in(text) == (span is not None)


@pytest.mark.parametrize("word", ["c++", "a.b", "(x)", "x|y", "[z]", "$5", "what?", "^", "back\\slash", "*"])
def test_words_are_no_regular_expressions(word: str) -> None:
    concept = Concept("odd", (word,))
    assert concept.first_mention(f"see {word} here") == (4, 4 + len(word))
    assert concept.first_mention("see aab x y z 5 wha slash here") is None


@pytest.mark.parametrize("word", ["café", "Ångström", "naïve", "猫", "дом", "Öl"])
def test_accents_match_composed_and_decomposed_and_keep_words_whole(word: str) -> None:
    for way in ("NFC", "NFD"):
        written = unicodedata.normalize(way, word)
        for text in ("NFC", "NFD"):
            shown = unicodedata.normalize(text, word)
            assert Concept("x", (written,)).first_mention(f"a {shown} b") == (2, 2 + len(shown))


def test_a_letter_with_an_accent_behind_it_is_another_word() -> None:
    assert not Concept("cafe").mentioned_in(unicodedata.normalize("NFD", "the café"))
    assert not Concept("cafe").mentioned_in(unicodedata.normalize("NFC", "the café"))


@given(st.text(min_size=1).filter(lambda name: name.strip()), st.sampled_from(["", "two ", "(", "...", "\n"]))
def test_every_name_is_found_where_it_stands_alone(name: str, before: str) -> None:
    concept = Concept(name)
    text = f"{before}{name.strip()} !"
    found = concept.first_mention(text)
    assert found is not None
    assert text[slice(*found)].casefold().startswith(name.strip()[0].casefold())


def test_the_longest_form_is_the_one_that_is_found() -> None:
    assert Concept("dog", ("hot", "hot dog")).first_mention("hot dogs") == (0, 8)


def test_without_words_the_name_counts_and_with_words_only_they_do() -> None:
    assert STAR.words == ("star",)
    assert not Concept("star", ("sun",)).mentioned_in("a star")
    assert Concept("star", ["sun", "star"]).words == ("sun", "star")  # type: ignore[arg-type]


def test_concepts_are_values() -> None:
    assert len({Concept("star", ["sun"]), Concept("star", ("sun",))}) == 1  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        STAR.name = "moon"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "  ", "\n"])
def test_a_concept_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs a name, got "):
        Concept(name)


def test_one_string_for_words_is_refused_since_it_would_be_taken_letter_by_letter() -> None:
    with pytest.raises(TypeError, match=r"the words of `star` are a sequence, got 'sun'; write \('sun',\)"):
        Concept("star", "sun")  # type: ignore[arg-type]


def test_a_blank_word_is_refused_since_it_would_be_found_in_every_text() -> None:
    with pytest.raises(ValueError, match=r"blank word .* got ' ' for concept `star`"):
        Concept("star", ("sun", " "))


def test_mentioned_returns_the_names_of_the_concepts_in_a_text() -> None:
    concepts = (STAR, Concept("dog", ("puppy",)), Concept("moon"))
    assert mentioned(concepts, "a Puppy under two stars") == {"star", "dog"}
    assert mentioned(concepts, "nothing") == frozenset()


def test_a_sample_shows_what_is_annotated() -> None:
    one = sample(objects=frozenset({"star"}))
    assert one.shows(STAR)
    assert one.shows(Concept("star", ("sun",)))
    assert not one.shows(Concept("moon"))


def test_a_missing_region_is_an_error_that_names_the_regions_there_are() -> None:
    region = np.ones((3, 4), bool)
    one = sample("s7", regions={"tree": region, "moon": region})
    assert one.region(Concept("tree")) is region
    with pytest.raises(LookupError, match="sample `s7` has no region for `star`; regions: moon, tree"):
        one.region(STAR)
    with pytest.raises(LookupError, match="regions: none"):
        sample().region(STAR)


def test_a_counterfactual_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"of sample `s7` is \(3, 4\) pixels, the original \(4, 3\)"):
        Counterfactual(sample("s7"), STAR, Image.new("RGB", (3, 4)))


def test_the_parts_of_a_split_are_disjoint() -> None:
    a, b, c, d = (sample(name) for name in "abcd")
    assert Split((a,), (b,), (c,), (d,)).far == (d,)
    with pytest.raises(ValueError, match="in one part of a split only; in several: a, b"):
        Split((a, b), (b,), (c,), (sample("a"), d))


def test_an_unknown_concept_is_an_error_that_suggests_the_nearest_names() -> None:
    known = (STAR, Concept("Square"), Concept("moon"))
    assert find_concept(known, "moon") is known[2]
    with pytest.raises(LookupError, match="no concept `stars` in the data; nearest: star"):
        find_concept(known, "stars")
    with pytest.raises(LookupError, match="no concept `SQUARE` in the data; nearest: Square"):
        find_concept(known, "SQUARE")
    with pytest.raises(LookupError, match="no concept `xyz` in the data; there are Square, moon, star"):
        find_concept(known, "xyz")
    with pytest.raises(LookupError, match="there are none"):
        find_concept((), "star")


def test_an_unknown_concept_that_is_a_word_of_another_is_an_error_that_names_that_one() -> None:
    known = (Concept("dog", ("dog", "puppy")), Concept("guppy"))
    with pytest.raises(LookupError, match=r"no concept `Puppy` in the data; nearest: dog$"):
        find_concept(known, "Puppy")


def test_a_word_inside_a_longer_phrase_that_means_something_else_is_no_mention() -> None:
    dog = Concept("dog", unless=("hot dog", "dog food"))
    assert not dog.mentioned_in("Hot  dogs and dog food")
    assert dog.first_mention("a hot dog for the dog") == (18, 21)
    assert dog.mentioned_in("a shot dog")
    with pytest.raises(TypeError, match="the words of `dog` are a sequence, got 'hot dog'"):
        Concept("dog", unless="hot dog")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a blank word"):
        Concept("dog", unless=(" ",))


def test_silence_passes_the_items_on_untouched() -> None:
    items = [1, 2]
    assert silent(items, 2, "nothing") is items
