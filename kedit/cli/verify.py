"""Compute finished runs again, with their own settings and without the store, and compare every byte."""

import sys
from filecmp import cmpfiles
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import DictConfig, OmegaConf

from kedit.cli import run as recipe
from kedit.cli.configuration import misuse
from kedit.cli.errors import explained, usage_code
from kedit.cli.jobs import code_of, said
from kedit.cli.previous_runs import settings_of

FILES = (
    *("scores.safetensors", "neurons.json", "captions.jsonl", "report.json"),
    *("significance.json", "pvalues.safetensors"),
)
"""All that a run finds out; the other files are made from these, or say how long it took."""
UNKEPT = {"store": None, "figures": False, "tracker": {"_target_": "kedit.results.tracking.NoTracker"}}


def differing(run: Path) -> list[str]:
    """Return the files of `run` that come out differently."""
    from kedit.results.run_folder import Run

    with misuse():
        had = settings_of(run)
        chosen = OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.runtime.choices
        settings = OmegaConf.merge(had, UNKEPT, {"inpaint": {"cache": None}} if "cache" in had.inpaint else {})
    with TemporaryDirectory(prefix="kedit-verify-") as scratch:
        again = Path(scratch)
        with Run(again) as kept:
            recipe.job(DictConfig(settings), chosen.locate, kept).save_in(kept, figures=False, page=False)
        return differing_files(run, again)


def differing_files(run: Path, other: Path) -> list[str]:
    """Return which of the `FILES` of two runs differ, or are in one of the folders alone."""
    there = [name for name in FILES if (run / name).is_file() or (other / name).is_file()]
    _, differ, missing = cmpfiles(run, other, there, shallow=False)
    return differ + missing


def main() -> int:
    """Verify the runs on the command line; 1 if a file of one differs."""
    runs, code = sys.argv[1:], 0
    if (ended := usage_code("kedit verify RUN [RUN ...]", runs)) is not None:
        return ended
    for run in runs:
        try:
            differ = differing(Path(run))
        except Exception as error:
            return said(code_of(error), explained(error))
        print(f"{run}: {', '.join(differ)} came out differently" if differ else f"{run}: the same", flush=True)
        code = max(code, int(bool(differ)))
    return code


if __name__ == "__main__":
    sys.exit(main())
