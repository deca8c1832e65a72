"""Examine a model: whether what locating, editing and measuring rely on holds for it.

kedit doctor model=huggingface model.path=/models/llava-1.5-7b-hf
"""

import sys
import time
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit import __version__
from kedit.cli.configuration import misuse, use_threads
from kedit.cli.errors import NegativeResult
from kedit.cli.jobs import guarded, reported, run_folder
from kedit.cli.sharing import loaded
from kedit.paths import conf_dir
from kedit.progress import show_progress

LEAST = {"threads": 1}
STYLES = {"SUPPORTED": "green", "DEGRADED": "yellow", "ERROR": "bold red", "SILENTLY_WRONG": "bold red", "not": "dim"}
"""How the first word of a line is shown on a terminal."""


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="doctor")
@reported
def doctor(cfg: DictConfig) -> None:
    """Examine one model in its Hydra folder."""
    with run_folder(cfg, LEAST) as (kept, tracker):
        job(cfg, kept, tracker)


def job(cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Run the checks, print a line for each, and fail if one found an ERROR or SILENTLY_WRONG."""
    from kedit.doctor.diagnose import chosen, diagnose
    from kedit.results.reports import report_metrics

    use_threads(cfg.threads)
    with misuse():
        names = chosen(cfg.checks)
    model = loaded(cfg.model)
    began = time.perf_counter()
    found = diagnose(model, names, progress=show_progress)
    report = {"kedit": __version__, **found.to_json(), "cost": {"seconds": round(time.perf_counter() - began, 2)}}
    kept.save_json("report.json", report)
    tracker.log(report_metrics(report))
    terminal(str(found), kept)
    if found.unsound:
        listed = ", ".join(f"`{name}` ({found.findings[name].status})" for name in found.unsound)
        raise NegativeResult(f"{len(found.unsound)} of {len(names)} checks failed on `{model.name}`: {listed}")


def terminal(table: str, kept: Any) -> None:
    """Print the table, in color where that is a terminal, and where the report is."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in table.splitlines():
        first = line.partition(" ")[0]
        shown = Text(line)
        shown.stylize(STYLES[first], 0, len(line) if first == "not" else len(first))
        # A terminal would break a line inside a word; elsewhere a check is one line.
        console.print(shown, soft_wrap=not console.is_terminal)
    console.print(f"files: {kept.folder}", markup=False, soft_wrap=True)


def main() -> int:
    """Run the command line."""
    return guarded(doctor)


if __name__ == "__main__":
    sys.exit(main())
