"""How many jobs a launcher runs beside each other on a machine, and the threads that leaves for each."""

import os
from collections.abc import Mapping
from typing import Any


def workers_of(hydra: Mapping[str, Any], cpus: int) -> int:
    """Return how many jobs of a sweep share this machine's CPUs.

    Args:
        hydra: The part `hydra` of a job's configuration, as plain data.
        cpus: How many CPUs the process may use.
    """
    launcher = hydra["launcher"]
    if "n_jobs" in launcher:
        # As joblib counts: -1 is all CPUs, -2 all but one.
        wanted = launcher["n_jobs"]
        return max(1, int(wanted if wanted > 0 else cpus + 1 + wanted))
    if "ray" in launcher:
        init, remote = launcher["ray"]["init"], launcher["ray"]["remote"]
        return max(1, int((init.get("num_cpus") or cpus) // (remote.get("num_cpus") or 1)))
    if "submitit_folder" in launcher and "partition" not in launcher:
        return int(hydra["sweeper"].get("max_batch_size") or cpus)
    # Hydra's own launcher runs one job after the other, and Slurm gives each job CPUs of its own.
    return 1


def cpus_here() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_for(workers: int, cpus: int, wanted: int | None) -> int:
    """Return with how many threads each of several jobs that run at once computes.

    What the user wants is not cut down: sums over another number of threads are other sums in the last bits, and a
    job must not depend on what runs beside it. Otherwise the CPUs are shared out, and each job gets at least one.

    Args:
        workers: How many jobs run at once.
        cpus: How many CPUs they may use together.
        wanted: What the user has set; None leaves the choice.
    """
    if workers < 1 or cpus < 1:
        raise ValueError(f"there is at least one worker and one CPU, got {workers} and {cpus}")
    return max(1, cpus // workers) if wanted is None else wanted
