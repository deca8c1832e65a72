"""What is in the store is whole or not there: with several processes, under a kill, on a full disk, after damage."""

import errno
import logging
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedit.entries import DAMAGED, GLANCE, MARK, Entry
from kedit.paths import NoHomeError
from kedit.store import ABANDONED, DRAFT, Store, default_folder, digest, store_at

KEY, OTHER = digest("one"), digest("other")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.ls()]


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
    assert keys(store) == sorted([KEY, OTHER])
    assert store.verify() == []
    assert store.rm(KEY)
    assert not store.rm(KEY)
    assert keys(store) == [OTHER]


def test_a_store_that_was_never_written_to_is_empty(store: Store) -> None:
    assert (store.get(KEY), store.ls(), store.verify(), store.rm(KEY)) == (None, [], [], False)
    assert not store.folder.exists()


def test_what_is_cached_is_made_once(store: Store) -> None:
    made = iter([b"first", b"second"])
    assert store.cached(KEY, lambda: next(made)) == b"first"
    assert store.cached(KEY, lambda: next(made)) == b"first"
    assert store.cached(OTHER, lambda: next(made)) == b"second"


# --- what an entry says of itself


@settings(max_examples=30)
@given(
    st.binary(max_size=20),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=4),
    st.sampled_from([0, 1, GLANCE, 3 * GLANCE]),
)
def test_what_an_entry_is_can_be_read_without_its_content(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, told: dict[str, object], length: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    about = told | {"kind": "scores", "prompt": "x" * length}
    store.put(KEY, content, about)
    (entry,) = store.ls()
    assert (entry.key, entry.kind, entry.about) == (KEY, "scores", about)
    assert entry.size == store.path(KEY).stat().st_size
    assert store.get(KEY) == content


def test_what_an_entry_is_has_no_say_in_its_content(store: Store) -> None:
    store.put(KEY, b"content")
    store.put(KEY, b"content", {"kind": "report", "of": "star"})
    assert store.get(KEY) == b"content"
    assert [entry.kind for entry in store.ls()] == ["report"]
    store.put(OTHER, b"content")
    assert {entry.kind for entry in store.ls()} == {"report", "other"}


@pytest.mark.parametrize("about", [{}, {"kind": ""}, {"kind": 3}, {"kind": "scores", "of": {1, 2}}], ids=str)
def test_a_description_without_a_kind_or_beyond_json_is_refused(store: Store, about: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="`about` must"):
        store.put(KEY, b"content", about)
    assert store.ls() == []


def test_reading_an_entry_is_using_it(store: Store) -> None:
    for key in (KEY, OTHER):
        store.put(key, b"content")
        os.utime(store.path(key), (1000.0, 1000.0))
    assert store.get(KEY) is not None
    store.ls()
    store.verify()
    used = {entry.key: entry.used for entry in store.ls()}
    assert used[OTHER] == 1000.0
    assert time.time() - 60 < used[KEY] < time.time() + 60


def test_a_store_that_may_only_be_read_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(KEY, b"content")

    def refused(*words: object) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refused)
    with caplog.at_level(logging.WARNING, "kedit"):
        assert store.get(KEY) == b"content"
    assert not caplog.records


def test_a_file_of_another_edition_is_not_there_and_no_damage(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.put(KEY, b"content")
    path = store.path(KEY)
    path.write_bytes(path.read_bytes().removesuffix(MARK) + b"kedit-1\n")
    with caplog.at_level(logging.WARNING, "kedit"):
        assert (store.get(KEY), store.ls(), store.verify()) == (None, [], [])
        assert store.leftovers() == [path]
        assert store.cached(KEY, lambda: b"again") == b"again"
    assert not caplog.records
    assert store.leftovers() == []


def test_the_users_variable_says_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KEDIT_STORE", raising=False)
    assert default_folder() == tmp_path / ".cache" / "kedit"
    monkeypatch.setenv("KEDIT_STORE", "")
    assert default_folder() == tmp_path / ".cache" / "kedit"
    monkeypatch.setenv("KEDIT_STORE", "~/elsewhere")
    assert default_folder() == tmp_path / "elsewhere"


def test_without_a_home_there_is_no_store_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "KEDIT_STORE"):
        monkeypatch.delenv(name, raising=False)
    with caplog.at_level(logging.WARNING, "kedit"):
        assert store_at("") is None and store_at("~/.cache/kedit") is None
    assert all("KEDIT_STORE=/a/folder" in one.getMessage() for one in caplog.records) and caplog.records
    with pytest.raises(NoHomeError, match=r"no home folder is known for `~/\.cache/kedit`"):
        default_folder()
    monkeypatch.setenv("KEDIT_STORE", str(tmp_path))
    assert store_at("") == Store(tmp_path) and default_folder() == tmp_path


# --- damage


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "swapped", "shifted", "retold"])
def test_a_damaged_entry_is_found_named_and_made_again(
    store: Store, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    store.put(KEY, b"content" * 100)
    store.put(OTHER, b"something else")
    path = store.path(KEY)
    held = path.read_bytes()
    length = int.from_bytes(held[-48:-40])
    path.write_bytes(
        {
            "cut": held[:-1],
            "flipped": held[:5] + bytes([held[5] ^ 1]) + held[6:],
            "emptied": b"",
            "swapped": store.path(OTHER).read_bytes(),
            # The same bytes with another boundary between content and description.
            "shifted": held[:-48] + (length - 1).to_bytes(8) + held[-40:],
            "retold": held.replace(b"other", b"count"),
        }[damage]
    )
    assert store.verify() == [KEY]
    with caplog.at_level(logging.WARNING, "kedit"):
        assert store.cached(KEY, lambda: b"again") == b"again"
    assert f"`{path}` is not what was put there (damaged): it is removed" in caplog.text
    assert store.verify() == []
    assert store.get(KEY) == b"again"


def test_an_entry_whose_end_is_damaged_is_listed_as_such(store: Store) -> None:
    for number in range(4):
        store.put(digest(number), b"content" * 10, {"kind": "scores"})
    held = store.path(digest(0)).read_bytes()
    store.path(digest(1)).write_bytes(b"")
    store.path(digest(2)).write_bytes(held[:-1])
    store.path(digest(3)).write_bytes(held[:-48] + b"\xff" * 8 + held[-40:])
    assert {entry.key: entry.kind for entry in store.ls()} == {digest(0): "scores"} | {
        digest(number): DAMAGED for number in (1, 2, 3)
    }
    assert store.verify() == sorted(digest(number) for number in (1, 2, 3))


def test_an_entry_that_cannot_be_read_is_made_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.path(KEY).mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "kedit"):
        assert store.cached(KEY, lambda: b"made") == b"made"
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
        assert store.cached(KEY, lambda: b"made") == b"made"
        assert store.cached(KEY, lambda: b"made") == b"made"
    assert caplog.text.count("No space left on device") == 1
    assert f"cannot keep results in `{store.folder}`" in caplog.text
    assert keys(store) == [OTHER]
    assert not list(store.folder.rglob(f"{DRAFT}*"))
    with pytest.raises(OSError, match="No space left"):
        store.put(KEY, b"made")


def test_a_folder_that_cannot_be_made_loses_nothing_but_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert Store(tmp_path / "file" / "store").cached(KEY, lambda: b"made") == b"made"


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
        content = store.cached(key, lambda: bytes([number]) * size, {"kind": "scores", "number": number})
        assert content == bytes([number]) * size
"""


def writer(folder: Path, size: int, rounds: int) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parent.parent
    words = [sys.executable, "-c", WRITER, str(folder), str(size), str(rounds)]
    return subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_four_processes_that_write_the_same_keys_while_another_reads_leave_every_entry_whole(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    running = [writer(store.folder, 20_000, 6) for _ in range(4)]
    seen = 0
    while any(one.poll() is None for one in running):
        for number in range(8):
            content = store.get(digest(number))
            assert content in (None, bytes([number]) * 20_000)
            seen += content is not None
        assert all(entry.about == {"kind": "scores", "number": entry.about.get("number")} for entry in store.ls())
        assert store.verify() == []
    assert seen > 0
    assert not caplog.records
    for one in running:
        _, told = one.communicate(timeout=60)
        assert (one.returncode, told) == (0, b""), told.decode()
    assert keys(store) == sorted(digest(number) for number in range(8))
    assert all(store.get(digest(number)) == bytes([number]) * 20_000 for number in range(8))


@contextmanager
def meanwhile(step: int, act: Callable[[], object]) -> Iterator[list[int]]:
    """Call `act` before the `step`-th line of the store that runs, as another process might; yield the lines seen."""
    seen: list[int] = []

    def trace(frame: FrameType, event: str, value: object) -> Any:
        if Path(frame.f_code.co_filename).name not in ("store.py", "entries.py"):
            return None
        if event == "line":
            if len(seen) == step:
                act()
            seen.append(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def put(store: Store, about: dict[str, object], used: float) -> None:
    store.put(KEY, b"content", about)
    os.utime(store.path(KEY), (used, used))


def removed(store: Store) -> list[Entry]:
    store.path(KEY).unlink()
    return []


def replaced(store: Store) -> list[Entry]:
    put(store, {"kind": "report", "of": "x" * 3 * GLANCE}, 2000.0)
    return store.ls()


@pytest.mark.parametrize("change", [removed, replaced])
def test_an_entry_that_another_process_changes_while_it_is_listed_is_the_old_one_or_what_it_became(
    store: Store, change: Callable[[Store], list[Entry]]
) -> None:
    step, seen = 0, [0]
    while step < len(seen):
        put(store, {"kind": "scores"}, 1000.0)
        allowed = [store.ls()]
        with meanwhile(step, lambda: allowed.append(change(store))) as seen:  # noqa: B023 - called in this round
            listed = store.ls()
        assert listed in allowed, f"line {seen[step]}"
        step += 1
    assert step > 10


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
    assert keys(store) == [KEY]
