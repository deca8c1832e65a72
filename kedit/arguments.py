"""What a caller hands over in place of something else: one line that says what was expected and what came."""

import reprlib


def shown(value: object) -> str:
    """Return what a value is, shortly: its type, and what it looks like."""
    told = reprlib.repr(value).splitlines()
    return f"{type(value).__name__} {told[0][:60] if told else ''}".rstrip()


def require(value: object, kind: type | tuple[type, ...], name: str, expected: str) -> None:
    """Raise a TypeError unless `value` is of a `kind`: "`name` is `expected`, got ..."."""
    if not isinstance(value, kind):
        raise TypeError(f"`{name}` is {expected}, got {shown(value)}")


def require_count(value: object, name: str, least: int) -> None:
    """Raise a TypeError unless `value` is a whole number, and a ValueError if it is less than `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"`{name}` is a whole number, {least} or more, got {shown(value)}")
    if value < least:
        raise ValueError(f"`{name}` is {least} or more, got {value}")
