"""Files are whole or absent, and a run says how it ended."""

import errno
import json
import logging
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kedit.neurons import NeuronScores, load_scores, save_scores
from kedit.results.run_folder import (
    FinishedRunError,
    Run,
    RunFolderError,
    new_folder,
    result_folder,
    write_atomic,
    write_file,
    write_json,
    write_jsonl,
)

SIZE = 1_000_000
WRITE_FOREVER = f"""
import sys
from kedit.results.run_folder import write_atomic
while True:
    for letter in "ab":
        write_atomic(sys.argv[1], letter * {SIZE})
"""


@contextmanager
def files_no_larger_than(n_bytes: int) -> Iterator[None]:
    """Make the kernel refuse to let a file grow, as a full disk does: after a part of it is written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names_in(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.007, 0.013, 0.03])
def test_a_kill_leaves_the_old_content_or_the_new(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "scores.bin"
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(path)], cwd=Path(__file__).parent.parent)
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_text() in {"a" * SIZE, "b" * SIZE}


def test_a_file_that_outgrows_the_disk_leaves_the_old_content_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    write_atomic(path, "old")
    with (
        files_no_larger_than(10_000),
        pytest.raises(RunFolderError, match=r"cannot write `.*captions\.jsonl`: File too"),
    ):
        write_atomic(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == {"captions.jsonl"}


def test_scores_that_outgrow_the_disk_are_refused_like_any_file(tmp_path: Path) -> None:
    scores = {"gradcam": NeuronScores(torch.zeros(10, 1000), method="m")}
    with files_no_larger_than(10_000), pytest.raises(RunFolderError, match=r"scores\.safetensors") as refused:
        Run(tmp_path).save_file("scores.safetensors", partial(save_scores, scores))
    assert refused.value.errno == errno.EFBIG
    assert names_in(tmp_path) == set()


def test_a_full_device_is_named_with_its_reason(tmp_path: Path) -> None:
    def write_to_full_device(draft: Path) -> None:
        draft.symlink_to("/dev/full")
        draft.write_text("new")

    with pytest.raises(RunFolderError, match="No space left on device") as refused:
        write_file(tmp_path / "report.json", write_to_full_device)
    assert refused.value.errno == errno.ENOSPC
    assert names_in(tmp_path) == set()


def test_an_error_while_writing_keeps_the_old_file_and_passes_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    write_atomic(path, b"old")

    def draw(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise KeyError("axis")

    with pytest.raises(KeyError, match="axis"):
        write_file(path, draw)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == {"figure.png"}


def test_a_file_that_the_writer_could_not_read_is_not_blamed_on_the_run_folder(tmp_path: Path) -> None:
    missing = tmp_path / "elsewhere" / "photo.png"
    with pytest.raises(FileNotFoundError, match=r"photo\.png") as error:
        write_file(tmp_path / "page.html", lambda draft: draft.write_bytes(missing.read_bytes()))
    assert not isinstance(error.value, RunFolderError)


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_atomic(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    texts = [letter * 50_000 for letter in "abcd"]
    threads = [threading.Thread(target=write_atomic, args=(tmp_path / "shared", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "shared").read_text() in texts
    assert names_in(tmp_path) == {"shared"}


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_floats_come_back_from_json_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, numbers: list[float]) -> None:
    path = tmp_path_factory.getbasetemp() / "numbers.json"
    write_json(path, {"numbers": numbers})
    back = json.loads(path.read_text())["numbers"]
    assert [number.hex() for number in back] == [number.hex() for number in numbers]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_say_is_refused_by_its_place(tmp_path: Path, number: float) -> None:
    write_json(tmp_path / "report.json", {"old": 1})
    with pytest.raises(ValueError, match=rf"`retention\.bleu\[1\]\.value` is {number}"):
        write_json(tmp_path / "report.json", {"retention": {"bleu": [{"value": 1.0}, {"value": number}]}})
    assert json.loads((tmp_path / "report.json").read_text()) == {"old": 1}


def test_json_keeps_the_order_of_keys_sorts_sets_and_spells_paths(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"z": frozenset({"tree", "moon"}), "a": Path("figures/layers.png"), "ü": "✓"})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert list(json.loads(text).items()) == [("z", ["moon", "tree"]), ("a", "figures/layers.png"), ("ü", "✓")]
    assert "✓" in text


def test_a_value_without_a_json_form_is_refused_by_its_type(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a complex has no JSON form: 1j"):
        write_json(tmp_path / "x.json", {"a": 1j})


def test_each_row_is_one_line_whatever_it_says(tmp_path: Path) -> None:
    rows = [{"id": "1", "after": "a red\nshape"}, {"id": "2", "after": "é \u2028 “star”"}]
    write_jsonl(tmp_path / "captions.jsonl", iter(rows))
    lines = (tmp_path / "captions.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == rows


def test_everybody_who_asks_for_a_folder_at_once_gets_one_of_his_own(tmp_path: Path) -> None:
    together = threading.Barrier(16)
    folders = []

    def ask() -> None:
        together.wait()
        folders.append(new_folder(tmp_path / "outputs" / "10-00-00"))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names_in(tmp_path / "outputs") == {"10-00-00", *(f"10-00-00-{number}" for number in range(2, 17))}
    assert len(set(folders)) == 16


def save(folder: Path, content: object, *more: str, overwrite: bool = False) -> None:
    with result_folder(folder, "report.json", content, overwrite=overwrite) as run:
        run.save_json("report.json", content)
        for name in more:
            run.save_text(name, "more")


def test_a_result_does_not_replace_another_unless_asked(tmp_path: Path) -> None:
    save(tmp_path / "out", {"drop": 0.1}, "captions.jsonl", "figures/layers.png")
    save(tmp_path / "out", {"drop": 0.1})
    with pytest.raises(FinishedRunError, match=r"out` holds a finished run with another result; .*`overwrite=True`"):
        save(tmp_path / "out", {"drop": 0.2})
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == {"drop": 0.1}
    save(tmp_path / "out", {"drop": 0.2}, overwrite=True)
    assert names_in(tmp_path / "out") == {"STATUS", "report.json"}


def test_a_result_that_took_another_time_is_the_same(tmp_path: Path) -> None:
    save(tmp_path / "out", {"drop": 0.1, "rows": [{"seconds": 1.5, "n": 3}], "seconds": 4.0})
    save(tmp_path / "out", {"drop": 0.1, "rows": [{"seconds": 9.5, "n": 3}], "seconds": 2.0})
    with pytest.raises(FinishedRunError):
        save(tmp_path / "out", {"drop": 0.1, "rows": [{"seconds": 1.5, "n": 4}], "seconds": 4.0})
    (tmp_path / "out" / "report.json").write_text("{")
    with pytest.raises(FinishedRunError):
        save(tmp_path / "out", {"drop": 0.1})


def test_a_result_takes_the_place_of_a_run_that_failed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="disk"), result_folder(tmp_path, "report.json", 1, overwrite=False) as run:
        run.save_text("captions.jsonl", "old")
        raise ValueError("disk")
    save(tmp_path, 2)
    assert names_in(tmp_path) == {"STATUS", "report.json"}


def test_a_run_is_running_inside_and_done_afterwards(tmp_path: Path) -> None:
    with Run(tmp_path / "outputs" / "one") as run:
        assert run.status == "running"
    assert run.status == "done"
    assert (run.folder / "STATUS").read_text() == "done\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no sample shows `star`"), "failed: ValueError: no sample shows `star`"),
        (RuntimeError("first line\nsecond line"), "failed: RuntimeError: first line"),
        (MemoryError(), "failed: MemoryError"),
        (KeyboardInterrupt(), "failed: interrupted"),
        (SystemExit(2), "failed: SystemExit: 2"),
    ],
)
def test_a_run_that_fails_says_why_and_raises_the_same_error(tmp_path: Path, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)) as raised, Run(tmp_path) as run:
        raise error
    assert raised.value is error
    assert run.status == status


@pytest.mark.parametrize("folder", ["{file}/run", "/proc/kedit/run"])
def test_a_folder_that_cannot_be_written_fails_before_the_work_begins(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = folder.format(file=tmp_path / "file")
    with (
        pytest.raises(RunFolderError, match=rf"cannot write `{folder}/STATUS`: .*; choose a run folder"),
        Run(Path(folder)),
    ):
        pytest.fail("the body ran")


def test_a_folder_that_is_lost_does_not_hide_why_the_run_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="the cause"), lost_run(tmp_path):
        raise ValueError("the cause")
    assert "cannot write" in caplog.text


def test_a_run_whose_end_cannot_be_recorded_did_not_succeed(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="STATUS"), lost_run(tmp_path):
        pass


@contextmanager
def lost_run(tmp_path: Path) -> Iterator[Run]:
    """Open a run and put a file in the place of its folder."""
    with Run(tmp_path / "run") as run:
        (run.folder / "STATUS").unlink()
        run.folder.rmdir()
        run.folder.write_text("in the way")
        yield run


def test_scores_saved_through_a_run_come_back(tmp_path: Path) -> None:
    stages = {"difference": NeuronScores(torch.tensor([[1.0, 2.0]]), method="m")}
    path = Run(tmp_path).save_file("scores.safetensors", partial(save_scores, stages))
    assert path == tmp_path / "scores.safetensors"
    assert torch.equal(load_scores(path)["difference"].values, stages["difference"].values)


def test_figures_are_drawn_under_their_own_suffix_and_listed(tmp_path: Path) -> None:
    suffixes, listed = [], []

    def draw(draft: Path) -> None:
        suffixes.append(draft.suffix)
        listed.append(run.figures)  # a draft is none
        draft.write_bytes(b"png")

    run = Run(tmp_path)
    assert run.figures == ()
    run.save_figure("layers.png", draw)
    run.save_figure("heatmaps.png", draw)
    assert suffixes == [".png", ".png"]
    assert listed == [(), ("figures/layers.png",)]
    assert run.figures == ("figures/heatmaps.png", "figures/layers.png")


def test_every_save_returns_the_path_of_what_it_wrote(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.save_text("report.md", "# é\n").read_text(encoding="utf-8") == "# é\n"
    assert json.loads(run.save_json("deep/report.json", {"a": 1}).read_text()) == {"a": 1}
    assert run.save_jsonl("captions.jsonl", [1, 2]).read_text() == "1\n2\n"
    assert names_in(tmp_path) == {"report.md", "deep", "captions.jsonl"}
