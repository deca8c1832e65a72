"""Data sets in COCO's format: what the samples hold, how they are split, and what is wrong with a bad one."""

import json
import logging
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kedit.data.coco import Coco
from kedit.data.coco_words import UNLESS, WORDS
from kedit.data.inpaint import MeanFill
from kedit.data.pictures import SampleError
from kedit.samples import Concept, Split, find_concept
from tests.coco_maker import CocoMaker, mask_of, picture, rectangle, rle, small_world

FEW = {"locate": 3, "target": 4, "retention": 5, "seed": 0}


@pytest.fixture
def maker(tmp_path: Path) -> CocoMaker:
    return CocoMaker(tmp_path / "coco")


@pytest.fixture
def world(tmp_path: Path) -> Coco:
    return Coco(small_world(tmp_path / "coco").write())


def named(data: Coco, name: str) -> Concept:
    return find_concept(data.concepts, name)


def ids(split: Split) -> list[str]:
    return [one.id for part in (split.locate, split.target, split.near, split.far) for one in part]


# What a sample holds


def test_a_sample_has_its_picture_captions_objects_and_regions(maker: CocoMaker) -> None:
    crowd = {"size": [30, 40], "counts": rle(mask_of(20, 2, 5, 5), text=False)["counts"]}
    number = maker.add(
        ("dog", [rectangle(1, 2, 12, 10)]), ("dog", [rectangle(15, 20, 3, 4)]), captions=[" a dog ", "dogs"]
    )
    maker.annotate(number, "cat", crowd, iscrowd=1)
    maker.annotate(number, "car", rle(mask_of(30, 10, 9, 9)))
    sample = next(Coco(maker.write()).samples("dog"))
    assert sample.id == str(number)
    assert np.array_equal(sample.image, picture(number))
    assert sample.references == ("a dog", "dogs")
    assert sample.objects == frozenset(sample.regions) == {"dog", "cat", "car"}
    assert np.array_equal(sample.region(Concept("dog")), mask_of(1, 2, 12, 10) | mask_of(15, 20, 3, 4))
    assert np.array_equal(sample.region(Concept("cat")), mask_of(20, 2, 5, 5))
    assert np.array_equal(sample.region(Concept("car")), mask_of(30, 10, 9, 9))
    with pytest.raises(LookupError, match="no region for `bus`; regions: car, cat, dog"):
        sample.region(Concept("bus"))


def test_a_region_fits_the_inpainter_and_nothing_outside_it_changes(world: Coco) -> None:
    sample = next(world.samples("cat"))
    pair = MeanFill(dilation=0)(sample, named(world, "cat"))
    changed = (np.array(pair.image) != np.array(sample.image)).any(-1)
    assert changed.any()
    assert not (changed & ~sample.region(named(world, "cat"))).any()


def test_a_concept_is_a_category_with_its_words_and_its_kind(world: Coco) -> None:
    assert [one.name for one in world.concepts] == ["dog", "cat", "car", "bus", "person"]
    dog = named(world, "dog")
    assert (dog.category, dog.words[0]) == ("animal", "dog")
    assert dog.mentioned_in("Two puppies play")
    assert not dog.mentioned_in("she eats a hot  dog")
    assert dog.first_mention("a hot dog for the dog") == (18, 21)
    with pytest.raises(LookupError, match="no concept `dgo` in the data; nearest: dog"):
        world.samples("dgo")
    with pytest.raises(LookupError, match="no concept `puppy` in the data; nearest: dog"):
        world.samples("puppy")


def test_the_words_of_two_categories_are_never_the_same() -> None:
    words = [word for name, more in WORDS.items() for word in {name, *more}]
    assert len(words) == len(set(words))
    for name, phrases in UNLESS.items():
        concept = Concept(name, (name, *WORDS.get(name, ())))
        assert [phrase for phrase in phrases if not concept.mentioned_in(phrase)] == []


def test_captions_are_optional(world: Coco, caplog: pytest.LogCaptureFixture) -> None:
    assert next(Coco(world.folder, captions=None).samples("dog")).references == ()
    Path(world.folder, "annotations/captions_val2017.json").unlink()
    assert not caplog.records
    assert next(world.samples("dog")).references == ()
    assert "no captions" in caplog.text


def test_a_caption_that_is_null_or_nan_is_no_reference(maker: CocoMaker) -> None:
    # rom1504/img2dataset#46: what pandas exports where there is none
    maker.add(("dog", [rectangle(1, 2, 12, 10)]), captions=[None, math.nan, "a dog"])  # type: ignore[list-item]
    assert next(Coco(maker.write()).samples("dog")).references == ("a dog",)


def test_lvis_names_pictures_by_address_and_categories_with_underscores(tmp_path: Path) -> None:
    # lvis-dataset/lvis-api#30
    maker = CocoMaker(tmp_path, dict.fromkeys(("fire_hydrant", "mouse_(computer_equipment)"), "thing"))
    maker.add(("fire_hydrant", [rectangle(1, 2, 12, 10)]), ("mouse_(computer_equipment)", [rectangle(15, 20, 3, 4)]))
    for one in maker.images:
        one["coco_url"] = f"http://images.cocodataset.org/val2017/{one.pop('file_name')}"
    data = Coco(maker.write())
    sample = next(data.samples("fire_hydrant"))
    assert sample.objects == {"fire_hydrant", "mouse_(computer_equipment)"}
    assert named(data, "fire_hydrant").mentioned_in("two fire hydrants")
    assert named(data, "mouse_(computer_equipment)").mentioned_in("a mouse")
    assert not named(data, "mouse_(computer_equipment)").mentioned_in("a mouse pad")


def test_a_byte_order_mark_is_no_content(world: Coco) -> None:
    # microsoft/promptflow#4172
    for path in Path(world.folder).glob("annotations/*.json"):
        path.write_text("\ufeff" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert next(world.samples("dog")).references


def test_text_questions_come_from_a_file(world: Coco) -> None:
    assert world.questions == ()
    Path(world.folder, "asked.jsonl").write_text('{"question": "what barks?", "answer": "a dog"}\n\n')
    (one,) = Coco(world.folder, questions_file="asked.jsonl").questions
    assert (one.text, one.answer, one.sample) == ("what barks?", "a dog", None)


# How samples are split


def test_a_split_is_disjoint_and_each_part_shows_what_it_should(world: Coco) -> None:
    split = world.split(named(world, "dog"), locate=6, target=8, retention=10, seed=3)
    assert len(set(ids(split))) == 34
    assert [len(part) for part in (split.locate, split.target, split.near, split.far)] == [6, 8, 10, 10]
    assert all(one.objects == {"dog"} for one in split.locate + split.target)
    assert all(one.objects == {"cat"} for one in split.near)
    assert all(one.objects <= {"car"} for one in split.far)
    assert split.skipped == {}


def test_equal_seeds_give_equal_splits_whatever_the_order_of_the_file_and_others_differ(tmp_path: Path) -> None:
    maker = small_world(tmp_path / "coco")
    data = Coco(maker.write())
    first = data.split(named(data, "dog"), **FEW)
    maker.images.reverse()
    again = Coco(maker.write())
    assert ids(again.split(named(again, "dog"), **FEW)) == ids(first)
    assert ids(data.split(named(data, "dog"), **FEW | {"seed": 1})) != ids(first)


def test_asking_for_more_of_one_part_leaves_the_other_parts_as_they_are(world: Coco) -> None:
    dog = named(world, "dog")
    small, large = (world.split(dog, locate=n, target=4, retention=5, seed=0) for n in (3, 16))
    assert ids(large)[:3] == ids(small)[:3]
    assert ids(large)[16:] == ids(small)[3:]


@pytest.mark.parametrize(
    ("rule", "kept"), [({"min_area": 0.05}, "2"), ({"max_area": 0.05}, "1"), ({"min_area": 0.0}, "12")]
)
def test_pictures_are_chosen_by_the_share_that_the_concept_takes(maker: CocoMaker, rule: dict, kept: str) -> None:
    maker.add(("dog", [rectangle(0, 0, 6, 5)]))  # 30 of 1200 pixels
    maker.add(("dog", [rectangle(0, 0, 30, 20)]), ("cat", [rectangle(1, 1, 2, 2)]))  # half
    data = Coco(maker.write(), **{"min_area": 0.0, "max_area": 1.0} | rule)
    assert {one.id for one in data.samples("dog")} == set(kept)


def test_pictures_are_chosen_by_what_else_they_show(maker: CocoMaker, caplog: pytest.LogCaptureFixture) -> None:
    alone, company, three = maker.add("dog"), maker.add("dog", "person"), maker.add("dog", "cat", "person")
    crowded = maker.add("cat")
    maker.annotate(crowded, "dog", rle(mask_of(2, 2, 20, 20)), iscrowd=1)
    folder = maker.write()

    def chosen(**rules: Any) -> set[int]:
        return {int(one.id) for one in Coco(folder, **rules).samples("dog")}

    assert chosen() == {alone, company, three}
    assert chosen(crowds=True) == {alone, company, three, crowded}
    assert chosen(max_others=1) == {alone, company}
    assert chosen(max_others=0) == {alone}
    assert chosen(without=["person"]) == {alone}
    data = Coco(folder)
    data.split(named(data, "dog"), locate=1, target=1, retention=0, seed=0)
    assert "2 of 3 pictures of `dog` show `person` too" in caplog.text


def test_retention_pictures_do_not_name_the_concept_in_a_caption_either(maker: CocoMaker) -> None:
    for _ in range(2):
        maker.add("dog")
        maker.add("cat", captions=["a cat looks at puppies"])
        maker.add("cat", captions=["a cat with a hot dog"])
    data = Coco(maker.write())
    split = data.split(named(data, "dog"), locate=1, target=1, retention=2, seed=0)
    assert {one.references for one in split.near} == {("a cat with a hot dog",)}


def test_where_nothing_is_near_the_far_pictures_are_there_alone(world: Coco, caplog: pytest.LogCaptureFixture) -> None:
    maker = small_world(Path(world.folder))
    maker.add("person")
    maker.add("person")
    data = Coco(maker.write())
    split = data.split(named(data, "person"), locate=1, target=1, retention=7, seed=0)
    assert (len(split.near), len(split.far)) == (0, 7)
    assert "no picture is near of `person`" in caplog.text


# Nothing is read too early


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    data = Coco(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="`folder` needs the annotation `annotations/instances_"):
        data.concepts  # noqa: B018


def test_only_the_pictures_that_are_drawn_are_opened(world: Coco) -> None:
    for path in Path(world.folder, "val2017").glob("*.png"):
        path.write_bytes(b"broken")
    assert len(world.data_set.records) == 60
    first = sorted(world.data_set.records, key=lambda record: record.id)[0]
    picture(1).save(first.source())
    assert [one.id for one in world.samples("dog")] == ["1"]


# Bad samples are skipped and counted


def spoil_missing(maker: CocoMaker, number: int) -> None:
    (maker.pictures / f"{number:012}.png").unlink()


def spoil_truncated(maker: CocoMaker, number: int) -> None:
    path = maker.pictures / f"{number:012}.png"
    path.write_bytes(path.read_bytes()[:-900])


def spoil_size(maker: CocoMaker, number: int) -> None:
    picture(number, (40, 31)).save(maker.pictures / f"{number:012}.png")


def spoil_pixel(maker: CocoMaker, number: int) -> None:
    picture(number, (1, 1)).save(maker.pictures / f"{number:012}.png")
    maker.images[number - 1] |= {"width": 1, "height": 1}


def spoil_outline(segmentation: Any, category: str = "dog") -> Any:
    return lambda maker, number: maker.annotate(number, category, segmentation)


def spoil_caption(maker: CocoMaker, number: int) -> None:
    maker.captions.append({"id": 999, "image_id": number, "caption": "caf\udce9"})


@pytest.mark.parametrize(
    ("spoil", "reason", "message"),
    [
        (spoil_missing, "missing_image", "there is no"),
        (spoil_truncated, "unreadable_image", "truncated"),
        (spoil_size, "wrong_size", r"annotated are \(40, 30\)"),
        (spoil_pixel, "too_small", "each side needs 8"),
        (spoil_caption, "bad_text", "is not UTF-8"),
        (spoil_outline([]), "bad_region", "`dog`: the outline is empty"),
        (spoil_outline([[1, 2, 3, 4]]), "bad_region", "got 4 numbers"),
        (
            spoil_outline(rle(np.ones((40, 30), dtype=bool))),
            "bad_region",
            "the mask is 30 x 40 pixels, the picture 40 x 30",
        ),
        (spoil_outline({"size": [30, 40], "counts": [7]}), "bad_region", "`dog`: the runs of the mask cover 7"),
    ],
)
def test_a_bad_sample_is_skipped_and_counted(
    maker: CocoMaker, caplog: pytest.LogCaptureFixture, spoil: Any, reason: str, message: str
) -> None:
    for _ in range(5):
        maker.add("dog")
    spoil(maker, 2)
    data = Coco(maker.write(), min_area=0.0, max_area=1.0)
    split = data.split(named(data, "dog"), locate=2, target=2, retention=0, seed=0)
    # Only what had to be passed over counts, so the fifth picture is asked for to be sure of meeting it.
    with pytest.raises(
        ValueError, match=rf"5 show it, 3 and 1 of them are good; 1 cannot be used \({reason}, the first `2`: "
    ):
        data.split(named(data, "dog"), locate=3, target=2, retention=0, seed=0)
    assert "2" not in ids(split)
    assert re.search(rf"skipped 1 sample \({reason}\), the first `2`: .*{message}", caplog.text)


def test_a_bad_outline_of_something_else_is_counted_and_the_picture_used(
    maker: CocoMaker, caplog: pytest.LogCaptureFixture
) -> None:
    # cocodataset/cocoapi#348: an outline of four numbers
    for number in range(1, 5):
        maker.add("dog", ("person", [[1, 1, 5, 5]]), *(["cat"] if number == 1 else []))
    maker.annotate(1, "cat", {"size": [30, 40], "counts": [7]})
    data = Coco(maker.write())
    split = data.split(named(data, "dog"), locate=2, target=2, retention=0, seed=0)
    assert split.skipped == {}
    assert {name for one in (*split.locate, *split.target) for name in one.regions} == {"dog"}
    assert all("person" in one.objects for one in split.locate)
    assert re.search("4 samples have a bad region of something else, .* the first `.`: `(person|cat)`", caplog.text)


def test_the_split_says_how_many_were_skipped(maker: CocoMaker, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(6):
        maker.add("dog")
    for number in range(6):
        maker.add("cat")
        spoil_missing(maker, 7 + number) if number < 3 else None
    spoil_truncated(maker, 1)
    data = Coco(maker.write())
    split = data.split(named(data, "dog"), locate=2, target=3, retention=3, seed=0)
    assert split.skipped["unreadable_image"] == 1
    assert 1 <= split.skipped["missing_image"] <= 3
    assert sum(record.levelno == logging.WARNING and "skipped" in record.message for record in caplog.records) == 2


def test_a_region_without_a_pixel_is_left_out_and_spoils_the_sample_of_its_own_concept(maker: CocoMaker) -> None:
    speck = [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]
    maker.add("dog", ("cat", speck))
    maker.add(("dog", speck))
    data = Coco(maker.write(), min_area=0.0)
    (sample,) = data.samples("dog")
    assert (sample.id, list(sample.regions), sample.objects) == ("1", ["dog"], {"dog", "cat"})


def test_gray_cmyk_transparent_and_turned_pictures_are_samples_like_others(maker: CocoMaker) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    maker.add("dog", image=picture(1, mode="L"))
    maker.add("dog", image=picture(2, mode="RGBA"))
    maker.add("dog", image=picture(3, mode="CMYK"), file_name="3.jpg")
    maker.add("dog", image=picture(4, (30, 40)))
    picture(4, (40, 30)).save(maker.pictures / f"{4:012}.png", exif=turned)
    found = {one.id: one for one in Coco(maker.write()).samples("dog")}
    assert {one.image.mode for one in found.values()} == {"RGB"}
    assert sorted((number, one.image.size) for number, one in found.items()) == [
        ("1", (40, 30)), ("2", (40, 30)), ("3", (40, 30)), ("4", (30, 40)),
    ]  # fmt: skip
    assert all(one.region(Concept("dog")).shape == one.image.size[::-1] for one in found.values())


def test_a_file_name_that_is_not_utf8_is_found(maker: CocoMaker) -> None:
    maker.add("dog", file_name=os.fsdecode(b"caf\xe9.png"))
    folder = maker.write()
    assert [one.id for one in Coco(folder).samples("dog")] == ["1"]
    path = Path(folder, "annotations/instances_val2017.json")
    path.write_bytes(path.read_bytes().replace(b"\\udce9", b"\xe9"))
    assert [one.id for one in Coco(folder).samples("dog")] == ["1"]


def test_annotations_without_an_image_are_counted_and_left_out(
    maker: CocoMaker, caplog: pytest.LogCaptureFixture
) -> None:
    maker.add("dog")
    maker.annotate(77, "dog", [rectangle(1, 1, 5, 5)])
    data = Coco(maker.write())
    assert [record.objects for record in data.data_set.records] == [{"dog"}]
    assert "1 of 2 annotations belong to no image" in caplog.text


def test_boxes_stand_in_for_missing_outlines_if_asked(maker: CocoMaker) -> None:
    maker.add(("dog", []))
    folder = maker.write()
    assert list(Coco(folder, boxes=False).samples("dog")) == []
    maker.add()
    maker.annotate(2, "dog", [], bbox=["a", 1, 2, 3])
    maker.write()
    (sample,) = Coco(folder, boxes=True).samples("dog")
    assert np.array_equal(sample.region(Concept("dog")), mask_of(4, 4, 12, 10))


@pytest.mark.parametrize("missing", [[], None, [[]], {}, "left out"], ids=str)
def test_a_category_of_boxes_alone_has_them_for_regions(
    maker: CocoMaker, caplog: pytest.LogCaptureFixture, missing: Any
) -> None:
    # facebookresearch/detectron2#1422
    for _ in range(4):
        maker.add("cat", ("dog", missing))
    if missing == "left out":
        for one in maker.annotations:
            one.pop("segmentation") if one["segmentation"] == missing else None
    data = Coco(maker.write())
    samples = list(data.samples("dog"))
    assert len(samples) == 4
    assert all(np.array_equal(one.region(Concept("dog")), mask_of(4, 4, 12, 10)) for one in samples)
    assert "4 of 8 instances are of 1 categories without any outline: their boxes are the regions" in caplog.text


def test_an_outline_that_one_instance_lacks_names_the_setting_that_takes_its_box(maker: CocoMaker) -> None:
    maker.add("dog")
    maker.add(("dog", []))
    folder = maker.write()
    data = Coco(folder)
    with pytest.raises(ValueError, match=r"the outline is empty: .*`data\.boxes=true` takes its box"):
        data.split(named(data, "dog"), locate=1, target=1, retention=0, seed=0)
    assert len(list(Coco(folder, boxes=True).samples("dog"))) == 2


def test_large_pictures_are_shrunk_with_their_regions(maker: CocoMaker) -> None:
    maker.add(("dog", [rectangle(80, 40, 160, 80)]), image=picture(1, (400, 200)))
    (sample,) = Coco(maker.write(), max_side=100).samples("dog")
    assert sample.image.size == (100, 50)
    assert np.array_equal(sample.region(Concept("dog")), mask_of(20, 10, 40, 20, (100, 50)))


# A bad data set is an error


def test_no_picture_with_the_concept_is_an_error_that_says_what_there_is(world: Coco) -> None:
    with pytest.raises(ValueError, match="no picture shows `bus`; most often they show dog, cat, car"):
        world.split(named(world, "bus"), **FEW)


def test_too_few_pictures_are_an_error_with_the_numbers(world: Coco) -> None:
    dog = named(world, "dog")
    with pytest.raises(ValueError, match=r"25 pictures of `dog` asked for \(5 to locate, 20 as target\), 20 show it, "):
        world.split(dog, locate=5, target=20, retention=0, seed=0)
    picky = Coco(world.folder, min_area=0.5)
    with pytest.raises(
        ValueError, match="0 and 0 of them are good; 20 break `min_area`; ask for fewer, or widen the rules"
    ):
        picky.split(dog, **FEW)
    with pytest.raises(
        ValueError, match=r"`evaluate.retention=15` .* 15 near and 16 far; ask for `retention` 15 or less"
    ):
        world.split(dog, locate=1, target=1, retention=16, seed=0)


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ({"locate": 24, "target": 60, "retention": 60}, "evaluate.locate=6 evaluate.target=14 evaluate.retention=15"),
        ({"locate": 15, "target": 15, "retention": 5}, "evaluate.locate=10 evaluate.target=10"),
        ({"locate": 2, "target": 60, "retention": 40}, "evaluate.target=18 evaluate.retention=15"),
    ],
)
def test_the_keys_of_a_refusal_are_enough_and_give_what_is_taken_without_asking(
    world: Coco, caplog: pytest.LogCaptureFixture, asked: dict[str, int], keys: str
) -> None:
    dog = named(world, "dog")
    with pytest.raises(ValueError, match=f"^too few pictures: `{re.escape(keys)}` asks for what there is; "):
        world.split(dog, **asked, seed=3)
    fewer = asked | {
        one.removeprefix("evaluate.").partition("=")[0]: int(one.partition("=")[2]) for one in keys.split()
    }
    exact = world.split(dog, **fewer, seed=3)
    caplog.clear()
    capped = world.split_up_to(dog, **asked, seed=3)
    assert ids(exact) == [*ids(capped)[: len(exact.locate + exact.target)], *ids(exact)[-2 * fewer["retention"] :]]
    assert {one.id for one in exact.near} <= {one.id for one in capped.near}
    (remark,) = caplog.messages
    assert f"{len(capped.target)} (of {asked['target']}) as target" in remark
    assert f"the intervals are wider for it (`evaluate.strict=true` refuses, `{keys}` asks for what there is)" in remark


def test_near_and_far_are_each_as_many_as_there_are(world: Coco) -> None:
    split = world.split_up_to(named(world, "dog"), locate=2, target=3, retention=60, seed=0)
    assert (len(split.near), len(split.far)) == (15, 25)


def test_where_enough_is_there_a_split_up_to_it_is_the_split(world: Coco, caplog: pytest.LogCaptureFixture) -> None:
    dog = named(world, "dog")
    assert ids(world.split_up_to(dog, **FEW)) == ids(world.split(dog, **FEW))
    assert caplog.messages == []


@pytest.mark.parametrize(("dogs", "enough"), [(3, False), (4, True)])
def test_too_few_to_measure_anything_is_refused_with_what_is_needed(maker: CocoMaker, dogs: int, enough: bool) -> None:
    for _ in range(dogs):
        maker.add("dog")
    data = Coco(maker.write())
    if enough:
        split = data.split_up_to(named(data, "dog"), locate=24, target=60, retention=60, seed=0)
        assert [len(part) for part in (split.locate, split.target, split.near, split.far)] == [2, 2, 0, 0]
        return
    with pytest.raises(ValueError, match=r"at least 4 that can be used are needed, 2 to locate with and 2 as target$"):
        data.split_up_to(named(data, "dog"), locate=24, target=60, retention=0, seed=0)


@pytest.mark.parametrize(
    ("wrong", "key"), [({"locate": 0}, "locate"), ({"target": 0}, "target"), ({"seed": -1}, "seed")]
)
def test_numbers_out_of_range_are_refused(world: Coco, wrong: dict, key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}.* 0|{key}.* 1"):
        world.split(named(world, "dog"), **FEW | wrong)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"min_area": 0.5, "max_area": 0.2}, ValueError, "0 <= min_area <= max_area <= 1; got 0.5 and 0.2"),
        ({"max_area": 50}, ValueError, "got 0.02 and 50"),
        ({"max_others": -1}, ValueError, "`max_others` is a number of concepts, 0 or more, or null; got -1"),
        ({"without": "cat"}, TypeError, "`without` is a list of concepts, got 'cat'; write .cat."),
        ({"boxes": "xxyy"}, ValueError, "`boxes` is true, false, null or one of xywh, .*; got 'xxyy'"),
        ({"images": "{part}"}, ValueError, "`images` may hold `{subset}` and no other braces, got '{part}'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(options: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        Coco("nowhere", **options)


def test_a_concept_to_do_without_has_to_exist(world: Coco) -> None:
    data = Coco(world.folder, without=["catt"])
    with pytest.raises(LookupError, match="no concept `catt` in the data; nearest: cat"):
        data.split(named(data, "dog"), **FEW)


def change(maker: CocoMaker, edit: Any) -> Coco:
    maker.add("dog")
    maker.add("cat")
    path = Path(maker.write(), "annotations/instances_val2017.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return Coco(str(maker.folder))


def test_two_pictures_of_one_bare_name_are_never_one_file(maker: CocoMaker) -> None:
    maker.add("dog", file_name="0.png")
    maker.add(file_name="1.png")
    for one, name in zip(maker.images, ("cam1/0.png", "cam2\\0.PNG"), strict=True):
        one["file_name"] = name
    data_set = Coco(maker.write()).data_set
    for record in data_set.records:
        with pytest.raises(SampleError) as caught:
            data_set.sample(record)
        assert caught.value.reason == "missing_image"
    maker.images[1]["file_name"] = "cam2/1.png"
    data_set = Coco(maker.write()).data_set
    assert [np.array_equal(data_set.sample(one).image, picture(int(one.id))) for one in data_set.records] == [True] * 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["images"][1].update(id=1), "1 ids are used more than once in `images` of .*, the first 1"),
        (lambda c: c["categories"][1].update(id=1), "1 ids are used more than once in `categories`"),
        (lambda c: c["categories"][1].update(name="dog"), "more than one is called `dog`"),
        (
            lambda c: c["images"][1].update(file_name="000000000001.png"),
            "listed under more than one image id .* `0*1.png`",
        ),
        (lambda c: c["images"][1].pop("file_name"), "image 2 in .* has no `file_name`"),
        (lambda c: c["images"][1].pop("id"), "an entry of `images` in .* has no `id`"),
        (lambda c: c["annotations"][0].update(category_id=99), "image 1 has category 99, which `categories` does not"),
        (lambda c: [one.update(image_id=50) for one in c["annotations"]], "none of the 2 annotations belongs to one"),
        (lambda c: c.pop("images"), "no annotation in COCO's format: it has no list of objects `images`"),
        (
            lambda c: c["images"][1].update(width="wide"),
            "image 2: `width` is a number of pixels, got 'wide'",
        ),
        (lambda c: c["images"][1].update(height=[30]), r"image 2: `height` is a number of pixels, got \[30\]"),
        (lambda c: c["images"][1].update(width=math.inf), "image 2: `width` is a number of pixels, got inf"),
        (
            lambda c: c["categories"][1].update(supercategory=["pet"]),
            r"category 2 in .*: `supercategory` is a text, got \['pet'\]",
        ),
        (lambda c: c["categories"][0].update(name=["dog"]), r"category 1 in .*: `name` is a text, got \['dog'\]"),
        (lambda c: c.update(annotations=["x"]), "it has no list of objects `annotations`"),
    ],
)
def test_an_annotation_that_contradicts_itself_is_an_error(maker: CocoMaker, edit: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(maker, edit).concepts  # noqa: B018


@pytest.mark.parametrize(
    ("sides", "size"),
    [
        (("40.0", "30"), (40, 30)),
        ((40.0, " 30.0 "), (40, 30)),
        ((math.nan, 30), None),
        (("nan", "30"), None),
        ((None, ""), None),
        ((0, 0), None),
    ],
)
def test_a_size_may_be_a_text_or_missing(maker: CocoMaker, sides: tuple[Any, Any], size: tuple[int, int]) -> None:
    data = change(maker, lambda c: [one.update(width=sides[0], height=sides[1]) for one in c["images"]])
    assert [record.size for record in data.data_set.records] == [size] * 2
    assert next(data.samples("dog")).image.size == (40, 30)


@pytest.mark.parametrize(
    ("written", "crowds"),
    [(1, True), ("1", True), (True, True), (1.0, True), *((no, False) for no in (0, "0", 0.0, "0.0", False, "false"))],
)
def test_a_crowd_may_be_marked_by_a_text(maker: CocoMaker, written: Any, crowds: bool) -> None:
    maker.add("dog")
    maker.annotate(maker.add(), "dog", [rectangle(4, 4, 12, 10)], iscrowd=written)
    assert ["dog" in record.crowds for record in Coco(maker.write()).data_set.records] == [False, crowds]


def test_a_truncated_annotation_and_a_missing_folder_are_named(world: Coco) -> None:
    path = Path(world.folder, "annotations/instances_val2017.json")
    content = path.read_text()
    path.write_text(content[:-100])
    with pytest.raises(ValueError, match=r"instances_val2017.json` is no JSON, or cut off"):
        world.concepts  # noqa: B018
    path.write_text(content)
    with pytest.raises(FileNotFoundError, match=r"no `.*/train`; `folder` needs .* and the pictures in `train`"):
        Coco(world.folder, images="train").concepts  # noqa: B018
