"""What is in the store is whole or not there: with several processes, under a kill, on a full disk, after damage."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedit.store import ABANDONED, DRAFT, Store, digest

KEY, OTHER = digest("one"), digest("other")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# --- keys


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=3), st.integers(), max_size=4), st.lists(st.binary(max_size=4), max_size=3))
def test_a_key_depends_on_content_and_not_on_the_order_of_a_mapping(about: dict[str, int], parts: list[bytes]) -> None:
    key = digest(about, *parts)
    assert len(key) == 64
    assert digest(dict(reversed(about.items())), *parts) == key
    assert digest(about | {"more": 1.5}, *parts) != key
    assert digest(about, *parts, b"") != key


def test_parts_that_are_cut_elsewhere_have_another_key() -> None:
    assert len({digest({}, b"ab", b"c"), digest({}, b"a", b"bc"), digest({}, b"abc"), digest({}, b"", b"abc")}) == 4


@pytest.mark.parametrize("key", ["", "../../etc/passwd", KEY[:-1], KEY.upper()])
def test_what_is_no_key_is_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="a key is 64 hexadecimal digits"):
        store.get(key)


# --- putting and getting


@settings(max_examples=30)
@given(st.binary(max_size=200))
def test_what_was_put_comes_back(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    assert store.get(KEY) is None
    store.put(KEY, content)
    store.put(OTHER, content + b"!")
    assert store.get(KEY) == content
    assert store.ls() == sorted([KEY, OTHER])
    assert store.verify() == []
    assert store.rm(KEY)
    assert not store.rm(KEY)
    assert store.ls() == [OTHER]


def test_a_store_that_was_never_written_to_is_empty(store: Store) -> None:
    assert (store.get(KEY), store.ls(), store.verify(), store.rm(KEY)) == (None, [], [], False)
    assert not store.folder.exists()


def test_what_is_remembered_is_made_once(store: Store) -> None:
    made = iter([b"first", b"second"])
    assert store.remembered(KEY, lambda: next(made)) == b"first"
    assert store.remembered(KEY, lambda: next(made)) == b"first"
    assert store.remembered(OTHER, lambda: next(made)) == b"second"


# --- damage


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "swapped"])
def test_a_damaged_entry_is_found_named_and_made_again(
    store: Store, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store.put(KEY, b"content" * 100)
    store.put(OTHER, b"something else")
    path = store.path(KEY)
    held = path.read_bytes()
    path.write_bytes(
        {
            "cut": held[:-1],
            "flipped": held[:5] + bytes([held[5] ^ 1]) + held[6:],
            "emptied": b"",
            "swapped": store.path(OTHER).read_bytes(),
        }[damage]
    )
    assert store.verify() == [KEY]
    with caplog.at_level(logging.WARNING, "kedit"):
        assert store.remembered(KEY, lambda: b"again") == b"again"
    assert f"`{path}` is not what was put there (damaged): it is removed" in caplog.text
    assert store.verify() == []
    assert store.get(KEY) == b"again"


def test_an_entry_that_cannot_be_read_is_made_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.path(KEY).mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "kedit"):
        assert store.remembered(KEY, lambda: b"made") == b"made"
    assert "cannot read" in caplog.text


# --- a full disk


def test_on_a_full_disk_results_are_returned_and_the_warning_comes_once(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.put(OTHER, b"before")
    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING, "kedit"):
        assert store.remembered(KEY, lambda: b"made") == b"made"
        assert store.remembered(KEY, lambda: b"made") == b"made"
    assert caplog.text.count("No space left on device") == 1
    assert f"cannot keep results in `{store.folder}`" in caplog.text
    assert store.ls() == [OTHER]
    assert not list(store.folder.rglob(f"{DRAFT}*"))
    with pytest.raises(OSError, match="No space left"):
        store.put(KEY, b"made")


def test_a_folder_that_cannot_be_made_loses_nothing_but_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert Store(tmp_path / "file" / "store").remembered(KEY, lambda: b"made") == b"made"


# --- processes

WRITER = """
import sys
from pathlib import Path
from kedit.store import Store, digest

store, size, rounds = Store(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for round in range(rounds):
    for number in range(8):
        key = digest(number)
        if round % 2:
            store.rm(key)
        assert store.remembered(key, lambda: bytes([number]) * size) == bytes([number]) * size
"""


def writer(folder: Path, size: int, rounds: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parent.parent
    words = [sys.executable, "-c", WRITER, str(folder), str(size), str(rounds)]
    return subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_two_processes_that_write_the_same_keys_leave_every_entry_whole(store: Store) -> None:
    running = [writer(store.folder, 20_000, 6) for _ in range(2)]
    for one in running:
        _, told = one.communicate(timeout=60)
        assert one.returncode == 0, told.decode()
        assert b"damaged" not in told
    assert store.ls() == sorted(digest(number) for number in range(8))
    assert store.verify() == []
    assert all(store.get(digest(number)) == bytes([number]) * 20_000 for number in range(8))


def test_a_process_killed_in_the_middle_of_writing_leaves_no_half_entry(store: Store) -> None:
    store.put(KEY, b"kept")
    size = 30_000_000
    child = writer(store.folder, size, 1000)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        drafts: list[Path] = []
        until = time.monotonic() + 30
        while not drafts and time.monotonic() < until:
            drafts = [one for one in store.folder.rglob(f"{DRAFT}*") if half_written(one, size)]
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert drafts, "the child was never seen writing"
    assert store.get(KEY) == b"kept"
    assert store.verify() == []
    for number in range(8):
        assert store.get(digest(number)) in (None, bytes([number]) * size)


def half_written(draft: Path, size: int) -> bool:
    try:
        return 0 < draft.stat().st_size < size
    except FileNotFoundError:
        return False


def test_a_draft_of_a_killed_process_is_removed_when_nobody_can_be_writing_it(store: Store) -> None:
    store.put(KEY, b"content")
    old, new = (store.path(KEY).with_name(f"{DRAFT}{name}") for name in ("old", "new"))
    for draft in (old, new):
        draft.write_bytes(b"half")
    os.utime(old, (time.time() - ABANDONED - 1,) * 2)
    store.put(KEY, b"content")
    assert not old.exists()
    assert new.exists()
    assert store.ls() == [KEY]
