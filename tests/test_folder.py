"""The user's own pictures: a list of lines, masks, boxes and polygons, and what is wrong with a bad list."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kedit.data.folder import Folder
from kedit.data.pictures import SampleError
from kedit.samples import Concept, find_concept
from tests.coco_maker import SIZE, mask_of, picture, rectangle

DOG = Concept("dog")


def listed(folder: Path, *lines: dict[str, Any] | str, index: str = "pictures.jsonl") -> str:
    """Write a list, and a picture for each line that names one which is not there yet."""
    for number, line in enumerate(lines):
        name = line.get("image") if isinstance(line, dict) else None
        if isinstance(name, str) and not (folder / name).exists():
            picture(number).save(folder / name)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / index).write_text("\n".join(texts) + "\n", errors="surrogateescape")
    return str(folder)


def only(data: Folder, name: str = "dog") -> Any:
    (sample,) = data.samples(name)
    return sample


@pytest.mark.parametrize(
    "place",
    [
        {"box": [3, 4, 10, 9]},
        {"polygon": rectangle(3, 4, 10, 9)},
        {"polygon": [rectangle(3, 4, 5, 9), rectangle(8, 4, 5, 9)]},
        {"mask": "dog mask.png"},
    ],
    ids=str,
)
def test_a_place_is_a_box_a_polygon_or_a_mask(tmp_path: Path, place: dict[str, Any]) -> None:
    Image.fromarray(mask_of(3, 4, 10, 9)).save(tmp_path / "dog mask.png")
    line = {"image": "1.png", "captions": ["a dog", "an animal"], "objects": [{"name": "dog", **place}, "sofa"]}
    sample = only(Folder(listed(tmp_path, line)))
    assert (sample.id, sample.references, sample.objects) == ("1.png", ("a dog", "an animal"), {"dog", "sofa"})
    assert np.array_equal(sample.image, picture(0))
    assert list(sample.regions) == ["dog"]
    assert np.array_equal(sample.region(DOG), mask_of(3, 4, 10, 9))


def cut_out(mode: str) -> Image.Image:
    """Return a picture that is the same gray everywhere, and transparent outside the dog."""
    channels = [Image.new("L", SIZE, 180)] * (len(mode) - 1)
    return Image.merge(mode, [*channels, Image.fromarray(mask_of(3, 4, 10, 9)).convert("L")])


@pytest.mark.parametrize(
    ("name", "mask", "how"),
    [
        # Mikubill/sd-webui-controlnet#3079, AUTOMATIC1111/stable-diffusion-webui#12898
        ("rgba.png", cut_out("RGBA"), {}),
        ("la.png", cut_out("LA"), {}),
        ("opaque.png", Image.fromarray(mask_of(3, 4, 10, 9)).convert("RGBA"), {}),
        ("ones.png", Image.fromarray(mask_of(3, 4, 10, 9).astype(np.uint8)), {}),
        ("lossy.jpg", Image.fromarray(mask_of(3, 4, 10, 9)).convert("L"), {"quality": 75}),
        ("lossy.webp", Image.fromarray(mask_of(3, 4, 10, 9)).convert("L"), {"quality": 60}),
    ],
)
def test_a_mask_is_what_is_not_transparent_or_not_black_but_for_noise(
    tmp_path: Path, name: str, mask: Image.Image, how: dict[str, Any]
) -> None:
    mask.save(tmp_path / name, **how)
    sample = only(Folder(listed(tmp_path, {"image": "1.png", "objects": [{"name": "dog", "mask": name}]})))
    assert np.array_equal(sample.region(DOG), mask_of(3, 4, 10, 9))


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    # langchain-ai/langchain-community#138
    index = Path(listed(tmp_path, {"image": "1.png", "objects": ["dog"], "caption": "a dog"}), "pictures.jsonl")
    index.write_text("\ufeff" + index.read_text(encoding="utf-8"), encoding="utf-8")
    assert next(iter(Folder(str(tmp_path)).data_set.records)).references == ("a dog",)


def test_several_instances_are_one_region_and_a_single_caption_may_be_a_text(tmp_path: Path) -> None:
    dogs = [
        {"name": "dog", "box": [1, 1, 10, 10]},
        {"name": "dog", "box": [20, 1, 10, 10]},
        {"name": "dog", "box": None},
    ]
    sample = only(Folder(listed(tmp_path, {"image": "1.png", "id": 7, "caption": "dogs", "objects": dogs})))
    assert (sample.id, sample.references) == ("7", ("dogs",))
    assert np.array_equal(sample.region(DOG), mask_of(1, 1, 10, 10) | mask_of(20, 1, 10, 10))


@pytest.mark.parametrize("missing", ["", " ", None, math.nan])
def test_a_caption_that_is_empty_null_or_nan_is_no_reference(tmp_path: Path, missing: Any) -> None:
    lines = [{"image": "1.png", "caption": missing}, {"image": "2.png", "captions": ["a dog", missing, "it"]}]
    data = Folder(listed(tmp_path, *lines, {"image": "3.png", "captions": missing}))
    assert [record.references for record in data.data_set.records] == [(), ("a dog", "it"), ()]


def test_a_line_needs_nothing_but_its_picture(tmp_path: Path) -> None:
    data = Folder(listed(tmp_path, {"image": "1.png"}, "", {"file_name": "1.jpg"}))
    assert data.concepts == ()
    assert [record.id for record in data.data_set.records] == ["1.png", "1.jpg"]


def test_concepts_have_the_words_and_the_category_that_the_user_gives(tmp_path: Path) -> None:
    described = {"name": "dog", "words": ["dog", "puppy"], "category": "animal", "unless": "hot dog"}
    listed(tmp_path, described, {"name": "fox"}, index="concepts.jsonl")
    data = Folder(listed(tmp_path, {"image": "1.png", "objects": ["dog", "sofa"]}))
    assert data.concepts == (Concept("dog", ("dog", "puppy"), "animal", ("hot dog",)), Concept("fox"), Concept("sofa"))


def test_a_split_is_disjoint_and_knows_near_from_far(tmp_path: Path) -> None:
    listed(tmp_path, *({"name": name, "category": "animal"} for name in ("dog", "cat")), index="concepts.jsonl")
    names = ["dog"] * 5 + ["cat"] * 3 + ["sofa"] * 3
    lines = [{"image": f"{n}.png", "objects": [{"name": name, "box": [1, 1, 9, 9]}]} for n, name in enumerate(names)]
    data = Folder(listed(tmp_path, *lines))
    split = data.split(find_concept(data.concepts, "dog"), locate=2, target=3, retention=3, seed=0)
    parts = [[next(iter(one.objects)) for one in part] for part in (split.locate, split.target, split.near, split.far)]
    assert parts == [["dog"] * 2, ["dog"] * 3, ["cat"] * 3, ["sofa"] * 3]


def test_pictures_to_locate_with_have_a_region_where_any_has_one(tmp_path: Path) -> None:
    places = [{"name": "dog", "box": [1, 1, 9, 9]} if number % 3 == 0 else "dog" for number in range(9)]
    lines = [{"image": f"{number}.png", "objects": [place]} for number, place in enumerate(places)]
    data = Folder(listed(tmp_path, *lines))
    split = data.split(DOG, locate=3, target=6, retention=0, seed=0)
    assert {one.id for one in split.locate} == {"0.png", "3.png", "6.png"}
    with pytest.raises(
        ValueError, match="6 have no region of it, and locating takes those that have one; ask for fewer"
    ):
        data.split(DOG, locate=4, target=2, retention=0, seed=0)
    bare = Folder(listed(tmp_path, *({"image": f"{number}.png", "objects": ["dog"]} for number in range(9))))
    assert len(bare.split(DOG, locate=4, target=5, retention=0, seed=0).locate) == 4


def test_pictures_are_turned_upright_and_places_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(0, (40, 30)).save(tmp_path / "1.png", exif=turned)
    sample = only(Folder(listed(tmp_path, {"image": "1.png", "objects": [{"name": "dog", "box": [0, 0, 30, 8]}]})))
    assert sample.image.size == (30, 40)
    assert np.array_equal(sample.region(DOG), mask_of(0, 0, 30, 8, (30, 40)))


def test_large_pictures_are_shrunk_with_their_regions(tmp_path: Path) -> None:
    picture(0, (2048, 1024)).save(tmp_path / "1.png")
    folder = listed(tmp_path, {"image": "1.png", "objects": [{"name": "dog", "box": [512, 256, 1024, 512]}]})
    sample = only(Folder(folder))
    assert sample.image.size == (1024, 512)
    assert np.array_equal(sample.region(DOG), mask_of(256, 128, 512, 256, (1024, 512)))
    assert only(Folder(folder, max_side=None)).image.size == (2048, 1024)


def test_a_picture_that_is_too_narrow_once_it_is_shrunk_is_skipped(tmp_path: Path) -> None:
    picture(0, (20000, 8)).save(tmp_path / "long.png")
    lines = [{"image": name, "objects": ["dog"]} for name in ("long.png", *(f"{number}.png" for number in range(3)))]
    split = Folder(listed(tmp_path, *lines)).split(DOG, locate=1, target=2, retention=0, seed=0)
    assert split.skipped == {"too_small": 1}


@pytest.mark.parametrize(
    ("name", "there"), [("B.Jpg", "B.jpg"), ("B.Jpg", "B.JPG"), ("b.jpg", "b.JPG"), ("b.JPG", "b.jpg")]
)
def test_the_case_of_a_suffix_tells_no_pictures_apart(tmp_path: Path, name: str, there: str) -> None:
    picture(0).save(tmp_path / there, "PNG")
    (tmp_path / "pictures.jsonl").write_text(json.dumps({"image": name, "objects": ["dog"]}))
    assert np.array_equal(only(Folder(str(tmp_path))).image, picture(0))


def test_a_picture_name_that_is_not_utf8_is_found_and_has_an_id_that_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    picture(0).save(tmp_path / name)
    for line in (json.dumps({"image": name, "objects": ["dog"]}), f'{{"image": "{name}", "objects": ["dog"]}}'):
        sample = only(Folder(listed(tmp_path, line)))
        assert sample.id == "caf\\udce9.png"
        assert np.array_equal(sample.image, picture(0))


@pytest.mark.parametrize(
    ("dog", "reason"),
    [
        ({"box": [1, 1, 0, 5]}, "bad_region: `dog`: a box is x, y, width, height"),
        ({"box": [90, 90, 5, 5]}, "bad_region: `dog`: no pixel lies in its region"),
        ({"polygon": [1, 2, 3, 4]}, "bad_region: `dog`: a polygon is three or more points"),
        ({"polygon": []}, "bad_region: `dog`: a polygon is three or more points"),
        ({"mask": "nowhere.png"}, "bad_region: `dog`: cannot read the mask"),
        ({"mask": "other.png"}, "bad_region: `dog`: the mask .* is 8 x 9 pixels, the picture 40 x 30"),
        ({"mask": "black.png"}, "bad_region: `dog`: no pixel lies in its region"),
    ],
)
def test_a_bad_place_skips_the_picture_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dog: dict[str, Any], reason: str
) -> None:
    Image.new("L", (8, 9), 255).save(tmp_path / "other.png")
    Image.new("L", (40, 30)).save(tmp_path / "black.png")
    fine = [{"image": f"{number}.png", "objects": [{"name": "dog", "box": [1, 1, 9, 9]}]} for number in range(4)]
    data = Folder(listed(tmp_path, {"image": "bad.png", "objects": [{"name": "dog", **dog}]}, *fine))
    split = data.split(DOG, locate=3, target=1, retention=0, seed=0)
    assert split.skipped == {"bad_region": 1}
    kind, _, detail = reason.partition(": ")
    assert caplog.records[-1].message.startswith(f"skipped 1 sample ({kind}), the first `bad.png`: ")
    with pytest.raises(
        ValueError, match=f"4 and 0 of them are good; 1 cannot be used .{kind}, the first `bad.png`: {detail}"
    ):
        data.split(DOG, locate=4, target=1, retention=0, seed=0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "1.png"', r"pictures.jsonl`, line 2: no JSON \(Expecting"),
        ("[1]", r"line 2: a JSON object is expected, got \[1\]"),
        ({"picture": "1.png"}, "line 2: `image` is a text, got None"),
        ({"image": 5}, "line 2: `image` is a text, got 5"),
        ({"image": "0.png"}, "line 2: `0.png` is also in .*, line 1; list each picture once"),
        ({"image": "1.png", "captions": [1]}, r"line 2: `captions` is a text or a list of texts, got \[1\]"),
        ({"image": "1.png", "objects": "dog"}, "line 2: `objects` is a list, got 'dog'"),
        ({"image": "1.png", "objects": [{"box": [1, 2, 3, 4]}]}, "line 2: `name` is a text, got None"),
        (
            {"image": "1.png", "objects": [{"name": "dog", "box": [1, 2]}]},
            r"`box` is \[x, y, width, height\] .* got \[1, 2\]",
        ),
        (
            {"image": "1.png", "objects": [{"name": "dog", "box": [1, 2, 3, 4], "mask": "m"}]},
            "`dog` has mask and box; give one",
        ),
        ({"image": "1.png", "id": "0.png"}, "each picture needs a name of its own; more than one is called `0.png`"),
    ],
)
def test_a_list_that_cannot_be_understood_is_an_error_that_names_the_line(
    tmp_path: Path, line: dict[str, Any] | str, message: str
) -> None:
    data = Folder(listed(tmp_path, {"image": "0.png"}, line))
    with pytest.raises(ValueError, match=message):
        data.concepts  # noqa: B018


def test_links_to_one_copy_of_equal_pictures_are_pictures_of_their_own(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "blob.png")
    for name in ("a.png", "b.png"):
        (tmp_path / name).symlink_to("blob.png")
    (tmp_path / "pictures.jsonl").write_text('{"image": "a.png"}\n{"image": "b.png"}\n')
    assert len(Folder(str(tmp_path)).data_set.records) == 2


@pytest.mark.parametrize("name", ["./a.png", "deep/../a.png", "deep\\..\\a.png", "a.PNG", "{folder}/a.png"])
def test_a_picture_is_listed_once_however_its_path_is_spelt(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    picture(0).save(tmp_path / "a.png")
    lines = [{"image": one} for one in ("a.png", name.format(folder=tmp_path))]
    (tmp_path / "pictures.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(ValueError, match=r"line 2: `.*` is also in .*, line 1; list each picture once"):
        Folder(str(tmp_path)).concepts  # noqa: B018


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_has_is_skipped_as_a_missing_picture_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "pictures.jsonl").write_text(json.dumps({"image": name}) + "\n")
    data_set = Folder(str(tmp_path)).data_set
    with pytest.raises(SampleError):
        data_set.sample(data_set.records[0])


def test_a_folder_without_a_list_says_what_to_write(tmp_path: Path) -> None:
    data = Folder(str(tmp_path / "nowhere"))
    with pytest.raises(
        FileNotFoundError, match=r"no list of pictures `.*nowhere/pictures.jsonl`; write one JSON object"
    ):
        data.concepts  # noqa: B018
    with pytest.raises(FileNotFoundError, match=r"no file `.*asked\.jsonl`"):
        Folder(str(tmp_path), questions_file="asked.jsonl").questions  # noqa: B018


def test_a_concept_described_twice_is_an_error(tmp_path: Path) -> None:
    listed(tmp_path, {"name": "dog"}, {"name": "dog"}, index="concepts.jsonl")
    with pytest.raises(ValueError, match="line 2: the concept `dog` is there twice"):
        Folder(listed(tmp_path, {"image": "1.png"})).concepts  # noqa: B018


def test_white_space_around_a_name_is_none_of_it(tmp_path: Path) -> None:
    listed(tmp_path, {"name": " dog", "words": ["puppy"]}, index="concepts.jsonl")
    places = [{"name": "dog ", "box": [3, 4, 10, 9]}, "\tdog", "1-1", "11"]
    data = Folder(listed(tmp_path, {"image": "1.png", "objects": places}))
    assert data.concepts == (Concept("1-1"), Concept("11"), Concept("dog", ("puppy",)))
    assert np.array_equal(only(data).region(DOG), mask_of(3, 4, 10, 9))


@pytest.mark.parametrize(
    ("one", "other"), [("Dog", "dog"), ("hot dog", "hot_dog"), ("Hot-Dog", "hotdog"), ("v 1", "v1")]
)
def test_one_thing_with_two_names_is_refused_with_both(tmp_path: Path, one: str, other: str) -> None:
    message = f"`{one}` and `{other}` are two names that differ in case, white space, `_` or `-` alone"
    data = Folder(listed(tmp_path, {"image": "1.png", "objects": [other]}, {"image": "2.png", "objects": [one]}))
    with pytest.raises(ValueError, match=message):
        data.concepts  # noqa: B018
    listed(tmp_path, {"name": one}, index="concepts.jsonl")
    with pytest.raises(ValueError, match=message):
        Folder(listed(tmp_path, {"image": "1.png", "objects": [other]})).concepts  # noqa: B018


def test_a_folder_of_hugging_face_datasets_is_the_same_data(tmp_path: Path) -> None:
    import datasets

    rows = {
        "image": [picture(0), picture(1)],
        "captions": [["a dog", "an animal"], ["grass"]],
        "objects": [[{"name": "dog", "box": [3.0, 4.0, 10.0, 9.0]}], []],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    data = Folder(str(tmp_path / "saved"))
    sample = only(data)
    assert (sample.id, sample.references) == ("0", ("a dog", "an animal"))
    assert np.array_equal(sample.image, picture(0))
    assert np.array_equal(sample.region(DOG), mask_of(3, 4, 10, 9))
    assert np.array_equal(data.data_set.sample(data.data_set.records[1]).image, picture(1))


def test_a_saved_folder_that_is_none_of_pictures_says_so(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"text": ["a"]})
    table.save_to_disk(tmp_path / "text")
    with pytest.raises(ValueError, match="has no column `image`; its columns: text"):
        Folder(str(tmp_path / "text")).concepts  # noqa: B018
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "parts")
    with pytest.raises(ValueError, match="holds the parts train, test; give the folder of one of them"):
        Folder(str(tmp_path / "parts")).concepts  # noqa: B018
