"""How far a long job is: a bar on a terminal; elsewhere a line as a stage begins, now and then, and at its end.

The same lines go to the log, also where a bar is shown.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Generic, TypeVar

from kedit.samples import Progress, silent

T = TypeVar("T")
logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 10.0, 300.0
"""Seconds between two lines of a stage: so many at first, then twice as many each time, and so many at most."""

_shown: ContextVar[bool] = ContextVar("shown", default=True)
"""Whether anything is shown but in the log."""
_depth: ContextVar[int] = ContextVar("depth", default=0)
"""How many stages the work that goes on is inside of."""


@dataclass(frozen=True)
class Batched(Generic[T]):
    """Items that each stand for several things, such as batches of pictures; the things are counted."""

    items: Iterable[T]
    sizes: Sequence[int]
    """How many things each item stands for."""
    unit: str = ""
    """What the things are called, such as `pictures`, if the name of the stage does not say it."""
    detail: str = ""
    """What is done with them, behind the name of the stage."""

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.sizes)


def as_progress(wanted: Progress | bool) -> Progress:
    """Return what shows how far a job is: the library's own way for True, nothing for False."""
    if not isinstance(wanted, bool):
        return wanted
    if wanted:
        return show_progress
    return silent


@contextmanager
def progress_shown(wanted: bool) -> Iterator[None]:
    """Show nothing inside `with` unless it is wanted; the log has its lines all the same."""
    token = _shown.set(wanted and _shown.get())
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def inside_a_stage() -> Iterator[None]:
    """Take what is done inside `with` for a part of something larger that is told of."""
    outer = _depth.get()
    _depth.set(outer + 1)
    try:
        yield
    finally:
        _depth.set(outer)


def say(text: str) -> None:
    """Say in one line on standard error, and in the log, what a job is at."""
    logger.info(text)
    if not _is_quiet():
        # A terminal that is gone, as after nohup, ends no job.
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def show_progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items`, of which there are `total`, and show how many are done with and how long the rest takes.

    Of a stage inside another one the log alone has a line, unless it takes long.
    """
    batched = items if isinstance(items, Batched) else None
    sizes = list(batched.sizes) if batched is not None else [1] * total
    name = f"{what}: {batched.detail}" if batched is not None and batched.detail else what
    stage = Stage(name, sum(sizes), batched.unit if batched is not None else "", inside=_depth.get() > 0)
    return _watched(items, sizes, stage) if sizes else iter(items)


def run_stage(make: Callable[[], T], progress: Progress, what: str) -> T:
    """Return what `make` returns, shown as a stage of one step."""
    (made,) = [make() for _ in progress((None,), 1, what)]
    return made


def duration(seconds: float) -> str:
    """Return a time span with as many digits as matter: `0.4 s`, `12 s`, `3 min`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


@dataclass(eq=False)
class Stage:
    """One stage of a job, and when its next line is due."""

    name: str
    total: int
    unit: str = ""
    """What is counted, such as `pictures`."""
    inside: bool = False
    """Whether it is inside of another stage."""
    began: float = field(default_factory=lambda: time.monotonic())
    pause: float = FIRST_PAUSE
    due: float = field(init=False)

    def __post_init__(self) -> None:
        self.due = self.began + self.pause

    @property
    def is_shown(self) -> bool:
        """Whether it is told of, and not in the log alone: by itself, or inside of another stage if it takes long."""
        return not self.inside or time.monotonic() - self.began >= FIRST_PAUSE

    def first_line(self) -> str:
        """Return the line at the beginning."""
        return f"{self.name} ..." if self.total == 1 else self._counted(0)

    def next_line(self, done: int) -> str | None:
        """Return the line for so many things that are done with, or None if it is not the time for one."""
        now = time.monotonic()
        if now < self.due or not 0 < done < self.total:
            return None
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        self.due = now + self.pause
        left = (now - self.began) / done * (self.total - done)
        about = duration(left) if left >= 10 else f"{left:.0f} s"
        return f"{self._counted(done)}, {duration(now - self.began)}, about {about} left"

    def last_line(self, done: int) -> str:
        """Return the line at the end."""
        what = f"{self.name}: done" if self.total == 1 else self._counted(done)
        return f"{what}, {duration(time.monotonic() - self.began)}"

    def _counted(self, done: int) -> str:
        return f"{self.name}: {done} of {self.total}" + (f" {self.unit}" if self.unit else "")


def _watched(items: Iterable[T], sizes: Sequence[int], stage: Stage) -> Iterator[T]:
    done = 0
    if stage.is_shown:
        _tell(stage.first_line(), stage)
    with _bar(stage) as advance, inside_a_stage():
        # There may be more items than were announced, or fewer.
        for item, size in zip(items, chain(sizes, repeat(1)), strict=False):
            yield item
            done += size
            advance(size)
            if (text := stage.next_line(done)) is not None:
                _tell(text, stage)
    _tell(stage.last_line(done), stage)


def _tell(text: str, stage: Stage) -> None:
    """Say a line, or leave it to the log where a bar says it or nobody waits for it."""
    if stage.is_shown and not _is_terminal():
        say(text)
    else:
        logger.info(text)


@contextmanager
def _bar(stage: Stage) -> Iterator[Callable[[int], object]]:
    """Yield what moves a bar on the terminal on by so many things, or what does nothing where none is shown."""
    if _is_quiet() or not _is_terminal():
        yield lambda _: None
        return
    from tqdm import tqdm

    unit = f" {stage.unit}" if stage.unit else "it"
    with tqdm(total=stage.total, desc=stage.name, unit=unit, disable=False, leave=False, dynamic_ncols=True) as bar:
        yield bar.update


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _is_quiet() -> bool:
    """Return whether nothing is to be shown: it is said here, or in the variable that tqdm's own bars go by."""
    asked = os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false")
    return asked or not _shown.get() or sys.stderr is None
