"""`kedit cache` lists, checks and removes what it is asked to, and nothing else."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kedit.cli.cache import UNITS, format_bytes, main
from kedit.entries import MARK
from kedit.store import DRAFT, Store, digest

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., tuple[int, str, str]]
KINDS = ("scores", "scores", "generations", "counterfactual")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's store, with four entries of 1000 bytes and more."""
    monkeypatch.setenv("KEDIT_STORE", str(tmp_path / "store"))
    store = Store(tmp_path / "store")
    for number, kind in enumerate(KINDS):
        store.put(digest(number), bytes(1000), {"kind": kind, "number": number, "of": "[bold]star"})
    return store


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `kedit cache` with these words and return its exit code and what it says."""

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kedit cache", *words])
        code = main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def kept(store: Store) -> set[int]:
    """Return the numbers of the entries that are there."""
    return {number for number in range(len(KINDS)) if store.path(digest(number)).exists()}


def hurt(store: Store, number: int) -> None:
    path = store.path(digest(number))
    path.write_bytes(b"x" + path.read_bytes()[1:])


# --- listing


def test_kinds_are_listed_with_count_size_and_last_use(store: Store, cache: Command) -> None:
    os.utime(store.path(digest(2)), (1e9, 1e9))
    code, text, _ = cache("ls")
    lines = [line.split() for line in text.splitlines()]
    assert code == 0
    assert ["scores", "2", "2.2", "kB"] in [line[:4] for line in lines]
    assert ["all", "4", "4.4", "kB"] in [line[:4] for line in lines]
    (old,) = [line for line in lines if line[:1] == ["generations"]]
    assert old[-2] == "2001-09-09"
    assert lines[-1] == ["in", str(store.folder)]


def test_one_kind_is_listed_alone(store: Store, cache: Command) -> None:
    text = cache("ls", "--kind", "generations")[1]
    assert "generations" in text
    assert not re.search("scores|counterfactual|all", text.replace(str(store.folder), ""))


def test_each_entry_is_listed_with_what_it_is(store: Store, cache: Command) -> None:
    code, text, _ = cache("ls", "--all")
    assert code == 0
    for number, kind in enumerate(KINDS):
        (line,) = [line for line in text.splitlines() if digest(number)[:12] in line]
        assert f"number: {number}, of: [bold]star" in line
        assert kind in line
        assert re.search(r"1\.1 kB +\d{4}-\d\d-\d\d \d\d:\d\d", line)


def test_a_kind_that_is_not_there_is_told_beside_those_that_are(store: Store, cache: Command) -> None:
    code, text, _ = cache("ls", "--kind", "score")
    assert (code, text.count("\n")) == (0, 1)
    assert "no entries of kind `score`" in text
    assert "`counterfactual`, `generations`, `scores`" in text


def test_a_store_that_nothing_was_put_into_yet_is_empty(
    cache: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEDIT_STORE", str(tmp_path / "none"))
    assert cache("ls")[:2] == (0, f"no entries in {tmp_path / 'none'}\n")
    assert cache("verify")[:2] == (0, "0 entries, 0 bytes: all whole\n")
    assert cache("rm", "--all")[0] == 0


@pytest.mark.parametrize(
    ("size", "message"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (9949, "9.9 kB"), (9950, "10 kB"), (999_499, "999 kB"),
     (999_500, "1.0 MB"), (5_400_000_000, "5.4 GB"), (7_000_000_000_000, "7.0 TB")],
)  # fmt: skip
def test_a_size_is_told_in_two_or_three_digits(size: int, message: str) -> None:
    assert format_bytes(size) == message


# --- removing


@pytest.mark.parametrize(
    ("words", "left", "message"),
    [
        (["--kind", "scores"], {2, 3}, "removed 2 of `scores`: 2.2 kB"),
        (["--older", "1h"], {0, 2, 3}, "removed 1 of `scores`: 1.1 kB"),
        (["--older", "30d"], {0, 1, 2, 3}, "removed nothing: 0 bytes"),
        (["--kind", "generations", "--older", "1h"], {0, 1, 2, 3}, "removed nothing: 0 bytes"),
        (["--key", digest(3)[:8]], {0, 1, 2}, "removed 1 of `counterfactual`: 1.1 kB"),
        (["--all"], set(), "removed 1 of `counterfactual`, 1 of `generations`, 2 of `scores`: 4.4 kB"),
    ],
)
def test_what_is_asked_for_is_removed_and_told(
    store: Store, cache: Command, words: list[str], left: set[int], message: str
) -> None:
    os.utime(store.path(digest(1)), (time.time() - 2 * UNITS["h"],) * 2)
    assert cache("rm", *words) == (0, f"{message}, from {store.folder}\n", "")
    assert kept(store) == left


def test_an_entry_that_was_read_lately_is_not_old(store: Store, cache: Command) -> None:
    for number in range(len(KINDS)):
        os.utime(store.path(digest(number)), (1e9, 1e9))
    assert store.get(digest(2)) is not None
    cache("rm", "--older", "1w")
    assert kept(store) == {2}


def test_everything_includes_what_is_no_entry_any_more(store: Store, cache: Command) -> None:
    old, draft = store.path(digest("old")), store.path(digest(0)).with_name(f"{DRAFT}0")
    old.parent.mkdir(exist_ok=True)
    old.write_bytes(b"content" + MARK.replace(b"2", b"1"))
    draft.write_bytes(b"half")
    os.utime(draft, (1e9, 1e9))
    (store.folder / "README").write_text("the user's own")
    assert "of older editions or killed processes: 2 files, 19 bytes" in cache("ls")[1]
    assert "removed 2 files of older editions or killed processes: 19 bytes" in cache("rm", "--all")[1]
    assert [path.name for path in store.folder.rglob("*") if path.is_file()] == ["README"]


# --- damage


def test_damaged_entries_are_named_and_only_they_are_removed(store: Store, cache: Command) -> None:
    assert cache("verify") == (0, "4 entries, 4.4 kB: all whole\n", "")
    hurt(store, 1)
    hurt(store, 2)
    store.path(digest(2)).write_bytes(b"")
    code, text, message = cache("verify")
    assert code == 1
    assert set(text.splitlines()) == {f"damaged: {store.path(digest(number))}" for number in (1, 2)}
    assert message.startswith("kedit: 2 of 4 entries")
    assert kept(store) == {0, 1, 2, 3}
    assert cache("rm", "--damaged")[0] == 0
    assert kept(store) == {0, 3}
    assert cache("verify")[0] == 0


# --- wrong commands


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "the following arguments are required: {ls,rm,verify}"),
        (["list"], "invalid choice: 'list' (choose from"),
        (["ls", "--knd", "scores"], "unrecognized arguments: --knd scores"),
        (["ls", "scores"], "unrecognized arguments: scores"),
        (["ls", "--kind"], "argument --kind: expected one argument"),
        (["verify", "--kind", "scores"], "unrecognized arguments: --kind scores"),
        (["rm"], "say what to remove"),
        (["rm", "--all", "--kind", "scores"], "say what to remove"),
        (["rm", "--kind", "socres"], "no entries of kind `socres` in"),
        (["rm", "--older", "30"], "argument --older: an age is a whole number and a unit"),
        (["rm", "--older", "1.5d"], "an age is a whole number and a unit"),
        (["rm", "--key", "star"], "`--key star`: write the first digits of a key"),
        (["rm", "--key", "0123"], "`--key 0123` begins no entry in"),
        (["ls", "--store", "/nowhere"], "there is no folder `/nowhere`"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_one_line_and_removes_nothing(
    store: Store, cache: Command, words: list[str], told: str
) -> None:
    code, shown, message = cache(*words)
    assert (code, shown, message.count("\n")) == (2, "", 1)
    assert message.startswith("kedit: ")
    assert told in message
    assert kept(store) == {0, 1, 2, 3}


def test_a_key_that_begins_two_entries_is_refused(store: Store, cache: Command) -> None:
    for ending in ("0", "1"):
        store.put("ab" * 30 + "000" + ending, b"content")
    code, _, message = cache("rm", "--key", "abab")
    assert code == 2
    assert "`--key abab` begins 2 entries; give more digits" in message
    assert cache("rm", "--key", f"{'ab' * 30}0001")[0] == 0
    assert len(store.ls()) == 5


@pytest.mark.parametrize("words", [["--help"], ["ls", "--help"], ["rm", "-h"], ["verify", "-h"]], ids=" ".join)
def test_help_is_shown_and_is_no_error(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedit cache", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: kedit cache {words[0] if words[1:] else '[-h]'}")


def test_no_heavy_package_is_imported(store: Store) -> None:
    script = "import sys; from kedit.cli import main; main(['cache', 'ls']); print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert "generations" in done.stdout
    heavy = {"torch", "numpy", "PIL", "hydra", "omegaconf", "transformers", "wandb"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())
