"""A folder is there as a whole or not at all, whatever ends the process that writes it."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kedit.results.run_folder import FinishedRunError, RunFolderError
from kedit.results.whole_folder import whole_folder

KILLED = """
import os, signal, sys
from kedit.results.whole_folder import whole_folder

with whole_folder(sys.argv[1], "mark") as draft:
    (draft / "half").write_text("half")
    (draft / "folder").mkdir()
    (draft / "folder" / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_no_folder_and_goes_with_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert done.returncode < 0
    assert not folder.exists()
    with whole_folder(folder, "mark") as draft:
        assert not any(draft.iterdir())
        (draft / "mark").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in folder.iterdir()] == ["mark"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(143)], ids=repr)
def test_an_error_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)), whole_folder(tmp_path / "out", "mark") as draft:
        (draft / "half").touch()
        raise error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("x (os error 28)")])
def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(error: Exception, tmp_path: Path) -> None:
    wanted = r"cannot write `.*out`: No space left on device; name a folder that is writable and has space left"
    with pytest.raises(RunFolderError, match=wanted), whole_folder(tmp_path / "out", "mark") as draft:
        (draft / "half").touch()
        raise error
    assert not any(tmp_path.iterdir())


def test_of_two_at_a_time_the_second_is_refused(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out", "mark") as draft:
        (draft / "mark").touch()
        with (
            pytest.raises(FinishedRunError, match="another process is writing"),
            whole_folder(tmp_path / "out", "mark"),
        ):
            pass
    assert (tmp_path / "out" / "mark").is_file()


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with whole_folder(folder, "mark") as draft:
        (draft / "mark").write_text("first")
    with pytest.raises(ValueError, match="no"), whole_folder(folder, "mark", overwrite=True) as draft:
        raise ValueError("no")
    assert (folder / "mark").read_text() == "first"
    with whole_folder(folder, "mark", overwrite=True) as draft:
        (draft / "mark").write_text("second")
    assert (folder / "mark").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
