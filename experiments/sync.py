"""Upload to W&B what runs have kept on disk meanwhile.

kedit sync multirun
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.complaints import ConfigurationError
from experiments.words import age, flag, obeyed, settings
from kedit.uploading import OfflineRun, missing_for_online, offline_runs, upload

USAGE = """\
usage: kedit sync FOLDER [dry=true] [patience=5m]
Uploads the offline runs of W&B below FOLDER that are not uploaded yet; `dry=true` only lists them.
What takes longer than `patience` is given up, to be uploaded another time.
"""
ANSWER_SECONDS = 15.0


def sync(folder: Path, *, dry: bool = False, patience: float = 300.0) -> int:
    """Upload what is not uploaded yet, with a line for each run, and return 1 if one is not."""
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder `{folder}`")
    runs = offline_runs(folder)
    if not runs:
        raise ConfigurationError(f"no offline run of W&B below `{folder}`; `tracker=wandb` makes runs leave one")
    waiting = [run for run in runs if not run.uploaded]
    before = f"{len(runs) - len(waiting)} of {len(runs)} were uploaded before"
    if dry or not waiting:
        for run in waiting:
            print(f"to upload: {_shown(run, folder)}")
        print(f"{len(waiting)} to upload, {before}")
        return 0
    if missing := missing_for_online(ANSWER_SECONDS):
        raise ConfigurationError(f"cannot upload {len(waiting)} runs: {missing}")
    failed = _uploaded(waiting, folder, patience)
    print(f"{len(waiting) - failed} uploaded, {failed} failed, {before}")
    return 1 if failed else 0


def _uploaded(runs: Sequence[OfflineRun], folder: Path, patience: float) -> int:
    """Upload runs, with a line for each, and return how many failed."""
    failed = 0
    for run, reason in upload(runs, patience):
        if reason is None:
            print(f"uploaded: {_shown(run, folder)}", flush=True)
        else:
            failed += 1
            print(f"failed: {_shown(run, folder)}: {reason}", file=sys.stderr, flush=True)
    return failed


def _shown(run: OfflineRun, folder: Path) -> str:
    whole = folder.resolve()
    return str(run.folder.relative_to(whole) if run.folder.is_relative_to(whole) else run.folder)


def obey(words: Sequence[str]) -> int:
    """Do what the words after `kedit sync` say and return the exit code."""
    # The name of a folder may look like a setting, as that of a job does.
    folders = [word for word in words if "=" not in word or Path(word).is_dir()]
    chosen = settings([word for word in words if word not in folders], {"dry": flag, "patience": age})
    if len(folders) != 1:
        raise ConfigurationError(f"`kedit sync FOLDER` takes one folder, got {len(folders)}")
    return sync(Path(folders[0]), **chosen)


def main() -> int:
    """Run the command line."""
    return obeyed("kedit", USAGE, obey)


if __name__ == "__main__":
    sys.exit(main())
