"""What the store keeps, listed, checked and removed.

kedit cache ls
kedit cache rm --kind counterfactual --older 30d
"""

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from kedit.cli.errors import ConfigurationError, explained
from kedit.entries import Entry
from kedit.paths import expanded
from kedit.store import Store, default_folder

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
SHORT = 12
"""Digits of a key that are shown."""


def ls(store: Store, *, kind: str | None = None, all: bool = False) -> int:
    """Print a line for each kind, or for each entry."""
    entries = [entry for entry in store.ls() if kind in (None, entry.kind)]
    if not entries:
        print(_nothing(store, kind))
        return 0
    if all:
        entry_rows = [
            (one.key[:SHORT], one.kind, format_bytes(one.size), _format_time(one.used), _described(one.about))
            for one in sorted(entries, key=lambda one: (one.kind, -one.used, one.key))
        ]
        _print_table(("key", "kind", "size", "last used", "what"), entry_rows)
        return 0
    kinds = {name: [one for one in entries if one.kind == name] for name in sorted({one.kind for one in entries})}
    if len(kinds) > 1:
        kinds["all"] = entries
    rows = [
        (name, str(len(of)), format_bytes(sum(one.size for one in of)), _format_time(max(one.used for one in of)))
        for name, of in kinds.items()
    ]
    _print_table(("kind", "entries", "size", "last used"), rows)
    print(f"in {store.folder}{_beside(store)}")
    return 0


def rm(
    store: Store,
    *,
    kind: str | None = None,
    older: float | None = None,
    key: str | None = None,
    damaged: bool = False,
    all: bool = False,
) -> int:
    """Remove the entries that fit all that is asked, and print how many and how large they were."""
    narrowed = kind is not None or older is not None or key is not None
    if damaged + all + narrowed != 1:
        raise ConfigurationError(
            "say what to remove: `--kind`, `--older` and `--key`, alone or together, or `--damaged`, or `--all`"
        )
    entries = store.ls()
    if kind is not None and entries and kind not in {one.kind for one in entries}:
        raise ConfigurationError(_nothing(store, kind))
    if key is not None:
        entries = [_only_one(entries, key, store)]
    if damaged:
        hurt = set(store.verify())
        entries = [one for one in entries if one.key in hurt]
    if older is not None:
        entries = [one for one in entries if one.used < time.time() - older]
    entries = [one for one in entries if kind in (None, one.kind)]
    removed = [one for one in entries if store.rm(one.key)]
    size = sum(one.size for one in removed)
    by_kind = Counter(one.kind for one in removed)
    listed = ", ".join(f"{count} of `{name}`" for name, count in sorted(by_kind.items())) or "nothing"
    print(f"removed {listed}: {format_bytes(size)}, from {store.folder}")
    if all:
        _remove_leftovers(store)
    return 0


def verify(store: Store) -> int:
    """Read every entry; name the damaged ones and return 1 if there are any."""
    entries = store.ls()
    hurt = store.verify()
    for key in hurt:
        print(f"damaged: {store.path(key)}")
    text = f"{len(entries)} entries, {format_bytes(sum(one.size for one in entries))}"
    if hurt:
        sys.stderr.write(
            f"kedit: {len(hurt)} of {text}, are damaged; `kedit cache rm --damaged` removes them, "
            "and whoever needs one makes it again\n"
        )
        return 1
    print(f"{text}: all whole")
    return 0


class Parser(argparse.ArgumentParser):
    """Tells what is wrong with a command in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise `message`."""
        raise ConfigurationError(f"{message}; `{self.prog} --help` tells more")


def parser() -> Parser:
    """Return what reads the words behind `kedit cache`."""
    whole = Parser("kedit cache", description="What is kept between runs: list it, check it, remove some of it.")
    verbs = whole.add_subparsers(dest="verb", required=True, metavar="{ls,rm,verify}")
    listing = verbs.add_parser("ls", help="list what is kept: a line for each kind")
    listing.add_argument("--kind", help="only of this kind, such as `scores`")
    listing.add_argument("--all", action="store_true", help="a line for each entry")
    removing = verbs.add_parser("rm", help="remove what is asked for")
    removing.add_argument("--kind", help="what is of this kind")
    removing.add_argument("--older", type=age, metavar="AGE", help="what was not used for so long, such as 30d")
    removing.add_argument("--key", help="the entry whose key begins like this, such as 3fa9")
    removing.add_argument("--damaged", action="store_true", help="what is damaged")
    removing.add_argument("--all", action="store_true", help="everything")
    checking = verbs.add_parser("verify", help="read everything, name what is damaged")
    for verb, act in ((listing, ls), (removing, rm), (checking, verify)):
        verb.add_argument("--store", help="the folder; by default `$KEDIT_STORE` or `~/.cache/kedit`")
        verb.set_defaults(act=act)
    return whole


def age(value: str) -> float:
    """Return seconds: `30d` is 30 days; the other units are s, m, h and w."""
    read = re.fullmatch(r"(\d+)([smhdw])", value)
    if read is None:
        raise argparse.ArgumentTypeError("an age is a whole number and a unit, s, m, h, d or w, such as `30d`")
    return int(read[1]) * UNITS[read[2]]


def format_bytes(size: int) -> str:
    """Return a size with two or three digits: `3.4 MB`, in powers of 1000."""
    shown = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if shown < 999.5:
            return f"{size} bytes" if unit == "bytes" else f"{shown:.{1 if shown < 9.95 else 0}f} {unit}"
        shown /= 1000
    return f"{shown:.1f} TB"


def _store(named: str | None) -> Store:
    folder = default_folder() if named is None else expanded(named)
    if not folder.is_dir() and (named is not None or folder.exists()):
        raise ConfigurationError(f"there is no folder `{folder}`; `--store` names one that kedit has written to")
    return Store(folder)


def _nothing(store: Store, kind: str | None) -> str:
    kinds = ", ".join(f"`{name}`" for name in sorted({one.kind for one in store.ls()}))
    if kind is None or not kinds:
        return f"no entries in {store.folder}{_beside(store)}"
    return f"no entries of kind `{kind}` in {store.folder}; kinds there: {kinds}"


def _beside(store: Store) -> str:
    """Return how much lies beside the entries that only removing everything removes."""
    left = store.leftovers()
    size = sum(path.stat().st_size for path in left)
    return f"; of older editions or killed processes: {len(left)} files, {format_bytes(size)}" if left else ""


def _only_one(entries: Sequence[Entry], key: str, store: Store) -> Entry:
    if not re.fullmatch(r"[0-9a-f]{4,64}", key):
        raise ConfigurationError(f"`--key {key}`: write the first digits of a key as `kedit cache ls --all` shows it")
    found = [one for one in entries if one.key.startswith(key)]
    if len(found) != 1:
        several = f"{len(found)} entries; give more digits" if found else f"no entry in {store.folder}"
        raise ConfigurationError(f"`--key {key}` begins {several}")
    return found[0]


def _remove_leftovers(store: Store) -> None:
    left = store.leftovers()
    if left:
        size = sum(path.stat().st_size for path in left)
        for path in left:
            path.unlink(missing_ok=True)
        print(f"removed {len(left)} files of older editions or killed processes: {format_bytes(size)}")


def _described(about: Mapping[str, Any]) -> str:
    told = {name: value for name, value in about.items() if name != "kind" and value is not None}
    return ", ".join(f"{name}: {_shown(value)}" for name, value in told.items())


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        # What an entry is may be long, and is cut where it does not fit; nothing else is.
        table.add_column(name, justify="right" if name in ("entries", "size") else "left", no_wrap=name != "what")
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def main() -> int:
    """Run the command line; whatever goes wrong is one line on standard error."""
    try:
        chosen = vars(parser().parse_args())
        del chosen["verb"]
        return int(chosen.pop("act")(_store(chosen.pop("store")), **chosen))
    except ConfigurationError as error:
        sys.stderr.write(f"kedit: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("kedit: interrupted\n")
        return 130
    except OSError as error:
        sys.stderr.write(f"kedit: {explained(error)}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
