"""A recipe as a command: run folders, one line for whatever goes wrong, and the right exit code."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from experiments.app import build, plain, sweep_folder, whole_numbers
from experiments.borrowing import borrowed_process
from experiments.complaints import ConfigurationError, NegativeResult, explained, misused, one_line
from experiments.logs import logged
from experiments.sweeps import STOPPED, statuses
from kedit.deprecations import deprecations_logged
from kedit.runs import write_atomic

T = TypeVar("T")
logger = logging.getLogger(__name__)

LOG = "kedit.log"
DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

_exit_codes: ContextVar[list[int] | None] = ContextVar("exit_codes", default=None)
"""The codes of the jobs that failed so far; None where no `guarded` waits for them."""
_sweep: ContextVar[list[DictConfig] | None] = ContextVar("sweep", default=None)
"""The settings of the sweep that has begun; None where no `guarded` waits for it."""


def reported(job: Callable[[DictConfig], T]) -> Callable[[DictConfig], T | None]:
    """Let a job that fails say so in one line and leave its traceback in kedit.log.

    The other jobs of a sweep still run, unless `on_error=stop`. Hydra would announce a raised error in a second line,
    so the failure is handed to `guarded` instead; from a launcher's worker process, where none waits, STATUS tells it.
    """

    @wraps(job)
    def attempt(settings: DictConfig) -> T | None:
        sweep = sweep_folder()
        if sweep is not None and (sweep / STOPPED).exists():
            return None
        try:
            # A launcher's worker process has not come through the command line.
            with logged(_log()), deprecations_logged():
                return _told_to_log(job, settings)
        except Exception as error:
            codes = _waiting()
            if codes is None and sweep is None:
                raise
            code = said(code_of(error), _job_label() + explained(error) + _where_to_look(error))
            if codes is not None:
                codes.append(code)
            if sweep is not None and settings.on_error == "stop":
                write_atomic(sweep / STOPPED, f"{_job_label()}{explained(error)}\n")
            return None

    return attempt


def _told_to_log(job: Callable[[DictConfig], T], settings: DictConfig) -> T:
    try:
        return job(settings)
    except Exception:
        with suppress(OSError):
            logger.info("the job failed", exc_info=True)
        raise


@borrowed_process()
def guarded(main: Callable[[], Any]) -> int:
    """Call a Hydra main and return the exit code; whatever goes wrong is one line on standard error.

    A sweep ends with what `ended` makes of it, also after failures and when it is interrupted.
    """
    _prepare_hydra()
    codes: list[int] = []
    token, sweep = _exit_codes.set(codes), _sweep.set([])
    try:
        main()
    except KeyboardInterrupt:
        codes.append(said(INTERRUPTED, "interrupted; STATUS in the run folder says so"))
    except Exception as error:
        codes.append(said(code_of(error), explained(error) + _other_folder(error)))
    finally:
        begun = (_sweep.get() or [])[:]
        _exit_codes.reset(token)
        _sweep.reset(sweep)
    for settings in begun:
        codes += _ended(settings, bool(codes))
    if not codes:
        return DONE
    if INTERRUPTED in codes:
        return INTERRUPTED
    return MISUSED if set(codes) == {MISUSED} else FAILED


def sweeping(settings: DictConfig) -> None:
    """Tell the `guarded` that waits that a sweep has begun."""
    if (begun := _sweep.get()) is not None:
        begun.append(settings)


def _prepare_hydra() -> None:
    # Hydra then raises instead of printing half a page and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # On a full disk, each line for kedit.log would bring a traceback to the terminal.
    logging.raiseExceptions = False
    # Hydra takes plugins from the namespace package `hydra_plugins` alone.
    plugins = str(Path(__file__).resolve().parent / "plugins")
    if plugins not in sys.path:
        sys.path.append(plugins)
    from hydra.core.plugins import Plugins
    from hydra_plugins.kedit_grid import GridSweeper

    Plugins.instance().register(GridSweeper)


def _ended(settings: DictConfig, failed: bool) -> list[int]:
    """Finish a sweep, of which a job is known to have failed or not, and return the exit codes of that."""
    from experiments.endings import ended

    folder = Path(settings.hydra.sweep.dir)
    try:
        with logged(None):
            ended(settings, folder)
    except Exception as error:
        with suppress(OSError), logged(folder / LOG):
            logger.info("the sweep could not be summed up", exc_info=True)
        return [said(code_of(error), f"no summary of {folder}: {explained(error)}")]
    told = statuses(folder).values()
    # Where some jobs are done, the command as such was right.
    return [FAILED] if (failed and "done" in told) or (not failed and set(told) - {"done"}) else []


@contextmanager
def run_folder(settings: DictConfig, least: Mapping[str, int]) -> Iterator[tuple[Any, Any]]:
    """Open Hydra's folder for a job and yield it, as a `Run`, with its tracker.

    Args:
        settings: The job's configuration.
        least: The settings that are whole numbers, and the least of each; see `whole_numbers`.
    """
    from hydra.core.hydra_config import HydraConfig

    from kedit import __version__
    from kedit.runs import Run
    from kedit.tested import tell_untested

    running = HydraConfig.get()
    folder = Path(running.runtime.output_dir)
    with Run(folder) as kept:
        logger.info("kedit %s, overrides: %s", __version__, ", ".join(running.overrides.task) or "none")
        tell_untested()
        whole_numbers(settings, least, optional=["threads"])
        if settings.on_error not in ("continue", "stop"):
            raise ConfigurationError(f"`on_error` is continue or stop; got {settings.on_error}")
        sweep = sweep_folder()
        tracker = build(settings.tracker)
        if sweep is not None and getattr(tracker, "group", "") is None:
            tracker = replace(tracker, group=sweep.name)
        with mirrored(tracker, settings, folder):
            yield kept, tracker
        logger.info("done")


@contextmanager
def mirrored(tracker: Any, settings: DictConfig, folder: Path) -> Iterator[None]:
    """Tell `tracker` that a run begins and how it ends."""
    tracker.start(folder.name, plain(settings), folder)
    try:
        yield
    except BaseException as error:
        tracker.finish(failed=one_line(f"{type(error).__name__}: {error}"))
        raise
    tracker.finish()


def _waiting() -> list[int] | None:
    # A launcher pickles `attempt` with what it names, and a ContextVar cannot be pickled.
    return _exit_codes.get()


def code_of(error: Exception) -> int:
    """Return the exit code of an error: whether the command was wrong, or a job failed."""
    return MISUSED if misused(error) else FAILED


def _job_label() -> str:
    """Return which job of a sweep this is: the name of its folder, and what it was asked for."""
    from hydra.core.hydra_config import HydraConfig

    if sweep_folder() is None:
        return ""
    running = HydraConfig.get()
    return f"job {Path(running.runtime.output_dir).name} ({', '.join(running.overrides.task)}): "


def _where_to_look(error: Exception) -> str:
    """Return where the traceback is, for an error that is not the user's."""
    log = _log()
    worth_it = code_of(error) == FAILED and not isinstance(error, NegativeResult)
    return f"; the traceback is in {log}" if worth_it and log is not None and log.is_file() else ""


def _log() -> Path | None:
    """Return the log of the job that runs; None for a command that has no run folder."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized() or (running := HydraConfig.get()).output_subdir is None:
        return None
    return Path(running.runtime.output_dir) / LOG


def _other_folder(error: Exception) -> str:
    """Return the way out when Hydra cannot write the run folder."""
    unwritable = isinstance(error, OSError) and not misused(error)
    return "; choose another run folder with `hydra.run.dir`" if unwritable else ""


def said(code: int, text: str) -> int:
    """Say in one line on standard error what went wrong, and return `code`."""
    sys.stderr.write(f"kedit: {text}\n")
    return code
