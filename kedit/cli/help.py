"""What `kedit COMMAND --help` prints: each key with its default and its meaning, read from the comments in conf/.

A key means what the comment above it says. Without one it means what it does in another file of its folder: each
meaning is written once, in the file that `kedit run` takes if that has the key.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from importlib import import_module
from importlib.util import find_spec
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from kedit.cli import COMMANDS
from kedit.cli.errors import explained
from kedit.paths import conf_dir

WIDTH = 80
NO_KEYS = ("_target_", "defaults")
"""What stands where keys stand and is none: its comment is about the file."""
TAKES = {
    "table": "FOLDER [FOLDER ...]",
    "leaderboard": "FOLDER [FOLDER ...]",
    "page": "FOLDER [FOLDER ...]",
    "verify": "RUN [RUN ...]",
    "export": "RUN [to=FORM] [folder=FOLDER] [overwrite=true]",
    "gone": "RUN [never_knew=FOLDER] [KEY=VALUE ...]",
}
"""What the commands without a configuration are given."""

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """One key of a command."""

    name: str
    """As the user types it."""
    default: Any
    meaning: str
    """What it is for; empty where nothing says it."""


@dataclass(frozen=True)
class Section:
    """The keys of one file, and how the file came to be chosen."""

    group: str
    """As the user types it; empty for the command's own keys."""
    option: str
    about: str
    """What the file says of itself."""
    keys: tuple[Key, ...]


def file_of(group: str, option: str) -> Path:
    """Return the file of an option of a group, or of a command where the group is empty."""
    return conf_dir() / group / f"{option}.yaml"


@cache
def comments(file: Path) -> Mapping[KeyPath, str]:
    """Return what the comments above the keys of a file say, or behind them, by the path of the key."""
    text = file.read_text(encoding="utf-8")
    lines, found = text.splitlines(), dict[KeyPath, str]()
    for path, mark in _marks(yaml.compose(text)):
        above, line = [], mark.line - 1
        while line >= 0 and (comment := re.match(r"\s*#(.*)", lines[line])):
            above.append(comment[1].strip())
            line -= 1
        own = [one for one in reversed(above) if not one.startswith(("kedit ", "@package "))]
        if behind := re.search(r"\s#\s(.*)$", lines[mark.line]):
            own.append(behind[1])
        found[path] = " ".join(own)
    return found


def _marks(node: yaml.Node | None, path: KeyPath = ()) -> Iterator[tuple[KeyPath, yaml.Mark]]:
    """Yield every key and the place where it stands; an entry of a list of defaults is a key of `defaults`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, str(key.value)), key.start_mark
            yield from _marks(value, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode) and path == ("defaults",):
        for entry in node.value:
            yield from _marks(entry, path)


def meaning(file: Path, path: KeyPath) -> str:
    """Return what a key of a file is for: by its own comment, or by that on such a key in another file of the folder.

    Such a key has the same name and stands under one of the same name. The file that `kedit run` takes comes first.
    """
    if own := comments(file).get(path):
        return own
    for other in sorted(file.parent.glob("*.yaml"), key=lambda one: (one.stem != _usual(file.parent), one)):
        for known, text in comments(other).items():
            if text and known[-2:] == path[-2:] and (len(known) == 1) == (len(path) == 1):
                return text
    return ""


@cache
def _usual(folder: Path) -> str | None:
    """Return the option of a folder that `kedit run` takes; of the commands' own files, that of `run`."""
    main = file_of("", "run")
    if folder == main.parent:
        return main.stem
    defaults = yaml.safe_load(main.read_text(encoding="utf-8"))["defaults"]
    return next((one[folder.name] for one in defaults if isinstance(one, dict) and folder.name in one), None)


def leaves(file: Path, node: Mapping[str, Any], path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the keys of a file, of Hydra's those with a comment; a mapping whose keys mean nothing is one key."""
    for name, value in node.items():
        here = (*path, str(name))
        if name == "_target_" or (not path and name in NO_KEYS):
            continue
        inside = list(leaves(file, value, here)) if isinstance(value, Mapping) else []
        if here[0] == "hydra":
            yield from [here] * bool(comments(file)[here]) or inside
        elif any(meaning(file, one) for one in inside):
            yield from inside
        else:
            yield here


def sections(command: str, arguments: Sequence[str] = ()) -> list[Section]:
    """Return the keys of a command by the file that states them, with the options that `arguments` choose."""
    composed = compose_for(command, arguments)
    main = file_of("", command.replace("-", "_"))
    groups = [
        _section(place, option, main, composed)
        for place, option in _chosen(composed).items()
        if option is not None and not place.startswith("experiment")
    ]
    stated = {key.name for one in groups for key in one.keys}
    own = [key for file in (main, file_of("", "shell")) for key in _keys(file, (), main, composed)]
    # What a command sets differently in a group is told with the group.
    keys = [key for key in own if not any(f"{name}.".startswith(f"{key.name}.") for name in stated)]
    return [Section("", "", "", tuple(keys)), *groups]


def compose_for(command: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Return a command's configuration as plain data, with the options of groups that `arguments` choose."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    chosen = [
        argument
        for argument in arguments
        if (group := _group(argument.partition("=")[0])) and (conf_dir() / group).is_dir()
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose(command.replace("-", "_"), chosen, return_hydra_config=True)
    container = OmegaConf.to_container(composed)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _chosen(composed: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the option of each group, by the word before `=`, in the order of the list of defaults."""
    choices = composed["hydra"]["runtime"]["choices"]
    return {place: choices[place] for place in reversed(choices) if not place.startswith("hydra/")}


def _group(place: str) -> str:
    """Return the folder of what the user types before `=`."""
    return place.lstrip("+~").partition("@")[0]


def _section(place: str, option: str, main: Path, composed: Any) -> Section:
    file, package = file_of(_group(place), option), place.rpartition("@")[2]
    is_global = "@package _global_" in file.read_text(encoding="utf-8")
    keys = _keys(file, () if is_global else tuple(package.split(".")), main, composed)
    about = " ".join(filter(None, (comments(file).get((name,)) for name in NO_KEYS)))
    return Section(place, option, about, tuple(keys))


def _keys(file: Path, before: KeyPath, main: Path, composed: Any) -> Iterator[Key]:
    for path in leaves(file, yaml.safe_load(file.read_text(encoding="utf-8"))):
        whole = (*before, *path)
        try:
            default = reduce(getitem, whole, composed)
        except TypeError:  # an experiment has one value in the place of a mapping, such as `figures: false`
            continue
        yield Key(".".join(whole), default, comments(main).get(whole) or meaning(file, path))


def options(group: str) -> list[str]:
    """Return the options of a group."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def page(command: str, arguments: Sequence[str] = ()) -> str:
    """Return the help of a command that is configured, no wider than 80 columns."""
    main = file_of("", command.replace("-", "_"))
    lines = [
        *textwrap.wrap(f"kedit {command}: {COMMANDS[command].summary}", WIDTH),
        "",
        f"usage: kedit {command} [GROUP=OPTION ...] [KEY=VALUE ...]",
        f"       kedit {command} -m [KEY=VALUE,VALUE ...]    one job for each value",
    ]
    if chosen := _chosen(compose_for(command, arguments)):
        lines += ["", "groups, and their options; with another one, --help shows its keys:"]
    for place, option in chosen.items():
        group = _group(place)
        about = meaning(main, ("defaults", place)) or meaning(main, ("defaults", group))
        listed = ", ".join([*options(group), *["null"] * (option is None)])
        lines += _entry(f"{place}={_shown(option)}", f"{about} Options: {listed}.".strip())
    for section in sections(command, arguments):
        if section.keys:
            title = f"keys of {section.group}={section.option}" if section.group else "keys"
            lines += ["", *textwrap.wrap(f"{title}: {section.about}".removesuffix(": "), WIDTH)]
            lines += [line for key in section.keys for line in _entry(f"{key.name}={_shown(key.default)}", key.meaning)]
    return "\n".join(lines) + "\n"


def _entry(head: str, text: str) -> list[str]:
    first = textwrap.wrap(head, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    far = " " * 6
    return first + textwrap.wrap(text, WIDTH, initial_indent=far, subsequent_indent=far, break_on_hyphens=False)


def _shown(value: Any) -> str:
    """Return a value as the user would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_shown(one)}' for name, one in value.items())}}}"
    return str(value)


def plain_page(command: str) -> str:
    """Return the help of a command that takes no configuration."""
    module = COMMANDS[command].module
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    about = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    told = [textwrap.fill(one, WIDTH) for one in about.split("\n\n")]
    usage = [f"kedit {command}: {COMMANDS[command].summary}", f"usage: kedit {command} {TAKES[command]}"]
    return "\n\n".join([*usage, *told]) + "\n"


def main() -> int:
    """Print the help of the command in the first word of the command line; the others may choose options."""
    command, arguments = (
        sys.argv[0].rpartition(" ")[2],
        [argument for argument in sys.argv[1:] if not argument.startswith("-")],
    )
    if command not in TAKES and not file_of("", command.replace("-", "_")).is_file():
        # It takes options instead of keys, and explains them itself.
        return int(import_module(COMMANDS[command].module).main() or 0)
    try:
        sys.stdout.write(plain_page(command) if command in TAKES else page(command, arguments))
    except Exception as error:
        sys.stderr.write(f"kedit: {explained(error)}\n")
        return 2
    return 0
