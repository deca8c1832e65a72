"""What reaches W&B's server: whether anything can, and runs that were kept on disk meanwhile."""

import netrc
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import getproxies

PROBE_SECONDS = 3.0
WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Either name of the hosted server; a key stored for one serves the other."""
AT_ONCE = 50
"""Runs given to one process of W&B's; each process takes some seconds to start."""
LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class OfflineRun:
    """A run that W&B has kept on disk: its folder `offline-run-<time>-<id>`."""

    folder: Path

    @property
    def file(self) -> Path:
        """The file that holds the run."""
        return self.folder / f"run-{self.id}.wandb"

    @property
    def id(self) -> str:
        """The run's name on the server."""
        return self.folder.name.rpartition("-")[2]

    @property
    def uploaded(self) -> bool:
        """Whether it was uploaded as it is now; W&B then leaves a mark beside the file."""
        try:
            return self.file.with_suffix(".wandb.synced").stat().st_mtime >= self.file.stat().st_mtime
        except FileNotFoundError:
            return False


def offline_runs(folder: Path) -> list[OfflineRun]:
    """Return the offline runs at or below `folder`, by path."""
    found = {path.resolve() for path in (folder, *folder.rglob("offline-run-*"))}
    named = (path for path in sorted(found) if path.match("wandb/offline-run-*"))
    return [run for run in map(OfflineRun, named) if run.file.is_file()]


def upload(runs: Sequence[OfflineRun], patience: float = 300.0) -> Iterator[tuple[OfflineRun, str | None]]:
    """Upload runs and yield each as it is finished, with the reason if it is not uploaded.

    W&B's own command does it, whose exit code says nothing: it is the mark that counts. Ask `missing_for_online`
    first, as that command waits for days where there is no server.

    Args:
        runs: What to upload, in any order.
        patience: Seconds without a finished run after which the rest is given up.
    """
    for start in range(0, len(runs), AT_ONCE):
        yield from _uploaded_together(runs[start : start + AT_ONCE], patience)


def _uploaded_together(runs: Sequence[OfflineRun], patience: float) -> Iterator[tuple[OfflineRun, str | None]]:
    waiting = list(runs)
    with tempfile.TemporaryDirectory(prefix="kedit-") as scratch, tempfile.TemporaryFile() as said:
        process = _started(runs, Path(scratch), said)
        try:
            deadline = time.monotonic() + patience
            running = True
            while running and time.monotonic() < deadline:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
                running = process.poll() is None
                for run in [run for run in waiting if run.uploaded]:
                    waiting.remove(run)
                    deadline = time.monotonic() + patience
                    yield run, None
        finally:
            _end(process)
        said.seek(0)
        told = said.read().decode(errors="replace")
    for run in waiting:
        yield run, f"given up after {patience:g} s without progress" if running else _reason(told, run)


def _started(runs: Iterable[OfflineRun], scratch: Path, said: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start W&B's command for `runs`, in a process group of its own, with all it says going to `said`."""
    import wandb

    # Its logs are no result, and it would make a folder `wandb` where we stand.
    places = {"WANDB_DIR": str(scratch), "WANDB_CACHE_DIR": str(scratch)}
    environment = {"WANDB_ERROR_REPORTING": "false"} | os.environ | places
    environment |= {"WANDB_BASE_URL": str(wandb.setup().settings.base_url)}
    words = [sys.executable, "-m", "wandb", "sync", "--include-synced", *(str(run.folder) for run in runs)]
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, start_new_session=True
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process, if it still runs, and those it has started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(told: str, run: OfflineRun) -> str:
    """Return why `run` was not uploaded, from what W&B's command has said about it, or about all."""
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line).removeprefix("wandb: ").strip() for line in told.splitlines()]
    errors = [line.removeprefix("ERROR").strip() for line in lines if line.startswith("ERROR")]
    own = [error for error in errors if run.id in error]
    kept = dict.fromkeys(error for error in own or errors if error)
    return "; ".join(kept) or next((line for line in reversed(lines) if line), "`wandb sync` said nothing")


def missing_for_online(timeout: float) -> str | None:
    """Return what an online run lacks, or None. W&B itself would ask for a key, or wait for the network."""
    import wandb

    known = wandb.setup().settings
    if not (known.api_key or _has_key(str(known.base_url))):
        return f"there is no API key for {known.base_url} (`wandb login` stores one)"
    if not _reachable(str(known.base_url), min(timeout, PROBE_SECONDS)):
        return f"{known.base_url} cannot be reached"
    return None


def _has_key(server: str) -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(server).hostname or ""
    names = {host, urlsplit(server).netloc, *(WANDB_HOSTS if host in WANDB_HOSTS else ())}
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if path:
            with suppress(OSError, netrc.NetrcParseError):
                stored = netrc.netrc(str(Path(path).expanduser()))
                return any(entry[2] for name in names if (entry := stored.authenticators(name)))
    return False


def _reachable(server: str, timeout: float) -> bool:
    """Return whether `server` accepts a connection within `timeout` seconds."""
    address = urlsplit(server)
    if address.scheme in getproxies():
        return True  # only the proxy can tell; the timeout of the start bounds the wait
    answered = threading.Event()

    def knock() -> None:
        port = address.port or (443 if address.scheme == "https" else 80)
        with suppress(OSError), socket.create_connection((address.hostname or "", port), timeout):
            answered.set()

    # In a thread, since looking up a name cannot be given a timeout.
    knocker = threading.Thread(target=knock, daemon=True)
    knocker.start()
    knocker.join(timeout)
    return answered.is_set()
