"""What is newer than the tests know is told in one line, and the tests know what the lock file names."""

import json
import logging
import re
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

import kedit.cli.run as recipe
from kedit import tested
from kedit.models.planted import Planted
from tests.note_tested import raised

ROOT = Path(__file__).resolve().parent.parent
TESTED = json.loads(tested.FILE.read_text())
LOCK = (ROOT / "requirements.lock").read_text().splitlines()


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[dict[str, str]], None]:
    """Pass for a new process, in which the tests have passed with other releases."""

    def begin(releases: dict[str, str]) -> None:
        monkeypatch.setattr(tested, "FILE", tmp_path / "tested.json")
        tested.FILE.write_text(json.dumps(releases))
        tested.tell_untested.cache_clear()

    return begin


def test_a_newer_library_is_told_once_with_what_to_do(
    afresh: Callable[..., None], caplog: pytest.LogCaptureFixture, planted: Planted
) -> None:
    afresh({"torch": "2.0.1", "transformers": "99", "no-such-package": "1"})
    for _ in range(2):
        type(planted.model)(planted.model.module, planted.model.processor)
    (line,) = [one for one in caplog.messages if "newer than" in one]
    assert re.search(r"torch 2\.\S+ \(tested up to 2\.0\.1\)", line)
    assert "`kedit doctor`" in line
    assert "transformers" not in line and "no-such-package" not in line


def test_a_command_tells_it_before_it_begins(
    afresh: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    afresh({"torch": "2.0.1"})
    monkeypatch.setattr(sys, "argv", ["kedit run", "hydra.run.dir=out", "threads=0"])
    with chdir(tmp_path):
        assert recipe.main() == 2
    told, message = capsys.readouterr().err.splitlines()
    assert "`kedit doctor`" in told and "`threads`" in message
    assert "`kedit doctor`" in (tmp_path / "out" / "kedit.log").read_text()


def test_nothing_is_told_of_libraries_that_the_tests_know(
    afresh: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    afresh(dict.fromkeys(TESTED, "9999"))
    with caplog.at_level(logging.DEBUG):
        tested.tell_untested()
    assert caplog.messages == []


def test_the_build_of_a_release_does_not_make_it_newer() -> None:
    known = {"torch": "2.13.0", "transformers": "5.9.0", "wandb": "0.31.0"}
    found = {"torch": "2.13.0+cpu", "transformers": "5.10.0", "wandb": "0.30.5"}
    assert tested.newer(found, known) == ["transformers"]


def test_the_tests_know_what_the_lock_file_names() -> None:
    assert raised(TESTED, LOCK) == TESTED, "requirements.lock names newer releases: `make lock` writes both"
    (torch,) = re.findall(r"^TORCH \?= (torch==\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert raised(TESTED, [torch]) == TESTED


def test_what_the_tests_know_is_only_ever_raised() -> None:
    known = {"torch": "2.13.0", "wandb": "0.31.0"}
    pins = ["torch==2.14.1+cu130", "wandb==0.30.0 ; python_version > '3'", "six==1.17.0", "# torch", "-e ."]
    assert raised(known, pins) == {"torch": "2.14.1", "wandb": "0.31.0"}
