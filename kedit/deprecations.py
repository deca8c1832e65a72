"""What libraries say about their own future is for developers: it goes to the log, not to the terminal."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import TextIO

logger = logging.getLogger(__name__)

KINDS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
LONGEST = 500
"""Characters of a message; some hold the whole value that is deprecated."""


@contextmanager
def deprecations_logged() -> Iterator[None]:
    """Log, inside `with`, the deprecations that Python would show on standard error; other warnings are shown."""
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, KINDS):
            logger.info("%s (%s:%d): %s", category.__name__, filename, lineno, shorten(str(message), LONGEST))
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before
