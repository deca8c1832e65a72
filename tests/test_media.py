"""Questions about pictures, videos and sounds in files: what is read, what is skipped, and who is asked what."""

import json
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kedit.data.folder import Folder
from kedit.data.pictures import SampleError
from kedit.data.question_file import read_question_file
from kedit.data.scenes import Scenes
from kedit.data.sounds import read_sound
from kedit.data.videos import read_video

TONE = (0.5 * np.sin(np.arange(800) / 5)).astype(np.float32)


def wav(path: Path, samples: np.ndarray, bits: int = 16, rate: int = 8000) -> Path:
    """Write `[time]` or `[time, channel]` with the standard library."""
    two = samples if samples.ndim == 2 else samples[:, None]
    whole = np.round(two * (2 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        body = (whole + 128).astype(np.uint8).tobytes()
    else:
        body = whole.astype("<i4").reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(two.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        file.writeframes(body)
    return path


def riff(path: Path, kind: int, bits: int, body: bytes, *, extra: bytes = b"", rate: int = 8000) -> Path:
    """Write a WAV file by hand, of one channel, with a part that nobody knows before its samples."""
    about = struct.pack("<HHIIHH", kind, 1, rate, rate * bits // 8, bits // 8, bits) + extra
    parts = b"".join(
        name + struct.pack("<I", len(one)) + one + b"\0" * (len(one) % 2)
        for name, one in ((b"fmt ", about), (b"odd?", b"abc"), (b"data", body))
    )
    path.write_bytes(b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WAVE" + parts)
    return path


def frame(number: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.new("RGB", size, (10 * number, 0, 255 - 10 * number))


def asked(folder: Path, *rows: dict[str, Any]) -> Folder:
    (folder / "asked.jsonl").write_text(
        "".join(json.dumps({"question": "?", "answer": "a"} | one) + "\n" for one in rows)
    )
    return Folder(str(folder), questions_file="asked.jsonl")


# --- sounds


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_a_sound_is_what_was_written_and_channels_are_averaged(tmp_path: Path, bits: int) -> None:
    both = np.stack([TONE, np.zeros_like(TONE)], 1)
    for samples, expected in ((TONE, TONE), (both, TONE / 2)):
        heard = read_sound(wav(tmp_path / "a.wav", samples, bits))
        assert heard.rate == 8000 and heard.wave.dtype == np.float32
        assert np.abs(heard.wave - expected).max() < 2 ** (2 - bits) + 1e-6


def test_floats_and_the_long_form_of_the_header_are_read(tmp_path: Path) -> None:
    floats = TONE.astype("<f4").tobytes()
    assert np.array_equal(read_sound(riff(tmp_path / "f.wav", 3, 32, floats)).wave, TONE)
    assert np.array_equal(read_sound(riff(tmp_path / "d.wav", 3, 64, TONE.astype("<f8").tobytes())).wave, TONE)
    long = struct.pack("<HHIH", 22, 32, 4, 3) + bytes(14)
    assert np.array_equal(read_sound(riff(tmp_path / "x.wav", 0xFFFE, 32, floats, extra=long)).wave, TONE)


def test_what_is_wrong_with_a_sound_is_said(tmp_path: Path) -> None:
    good = wav(tmp_path / "good.wav", TONE).read_bytes()
    (tmp_path / "cut.wav").write_bytes(good[:-100])
    (tmp_path / "not.wav").write_bytes(b"ID3 something else")
    (tmp_path / "header.wav").write_bytes(good[:20])
    (tmp_path / "bare.wav").write_bytes(good[:36])
    wav(tmp_path / "silent.wav", TONE * 0)
    wav(tmp_path / "empty.wav", TONE[:0])
    riff(tmp_path / "slow.wav", 1, 16, b"\1\2" * 9, rate=0)
    riff(tmp_path / "law.wav", 7, 8, b"\1" * 9)
    riff(tmp_path / "nan.wav", 3, 32, np.array([0.1, np.nan], "<f4").tobytes())
    reasons = {}
    for name in ("gone", "cut", "not", "header", "bare", "silent", "empty", "slow", "law", "nan"):
        with pytest.raises(SampleError) as caught:
            read_sound(tmp_path / f"{name}.wav")
        assert f"{name}.wav" in str(caught.value)
        reasons[name] = caught.value.reason
    assert reasons == {
        "gone": "missing_sound", "cut": "truncated_sound", "not": "unreadable_sound", "header": "truncated_sound",
        "bare": "unreadable_sound", "silent": "silent_sound", "empty": "empty_sound", "slow": "wrong_rate",
        "law": "unreadable_sound", "nan": "unreadable_sound",
    }  # fmt: skip


# --- videos


def test_a_folder_of_frames_is_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(12):
        frame(number).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    video = read_video([tmp_path], rate=4.0)
    assert video.rate == 4.0
    assert [one.getpixel((0, 0))[0] for one in video.frames] == [10 * number for number in range(12)]
    few = read_video([tmp_path], rate=4.0, max_frames=4, max_side=12)
    assert [one.getpixel((0, 0))[0] for one in few.frames] == [0, 40, 70, 110]
    assert few.frames[0].size == (12, 8) and few.rate == pytest.approx(4 / 3)


def test_only_digits_number_a_frame(tmp_path: Path) -> None:
    for number, name in enumerate(["1.png", "1\u00b22.png", "1\u00b210.png", "\u00b2.png", "\u0663.png"]):
        frame(number).save(tmp_path / name)
    assert [one.getpixel((0, 0))[0] for one in read_video([tmp_path]).frames] == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_an_animated_picture_is_a_video_at_its_own_rate(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"moves.{ending}"
    frames = [frame(8 * number) for number in range(3)]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=250, **({"lossless": True} if ending == "webp" else {})
    )
    video = read_video([path])
    assert video.rate == pytest.approx(4.0)
    assert [one.getpixel((3, 3)) for one in video.frames] == [one.getpixel((3, 3)) for one in frames]


def test_what_is_wrong_with_a_video_is_said(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0 ftypisom")
    frame(1).save(tmp_path / "a.png")
    frame(1, (16, 24)).save(tmp_path / "b.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    Image.new("RGB", (4, 4)).save(tmp_path / "small.gif")
    cases = {
        "missing_video": ["gone"], "empty_video": ["none"], "unreadable_video": ["film.mp4"],
        "frame_sizes": ["a.png", "b.png"], "unreadable_image": ["a.png", "cut.png"], "too_small": ["small.gif"],
    }  # fmt: skip
    for reason, names in cases.items():
        with pytest.raises(SampleError) as caught:
            read_video([tmp_path / name for name in names])
        assert caught.value.reason == reason
    frame(1, (3000, 9)).save(tmp_path / "long.png")
    with pytest.raises(SampleError, match="each side needs 8"):
        read_video([tmp_path / "long.png"], max_side=1024)
    with pytest.raises(SampleError, match=r"ffmpeg -i film\.mp4"):
        read_video([tmp_path / "film.mp4"])


# --- questions


def test_a_question_is_about_a_picture_a_video_a_sound_or_nothing(tmp_path: Path) -> None:
    frame(1).save(tmp_path / "1.png")
    frame(2).save(tmp_path / "2.png")
    wav(tmp_path / "a.wav", TONE)
    data = asked(
        tmp_path,
        {"question": "what color is the sky?", "answer": None, "answers": ["blue", "azure"]},
        {"image": "1.png", "kind": "color"},
        {"video": ["1.png", "2.png"], "rate": 2},
        {"audio": "a.wav"},
    )
    written = read_question_file(tmp_path, "asked.jsonl")
    text, picture, video, sound = (one.opened(max_side=None, max_frames=16) for one in written)
    assert [one.kind for one in (text, picture, video, sound)] == ["fact", "color", "video", "audio"]
    assert (text.answer, text.others, text.prompt.medium) == ("blue", ("azure",), "text")
    assert picture.prompt.medium == "image" and picture.sample is not None and picture.sample.image.size == (24, 16)
    assert video.prompt.video is not None and (len(video.prompt.video.frames), video.prompt.video.rate) == (2, 2.0)
    assert sound.prompt.sound is not None and sound.prompt.sound.rate == 8000
    assert [one.text for one in data.questions] == ["what color is the sky?"]


def many(folder: Path, n_pictures: int) -> list[dict[str, Any]]:
    """Return three questions about each picture, of two kinds, and some texts."""
    rows: list[dict[str, Any]] = []
    for number in range(n_pictures):
        frame(number).save(folder / f"{number}.png")
        rows += [{"question": f"{kind} {turn}?", "image": f"{number}.png", "kind": kind} for kind, turn in
                 (("color", 1), ("color", 2), ("count", 1))]  # fmt: skip
    return rows + [{"question": f"text {number}"} for number in range(9)]


@pytest.mark.parametrize("seed", range(5))
def test_no_picture_is_asked_about_in_both_halves_and_each_kind_has_as_many_as_asked(tmp_path: Path, seed: int) -> None:
    data = asked(tmp_path, *many(tmp_path, 20))
    question_split = data.split_questions(locate=4, evaluate=8, seed=seed)
    subjects = [
        {one.sample.id if one.sample else one.text for one in half}
        for half in (question_split.locate, question_split.evaluate)
    ]
    assert subjects[0].isdisjoint(subjects[1])
    for half, count in (
        (question_split.locate, {"color": 4, "count": 4, "fact": 3}),
        (question_split.evaluate, {"color": 8, "count": 8, "fact": 6}),
    ):
        assert {kind: sum(one.kind == kind for one in half) for kind in count} == count
    again = data.split_questions(locate=4, evaluate=8, seed=seed)
    assert [one.text for one in again.locate] == [one.text for one in question_split.locate]
    other = data.split_questions(locate=4, evaluate=8, seed=seed + 1)
    assert {one.sample.id for one in other.evaluate if one.sample} != subjects[1] - {
        one.text for one in question_split.evaluate
    }


def test_bad_files_are_skipped_and_counted_and_others_asked_instead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = many(tmp_path, 8)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    wav(tmp_path / "silent.wav", TONE * 0)
    rows += [{"audio": "silent.wav"}, {"audio": "gone.wav"}, {"video": "gone"}, {"video": ["4.png", "5.png"]}]
    question_split = asked(tmp_path, *rows).split_questions(locate=100, evaluate=100, seed=0)
    assert question_split.skipped == {"unreadable_image": 12, "silent_sound": 1, "missing_sound": 1, "missing_video": 1}
    both = question_split.locate + question_split.evaluate
    assert sum(one.sample is not None for one in both) == 12 and sum(one.video is not None for one in both) == 1
    assert "1 questions skipped (silent_sound): `" in caplog.text and "asked.jsonl`, line 34: " in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "1.png", "audio": "a.wav"}, "line 1: a question is about one thing, got image and audio"),
        ({"answer": None}, "line 1: `answer` is a text, got None"),
        ({"question": ""}, "line 1: `question` is a text, got ''"),
        ({"image": 3}, "line 1: `image` is a text, got 3"),
        ({"video": []}, r"line 1: `video` names no file, got \[\]"),
        ({"video": "v", "rate": 0}, "line 1: `rate` is frames a second, above 0, got 0"),
    ],
)
def test_a_line_that_cannot_be_understood_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(tmp_path, row).split_questions(locate=1, evaluate=1, seed=0)


def test_a_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_bytes(b'{"question": "caf\xe9?", "answer": "a"}\n')
    with pytest.raises(ValueError, match=r"line 1: the text .* is not UTF-8"):
        read_question_file(tmp_path, "asked.jsonl")


def test_what_leaves_nothing_to_ask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set `questions_file`"):
        Folder(str(tmp_path)).split_questions(locate=1, evaluate=1, seed=0)
    with pytest.raises(FileNotFoundError, match="no file"):
        Folder(str(tmp_path), questions_file="gone.jsonl").split_questions(locate=1, evaluate=1, seed=0)
    with pytest.raises(ValueError, match="`evaluate` is a number of questions of each kind, 1 or more; got 0"):
        asked(tmp_path, {}).split_questions(locate=1, evaluate=0, seed=0)
    with pytest.raises(ValueError, match="of 1 questions none is left to locate with"):
        asked(tmp_path, {}).split_questions(locate=1, evaluate=1, seed=0)
    with pytest.raises(ValueError, match=r"of 2 questions none is left to locate with .*missing_image: .*line [12]"):
        asked(tmp_path, {"image": "1.png"}, {"image": "2.png"}).split_questions(locate=1, evaluate=1, seed=0)


def test_the_picture_world_asks_each_kind_about_other_scenes() -> None:
    question_split = Scenes().split_questions(locate=2, evaluate=3, seed=1)
    kinds = ("existence", "color", "count", "relation", "background", "fact")
    for half, count in ((question_split.locate, 2), (question_split.evaluate, 3)):
        assert {kind: sum(one.kind == kind for one in half) for kind in kinds} == dict.fromkeys(kinds, count)
    shown = [one.sample.id for one in question_split.locate + question_split.evaluate if one.sample]
    assert len(shown) == len(set(shown)) == 25
    assert {one.text for one in question_split.locate}.isdisjoint(
        {one.text for one in question_split.evaluate if one.kind == "fact"}
    )
