"""Which rows of its batch a model is called on, while an answer is written by checking guesses of it.

Whoever writes so calls the model behind a prompt that an earlier call computed as a whole, several columns at a time,
goes back where a guess was wrong, and leaves out the rows that are finished. Whoever acts on positions or rows asks
here.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_CALLED: ContextVar[tuple[int, ...] | None] = ContextVar("rows of the batch", default=None)


@contextmanager
def calling(rows: Sequence[int]) -> Iterator[None]:
    """Say, in this thread, that the model is called on these rows of the batch, in this order."""
    before = _CALLED.set(tuple(rows))
    try:
        yield
    finally:
        _CALLED.reset(before)


def called() -> tuple[int, ...] | None:
    """Return the rows of the batch that the current call is on; None where nobody checks guesses: then it is all."""
    return _CALLED.get()
