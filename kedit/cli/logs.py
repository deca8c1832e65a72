"""Where a command's log goes: warnings to standard error, and all of it into a file.

Hydra can set logging up as well, but not without shutting down every handler that the process has, and some close the
stream they write to: absl's, which `rouge_score` imports, closes the caller's standard error wherever that was replaced
meanwhile, as notebooks and tests do.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def logged(file: Path | None) -> Iterator[None]:
    """Send what is logged inside `with` to standard error, from warnings on, and to `file`, and nowhere else.

    Args:
        file: Written to from the first line on; None for no file.
    """
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.WARNING)
    own: list[logging.Handler] = [console]
    if file is not None:
        own.append(logging.FileHandler(file, delay=True, encoding="utf-8"))
    for handler in own:
        handler.setFormatter(logging.Formatter(FORMAT))
    root.handlers[:] = own
    root.setLevel(min(level, logging.INFO))  # `hydra.verbose` asks for more
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        for handler in own:
            handler.close()
