"""A command leaves the process that calls it as it was: whoever logs afterwards does so where they did before."""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest

from experiments import run
from kedit import cli

WRONG = ["concept=strr", "hydra.run.dir=out"]
"""Words of `kedit run` that fail in the job, behind all that Hydra sets up."""


def as_a_command(patch: pytest.MonkeyPatch) -> int:
    return cli.main(["run", *WRONG])


def as_a_script(patch: pytest.MonkeyPatch) -> int:
    patch.setattr(sys, "argv", ["run.py", *WRONG])
    return run.main()


def fail(start: Callable[[pytest.MonkeyPatch], int], folder: Path) -> None:
    """Let a command fail in `folder`, with a standard error that is closed afterwards."""
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as err, redirect_stderr(err):
        patch.chdir(folder)
        assert start(patch) == 2
        assert "no concept `strr`" in err.getvalue()


@pytest.fixture(params=[as_a_command, as_a_script])
def start(request: pytest.FixtureRequest) -> Callable[[pytest.MonkeyPatch], int]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def heard() -> Iterator[io.StringIO]:
    """Return what is said by a handler that the caller has put on the root logger."""
    said, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(said)
    root.addHandler(handler)
    yield said
    root.removeHandler(handler)


def process() -> dict[str, object]:
    root = logging.getLogger()
    variables = {name: os.environ.get(name) for name in ("HYDRA_FULL_ERROR", "PYTHONPATH")}
    logs = {"handlers": root.handlers[:], "level": root.level, "raising": logging.raiseExceptions}
    return logs | {"words": sys.argv[:], "path": sys.path[:], "folder": Path.cwd()} | variables


def open_files() -> set[str]:
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(one.readlink()))
    return found


def test_a_command_leaves_the_process_as_it_was(
    start: Callable[[pytest.MonkeyPatch], int], heard: io.StringIO, tmp_path: Path
) -> None:
    before = process()
    fail(start, tmp_path)
    assert process() == before


def test_who_logs_after_a_command_is_heard_and_writes_to_no_stream_or_file_of_the_commands(
    start: Callable[[pytest.MonkeyPatch], int], heard: io.StringIO, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(start, tmp_path)
    log = (tmp_path / "out" / "kedit.log").read_text()
    logging.getLogger("kedit").warning("after it")
    assert heard.getvalue() == "after it\n"
    assert capsys.readouterr().err == ""
    assert (tmp_path / "out" / "kedit.log").read_text() == log
    assert str(tmp_path / "out" / "kedit.log") not in open_files()
