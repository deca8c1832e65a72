"""A command leaves the process that calls it as it was: whoever logs afterwards does so where they did before."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from kedit import cli
from kedit.cli import run

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


def test_a_sweep_leaves_none_of_hydras_settings_behind(tmp_path: Path) -> None:
    def sweep(patch: pytest.MonkeyPatch) -> int:
        return cli.main(["run", "-m", "concept=strr,hose", "hydra.sweep.dir=out"])

    fail(sweep, tmp_path)
    assert not HydraConfig.initialized()


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


def test_a_command_closes_no_handler_of_others(start: Callable[[pytest.MonkeyPatch], int], tmp_path: Path) -> None:
    """Nor their streams: absl's handler, which is on no logger, closes what was standard error when it was made."""
    closed = []

    class Closing(logging.StreamHandler[io.StringIO]):
        def close(self) -> None:
            closed.append(self)
            super().close()

    kept = Closing(io.StringIO())
    fail(start, tmp_path)
    assert closed == []
    kept.close()


def test_where_a_command_goes_on_its_own_absl_leaves_the_callers_standard_error_open(tmp_path: Path) -> None:
    script = f"""
import contextlib, io, sys
from absl import logging
sys.stderr = caller = io.TextIOWrapper(io.BytesIO())
logging.get_absl_handler().python_handler.stream = caller
from kedit import cli
with contextlib.redirect_stderr(io.StringIO()):
    assert cli.main(["run", *{WRONG}]) == 2
print(caller.closed)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
