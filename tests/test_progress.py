"""How far a job is, in lines, in the log and on a terminal."""

import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import chdir
from itertools import pairwise
from pathlib import Path

import pytest

from kedit.cli import COMMANDS
from kedit.cli import locate as recipe
from kedit.paths import conf_dir
from kedit.progress import FIRST_PAUSE, Batched, Stage, as_progress, inside_a_stage, progress_shown, say, show_progress
from kedit.samples import silent

KEDIT = (sys.executable, "-m", "kedit")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what lets time pass, in seconds."""
    now = [0.0]
    monkeypatch.setattr("kedit.progress.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """Show progress, and return what returns the lines on standard error so far."""
    monkeypatch.delenv("TQDM_DISABLE")
    return lambda: capsys.readouterr().err.splitlines()


def test_a_line_has_the_stage_the_count_the_time_and_what_is_left(clock: Callable[[float], None]) -> None:
    stage = Stage("locate: difference", 48, "pictures")
    assert stage.first_line() == "locate: difference: 0 of 48 pictures"
    clock(12)
    assert stage.next_line(32) == "locate: difference: 32 of 48 pictures, 12 s, about 6 s left"
    clock(6)
    assert stage.last_line(48) == "locate: difference: 48 of 48 pictures, 18 s"


def test_the_lines_of_a_long_stage_grow_apart(clock: Callable[[float], None]) -> None:
    stage, times = Stage("captions", 10_000), []
    for second in range(1, 2000):
        clock(1)
        if stage.next_line(second):
            times.append(second)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == FIRST_PAUSE
    assert pauses == sorted(pauses) and pauses[-1] > 5 * pauses[0]
    assert len(times) < 15


@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_quick_stage_has_two_lines_however_many_items(shown: Callable[[], list[str]], count: int) -> None:
    assert list(show_progress(range(count), count, "captions")) == list(range(count))
    first, last = shown()
    assert first.startswith("captions") and last.startswith("captions")
    assert count == 1 or (first.endswith(f"0 of {count}") and f"{count} of {count}, " in last)


def test_batches_are_counted_by_what_is_in_them(shown: Callable[[], list[str]], clock: Callable[[float], None]) -> None:
    for _ in show_progress(Batched(iter(["abc", "de"]), [3, 2], "pictures", "difference"), 2, "locate"):
        clock(FIRST_PAUSE)
    assert shown() == [
        "locate: difference: 0 of 5 pictures",
        "locate: difference: 3 of 5 pictures, 10 s, about 7 s left",
        "locate: difference: 5 of 5 pictures, 20 s",
    ]


def test_a_stage_inside_another_is_shown_if_it_takes_long_and_logged_when_it_ends(
    shown: Callable[[], list[str]], clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "kedit"):
        for pause in show_progress((0, FIRST_PAUSE), 2, "methods"):
            for _ in show_progress("ab", 2, "captions"):
                clock(pause)
    assert [line.partition(",")[0] for line in shown()] == [
        *("methods: 0 of 2", "captions: 1 of 2", "captions: 2 of 2", "methods: 2 of 2"),
    ]
    assert caplog.text.count("captions: 2 of 2") == 2 and "captions: 0 of 2" not in caplog.text
    list(show_progress("ab", 2, "after"))
    assert len(shown()) == 2, "what comes after is inside of nothing"


def test_the_quick_stages_of_a_job_among_many_are_not_shown(
    shown: Callable[[], list[str]], clock: Callable[[float], None]
) -> None:
    with inside_a_stage():
        list(show_progress("ab", 2, "captions"))
        assert shown() == []
        for _ in show_progress("ab", 2, "captions"):
            clock(FIRST_PAUSE)
    assert len(shown()) == 2


def test_a_stage_that_breaks_off_leaves_the_next_one_outside(shown: Callable[[], list[str]]) -> None:
    with pytest.raises(KeyError):
        for item in show_progress("ab", 2, "broken"):
            raise KeyError(item)
    shown()
    list(show_progress("ab", 2, "next"))
    assert len(shown()) == 2


def test_more_items_than_were_announced_all_come_and_nothing_is_told_of_none(shown: Callable[[], list[str]]) -> None:
    assert list(show_progress("abc", 2, "rows")) == ["a", "b", "c"]
    assert shown()[-1].startswith("rows: 3 of 2")
    assert list(show_progress([], 0, "rows")) == []
    assert shown() == []


@pytest.mark.parametrize("way", ["variable", "setting"])
def test_quiet_is_quiet_and_the_log_has_it(
    way: str, shown: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if way == "variable":
        monkeypatch.setenv("TQDM_DISABLE", "1")
    with caplog.at_level(logging.INFO, "kedit"), progress_shown(way == "variable"):
        say("loading scenes ...")
        list(show_progress("abc", 3, "captions"))
    assert shown() == []
    assert [line.partition(",")[0] for line in caplog.messages] == [
        *("loading scenes ...", "captions: 0 of 3", "captions: 3 of 3"),
    ]


def test_true_and_false_stand_for_the_ways_to_show(shown: Callable[[], list[str]]) -> None:
    assert as_progress(True) is show_progress
    assert as_progress(False) is silent

    def own(items: Sequence[str], total: int, what: str) -> Sequence[str]:
        return items

    assert as_progress(own) is own  # type: ignore[arg-type, comparison-overlap]


@pytest.mark.parametrize("asked", [True, False])
def test_a_job_whose_stderr_is_no_terminal_tells_its_stages_there_and_in_the_log(
    asked: bool, shown: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["concept=star", "evaluate.locate=3", "store=null", "hydra.run.dir=out", f"progress={asked}".lower()]
    monkeypatch.setattr(sys, "argv", ["kedit locate", *words])
    with chdir(tmp_path):
        assert recipe.main() == 0
    log, lines = (tmp_path / "out" / "kedit.log").read_text(), shown()
    stages = ("counterfactuals: 3 of 3", "captions: 3 of 3", "locate: difference, gradcam: 3 of 3 pictures")
    for stage in stages:
        assert stage in log
        assert any(line.startswith(stage) for line in lines) == asked
    assert asked or not lines


def test_another_value_than_true_or_false_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedit locate", "progress=loud", "hydra.run.dir=out"])
    with chdir(tmp_path):
        assert recipe.main() == 2
    assert capsys.readouterr().err == "kedit: `progress` is true or false; got loud\n"


def test_no_command_imports_torch_before_it_has_said_a_word() -> None:
    modules = [command.module for name, command in COMMANDS.items() if name not in ("verify", "leaderboard", "table")]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=conf_dir().parent, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_on_a_terminal_a_line_comes_before_torch_is_imported(tmp_path: Path) -> None:
    stand_in = tmp_path / "torch"
    stand_in.mkdir()
    (stand_in / "__init__.py").write_text("import os; os.write(2, b'torch is imported'); os._exit(7)\n")
    ours, theirs = pty.openpty()
    paths = os.pathsep.join([str(tmp_path), str(conf_dir().parent)])
    environment = {**os.environ, "PYTHONPATH": paths}
    del environment["TQDM_DISABLE"]
    try:
        process = subprocess.Popen(
            [*KEDIT, "run", "concept=star"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment
        )
        assert process.wait(60) == 7
        told = os.read(ours, 10_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert told.splitlines() == ["loading scenes ...", "torch is imported"]
