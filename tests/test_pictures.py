"""Picture files as people have them: every color mode, every way of turning, and those that cannot be used."""

import os
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from kedit.data.pictures import MaskFile, SampleError, fitted, fitted_mask, read, shown
from kedit.models import media
from kedit.prompts import Prompt
from tests.coco_maker import mask_of, picture

TURNED = 0x0112
SIDEWAYS, UPSIDE_DOWN = 6, 3


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> BytesIO:
    file = BytesIO()
    image.save(file, kind, **options)
    return BytesIO(file.getvalue())


def turned(image: Image.Image, orientation: int) -> BytesIO:
    exif = Image.Exif()
    exif[TURNED] = orientation
    return stored(image, exif=exif)


def test_gray_pictures_become_rgb_of_the_same_levels() -> None:
    gray = picture(1, mode="L")
    assert np.array_equal(read(lambda: stored(gray)), np.stack([np.array(gray)] * 3, -1))


def test_sixteen_bits_of_gray_are_scaled_to_eight() -> None:
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert np.array_equal(np.array(read(lambda: stored(Image.fromarray(levels))))[..., 0].ravel(), np.arange(256))


def test_floats_are_refused_since_nothing_says_what_is_white() -> None:
    with pytest.raises(SampleError, match="its levels are floats"):
        read(lambda: stored(Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)), "TIFF"))


def test_a_file_for_a_model_is_read_as_one_of_a_data_set(tmp_path: Path) -> None:
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    cut_out = Image.new("RGBA", (20, 10), (30, 30, 30, 255))
    cut_out.paste((0, 0, 0, 0), (0, 0, 10, 10))
    for name, image in {"deep.png": deep, "cut-out.png": cut_out}.items():
        image.save(tmp_path / name)
        wanted = np.array(read(lambda name=name: tmp_path / name))
        (of_file,) = media.pictures(tmp_path / name)
        assert np.array_equal(of_file, wanted)
        handed = media.given(SimpleNamespace(image_processor=1), [Prompt("What?", Image.open(tmp_path / name))])
        assert np.array_equal(handed["images"][0], wanted)


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    found = read(lambda: stored(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "JPEG"))
    assert found.mode == "RGB"
    assert found.getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_whatever_color_hides_there(mode: str) -> None:
    image = Image.new("RGBA", (20, 10), (30, 30, 30, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 10))
    found = read(lambda: stored(image.convert(mode)))
    assert found.mode == "RGB"
    assert found.getpixel((3, 3)) == (255, 255, 255)
    assert found.getpixel((15, 3)) == pytest.approx((30, 30, 30), abs=8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_as_its_exif_says_and_only_once(orientation: int) -> None:
    original = picture(2)
    found = read(lambda: turned(original, orientation))
    assert np.array_equal(found, ImageOps.exif_transpose(Image.open(turned(original, orientation))))
    assert np.array_equal(ImageOps.exif_transpose(found), found)


def test_the_annotated_size_says_whether_the_annotators_saw_a_picture_upright() -> None:
    original = picture(3, (40, 30))
    assert np.array_equal(read(lambda: turned(original, SIDEWAYS), (40, 30)), original)
    assert read(lambda: turned(original, SIDEWAYS), (30, 40)).size == (30, 40)
    assert np.array_equal(read(lambda: turned(original, UPSIDE_DOWN), (40, 30)), original)


@pytest.mark.parametrize(
    ("content", "size", "reason", "message"),
    [
        (stored(picture(4)).getvalue()[:-600], None, "unreadable_image", "truncated"),
        (stored(picture(4), "JPEG").getvalue()[:-300], None, "unreadable_image", "truncated"),
        (b"", None, "unreadable_image", "cannot identify"),
        (b"no picture at all", None, "unreadable_image", "cannot identify"),
        (stored(Image.new("RGB", (1, 1))).getvalue(), None, "too_small", r"\(1, 1\) pixels, each side needs 8"),
        (stored(picture(4)).getvalue(), (41, 30), "wrong_size", r"has \(40, 30\) pixels, annotated are \(41, 30\)"),
    ],
)
def test_a_picture_that_cannot_be_used_says_why(
    content: bytes, size: tuple[int, int] | None, reason: str, message: str
) -> None:
    with pytest.raises(SampleError, match=message) as caught:
        read(lambda: BytesIO(content), size)
    assert caught.value.reason == reason


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"there is no `.*nowhere\.png`") as caught:
        read(lambda: tmp_path / "nowhere.png")
    assert caught.value.reason == "missing_image"


def test_a_file_name_that_is_not_utf8_can_be_read_and_written_down(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(stored(picture(5)).getvalue())
    assert np.array_equal(read(lambda: path), picture(5))
    assert shown(path.name) == "caf\\udce9.png"


def test_only_what_is_too_large_is_shrunk_and_its_masks_with_it() -> None:
    large = picture(6, (400, 200))
    assert fitted(large, None) is large
    assert fitted(large, 400) is large
    assert fitted(large, 100).size == (100, 50)
    mask = mask_of(80, 40, 160, 80, (400, 200))
    assert np.array_equal(fitted_mask(mask, 50, 100), mask_of(20, 10, 40, 20, (100, 50)))
    assert fitted_mask(mask, 200, 400) is mask


@pytest.mark.parametrize(("size", "left"), [((20000, 8), 0), ((9, 3000), 3), ((3000, 20), 7)])
def test_a_picture_that_shrinking_leaves_too_narrow_is_too_small(size: tuple[int, int], left: int) -> None:
    with pytest.raises(SampleError, match=f"its shorter one has {left}, each side needs 8") as caught:
        fitted(Image.new("RGB", size), 1024)
    assert caught.value.reason == "too_small"
    assert fitted(Image.new("RGB", size), None).size == size
    assert fitted(Image.new("RGB", (3000, 24)), 1024).size == (1024, 8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_mask_file_is_inside_where_it_is_not_black(tmp_path: Path, mode: str) -> None:
    mask = mask_of(3, 4, 10, 9)
    Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB").convert(mode).save(tmp_path / "mask.png")
    assert np.array_equal(MaskFile(tmp_path / "mask.png").draw(30, 40), mask)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_file_is_turned_upright_as_its_own_exif_says(tmp_path: Path, orientation: int) -> None:
    mask = Image.fromarray(mask_of(3, 4, 10, 9))
    (tmp_path / "mask.png").write_bytes(turned(mask, orientation).getvalue())
    expected = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "mask.png")))
    assert np.array_equal(MaskFile(tmp_path / "mask.png").draw(*expected.shape), expected)


@pytest.mark.parametrize("more", [{}, {"exif": b"Exif\0\0MM\0*"}, {"icc_profile": b"odd"}], ids=str)
def test_a_lossless_webp_mask_keeps_its_darker_instances(tmp_path: Path, more: dict[str, bytes]) -> None:
    one, other = mask_of(3, 4, 10, 9), mask_of(20, 4, 10, 9)
    levels = Image.fromarray((one * 100 + other * 255).astype(np.uint8)).convert("RGB")
    levels.save(tmp_path / "mask.webp", lossless=True, **more)
    assert np.array_equal(MaskFile(tmp_path / "mask.webp").draw(30, 40), one | other)
    levels.save(tmp_path / "mask.webp", quality=80, **more)
    assert np.array_equal(MaskFile(tmp_path / "mask.webp").draw(30, 40), other), "of a lossy one, half the levels"


def test_a_mask_file_that_is_missing_or_broken_or_of_another_size_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(ValueError, match=r"cannot read the mask `.*mask\.png` \(FileNotFoundError"):
        MaskFile(path).draw(30, 40)
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"cannot read the mask .* .UnidentifiedImageError"):
        MaskFile(path).draw(30, 40)
    Image.new("L", (30, 40), 255).save(path)
    with pytest.raises(ValueError, match="is 30 x 40 pixels, the picture 40 x 30; they must be equal"):
        MaskFile(path).draw(30, 40)
