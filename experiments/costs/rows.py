"""The rows of the benchmark: what was done, in which way, and how that compares."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from experiments.costs.locating import Locating, Prepared
from experiments.costs.ratios import Ratio, in_turns, ratio, spread
from experiments.costs.ways import (
    RIVALS,
    Task,
    UnavailableError,
    Way,
    checked,
    kedit_edit,
    raw_hooks,
    traces_left,
    unedited,
)
from kedit.cli.comparison.memory import peak_bytes
from kedit.models.mllm import MLLM
from kedit.samples import Progress, silent

NONE, OVER, RAW, KEDIT, BARE = "no hook", "edit over", "raw hook", "kedit", "bare"
EDIT_TARGET, LOCATE_TARGET, MEMORY_TARGET = 1.05, 1.15, 1.2
"""The ratios that kedit is to stay below."""


@dataclass(frozen=True)
class Row:
    """One measurement; without an amount, `note` says why there is none."""

    task: str
    way: str
    unit: str = "ms"
    median: float | None = None
    quartiles: tuple[float, float] | None = None
    ratio: Ratio | None = None
    against: str | None = None
    """The way that `ratio` is taken against."""
    target: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the ratio is within its target; None where there is none of either."""
        return None if self.target is None or self.ratio is None else self.ratio.value <= self.target


@dataclass(frozen=True)
class Clock:
    """How often each way is timed, by which clock, and who watches."""

    repeats: int = 20
    warmup: int = 2
    kind: str = "wall"
    seed: int = 0
    progress: Progress = silent


def edit_everywhere(task: Task, clock: Clock) -> list[Row]:
    """Compare generation with an edit in every layer, with raw hooks, with no hook, and after the edit."""
    left = traces_left(task)
    raw = raw_hooks(task)
    plain, ours = unedited(task), checked(task, kedit_edit, raw)
    ways = {NONE: plain, OVER: plain, RAW: raw, KEDIT: ours}
    title = _title("generate", task)
    seconds = timed(title, {name: way.generate for name, way in ways.items()}, clock)
    over = f"left behind in {', '.join(left)}" if left else "nothing is registered"
    return [
        row_of(title, NONE, seconds, RAW),
        row_of(title, OVER, seconds, NONE, note=over),
        row_of(title, RAW, seconds, NONE),
        row_of(title, KEDIT, seconds, RAW, target=EDIT_TARGET, note="same tokens as the raw hook"),
    ]


def edit_one_layer(task: Task, rivals: Sequence[str], clock: Clock) -> list[Row]:
    """Compare a forward pass and a generation under the same single-layer edit, made in every way there is.

    Each way first has to give the logits and tokens of the raw hook, bit for bit.
    """
    raw = raw_hooks(task)
    ways: dict[str, Way] = {NONE: unedited(task), RAW: raw, KEDIT: checked(task, kedit_edit, raw)}
    absent: dict[str, str] = {}
    for name in rivals:
        try:
            ways[name] = checked(task, RIVALS[name], raw)
        except UnavailableError as error:
            absent[name] = str(error)
    rows = []
    for job in ("forward", "generate"):
        title = _title(job, task)
        seconds = timed(title, {name: getattr(way, job) for name, way in ways.items()}, clock)
        targets = {KEDIT: EDIT_TARGET if job == "generate" else None}
        rows += [
            row_of(title, name, seconds, NONE if name == RAW else RAW, target=targets.get(name), note=way.note)
            for name, way in ways.items()
        ]
        rows += [Row(title, name, note=why) for name, why in absent.items()]
    return rows


def locating(model: MLLM, work: Locating, clock: Clock) -> list[Row]:
    """Compare locating with its bare forwards and backward: time with and without the processor, and memory."""
    prepared: Any = Prepared(model)
    size = f"{len(work.pairs)} pairs"
    rows = []
    for title, reader in (
        (f"locate in {size}, pictures read by the processor", model),
        (f"locate in {size}, pictures read beforehand", prepared),
    ):
        seconds = timed(title, {BARE: partial(work.bare, reader), KEDIT: partial(work.with_kedit, reader)}, clock)
        rows += [row_of(title, BARE, seconds), row_of(title, KEDIT, seconds, BARE, target=LOCATE_TARGET)]
    return rows + _memory(f"locate in {size}, most bytes of tensors alive", work, prepared)


def _memory(title: str, work: Locating, model: MLLM) -> list[Row]:
    bare, ours = peak_bytes(lambda: work.bare(model)), peak_bytes(lambda: work.with_kedit(model))
    exact = Ratio(ours / bare, ours / bare, ours / bare)
    note = "counted, not sampled; weights and inputs left out"
    return [
        Row(title, BARE, "MB", bare / 1e6, note=note),
        Row(title, KEDIT, "MB", ours / 1e6, ratio=exact, against=BARE, target=MEMORY_TARGET),
    ]


def _title(job: str, task: Task) -> str:
    layers = len(task.columns)
    where = "one layer" if layers == 1 else f"{layers} layers"
    length = f", {task.work.n_new} new tokens" if job == "generate" else ""
    return f"{job}, {len(task.neurons)} neurons in {where}, {task.work.shape}{length}"


def timed(title: str, ways: Mapping[str, Callable[[], object]], clock: Clock) -> dict[str, list[float]]:
    """Return the seconds of each repetition, by way."""
    return in_turns(
        ways,
        repeats=clock.repeats,
        warmup=clock.warmup,
        clock=clock.kind,
        seed=clock.seed,
        progress=clock.progress,
        what=title.partition(",")[0],
    )


def row_of(
    task: str,
    way: str,
    seconds: Mapping[str, list[float]],
    against: str | None = None,
    *,
    target: float | None = None,
    note: str = "",
) -> Row:
    """Return the row of one way, and its ratio to another where `against` names one."""
    own = [1000 * one for one in seconds[way]]
    compared = None if against is None else ratio(seconds[way], seconds[against])
    return Row(task, way, "ms", statistics.median(own), spread(own), compared, against, target, note)
