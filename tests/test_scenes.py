"""The picture world: exact masks and counterfactuals, captions that can be enumerated, answers that are right."""

import hashlib
import itertools
import math
import pickle
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from kedit.data import grammar
from kedit.data.grammar import BACKGROUNDS, CATEGORIES, COLORS, FACTS, KINDS, NUMBERS, TEMPLATES, Phrase
from kedit.data.questions import VISUAL_KINDS, questions, vocabulary
from kedit.data.scene import RADII, SIZE, TEXTURES, Scene, Thing, scene, scenes
from kedit.data.scenes import FIRST_TRAINING_SEED, SEEDS_PER_SPLIT, Scenes, evaluation_seeds
from kedit.data.shapes import SHAPES, coverage
from kedit.samples import Concept, Sample, Split

MANY = [scene(seed) for seed in range(400)]
FREE = [scene(seed, colors="free") for seed in range(400)]
FEW = MANY[:60]
DIGESTS = {
    0: "de36c591a38c31fa052ec6872710bd922f6638757034fa3dbff049ffb5c427ac",
    1: "8d43f54568df091183a78e031b1ecf81b64992f40665e04664ddc30366c08a95",
    7: "5ddbc3f288aa5d3bf96fd55852bc88dcd4262faa5f74e6971512368c13b90d4a",
    1_000_000: "4eaac0d44b1737dc30ba7eded5922d186f488fbb37ba65dbd906adbee0ec97fe",
    10_000_000: "bcf68bb486e4347ef08960461727e09a62996ec147e8a3cf14ebe98672dae316",
}
"""SHA-256 of the pixels; the shipped models were trained on these very pictures."""


# What a scene is


@pytest.mark.parametrize(("seed", "digest"), DIGESTS.items())
def test_a_seed_gives_the_same_pixels_everywhere(seed: int, digest: str) -> None:
    assert hashlib.sha256(scene(seed).pixels().tobytes()).hexdigest() == digest


def test_equal_seeds_give_equal_scenes_and_different_seeds_different_pictures() -> None:
    assert MANY[:20] == list(itertools.islice(scenes(), 20))
    assert scene(12) == next(scenes(12))
    assert len({one.pixels().tobytes() for one in FEW}) == len(FEW)


def test_a_picture_is_64_by_64_rgb() -> None:
    pixels = MANY[0].pixels()
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(np.array(MANY[0].image()), pixels)


@pytest.mark.parametrize("world", [MANY, FREE], ids=["distinct", "free"])
def test_scenes_have_one_to_three_objects_inside_the_picture_that_do_not_overlap(world: list[Scene]) -> None:
    assert {len(one.things) for one in world} == {1, 2, 3}
    for one in world:
        covered = np.zeros((SIZE, SIZE), int)
        for thing in one.things:
            assert thing.radius <= min(thing.x, thing.y)
            assert max(thing.x, thing.y) <= SIZE - thing.radius
            box = np.s_[
                thing.y - thing.radius : thing.y + thing.radius, thing.x - thing.radius : thing.x + thing.radius
            ]
            covered[box] += coverage(thing.category, thing.radius) > 0
        assert covered.max() == 1


def test_all_categories_colors_backgrounds_textures_and_sizes_occur() -> None:
    things = [thing for one in MANY for thing in one.things]
    assert {thing.category for thing in things} == set(CATEGORIES) == set(SHAPES)
    assert len(CATEGORIES) == 12
    assert {thing.color for thing in things} == set(COLORS)
    assert {thing.radius for thing in things} == set(RADII)
    assert {one.background for one in MANY} == set(BACKGROUNDS)
    assert {one.texture for one in MANY} == set(TEXTURES)


def test_every_category_is_about_as_frequent() -> None:
    shown = Counter(category for one in MANY for category in one.categories)
    mean = sum(shown.values()) / len(CATEGORIES)
    assert all(0.6 * mean < shown[category] < 1.4 * mean for category in CATEGORIES)


def test_about_one_scene_in_seven_has_a_pair_of_equal_objects() -> None:
    pairs = sum(len(one.things) > len(one.categories) for one in MANY)
    assert 0.1 < pairs / len(MANY) < 0.2
    assert any(phrase.count == 2 for one in MANY for phrase in one.phrases)


def test_categories_have_different_colors_unless_colors_are_free() -> None:
    def shares(one: Scene) -> bool:
        return len({thing.color for thing in one.things}) < len(one.categories)

    assert not any(map(shares, MANY))
    assert 0.15 < sum(map(shares, FREE)) / len(FREE) < 0.3


def test_a_category_has_one_color_in_a_scene() -> None:
    for one in MANY + FREE:
        assert len({(thing.category, thing.color) for thing in one.things}) == len(one.categories)


def test_a_scene_of_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="the seed of a scene is 0 or more, got -1"):
        scene(-1)


# Shapes


def test_each_category_is_drawn_differently() -> None:
    for one, other in itertools.combinations(SHAPES, 2):
        assert np.abs(coverage(one, 10) - coverage(other, 10)).mean() > 0.08, (one, other)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", RADII)
def test_coverage_is_a_share_of_each_pixel_with_soft_edges(shape: str, radius: int) -> None:
    covered = coverage(shape, radius)
    assert covered.shape == (2 * radius, 2 * radius)
    assert covered.min() == 0
    assert covered.max() == 1
    assert ((covered > 0) & (covered < 1)).any() or shape in ("square", "cross")
    assert 0.2 < covered.mean() < 0.8


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi * 0.9 / 4),
        ("square", 0.8**2),
        ("diamond", 0.68 * 2 / 4),
        ("triangle", 1.9 * 1.65 / 2 / 4),
        ("ring", math.pi * (0.95 - 0.32) / 4),
        ("cross", (4 * 0.54 * 0.92 - 0.54**2) / 4),
        ("star", 10 * 0.5 * 0.42 * math.sin(math.pi / 5) / 4),
    ],
)
def test_coverage_adds_up_to_the_area_of_the_shape(shape: str, area: float) -> None:
    assert coverage(shape, 12).mean() == pytest.approx(area, rel=0.04)


def test_coverage_cannot_be_written_to_since_all_scenes_share_it() -> None:
    with pytest.raises(ValueError, match="read-only"):
        coverage("star", 8)[0, 0] = 1


def test_drawing_many_scenes_computes_each_shape_and_size_once() -> None:
    coverage.cache_clear()
    for one in FEW:
        one.pixels()
    used = {(thing.category, thing.radius) for one in FEW for thing in one.things}
    assert coverage.cache_info().misses == len(used) <= len(SHAPES) * len(RADII)


# Masks and counterfactuals


def test_leaving_a_category_out_changes_pixels_of_its_region_only_and_nearly_all_of_them() -> None:
    changed = touched = 0
    for one in FEW:
        for category in one.categories:
            differs = (one.pixels() != one.without(category).pixels()).any(-1)
            region = one.region(category)
            assert not (differs & ~region).any()
            changed, touched = changed + int(differs.sum()), touched + int(region.sum())
    assert changed / touched > 0.98


def test_the_counterfactual_is_the_empty_scene_inside_the_region() -> None:
    for one in FEW:
        backdrop = Scene(one.seed, one.background, one.texture, ()).pixels()
        for category in one.categories:
            region = one.region(category)
            assert np.array_equal(one.without(category).pixels()[region], backdrop[region])


def test_the_regions_of_different_categories_are_disjoint_and_cover_every_thing() -> None:
    for one in FEW:
        regions = [one.region(category) for category in one.categories]
        assert np.sum(regions, axis=0).max() == 1
        drawn = sum(int((coverage(thing.category, thing.radius) > 0).sum()) for thing in one.things)
        assert sum(int(region.sum()) for region in regions) == drawn


def test_leaving_everything_out_in_any_order_gives_the_same_picture() -> None:
    for one in FEW[:20]:
        for order in itertools.permutations(one.categories):
            rest = one
            for category in order:
                rest = rest.without(category)
            assert rest == Scene(one.seed, one.background, one.texture, ())


def test_leaving_out_what_is_not_there_changes_nothing() -> None:
    one = MANY[0]
    absent = next(category for category in CATEGORIES if category not in one.categories)
    assert one.without(absent) == one
    assert not one.region(absent).any()


# Captions


def parsed(caption: str) -> tuple[frozenset[tuple[str, str, int]], str | None]:
    """Return the (category, color, count) of each phrase and the background; written without the grammar's code."""
    found = re.fullmatch(r"(?:a picture of |the picture shows )?(.*?)(?: on a (\w+) background)?", caption)
    assert found is not None
    listed, background = found.groups()
    named = set()
    for phrase in re.split(r", | and ", listed):
        number, color, noun = phrase.split()
        count = {"a": 1, "an": 1, "two": 2}[number]
        assert (number == "an") == (color == "orange" and count == 1)
        assert noun.endswith("s" if count == 2 else noun[-1])
        singular = {"crosses": "cross"}.get(noun, noun.removesuffix("s")) if count == 2 else noun
        named.add((singular, color, count))
    return frozenset(named), background


def shown(one: Scene) -> frozenset[tuple[str, str, int]]:
    return frozenset(
        (*kind, count) for kind, count in Counter((thing.category, thing.color) for thing in one.things).items()
    )


@pytest.mark.parametrize("world", [MANY, FREE], ids=["distinct", "free"])
def test_every_caption_says_exactly_what_the_scene_shows(world: list[Scene]) -> None:
    for one in world:
        for caption in one.captions():
            named, background = parsed(caption)
            assert named == shown(one)
            assert background in (None, one.background)


def test_a_scene_has_a_caption_for_each_order_and_template() -> None:
    for one in MANY:
        told = one.captions()
        assert len(told) == len(set(told)) == math.factorial(len(one.phrases)) * len(TEMPLATES)


def test_the_usual_caption_comes_first() -> None:
    for one in MANY:
        assert one.captions()[0] == grammar.caption(one.phrases, one.background)
        colors = [phrase.color for phrase in one.phrases]
        assert colors == sorted(colors, key=COLORS.index)


def test_a_caption_is_another_scenes_only_if_it_is_true_of_that_scene() -> None:
    for one, other in itertools.permutations(FEW[:30], 2):
        told = set(other.captions())
        for caption in one.captions()[: len(TEMPLATES)]:
            background = parsed(caption)[1]
            true = shown(one) == shown(other) and background in (None, other.background)
            assert (caption in told) == true


def test_captions_are_plain_english() -> None:
    things = (
        Thing("cross", "orange", 12, 12, 10),
        Thing("cross", "orange", 40, 12, 10),
        Thing("star", "red", 12, 40, 10),
    )
    told = Scene(0, "pink", "plain", things).captions()
    assert told == (
        "a red star and two orange crosses",
        "a picture of a red star and two orange crosses",
        "the picture shows a red star and two orange crosses",
        "a red star and two orange crosses on a pink background",
        "two orange crosses and a red star",
        "a picture of two orange crosses and a red star",
        "the picture shows two orange crosses and a red star",
        "two orange crosses and a red star on a pink background",
    )
    assert grammar.join(["a", "b", "c"]) == "a, b and c"


def test_an_unnamed_category_is_a_shape_of_its_color() -> None:
    phrases = (Phrase("star", "red"), Phrase("cross", "orange", 2))
    captions = grammar.caption(phrases, "white", unnamed=frozenset({"cross"}))
    assert captions == "a red star and two orange shapes"
    assert Phrase("star", "orange").text(unnamed=True) == "an orange shape"


def test_a_scene_without_objects_has_no_caption() -> None:
    assert Scene(0, "white", "plain", ()).captions() == ()


def test_template_weights_are_shares_and_favor_the_first() -> None:
    assert len(grammar.TEMPLATE_WEIGHTS) == len(TEMPLATES)
    assert sum(grammar.TEMPLATE_WEIGHTS) == pytest.approx(1)
    assert max(grammar.TEMPLATE_WEIGHTS) == grammar.TEMPLATE_WEIGHTS[0]


# Questions


def answered(one: Scene, question: str) -> str:
    """Return the right answer, read off the things; written without the code under test."""
    by_category: dict[str, list[Thing]] = {}
    for thing in one.things:
        by_category.setdefault(thing.category, []).append(thing)
        by_category.setdefault(thing.category + ("es" if thing.category == "cross" else "s"), []).append(thing)
    match question.removesuffix(" ?").split():
        case ["is", "there", "a" | "an", category]:
            return "yes" if category in by_category else "no"
        case ["what", "color", "is", "the", "background"]:
            return one.background
        case ["what", "color", "is" | "are", "the", category]:
            (color,) = {thing.color for thing in by_category[category]}
            return color
        case ["how", "many", "shapes", "are", "there"]:
            return NUMBERS[len(one.things)]
        case ["how", "many", category, "are", "there"]:
            return NUMBERS[len(by_category.get(category, []))]
        case ["is", "the", first, *relation, "the", second]:
            (a,), (b,) = by_category[first], by_category[second]
            holds = {"left of": a.x < b.x, "above": a.y < b.y}[" ".join(relation)]
            return "yes" if holds else "no"
    raise AssertionError(question)


@pytest.mark.parametrize("kind", VISUAL_KINDS)
def test_answers_are_what_the_things_say(kind: str) -> None:
    asked = [(one, question) for one in MANY + FREE for question in questions(one, kind)]
    assert asked
    for one, question in asked:
        assert question.answer == answered(one, question.text)
        assert question.kind == kind
        assert question.sample is None


def test_every_kind_of_question_has_more_than_one_answer() -> None:
    for kind in VISUAL_KINDS:
        assert len({question.answer for one in MANY for question in questions(one, kind)}) > 1


def test_each_scene_is_asked_about_all_categories_and_no_question_twice() -> None:
    for one in FEW:
        texts = {kind: [question.text for question in questions(one, kind)] for kind in VISUAL_KINDS}
        assert len(texts["existence"]) == len(CATEGORIES)
        assert len(texts["count"]) == len(CATEGORIES) + 1
        assert len(texts["color"]) == len(one.categories)
        assert all(len(asked) == len(set(asked)) for asked in texts.values())


def test_relations_are_asked_of_single_objects_that_are_clearly_apart() -> None:
    things = (
        Thing("star", "red", 12, 12, 10),
        Thing("moon", "blue", 40, 14, 10),
        Thing("tree", "green", 14, 50, 8),
        Thing("tree", "green", 50, 50, 8),
    )
    asked = {q.text: q.answer for q in questions(Scene(0, "white", "plain", things), "relation")}
    assert asked == {"is the star left of the moon ?": "yes", "is the moon left of the star ?": "no"}


def test_a_category_in_two_colors_is_counted_whole_and_its_color_not_asked() -> None:
    things = (Thing("star", "red", 12, 12, 10), Thing("star", "blue", 40, 12, 10), Thing("moon", "blue", 12, 40, 8))
    one = Scene(0, "white", "plain", things)
    counts = {q.text: q.answer for q in questions(one, "count")}
    assert counts["how many stars are there ?"] == "two"
    assert [q.text for q in questions(one, "color")] == ["what color is the moon ?"]


def test_an_unknown_kind_of_question_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"`kind` is one of existence, .*, got 'size'"):
        questions(MANY[0], "size")


def test_facts_are_asked_once_and_need_no_picture() -> None:
    assert len({question for question, _ in FACTS}) == len(FACTS) >= 30
    asked = Scenes().questions
    assert [(one.text, one.answer) for one in asked] == list(FACTS)
    assert all(one.sample is None and one.kind == "fact" for one in asked)


def test_facts_that_name_a_thing_use_the_right_article() -> None:
    for question, answer in FACTS:
        if answer.split()[-1] in CATEGORIES:
            assert answer.split()[0] in (grammar.article(answer.split()[-1]), "the"), question


def spoken() -> Iterator[str]:
    """Yield everything that the picture world ever says or asks."""
    yield grammar.CAPTION_PROMPT
    for one in MANY:
        yield from one.captions()
        yield grammar.caption(one.phrases, one.background, unnamed=one.categories)
        for kind in VISUAL_KINDS:
            for question in questions(one, kind):
                yield from (question.text, question.answer)
    for fact in FACTS:
        yield from fact


def test_the_vocabulary_is_exactly_the_words_that_are_spoken() -> None:
    said = {word for text in spoken() for word in text.replace(",", " ,").split()}
    known = vocabulary()
    assert list(known) == sorted(set(known))
    assert said <= set(known)
    # The prompt that asks for an answer, and the other side of "above".
    assert set(known) - said == {"answer", ":", "below"}


# The data set


def seeds(samples: tuple[Sample, ...]) -> list[int]:
    return [int(sample.id.removeprefix("scene-")) for sample in samples]


@pytest.fixture(scope="module")
def star_split() -> Split:
    return Scenes().split(Concept("star"), locate=5, target=7, retention=6, seed=3)


def test_the_concepts_are_the_twelve_categories_of_three_kinds() -> None:
    concepts = Scenes().concepts
    assert [concept.name for concept in concepts] == list(CATEGORIES)
    assert Counter(concept.category for concept in concepts) == dict.fromkeys(KINDS, 4)
    assert all(concept.words == (concept.name,) for concept in concepts)


@pytest.mark.parametrize("colors", ["distinct", "free"])
def test_a_sample_carries_the_scene_its_captions_masks_and_counterfactuals(colors: str) -> None:
    data = Scenes(colors)  # type: ignore[arg-type]
    for seed in range(10):
        one, sample = scene(seed, colors=colors), data.sample(seed)  # type: ignore[arg-type]
        assert np.array_equal(np.array(sample.image), one.pixels())
        assert sample.references == one.captions()
        assert sample.objects == one.categories == set(sample.regions)
        assert sample.render_without is not None
        for category in one.categories:
            assert np.array_equal(sample.regions[category], one.region(category))
            assert np.array_equal(np.array(sample.render_without(category)), one.without(category).pixels())


def test_a_split_has_the_numbers_asked_for_and_shares_no_sample(star_split: Split) -> None:
    parts = (star_split.locate, star_split.target, star_split.near, star_split.far)
    assert [len(part) for part in parts] == [5, 7, 6, 6]
    assert len({sample.id for part in parts for sample in part}) == 24


def test_near_samples_show_something_of_the_kind_and_far_ones_nothing_of_it(star_split: Split) -> None:
    kin = {"star", "moon", "tree", "house"}
    assert all("star" in sample.objects for sample in star_split.locate + star_split.target)
    assert all("star" not in sample.objects and sample.objects & kin for sample in star_split.near)
    assert all(not sample.objects & kin for sample in star_split.far)


def test_a_split_takes_the_first_scenes_of_its_seed_that_fit(star_split: Split) -> None:
    first = evaluation_seeds(3).start
    showing = [seed for seed in range(first, first + 300) if "star" in scene(seed).categories]
    assert seeds(star_split.locate + star_split.target) == showing[:12]


def test_a_split_is_determined_by_its_seed(star_split: Split) -> None:
    data, star = Scenes(), Concept("star")
    again = data.split(star, locate=5, target=7, retention=6, seed=3)
    assert seeds(again.locate + again.far) == seeds(star_split.locate + star_split.far)
    other = data.split(star, locate=5, target=7, retention=6, seed=4)
    assert not set(seeds(other.locate + other.near)) & set(seeds(star_split.locate + star_split.near))


def test_asking_for_more_keeps_what_a_smaller_split_located_with(star_split: Split) -> None:
    larger = Scenes().split(Concept("star"), locate=5, target=20, retention=9, seed=3)
    assert seeds(larger.locate) == seeds(star_split.locate)
    assert seeds(larger.target)[:7] == seeds(star_split.target)


@pytest.mark.parametrize("seed", [0, 1, 179, 180, 1234, 20_000_000, 2**31])
def test_no_seed_reaches_the_scenes_of_training_or_of_another_seed(seed: int) -> None:
    used, following = evaluation_seeds(seed), evaluation_seeds(seed + 1)
    assert used.stop <= FIRST_TRAINING_SEED or used.start > 2**40
    assert len(used) == SEEDS_PER_SPLIT
    assert following.start >= used.stop


def test_a_split_of_a_large_seed_is_as_good_as_any() -> None:
    split = Scenes().split(Concept("house"), locate=1, target=1, retention=1, seed=2**31)
    assert all("house" in sample.objects for sample in split.locate + split.target)


def test_retention_may_be_left_out() -> None:
    split = Scenes().split(Concept("star"), locate=1, target=1, retention=0, seed=0)
    assert (len(split.near), len(split.far)) == (0, 0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"locate": 0}, "`locate` is a number of samples, 1 or more, got 0"),
        ({"target": 0}, "`target` is a number of samples, 1 or more, got 0"),
        ({"retention": -2}, "`retention` is a number of samples, 0 or more, got -2"),
        ({"seed": -1}, "the seed of a split is 0 or more, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(numbers: dict[str, int], message: str) -> None:
    asked = {"locate": 1, "target": 1, "retention": 1, "seed": 0} | numbers
    with pytest.raises(ValueError, match=re.escape(message)):
        Scenes().split(Concept("star"), **asked)


def test_a_concept_of_another_world_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LookupError, match="no concept `start` in the data; nearest: star"):
        Scenes().split(Concept("start"), locate=1, target=1, retention=1, seed=0)


def test_asking_for_more_than_there_is_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kedit.data.scenes.SEEDS_PER_SPLIT", 100)
    there = sum("star" in scene(seed).categories for seed in range(1_000_000, 1_000_100))
    with pytest.raises(ValueError, match=rf"100 samples asked for, but 100 scenes of one seed have {there} \(shown"):
        Scenes().split(Concept("star"), locate=50, target=50, retention=1, seed=0)


def test_colors_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="`colors` is `distinct` or `free`, got 'many'"):
        Scenes("many")  # type: ignore[arg-type]


def test_samples_can_be_pickled_with_their_counterfactuals() -> None:
    sample = Scenes().sample(3)
    (category, *_) = sorted(sample.objects)
    again = pickle.loads(pickle.dumps(sample))
    assert again.render_without(category).tobytes() == sample.render_without(category).tobytes()
