"""One table of finished runs, for reading and for a README.

kedit table multirun/2026-11-22/10-00-00
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit.reports import markdown_table

COLUMNS = (
    *("model", "concept", "locator", "operator", "neurons", "mention_drop", "retention", "weakest", "others"),
    *("substitutions", "selectivity", "control drop", "beats control"),
)


def reports(folders: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the reports of edits at or below each folder, in the order of their paths."""
    for folder in folders:
        found = sorted(Path(folder).rglob("report.json"), key=lambda path: [_number(part) for part in path.parts])
        # A task or a diagnosis has no concept to suppress, and its table is in its report.md.
        told = [one for path in found if "suppression" in (one := json.loads(path.read_text()))]
        if not told:
            raise FileNotFoundError(f"no finished run in `{folder}`: it holds no report.json of `kedit run`")
        yield from told


def row(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one run as the cells of `COLUMNS`."""
    suppression, retention, control = report["suppression"], report["retention"], report["control"]
    return (
        report["model"],
        report["concept"],
        report["locator"],
        report["operator"],
        str(report["neurons"]["count"]),
        _shown(suppression["mention_drop"]),
        _shown(retention["overall"]),
        report["weakest_retention"] or "-",
        _shown(retention["others"]),
        _shown(suppression["substitutions"]),
        _shown(report["selectivity"]),
        _shown(control["suppression"]["mention_drop"]) if control["suppression"] else "-",
        "yes" if control["beats_control"]["mention_drop"] else "no",
    )


def _shown(measured: Mapping[str, Any]) -> str:
    if measured["value"] is None:
        return "n/a"
    value = f"{measured['value']:.2f}"
    return value if measured["low"] is None else f"{value} [{measured['low']:.2f}, {measured['high']:.2f}]"


def _number(part: str) -> tuple[int, str]:
    """Sort job folders by their number: 2 before 10."""
    return (int(part), "") if part.isdigit() else (-1, part)


def main() -> int:
    """Print the table of the folders on the command line."""
    folders = sys.argv[1:]
    if not folders or any(folder.startswith("-") for folder in folders):
        sys.stderr.write("usage: kedit table FOLDER [FOLDER ...]\n")
        return 2
    try:
        print(markdown_table(COLUMNS, [row(report) for report in reports(folders)]))
    except (OSError, KeyError, ValueError) as error:
        sys.stderr.write(f"kedit: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
