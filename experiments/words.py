"""What stands behind a command that needs no configuration: `key=value`, read without Hydra, which takes a second."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from experiments.complaints import ConfigurationError, explained

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def settings(words: Sequence[str], known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """Return the values of `key=value` words.

    Args:
        words: From the command line.
        known: The keys there are, and what reads the value of each; a ValueError says what is wrong with it.

    Raises:
        ConfigurationError: A word is no setting, its key is unknown or given twice, or its value cannot be read.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in known or not equals:
            near = get_close_matches(key, known, n=1)
            listed = ", ".join(f"`{name}=`" for name in near or known) or "none"
            raise ConfigurationError(f"cannot read `{word}`; {'nearest' if near else 'settings'}: {listed}")
        if key in found:
            raise ConfigurationError(f"`{key}` is given twice")
        try:
            found[key] = known[key](value)
        except ValueError as error:
            raise ConfigurationError(f"`{word}`: {error}") from error
    return found


def flag(value: str) -> bool:
    """Return whether `value` is `true` rather than `false`."""
    if value not in ("true", "false"):
        raise ValueError("write true or false")
    return value == "true"


def text(value: str) -> str:
    """Return `value`, which must not be empty."""
    if not value:
        raise ValueError("the value is missing")
    return value


def age(value: str) -> float:
    """Return seconds: `30d` is 30 days; the other units are s, m, h and w."""
    read = re.fullmatch(r"(\d+)([smhdw])", value)
    if read is None:
        raise ValueError("an age is a whole number and a unit, s, m, h, d or w, such as `30d`")
    return int(read[1]) * UNITS[read[2]]


def obeyed(command: str, usage: str, obey: Callable[[Sequence[str]], int]) -> int:
    """Give the words of this process to `obey` and return the exit code; what goes wrong is one line.

    Args:
        command: The name that an error begins with.
        usage: Shown for `--help`, and where there is no word.
        obey: Takes the words and returns the exit code.
    """
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        (sys.stdout if words else sys.stderr).write(usage)
        return 0 if words else 2
    try:
        return obey(words)
    except ConfigurationError as error:
        sys.stderr.write(f"{command}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{command}: interrupted\n")
        return 130
    except OSError as error:
        sys.stderr.write(f"{command}: {explained(error)}\n")
        return 1
