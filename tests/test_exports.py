"""Annotations as other tools export them: each read right, or told of in one line with what would help."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kedit.data.coco import Coco
from kedit.data.folder import Folder
from kedit.data.masks import BOXES, Box
from kedit.data.pictures import frame
from kedit.samples import Concept, find_concept
from tests.coco_maker import SIZE, CocoMaker, mask_of, picture, rectangle, rle

DOG = Concept("dog")
TURNED = 0x0112


@pytest.fixture
def maker(tmp_path: Path) -> CocoMaker:
    return CocoMaker(tmp_path / "coco")


def rewritten(maker: CocoMaker, edit: Any) -> Coco:
    """Return the data set with its annotation file changed by `edit`."""
    path = Path(maker.write(), "annotations/instances_val2017.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return Coco(str(maker.folder), min_area=0.0, max_area=1.0)


def regions(data: Coco) -> list[np.ndarray]:
    return [sample.region(DOG) for sample in data.samples("dog")]


# Roots


def test_a_root_that_no_annotation_uses_is_no_concept(maker: CocoMaker) -> None:
    # roboflow/rf-detr#1303: category 0, whose name may be a class's as well
    for _ in range(6):
        maker.add("dog")

    def with_root(name: str) -> Coco:
        def edit(content: dict[str, Any]) -> None:
            for one in content["categories"]:
                one["supercategory"] = name
            content["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})

        return rewritten(maker, edit)

    for name in ("dog", "animals-xyz"):
        data = with_root(name)
        assert [one.name for one in data.concepts] == list(maker.categories)
        assert find_concept(data.concepts, "dog").category == name
        assert len(regions(data)) == 6


def test_categories_of_one_name_that_both_have_annotations_are_named_with_the_file(maker: CocoMaker) -> None:
    maker.add("dog", "cat")
    data = rewritten(maker, lambda content: content["categories"][1].update(name="dog"))
    with pytest.raises(ValueError, match=r"more than one is called `dog` in `.*val2017.json` \(ids 1, 2\); rename one"):
        data.concepts  # noqa: B018


# Ids, names and paths


def test_ids_may_be_numbers_texts_or_what_a_table_makes_of_them(maker: CocoMaker) -> None:
    maker.add("dog", captions=["a dog"])
    maker.add("dog")

    def mix(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            one.update(image_id=str(one["image_id"]), category_id=float(one["category_id"]), id=1)

    data = rewritten(maker, mix)
    assert {(one.id, one.references) for one in data.samples("dog")} == {("1", ("a dog",)), ("2", ())}


def test_ids_count_from_zero_and_those_of_annotations_may_repeat(maker: CocoMaker) -> None:
    maker.add("dog")

    def shift(content: dict[str, Any]) -> None:
        content["categories"] = [one | {"id": one["id"] - 1} for one in content["categories"]]
        content["images"][0]["id"] = 0
        content["annotations"] = [content["annotations"][0] | {"id": 7, "image_id": 0, "category_id": 0}] * 2

    (region,) = regions(rewritten(maker, shift))
    assert np.array_equal(region, mask_of(4, 4, 12, 10))


@pytest.mark.parametrize("name", ["images\\1.png", "val2017/1.png", "upload/4/1.png", "1.PNG"])
def test_a_picture_is_found_under_the_path_that_a_tool_gives_it(maker: CocoMaker, name: str) -> None:
    maker.add("dog", file_name="1.png")
    data = rewritten(maker, lambda content: content["images"][0].update(file_name=name))
    (sample,) = data.samples("dog")
    assert np.array_equal(sample.image, picture(1))


def test_a_list_may_name_files_as_windows_does(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    picture(0).save(tmp_path / "sub" / "1.png")
    mask_name = "sub\\m.PNG"
    Image.fromarray(mask_of(3, 4, 10, 9)).save(tmp_path / "sub" / "m.png")
    line = {"image": "sub\\1.PNG", "objects": [{"name": "dog", "mask": mask_name}]}
    (tmp_path / "pictures.jsonl").write_text(json.dumps(line))
    (sample,) = Folder(str(tmp_path)).samples("dog")
    assert np.array_equal(sample.region(DOG), mask_of(3, 4, 10, 9))


def test_a_link_is_followed_and_one_into_the_void_is_missing(maker: CocoMaker) -> None:
    for _ in range(2):
        maker.add("dog")
    data = rewritten(maker, lambda content: None)
    first, second = (maker.pictures / f"{number:012}.png" for number in (1, 2))
    first.rename(maker.folder / "elsewhere.png")
    first.symlink_to(maker.folder / "elsewhere.png")
    second.unlink()
    second.symlink_to(maker.folder / "void.png")
    assert [one.id for one in data.samples("dog")] == ["1"]
    with pytest.raises(ValueError, match=r"1 cannot be used .missing_image, the first `2`: there is no"):
        data.split(DOG, locate=1, target=1, retention=0, seed=0)


def test_a_moving_picture_is_its_first_frame(maker: CocoMaker) -> None:
    frames = [Image.new("RGB", SIZE, color) for color in ("red", "blue")]
    maker.add("dog", file_name="1.gif", image=frames[0])
    frames[0].save(maker.pictures / "1.gif", save_all=True, append_images=frames[1:])
    (sample,) = rewritten(maker, lambda content: None).samples("dog")
    assert sample.image.getpixel((0, 0)) == (255, 0, 0)


def test_a_polygon_without_a_list_around_it_is_one(maker: CocoMaker) -> None:
    maker.add(("dog", rectangle(4, 4, 12, 10)))  # VGG Image Annotator's export
    x, y, *rest = rectangle(4, 4, 12, 10)
    maker.add(("dog", [[x, y], rest[:2], rest[2:4], rest[4:]]))  # labelme's pairs
    assert all(np.array_equal(one, mask_of(4, 4, 12, 10)) for one in regions(rewritten(maker, lambda content: None)))


def test_a_category_of_crowds_alone_is_one_of_single_things(maker: CocoMaker, caplog: pytest.LogCaptureFixture) -> None:
    # CVAT marks every mask so
    for _ in range(3):
        maker.annotate(maker.add("cat"), "dog", rle(mask_of(4, 4, 12, 10)), iscrowd=1)
    assert len(regions(rewritten(maker, lambda content: None))) == 3
    assert "all 3 instances of 1 categories are marked as crowds" in caplog.text
    maker.add("dog")
    assert len(regions(rewritten(maker, lambda content: None))) == 1


# Turned pictures


def phone(maker: CocoMaker, number: int, place: tuple[int, int, int, int], orientation: int = 6) -> None:
    """Add a picture of 48 x 64 that lies on its side, with a red object at `place` of the upright one."""
    x, y, width, height = place
    upright = np.full((64, 48, 3), 210, np.uint8)
    upright[y : y + height, x : x + width] = (220, 0, 0)
    stored = Image.fromarray(np.rot90(upright, {6: 1, 3: 2, 1: 0}[orientation]).copy())
    maker.add(("dog", [rectangle(*place)]), image=stored, file_name=f"{number}.png")
    exif = stored.getexif()
    exif[TURNED] = orientation
    stored.save(maker.pictures / f"{number}.png", exif=exif)


def is_on_the_object(data: Coco) -> list[bool]:
    return [
        np.array_equal(one.region(DOG), np.asarray(one.image)[..., 1] < 100)
        for one in sorted(data.samples("dog"), key=lambda one: one.id)
    ]


def test_coordinates_of_the_upright_picture_beside_the_size_as_it_lies(
    maker: CocoMaker, caplog: pytest.LogCaptureFixture
) -> None:
    # HumanSignal/label-studio#6608
    phone(maker, 1, (6, 44, 24, 16))
    phone(maker, 2, (6, 50, 20, 10))
    phone(maker, 3, (6, 4, 24, 16))  # inside both frames: the others decide
    phone(maker, 4, (6, 4, 24, 16), orientation=3)
    maker.images[3] |= {"width": 48, "height": 64}
    data = rewritten(maker, lambda content: None)
    assert is_on_the_object(data) == [True] * 4
    (message,) = caplog.messages
    assert message.startswith("2 pictures have coordinates beyond the size that the annotation names")
    assert "the first `1`: all pictures are read upright; `data.upright=false` reads them as they lie" in message


def test_where_nothing_says_what_the_annotators_saw_a_warning_counts_the_pictures(
    maker: CocoMaker, caplog: pytest.LogCaptureFixture
) -> None:
    phone(maker, 1, (6, 4, 24, 16))
    phone(maker, 2, (6, 4, 24, 16))
    folder = rewritten(maker, lambda content: None).folder
    data = Coco(folder)
    data.split(DOG, locate=1, target=1, retention=0, seed=0)
    (message,) = caplog.messages
    assert message.startswith("viewers turn 2 samples (EXIF)") and "set `data.upright=true`" in message
    caplog.clear()
    upright = Coco(folder, upright=True)
    upright.split(DOG, locate=1, target=1, retention=0, seed=0)
    assert is_on_the_object(upright) == [True, True]
    assert caplog.messages == []


def test_a_picture_of_a_third_size_is_refused_however_it_is_turned(maker: CocoMaker) -> None:
    phone(maker, 1, (6, 44, 24, 16))
    maker.images[0] |= {"width": 70, "height": 48}
    with pytest.raises(ValueError, match=r"wrong_size, the first `1`: the picture has .48, 64. pixels, annotated"):
        Coco(maker.write(), upright=True).split(DOG, locate=1, target=1, retention=0, seed=0)


def test_the_head_of_a_picture_says_how_it_lies(tmp_path: Path) -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[TURNED] = orientation
        picture(0).save(tmp_path / "1.png", exif=exif)
        head = frame(lambda: tmp_path / "1.png")
        assert head is not None
        assert (head.stored, head.is_turned) == (SIZE, orientation > 1)
        assert head.upright == (SIZE[::-1] if orientation > 4 else SIZE)
    assert frame(lambda: tmp_path / "nowhere.png") is None


# Boxes in other forms, and coordinates beyond the picture

CORNERS = {
    "xywh": (10, 6, 20, 12), "xyxy": (10, 6, 30, 18), "share": (0.25, 0.2, 0.5, 0.4),
    "share_xyxy": (0.25, 0.2, 0.75, 0.6), "yolo": (0.5, 0.4, 0.5, 0.4),
}  # fmt: skip
"""One box in a picture of 40 x 30, in each form."""


@pytest.mark.parametrize("form", BOXES)
def test_a_box_is_the_same_in_every_form(form: str) -> None:
    assert np.array_equal(Box(*CORNERS[form], form).draw(30, 40), mask_of(10, 6, 20, 12))


def own(folder: Path, places: list[tuple[float, ...]], **options: Any) -> Folder:
    """Return a folder of pictures with a box each."""
    lines = []
    for number, box in enumerate(places):
        picture(number).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "objects": [{"name": "dog", "box": list(box)}]}))
    (folder / "pictures.jsonl").write_text("\n".join(lines))
    return Folder(str(folder), **options)


@pytest.mark.parametrize("form", BOXES)
@pytest.mark.parametrize("kind", [Folder, Coco])
def test_boxes_that_look_like_another_form_are_told_of_in_one_line_with_the_option_that_reads_them(
    tmp_path: Path, maker: CocoMaker, caplog: pytest.LogCaptureFixture, form: str, kind: type
) -> None:
    boxes = [CORNERS[form], {"xyxy": (25, 16, 38, 28)}.get(form, CORNERS[form])]

    def data(**options: Any) -> Any:
        if kind is Folder:
            return own(tmp_path, boxes, **options)
        return Coco(coco, min_area=0.0, **options)

    for box in boxes:
        number = maker.add()
        maker.annotate(number, "dog", [], bbox=list(box))
    coco = maker.write()
    assert len(data(boxes=form).data_set.notes) == 0
    told = [note for note in data().data_set.notes if "without any outline" not in note]
    if form == "xywh":
        assert told == []
        return
    assert "`data.boxes=xyxy`" in told[0] if form == "xyxy" else "`data.boxes=share`" in told[0]
    assert len(told) == 1
    assert [message for message in caplog.messages if "without any outline" not in message] == told
    assert len(list(data(boxes=form).samples("dog"))) == 2


def test_coordinates_beyond_the_picture_are_cut_off_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = own(tmp_path, [(30, 20, 20, 20), (4, 4, 12, 10), (-9, 4, 12, 10), (30, 20, 10.5, 10.5)])
    assert [int(one.region(DOG).sum()) for one in sorted(data.samples("dog"), key=lambda one: one.id)] == [
        *(100, 120, 30, 100)
    ]
    (message,) = caplog.messages
    assert message == "2 of 4 outlines reach beyond their picture, the first in `0.png`: what lies outside is cut off"


def test_polygons_in_shares_are_told_of(maker: CocoMaker) -> None:
    maker.add(("dog", [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]))
    (told,) = rewritten(maker, lambda content: None).data_set.notes
    assert "all 1 polygons lie between 0 and 1" in told and "multiply them by its width and height" in told


def test_a_form_of_boxes_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="`boxes` is one of xywh, xyxy, share, share_xyxy, yolo; got 'xxyy'"):
        Folder("nowhere", boxes="xxyy")
