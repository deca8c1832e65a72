"""What the jobs of a sweep left in their folders: one row for each job, whatever became of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kedit.cli.sweeping.overrides import settings, short_keys, swept_keys
from kedit.cli.sweeping.results import Result

Status = Literal["done", "failed", "running", "missing", "damaged"]
"""`running` was killed or still runs, `missing` never started, `damaged` is done and cannot be read."""


@dataclass(frozen=True, eq=False)
class Row:
    """One job of a sweep: what it was asked for, what became of it, and what it found."""

    number: int
    overrides: tuple[str, ...]
    swept: Mapping[str, str]
    """The settings that differ between jobs, under short names."""
    status: Status
    why: str | None = None
    """Why there is no result; None for a job that is done."""
    result: Result | None = None
    neurons: str | None = None
    """The neuron set as text, equal for equal sets; None where it cannot be read."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """The jobs of one sweep by their numbers, and the short name of each setting that differs between them."""

    folder: Path
    rows: tuple[Row, ...]
    keys: Mapping[str, str]

    @property
    def done(self) -> list[tuple[Row, Result]]:
        """The jobs that have a result, with it."""
        return [(row, row.result) for row in self.rows if row.result is not None]

    @property
    def undone(self) -> list[Row]:
        """The jobs that have none."""
        return [row for row in self.rows if row.result is None]

    def same_neurons(self) -> dict[int, int]:
        """Return for each job whose neuron set an earlier job has too the number of the first such job.

        Of one model and concept: what other jobs edit by the same numbers is something else.
        """
        first: dict[tuple[str | None, ...], int] = {}
        found = {
            row.number: first.setdefault((row.result.model, row.result.concept, row.neurons), row.number)
            for row in self.rows
            if row.neurons is not None and row.result is not None
        }
        return {number: other for number, other in found.items() if number != other}


def read(folder: str | Path) -> Sweep:
    """Return the sweep in `folder`: the jobs of its sweep.json, or else its numbered job folders.

    Raises:
        ValueError: It is no folder of a sweep, or its sweep.json is damaged.
    """
    folder = Path(folder)
    jobs = _jobs(folder)
    # A job that left no overrides does not differ in all of them: they are not known.
    keys = short_keys(swept_keys([overrides for overrides in jobs.values() if overrides]))
    rows = tuple(_row(folder, number, overrides, keys) for number, overrides in jobs.items())
    return Sweep(folder, rows, keys)


def _jobs(folder: Path) -> dict[int, tuple[str, ...]]:
    plan = folder / "sweep.json"
    if plan.is_file():
        return dict(enumerate(_planned(plan)))
    numbers = sorted(int(one.name) for one in folder.glob("*") if one.name.isdecimal() and one.is_dir())
    if not numbers:
        found = "holds neither sweep.json nor numbered job folders" if folder.is_dir() else "does not exist"
        raise ValueError(
            f"`{folder}` is no sweep: it {found}; give the folder that `kedit run -m` made, such as "
            "multirun/2026-11-22/10-00-00"
        )
    return {number: _composed(folder / str(number)) for number in numbers}


def _planned(plan: Path) -> list[tuple[str, ...]]:
    try:
        jobs = json.loads(plan.read_text(encoding="utf-8"))["jobs"]
        if not jobs or not all(isinstance(job, list) and all(isinstance(one, str) for one in job) for job in jobs):
            raise ValueError("`jobs` must be a list of lists of overrides, and not empty")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"`{plan}` is damaged ({type(error).__name__}: {error}); run the sweep again") from error
    return [tuple(job) for job in jobs]


def _composed(folder: Path) -> tuple[str, ...]:
    """Return the overrides that Hydra noted for a job; none where it did not come so far."""
    from omegaconf import OmegaConf

    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    except Exception:  # without the file, or with a damaged one, the job is still told by its STATUS
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _row(folder: Path, number: int, overrides: Sequence[str], keys: Mapping[str, str]) -> Row:
    asked, job = settings(overrides), folder / str(number)
    swept = {name: asked[key] for key, name in keys.items() if key in asked}
    status, why = _status(job)
    result = None
    if status == "done":
        try:
            result = Result.read(job / "report.json")
        except (OSError, ValueError) as error:
            status, why = "damaged", f"its STATUS is `done`, but {error}"
    neurons = _neurons(job / "neurons.json") if result is not None else None
    return Row(number, tuple(overrides), swept, status, why and _placeless(why, folder), result, neurons)


def _status(job: Path) -> tuple[Status, str | None]:
    try:
        said = (job / "STATUS").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return "missing", "it never started" if not job.is_dir() else "it left no STATUS"
    if said == "done":
        return "done", None
    if said == "running":
        return "running", "it was killed, or still runs: its STATUS is `running`"
    return "failed", said.removeprefix("failed:").strip() or "its STATUS is empty"


def _placeless(why: str, folder: Path) -> str:
    """Return `why` with paths relative to the sweep, so that equal sweeps in two places tell the same."""
    for place in (str(folder.resolve()), str(folder)):
        if place != ".":
            why = why.replace(place + "/", "")
    return " ".join(why.split())


def _neurons(path: Path) -> str | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps([found["site"], found.get("scope"), sorted(found["neurons"])])
    except (OSError, ValueError, KeyError, TypeError):
        return None
