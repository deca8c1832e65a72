"""What an error means, in one line that names the key, the value found and what would fix it."""

import re
import shlex
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

PLUGINS = {
    "hydra/launcher/joblib": "sweep",
    "hydra/launcher/submitit_local": "sweep",
    "hydra/launcher/submitit_slurm": "sweep",
    "hydra/launcher/ray": "ray",
    "hydra/sweeper/optuna": "optuna",
}
"""What Hydra can be extended by, and kedit's extra that brings it."""
FLAGS = (
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r"),
    *("--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
)
"""The options that Hydra knows."""
TAKES_VALUE = frozenset(
    {"--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun"}
)
"""Those that are followed by something."""


class ConfigurationError(Exception):
    """The command or the configuration is wrong; the message says what would fix it."""


class NegativeResult(Exception):  # noqa: N818 - nothing went wrong
    """The job is done, and what it found has to fail the command; the message says what."""


def misused(error: BaseException) -> bool:
    """Return whether the command or the configuration caused `error`."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, ConfigurationError | HydraException | OmegaConfBaseException):
        return True
    from kedit.pipelines.provenance import ScoresError  # takes seconds

    return isinstance(error, ScoresError)


def explained(error: BaseException) -> str:
    """Return `error` as one line."""
    from hydra.errors import (
        ConfigCompositionException,
        InstantiationException,
        MissingConfigException,
        OverrideParseException,
    )
    from omegaconf.errors import ConfigKeyError

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_option(error)
    if isinstance(error, OverrideParseException):
        override = str(error.override)
        return one_line(f"cannot read `{override}`: {_cause_of_parsing(error)}; {_way_to_write(override)}")
    if several := re.search(r"^Ambiguous value for argument '(.+)'$", str(error), re.MULTILINE):
        return _ambiguous(several[1])
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"`{missing[1]}` has no value; give it as `{missing[1]}=...`"
    composing = isinstance(error, ConfigCompositionException)
    if composing and (group := re.search(r"Could not override '(.*?)'\. No match in the defaults list", str(error))):
        return _no_group(group[1])
    if composing and error.__cause__ is not None and (found := re.search(r"override '(.+?)'", str(error))):
        return _no_key(found[1], error.__cause__)
    if isinstance(error, InstantiationException):
        return _not_made(error)
    if isinstance(error, ConfigKeyError) and error.full_key:
        return _no_key(str(error.full_key), error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: `{error.filename}`"
    if isinstance(error, KeyError) and error.args:
        return one_line(str(error.args[0]))
    # These are raised with a message for the user; the name of another kind is part of what happened.
    told = type(error) in (ValueError, LookupError) or isinstance(error, OSError | NegativeResult) or misused(error)
    return one_line(str(error) if told else f"{type(error).__name__}: {error}")


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse an option that Hydra does not know, of which it would print a page.

    Raises:
        ConfigurationError: There is one.
    """
    for former, argument, following in zip(["", *arguments], arguments, [*arguments[1:], ""], strict=False):
        name, given, value = argument.partition("=")
        if not given and former not in TAKES_VALUE and Path(argument).is_dir():
            raise ConfigurationError(f"`{argument}` is a folder, and no setting; `--help` lists those that take one")
        if not name.startswith("-"):
            continue
        if name in FLAGS:
            _check_flag(name, value if given else following)
            continue
        near = get_close_matches(name, [flag for flag in FLAGS if flag.startswith("--")], cutoff=0.8)
        way = f"nearest: `{near[0]}`" if near else f"a setting is written without dashes, as in `{_bare(name)}=...`"
        raise ConfigurationError(f"no option `{name}`; {way}")


def _check_flag(name: str, value: str) -> None:
    """Refuse an option that takes a value and has none, or another."""
    if name in ("--cfg", "-c") and value not in ("job", "hydra", "all"):
        raise ConfigurationError(f"`{name}` shows the configuration: `--cfg job`, `--cfg hydra` or `--cfg all`")
    if name in TAKES_VALUE and not value:
        raise ConfigurationError(f"`{name}` takes a value; `--hydra-help` says which")


def repeated(arguments: Sequence[str]) -> list[str]:
    """Return a sentence for each setting that is given more than once, of which the last counts."""
    given = [
        argument.partition("=")
        for argument in arguments
        if "=" in argument and not argument.startswith(("-", "hydra", "~"))
    ]
    values: dict[str, list[str]] = {}
    for key, _, value in given:
        values.setdefault(key.lstrip("+"), []).append(value)
    return [f"`{key}` is given {len(of)} times; `{of[-1]}` counts" for key, of in values.items() if len(of) > 1]


def _bare(name: str) -> str:
    return re.sub(r"[^\w.]", "_", name.lstrip("-")) or "key"


def usage_code(usage: str, arguments: Sequence[str]) -> int | None:
    """Print how a command that takes folders is used, where it is asked or has none, and return the exit code.

    Args:
        usage: The command line.
        arguments: What was given; where these are folders, nothing is printed, and None returned.
    """
    if set(arguments) & {"-h", "--help"}:
        sys.stdout.write(f"usage: {usage}\n")
        return 0
    if wrong := [argument for argument in arguments if argument.startswith("-") or not argument]:
        why = f"no option `{wrong[0]}`" if wrong[0] else "an empty word is no folder"
        sys.stderr.write(f"kedit: {why}; usage: {usage}\n")
        return 2
    if not arguments:
        sys.stderr.write(f"usage: {usage}\n")
        return 2
    return None


def quoted(text: str) -> str:
    """Return `text` in quotes, such that Hydra takes it as it stands and OmegaConf puts nothing into it."""
    # Hydra reads a backslash as itself unless it stands before a quote.
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return '"' + escaped.replace("${", "\\${") + '"'


def written(key: str, value: str) -> str:
    """Return how a shell is given a setting whose value is a text that Hydra would read otherwise."""
    setting = f"{key}={quoted(value)}"
    if "'" in setting and not set(setting) & set("$`\\!"):
        return '"' + setting.replace('"', '\\"') + '"'
    return shlex.quote(setting)


def one_line(text: str) -> str:
    """Return `text` with its lines joined; a long one is cut."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return joined if len(joined) <= 600 else f"{joined[:600]} ..."


def _no_option(error: Any) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = ", ".join(error.options or ()) or "none"
    if extra := PLUGINS.get(str(error.missing_cfg_file)):
        return f"`{group}={option}` is a plugin of Hydra's that is not installed; `pip install 'kedit[{extra}]'`"
    return f"no `{group}={option}`; options of `{group}`: {options}" if group else one_line(str(error))


def _cause_of_parsing(error: Any) -> str:
    if "LexerNoViableAltException" in str(error.message):
        return "it holds a character that Hydra reads only in quotes"
    lines = [line for line in str(error.message).splitlines() if not line.startswith(("See ", "Error parsing"))]
    return one_line("\n".join(lines))


def _way_to_write(override: str) -> str:
    """Return how what was meant by an override that Hydra cannot read is written."""
    key, given, value = override.partition("=")
    if not given or not re.fullmatch(r"(~|\+{0,2})[\w./@:-]+", key, re.ASCII):
        return "write `key=value`"
    quotes = f"a text with such characters needs quotes: {written(key, value)}"
    if not value:
        return f"an empty text is written {written(key, value)}"
    return f"a list ends in `]`, a mapping in `}}`; {quotes}" if value[0] in "[{" else quotes


def _ambiguous(override: str) -> str:
    key, _, value = override.partition("=")
    ways = f"a list is `{key}=[{value}]`, a text {written(key, value)}"
    return f"`{override}` is several values: to try one after the other, add `-m` to the command; {ways}"


def _no_group(group: str) -> str:
    if not group:
        return "a setting has a name; write `key=value`"
    if group == "launch":
        return "no `launch` here: only the jobs of `kedit run -m` are spread; `hydra/launcher=...` chooses for others"
    return f"no group `{group}` here; `--help` lists the groups and keys that there are"


def _no_key(key: str, cause: Any) -> str:
    """Return that there is no `key`, and the nearest or all that there are beside it."""
    beside = getattr(cause, "parent_node", None)
    if beside is None or not hasattr(beside, "keys"):
        return one_line(f"cannot set `{key}`: {cause}")
    path = str(cause.full_key).rpartition(".")[0]
    last = key.removeprefix(path).lstrip(".").partition(".")[0]
    there = [str(name) for name in beside if name not in ("_target_", "hydra")]
    if path and not there:
        return f"no key `{key}`: `{path}` has no keys here; in its place: `{path}={{{last}: ...}}`"
    near = get_close_matches(last, there)
    label = "nearest" if near else "keys there"
    listed = ", ".join(f"`{path}.{name}`" if path else f"`{name}`" for name in near or there)
    return f"no key `{key}`; {label}: {listed or 'none'}"


def _not_made(error: Any) -> str:
    """Return why a `_target_` could not be made, and where in the configuration it stands."""
    place = re.search(r"^full_key: (\S+)", str(error), re.MULTILINE)
    cause: BaseException = error
    while cause.__cause__ is not None and isinstance(cause, type(error)):
        cause = cause.__cause__
    text = one_line(str(error)) if cause is error else explained(cause)
    return f"`{place[1]}`: {text}" if place else text
