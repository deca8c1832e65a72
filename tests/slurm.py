"""Stands in for the commands of Slurm that submitit calls: what is submitted runs at once, on this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

ARRAY = 4711


def place(folder: Path) -> None:
    """Put the commands into `folder`."""
    for name in ("sbatch", "srun", "sacct"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n')
        script.chmod(0o755)


def sbatch(words: list[str]) -> None:
    """Say that the job array in the script is taken, and go on to run it."""
    # Whoever submits waits for the end of this process, not for that of the tasks.
    subprocess.Popen(
        [sys.executable, __file__, "tasks", Path(words[-1]).read_text()],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    sys.stdout.write(f"Submitted batch job {ARRAY}\n")


def tasks(words: list[str]) -> None:
    """Run the tasks of the job array in a script, one after the other."""
    (script,) = words
    array = re.search(r"--array=(\d+)-(\d+)%\d+", script)
    assert array is not None
    for task in range(int(array[1]), int(array[2]) + 1):
        given = {"JOB_ID": ARRAY + task, "ARRAY_JOB_ID": ARRAY, "ARRAY_TASK_ID": task, "NTASKS": 1, "JOB_NUM_NODES": 1}
        given |= {"PROCID": 0, "LOCALID": 0, "NODEID": 0}
        environment = os.environ | {f"SLURM_{name}": str(value) for name, value in given.items()}
        subprocess.run(["bash", "-c", script], env=environment, check=False)


def srun(words: list[str]) -> None:
    """Become the command behind the options, writing where they say."""
    files = {}
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            task = f"{ARRAY}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            files[option] = words.pop(0).replace("%A_%a", task).replace("%t", "0")
    for option, stream in (("--output", 1), ("--error", 2)):
        os.dup2(os.open(files[option], os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.execvp(words[0], words)


def sacct(words: list[str]) -> None:
    """Tell that all tasks run; what they leave says that they are done."""
    sys.stdout.write("JobID|State|NodeList\n")
    for task in range(16):
        sys.stdout.write(f"{ARRAY}_{task}|RUNNING|here\n")


if __name__ == "__main__":
    {"sbatch": sbatch, "tasks": tasks, "srun": srun, "sacct": sacct}[sys.argv[1]](sys.argv[2:])
