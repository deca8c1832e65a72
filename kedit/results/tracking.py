"""Mirrors of a run: none, or Weights & Biases. The files on disk are the truth."""

import json
import logging
import netrc
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args
from urllib.parse import urlsplit
from urllib.request import getproxies

log = logging.getLogger(__name__)

Mode = Literal["offline", "online", "disabled"]
OFFLINE_SECONDS = 90.0
"""An offline start waits for no network, only for W&B's own process, which is slow on a busy machine."""
PROBE_SECONDS = 3.0
WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
"""Either name of the hosted server; a key stored for one serves the other."""

_used_ids: set[str] = set()
"""What `$WANDB_RUN_ID` was for runs of this process; a second run of one id would be merged with the first."""


class Tracker(Protocol):
    """Whoever is told what a run does. One tracker may serve several runs, one after the other."""

    def start(self, name: str, settings: Mapping[str, Any], folder: Path) -> None:
        """Open a run that was asked for by `settings` and leaves its files in `folder`."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Tell one number for each name."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Tell a table."""

    def figure(self, name: str, path: Path) -> None:
        """Tell a picture file."""

    def finish(self, failed: str | None = None) -> None:
        """Close the run; `failed` is the reason if it did not succeed."""


@dataclass(frozen=True)
class NoTracker:
    """Tells nobody."""

    def start(self, name: str, settings: Mapping[str, Any], folder: Path) -> None:
        """Do nothing."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""

    def figure(self, name: str, path: Path) -> None:
        """Do nothing."""

    def finish(self, failed: str | None = None) -> None:
        """Do nothing."""


@dataclass
class _Open:
    """The W&B run that is open, if any."""

    run: Any = None
    folder: Path | None = None
    cleanup: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True)
class WandbTracker:
    """Mirrors a run to Weights & Biases, by default into files that `wandb sync` uploads later.

    It never asks a question and never waits for a network that is not there: `online` without a key
    or a server becomes `offline`, with a warning. Whatever W&B cannot do is a warning too.
    """

    project: str | None = None
    """By default `$WANDB_PROJECT`, or `kedit`."""
    mode: Mode = "offline"
    """`disabled` does not even import wandb, and `WANDB_MODE=disabled` does the same whatever this says."""
    group: str | None = None
    """What the runs of one sweep have in common. A run of a group has an id and a name of its own; any other has
    `$WANDB_NAME`, and the first of a process `$WANDB_RUN_ID`, where these are set."""
    job_type: str | None = None
    """What a run is among those of its group: `summary` for the one that tells about all."""
    entity: str | None = None
    timeout: float = 15.0
    """Seconds that an online start may take."""
    _open: _Open = field(default_factory=_Open, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"`mode` must be one of {', '.join(get_args(Mode))}; got {self.mode!r}")
        if self.timeout <= 0:
            raise ValueError(f"`timeout` must be above 0 seconds, got {self.timeout}")

    def start(self, name: str, settings: Mapping[str, Any], folder: Path) -> None:
        """Open a W&B run whose files lie in `folder/wandb`, closing the one before it."""
        self.finish(failed="another run was started")
        if self.mode == "disabled" or _is_disabled():
            return
        self._open.folder = folder
        with self._mirroring("start"):
            (folder / "wandb").mkdir(parents=True, exist_ok=True)
            self._open.cleanup.enter_context(_kept_under(folder / "wandb"))
            self._open.run = self._init(name, json.loads(json.dumps(settings, default=str)), folder)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log one step of the run's history; the summary keeps the latest value of each name."""
        with self._mirroring("log metrics"):
            if self._open.run is not None:
                self._open.run.log(dict(metrics))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table; a column may mix types."""
        with self._mirroring(f"log table `{name}`"):
            if self._open.run is not None:
                import wandb

                data = [list(row) for row in rows]
                table = wandb.Table(columns=list(columns), data=data, allow_mixed_types=True)
                self._open.run.log({name: table})

    def figure(self, name: str, path: Path) -> None:
        """Log a copy of a picture file; of formats of vectors, W&B shows none."""
        if path.suffix in (".pdf", ".svg"):
            log.info("W&B shows no `%s`; `figures.format=png` mirrors it", path.name)
            return
        with self._mirroring(f"log figure `{name}`"):
            if self._open.run is not None:
                import wandb

                self._open.run.log({name: wandb.Image(str(path))})

    def finish(self, failed: str | None = None) -> None:
        """Close the W&B run, as failed when there is a reason; without an open run do nothing."""
        run, self._open.run = self._open.run, None
        with self._open.cleanup, self._mirroring("finish"):
            if run is not None:
                if failed is not None:
                    run.summary["failed"] = failed
                run.finish(exit_code=0 if failed is None else 1)

    def _own_id(self, name: str) -> dict[str, str | None]:
        """Return what sets this run apart from others that the environment would give the same id."""
        if self.group is not None:
            return {"id": secrets.token_hex(4), "resume": "never"}
        own: dict[str, str | None] = {"name": os.environ.get("WANDB_NAME") or name}
        if (asked := os.environ.get("WANDB_RUN_ID")) in _used_ids:
            return own | {"id": secrets.token_hex(4), "resume": "never"}
        _used_ids.update([asked] if asked else [])
        return own | {"id": asked}

    @contextmanager
    def _mirroring(self, action: str) -> Iterator[None]:
        """Turn whatever goes wrong inside into a warning: a lost mirror must not lose the run."""
        try:
            yield
        except Exception as error:
            kept = self._open.folder
            log.warning("W&B could not %s: %s; the run goes on, its files are in `%s`", action, error, kept)

    def _init(self, name: str, settings: Mapping[str, Any], folder: Path) -> Any:
        # Without this, even an offline run reports errors to W&B's own servers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        project = self.project or os.environ.get("WANDB_PROJECT") or "kedit"
        common: dict[str, Any] = {"project": project, "entity": self.entity, "group": self.group}
        # Another tracker's run, or the user's own, stays open.
        common |= {"job_type": self.job_type, "name": name, "reinit": "create_new"}
        common |= {"config": settings, "dir": str(folder)}
        common |= self._own_id(name)
        if self.mode == "online":
            try:
                if (missing := _missing_for_online(self.timeout)) is None:
                    return wandb.init(mode="online", settings=_quiet(self.timeout), **common)
            except Exception as error:
                missing = next(iter(str(error).splitlines()), type(error).__name__)
            log.warning("W&B is offline for this run: %s; upload it later with `wandb sync`", missing)
        return wandb.init(mode="offline", settings=_quiet(OFFLINE_SECONDS), **common)


def _is_disabled() -> bool:
    """Return whether the environment asks for no W&B at all, in the new way or the old one."""
    old = os.environ.get("WANDB_DISABLED", "").lower()
    return os.environ.get("WANDB_MODE", "").lower() == "disabled" or old in ("true", "1", "yes")


def _quiet(start_seconds: float) -> Any:
    """Return settings under which W&B prints, records and waits for no more than was asked."""
    import wandb

    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "disable_git": True,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "init_timeout": start_seconds,
        "finish_timeout": 60.0,
    }
    # An unknown setting is an error, and older releases lack `finish_timeout`.
    return wandb.Settings(**{key: value for key, value in wanted.items() if key in wandb.Settings.model_fields})


@contextmanager
def _kept_under(folder: Path) -> Iterator[None]:
    """Keep W&B's cache and staging files in `folder`, unless the user has said where they go."""
    places = {"WANDB_DATA_DIR": str(folder / "data"), "WANDB_CACHE_DIR": str(folder / "cache")}
    added = {name: place for name, place in places.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _missing_for_online(timeout: float) -> str | None:
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
