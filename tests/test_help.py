"""The help of every command: each key has a meaning, its default and its choices, in 80 columns."""

import dataclasses
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import yaml
from hydra.utils import get_object

from kedit.cli import COMMANDS, main
from kedit.cli import help as recipe
from kedit.cli.help import TAKES, comments, compose_for, leaves, meaning, options, page, plain_page, sections
from kedit.paths import conf_dir

CONF = conf_dir()
CONFIGURED = sorted(name for name in COMMANDS if (CONF / f"{name.replace('-', '_')}.yaml").is_file())
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml") if path.parts[-2] != "hydra")
FREE = {
    ("compare.yaml", ("overrides",)), ("compare.yaml", ("samples",)),
    ("launch/slurm.yaml", ("hydra", "launcher", "additional_parameters")), ("edit/zero.yaml", ("operator",)),
}  # fmt: skip
"""Mappings that are one value: what they hold is the user's, or nothing."""


def stated(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((CONF / path).read_text()))


def value_at(node: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        node = node[name]
    return node


def parts(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each mapping with a `_target_`, by its place and the name of what it makes."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from parts(value, (*path, str(key)))


def names_of(annotation: Any) -> set[str]:
    """Return the names that a value may be, where it may be nothing but one of some names, or None."""
    if get_origin(annotation) is Literal:
        return {str(one) for one in get_args(annotation)}
    # A union, or what else is made of other annotations.
    return set().union(*map(names_of, get_args(annotation))) if isinstance(annotation, types.UnionType) else set()


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_key_of_every_file_has_a_meaning(path: Path) -> None:
    told = stated(path)
    keys = [*leaves(CONF / path, told)]
    groups = ("model", "data", "inpaint", "segment", "locate", "select", "edit", "evaluate", "tracker", "sources")
    # What a command or an experiment sets differently in a group, the group's own file explains.
    keys = [key for key in keys if key[0] not in groups or (len(path.parts) > 1 and path.parts[0] != "experiment")]
    assert [".".join(key) for key in keys if not meaning(CONF / path, key)] == []
    whole = {(path.as_posix(), key) for key in keys if isinstance(value_at(told, key), Mapping)}
    assert whole <= FREE


@pytest.mark.parametrize("command", CONFIGURED)
def test_every_key_and_group_of_a_command_is_told_with_its_meaning_in_80_columns(command: str) -> None:
    text = page(command)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.rstrip() for line in text.splitlines()]
    found = sections(command)
    for key in (key for section in found for key in section.keys):
        assert key.meaning, key.name
        (at,) = [n for n, line in enumerate(lines) if line.startswith(f"  {key.name}=")]
        assert any(line.startswith(" " * 6) for line in lines[at + 1 : at + 5]), key.name
    assert len({key.name for section in found for key in section.keys}) == sum(len(one.keys) for one in found)
    for place, option in compose_for(command)["hydra"]["runtime"]["choices"].items():
        if not place.startswith("hydra/"):
            at = lines.index(f"  {place}={'null' if option is None else option}")
            assert not lines[at + 1].strip().startswith("Options:"), f"`{place}` has no meaning"
            told = " ".join(lines[at + 1 : at + 8])
            assert all(one in told for one in options(place.partition("@")[0]))


def test_what_a_command_sets_and_its_user_chooses_is_shown() -> None:
    text = page("run", ["locate=gradcam", "edit=scale", "concept=moon"])
    assert "  edit.operator.factor=0.5\n" in text and "  locate=gradcam\n" in text
    assert "locate.stages.difference" not in text
    assert "  hydra.run.dir=" in text


@pytest.mark.parametrize("path", [path for path in FILES if len(path.parts) > 1], ids=str)
def test_the_meaning_of_a_key_names_each_of_its_choices(path: Path) -> None:
    told = stated(path)
    for place, target in parts(told):
        made = get_object(target)
        hints = get_type_hints(made)
        known = [one.name for one in dataclasses.fields(made)] if dataclasses.is_dataclass(made) else list(
            inspect.signature(made).parameters
        )  # fmt: skip
        for name in set(known) & set(value_at(told, place)):
            text = meaning(CONF / path, (*place, name))
            missing = {one for one in names_of(hints.get(name)) if one not in text}
            assert not missing, f"`{name}` of {path} may be {missing}, which is not told: {text}"


def test_comments_are_read_above_and_behind_a_key_and_commands_are_not_among_them(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(
        "# kedit run some=thing\n# About the file.\n_target_: a.b\n\n# One\n# two.\nx: 1\ny:\n  z: 2  # three\n"
    )
    assert comments(file) == {("_target_",): "About the file.", ("x",): "One two.", ("y",): "", ("y", "z"): "three"}


def test_a_key_without_a_comment_means_what_it_does_in_the_usual_file() -> None:
    usual = comments(CONF / "locate" / "two_stage.yaml")[("stages", "difference", "scorer", "positions")]
    assert usual
    assert meaning(CONF / "locate" / "activation.yaml", ("stages", "activation", "scorer", "positions")) == usual
    own = meaning(CONF / "locate" / "causal_effect.yaml", ("stages", "causal_effect", "scorer", "positions"))
    assert own != usual
    assert meaning(CONF / "locate" / "activation.yaml", ("positions",)) == ""


@pytest.mark.parametrize("name", [*sorted(TAKES), "run"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_printed_by_the_command_and_is_no_failure(
    name: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, flag]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == (plain_page(name) if name in TAKES else page(name))
    assert printed.out.startswith(f"kedit {name}: {COMMANDS[name].summary}\n\nusage: kedit {name} ")
    assert max(map(len, printed.out.splitlines())) <= 80


def test_a_command_that_takes_options_explains_them_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cache", "--help"])
    assert ended.value.code == 0
    assert "usage: kedit cache" in capsys.readouterr().out


def test_an_option_that_there_is_not_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedit run", "edit=nothing", "--help"])
    assert recipe.main() == 2
    assert capsys.readouterr().err == "kedit: no `edit=nothing`; options of `edit`: amplify, none, patch, scale, zero\n"
