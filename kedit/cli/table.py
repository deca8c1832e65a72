"""One table of finished runs, the newest last: for reading on a terminal, elsewhere in Markdown for a README.

kedit table multirun/2026-11-22/10-00-00
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kedit.cli.errors import usage_code
from kedit.cli.sweeping.results import Result
from kedit.results.table import LONGEST_UNBROKEN, Cell, Table

COLUMNS = (
    *("folder", "model", "concept", "locator", "operator", "positions", "neurons", "mention_drop", "retention"),
    *("weakest", "others", "substitutions", "selectivity", "control drop", "beats control"),
)


def results(folders: Sequence[str]) -> Iterator[Result]:
    """Yield what the edits at or below each folder found, the newest last, the jobs of a sweep by their number."""
    for folder in folders:
        # A task or a diagnosis has no concept to suppress, and its table is in its report.md.
        found = {path: report for path in Path(folder).rglob("report.json") if _is_edit(report := _read(path))}
        if not found:
            raise FileNotFoundError(f"no finished run in `{folder}`: it holds no report.json of `kedit run`")
        times: dict[Path, float] = {}
        for path in found:
            times[_together(path)] = max(times.get(_together(path), 0.0), path.stat().st_mtime)
        for path in sorted(found, key=lambda path: (times[_together(path)], *map(_number, path.parts))):
            yield replace(Result.of(found[path]), folder=str(path.parent))


def row(result: Result) -> tuple[Cell, ...]:
    """Return one run as the cells of `COLUMNS`."""
    figures = result.figures
    return (
        *(result.folder, result.model, result.concept, result.locator, result.operator, result.where, result.neurons),
        *(figures["mention_drop"], figures["retention"], result.weakest, figures["others"]),
        *(figures["substitutions"], figures["selectivity"]),
        *(None if result.evidence is None else figures["control_mention_drop"], bool(result.evidence)),
    )


def printed(found: Sequence[Result], *, terminal: bool) -> str:
    """Return the table: on a terminal as wide as that is, with the ends of long folders; elsewhere in Markdown."""
    if not terminal:
        return Table(COLUMNS, tuple(map(row, found))).markdown()
    return str(Table(COLUMNS, tuple(row(replace(one, folder=_end(one.folder))) for one in found)))


def _end(folder: str) -> str:
    """Return a folder, a long one without its beginning."""
    return folder if len(folder) <= LONGEST_UNBROKEN else f"…{folder[1 - LONGEST_UNBROKEN :]}"


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path}` is damaged: {error}") from error


def _is_edit(report: object) -> bool:
    return isinstance(report, dict) and "suppression" in report


def _together(path: Path) -> Path:
    """Return the folder whose runs stand together: that of a sweep, or the run's own."""
    return path.parent.parent if path.parent.name.isdigit() else path.parent


def _number(part: str) -> tuple[int, str]:
    """Sort job folders by their number: 2 before 10."""
    return (int(part), "") if part.isdigit() else (-1, part)


def main() -> int:
    """Print the table of the folders on the command line."""
    folders = sys.argv[1:]
    if (code := usage_code("kedit table FOLDER [FOLDER ...]", folders)) is not None:
        return code
    try:
        print(printed(list(results(folders)), terminal=sys.stdout.isatty()))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"kedit: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
