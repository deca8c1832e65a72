"""The rows for people, on a terminal and as Markdown, and for programs, as plain data."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import Any

import torch

from experiments.costs.rows import Clock, Row
from kedit import __version__
from kedit.models.mllm import MLLM

HEADER = ("way", "median (quartiles)", "ratio (95 % interval)", "to", "target")
RECORDED = ("torch", "transformers", "nnsight", "pyvene")


def surroundings(model: MLLM, clock: Clock) -> dict[str, str]:
    """Return what the figures depend on: the model, the machine, the versions, and how time was taken."""
    n_parameters = sum(one.numel() for one in model.module.parameters())
    device = str(next(model.module.parameters()).device)
    about = {"model": f"{model.name} ({n_parameters / 1e6:.3g} M parameters)", "device": device}
    about |= {"threads": str(torch.get_num_threads()), "machine": platform.machine()}
    about |= {"repetitions": str(clock.repeats), "clock": clock.kind, "kedit": __version__}
    about |= {"python": platform.python_version()}
    return about | {package: _version(package) for package in RECORDED}


def plain(rows: Sequence[Row], about: Mapping[str, str]) -> dict[str, Any]:
    """Return everything as data for JSON."""
    return {"surroundings": dict(about), "rows": [asdict(row) | {"met": row.met} for row in rows]}


def markdown(rows: Sequence[Row], about: Mapping[str, str]) -> str:
    """Return one Markdown table for each task, and how it was measured."""
    parts = []
    for task, group in _by_task(rows):
        lines = [HEADER, ("---", "---:", "---:", "---", "---"), *(cells(row) for row in group)]
        parts.append(f"### {task}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
        parts += [f"- {note}\n" for note in _notes(group)]
    return "\n".join([*parts, _caption(about) + "\n"])


def show(rows: Sequence[Row], about: Mapping[str, str]) -> None:
    """Print one table for each task."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for task, group in _by_task(rows):
        table = Table(title=Text(task, "bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in HEADER:
            table.add_column(Text(column), justify="right" if "(" in column else "left", no_wrap=True)
        for row in group:
            table.add_row(*map(Text, cells(row)))
        console.print(table)
        for note in _notes(group):
            console.print(f"  {note}", markup=False, highlight=False)
    console.print(_caption(about), markup=False, highlight=False)


def cells(row: Row) -> tuple[str, ...]:
    """Return the row as text, in the order of `HEADER`; "-" for what was not measured."""
    target = "" if row.target is None else f"{row.target:g} {'met' if row.met else 'missed'}"
    return row.way, _amount(row), _ratio(row), row.against or "", target


def _amount(row: Row) -> str:
    if row.median is None:
        return "-"
    ends = "" if row.quartiles is None else f" ({row.quartiles[0]:.3g}-{row.quartiles[1]:.3g})"
    return f"{row.median:.3g}{ends} {row.unit}"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return "-"
    exact = row.ratio.low == row.ratio.high
    ends = "" if exact else f" ({row.ratio.low:.3f}-{row.ratio.high:.3f})"
    return f"{row.ratio.value:.3f}{ends}"


def _notes(group: Sequence[Row]) -> list[str]:
    return [f"{row.way}: {row.note}" for row in group if row.note]


def _by_task(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(task, list(group)) for task, group in groupby(rows, key=lambda row: row.task)]


def _caption(about: Mapping[str, str]) -> str:
    return (
        "All ways took turns in one process, and attaching and removing the edit is part of each time. A ratio is the "
        "median over repetitions, with its bootstrap interval. "
        + ", ".join(f"{key} {value}" for key, value in about.items())
        + "."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
