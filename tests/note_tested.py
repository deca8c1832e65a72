"""Raise the releases in kedit/tested.json to those that the lines `NAME==VERSION` on standard input name.

`make lock` says what is about to be tested, `make test-newest` what has been.
"""

import json
import sys
from collections.abc import Iterable, Mapping

from kedit.tested import FILE, newer


def raised(tested: Mapping[str, str], pins: Iterable[str]) -> dict[str, str]:
    """Return `tested` with the releases of `pins` where those are newer."""
    told = dict(pin.partition(";")[0].strip().split("==") for pin in pins if "==" in pin.partition(";")[0])
    return {**tested, **{name: told[name].partition("+")[0] for name in newer(told, tested)}}


if __name__ == "__main__":
    known = json.loads(FILE.read_text(encoding="utf-8"))
    FILE.write_text(json.dumps(raised(known, sys.stdin), indent=2, sort_keys=True) + "\n", encoding="utf-8")
