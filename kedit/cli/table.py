"""One table of finished runs, for reading and for a README.

kedit table multirun/2026-11-22/10-00-00
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from kedit.cli.errors import usage_code
from kedit.cli.sweeping.results import Result
from kedit.results.table import Cell, Table

COLUMNS = (
    *("model", "concept", "locator", "operator", "neurons", "mention_drop", "retention", "weakest", "others"),
    *("substitutions", "selectivity", "control drop", "beats control"),
)


def results(folders: Sequence[str]) -> Iterator[Result]:
    """Yield what the edits at or below each folder found, in the order of their paths."""
    for folder in folders:
        found = sorted(Path(folder).rglob("report.json"), key=lambda path: [_number(part) for part in path.parts])
        # A task or a diagnosis has no concept to suppress, and its table is in its report.md.
        told = [Result.of(one) for path in found if "suppression" in (one := json.loads(path.read_text()))]
        if not told:
            raise FileNotFoundError(f"no finished run in `{folder}`: it holds no report.json of `kedit run`")
        yield from told


def row(result: Result) -> tuple[Cell, ...]:
    """Return one run as the cells of `COLUMNS`."""
    figures = result.figures
    return (
        *(result.model, result.concept, result.locator, result.operator, result.neurons),
        *(figures["mention_drop"], figures["retention"], result.weakest, figures["others"]),
        *(figures["substitutions"], figures["selectivity"]),
        None if result.beats_control is None else figures["control_mention_drop"],
        # As in the verdict: what broke the language suppressed nothing.
        bool(result.beats_control) and result.fluent is not False,
    )


def _number(part: str) -> tuple[int, str]:
    """Sort job folders by their number: 2 before 10."""
    return (int(part), "") if part.isdigit() else (-1, part)


def main() -> int:
    """Print the table of the folders on the command line."""
    folders = sys.argv[1:]
    if (code := usage_code("kedit table FOLDER [FOLDER ...]", folders)) is not None:
        return code
    try:
        print(Table(COLUMNS, tuple(row(one) for one in results(folders))).markdown())
    except (OSError, ValueError) as error:
        sys.stderr.write(f"kedit: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
