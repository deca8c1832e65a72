"""What an error means, in one line that names the key, the value found and what would fix it."""

import re
from difflib import get_close_matches
from typing import Any

PLUGINS = {
    "hydra/launcher/joblib": "sweep",
    "hydra/launcher/submitit_local": "sweep",
    "hydra/launcher/submitit_slurm": "sweep",
    "hydra/launcher/ray": "ray",
    "hydra/sweeper/optuna": "optuna",
}
"""What Hydra can be extended by, and kedit's extra that brings it."""


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
    from kedit.pipelines.locate import ScoresError  # takes seconds

    return isinstance(error, ScoresError)


def explained(error: BaseException) -> str:
    """Return `error` as one line."""
    from hydra.errors import (
        ConfigCompositionException,
        InstantiationException,
        MissingConfigException,
        OverrideParseException,
    )

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_option(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read `{error.override}`: {_cause_of_parsing(error)}; write `key=value`"
    if isinstance(error, ConfigCompositionException) and (found := re.search(r"override '(.+?)'", str(error))):
        return _no_key(found[1], error.__cause__)
    if isinstance(error, InstantiationException):
        return _not_made(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: `{error.filename}`"
    if isinstance(error, KeyError) and error.args:
        return one_line(str(error.args[0]))
    # These are raised with a message for the user; the name of another kind is part of what happened.
    told = type(error) in (ValueError, LookupError) or isinstance(error, OSError | NegativeResult) or misused(error)
    return one_line(str(error) if told else f"{type(error).__name__}: {error}")


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
    lines = [line for line in str(error.message).splitlines() if not line.startswith(("See ", "Error parsing"))]
    return one_line("\n".join(lines))


def _no_key(key: str, cause: Any) -> str:
    """Return that there is no `key`, and the nearest or all that there are beside it."""
    beside = getattr(cause, "parent_node", None)
    if beside is None or not hasattr(beside, "keys"):
        return one_line(f"cannot set `{key}`: {cause}")
    path = str(cause.full_key).rpartition(".")[0]
    last = key.removeprefix(path).lstrip(".").partition(".")[0]
    there = [str(name) for name in beside if name not in ("_target_", "hydra")]
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
