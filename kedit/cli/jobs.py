"""A command's job: run folders, one line for whatever goes wrong, and the right exit code."""

import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import OF_MODELS, build, figure_style, mirrored, sweep_folder, texts, whole_numbers
from kedit.cli.errors import ConfigurationError, NegativeResult, check_arguments, explained, misused, repeated
from kedit.cli.logs import logged
from kedit.cli.process import borrowed_process
from kedit.cli.sweep_folder import KEY, STOPPED, once
from kedit.deprecations import deprecations_logged
from kedit.locate.shipped import OF_TEXTS
from kedit.progress import inside_a_stage, progress_shown, say
from kedit.results.run_folder import Run, write_atomic

T = TypeVar("T")
logger = logging.getLogger(__name__)

LOG = "kedit.log"
DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

AtEnd = Callable[[bool], list[int]]
"""Puts the results of a sweep together, of which a job is known to have failed or not; returns the exit codes."""

_exit_codes: ContextVar[list[int] | None] = ContextVar("exit_codes", default=None)
"""The codes of the jobs that failed so far; None where no `guarded` waits for them."""


class Begun(NamedTuple):
    """A run or a sweep that has begun."""

    held: ExitStack
    """What is let go of at the end."""
    end: AtEnd
    resume: str
    """The command that goes on with it after an interruption."""


_begun: ContextVar[list[Begun] | None] = ContextVar("begun", default=None)
"""What has begun so far; None where no `guarded` waits for it."""


class Refused(SystemExit):
    """A run or a sweep does not begin; Hydra would make a mere warning of any other error of a callback, and go on."""

    code: int


def reported(job: Callable[[DictConfig], T]) -> Callable[[DictConfig], T | None]:
    """Let a job that fails say so in one line and leave its traceback in kedit.log.

    The other jobs of a sweep still run, unless `on_error=stop`; what is finished does not run again. Hydra would
    announce a raised error in a second line, so the failure is handed to `guarded` instead; from a launcher's worker
    process, where none waits, STATUS tells it.
    """

    def begin(settings: DictConfig) -> T:
        _say_loading(settings)
        return job(settings)

    @wraps(job)
    def attempt(settings: DictConfig) -> T | None:
        sweep = sweep_folder()
        try:
            # A launcher's worker process has not come through the command line.
            # Of a sweep, each job has a line of its own.
            place: AbstractContextManager[None] = nullcontext() if sweep is None else inside_a_stage()
            with logged(_log()), deprecations_logged(), progress_shown(_wants_progress(settings)), place:
                return _run_and_log(begin if sweep is None else partial(once, begin), settings)
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


def _wants_progress(settings: DictConfig) -> bool:
    if not isinstance(wanted := settings.get("progress", True), bool):
        raise ConfigurationError(f"`progress` is true or false; got {wanted}")
    return wanted


def _say_loading(settings: DictConfig) -> None:
    """Say at once what is loaded: to import PyTorch takes seconds; where that is done, nothing takes as long."""
    if "torch" not in sys.modules:
        name = OmegaConf.select(settings, "model.name") or OmegaConf.select(settings, "model.path")
        say(f"loading {Path(str(name)).name if name else 'PyTorch'} ...")


def _run_and_log(job: Callable[[DictConfig], T], settings: DictConfig) -> T:
    try:
        return job(settings)
    except Exception:
        with suppress(OSError):
            logger.info("the job failed", exc_info=True)
        raise


@borrowed_process()
def guarded(main: Callable[[], Any]) -> int:
    """Call a Hydra main and return the exit code; whatever goes wrong is one line on standard error.

    A sweep is put together as it asked for when it began, also after failures and when it is interrupted.
    """
    # Hydra then raises instead of printing half a page and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # On a full disk, each line for kedit.log would bring a traceback to the terminal.
    logging.raiseExceptions = False
    codes: list[int] = []
    composed = True
    token, waiting = _exit_codes.set(codes), _begun.set([])
    try:
        check_arguments(sys.argv[1:])
        for notice in repeated(sys.argv[1:]):
            said(DONE, notice)
        main()
    except KeyboardInterrupt:
        ways = [f"to go on: {one.resume}" for one in _begun_now()]
        codes.append(said(INTERRUPTED, "; ".join(["interrupted", *ways])))
    except Exception as error:
        codes.append(tell_error(error))
        composed = not misused(error)
    except Refused as refused:
        codes.append(refused.code)
    finally:
        begun = _begun_now()
        _exit_codes.reset(token)
        _begun.reset(waiting)
    for one in begun:
        with one.held:
            codes += one.end(bool(codes)) if composed else []
    if not codes:
        return DONE
    if INTERRUPTED in codes:
        return INTERRUPTED
    return MISUSED if set(codes) == {MISUSED} else FAILED


def announce(what: Begun) -> None:
    """Tell the `guarded` that waits what has begun."""
    if (waiting := _begun.get()) is not None:
        waiting.append(what)


def _begun_now() -> list[Begun]:
    return (_begun.get() or [])[:]


def renamed(arguments: Sequence[str], former: Mapping[str, str]) -> list[str]:
    """Return a command line with the keys that had another name in 0.5 under their name of now; one line says so."""
    pattern = re.compile(rf"([+~]*)({'|'.join(map(re.escape, former))})(?==|$)")
    found = {argument: match for argument in arguments if (match := pattern.match(argument))}
    if found:
        text = ", ".join(dict.fromkeys(f"`{match[2]}` is now `{former[match[2]]}`" for match in found.values()))
        sys.stderr.write(f"kedit: deprecated: {text}; the old name will go in 0.8\n")
    return [
        match[1] + former[match[2]] + argument[match.end() :] if (match := found.get(argument)) else argument
        for argument in arguments
    ]


def for_texts(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the locator of texts, where the data are texts and no locator is chosen."""
    chosen = {argument.partition("=")[0].lstrip("+") for argument in arguments}
    return (
        [*arguments, f"locate={OF_TEXTS}"] if "data=prompts" in arguments and "locate" not in chosen else [*arguments]
    )


@contextmanager
def run_folder(settings: DictConfig, least: Mapping[str, int], lists: Sequence[str] = ()) -> Iterator[tuple[Any, Any]]:
    """Open Hydra's folder for a job and yield it, as a `Run`, with its tracker.

    Args:
        settings: The job's configuration.
        least: The settings that are whole numbers, and the least of each; see `whole_numbers`.
        lists: The texts that may be several; see `texts`.
    """
    from hydra.core.hydra_config import HydraConfig

    from kedit import __version__
    from kedit.tested import tell_untested

    running = HydraConfig.get()
    folder = Path(running.runtime.output_dir)
    with Run(folder) as kept:
        (folder / KEY).unlink(missing_ok=True)
        logger.info("kedit %s, overrides: %s", __version__, ", ".join(running.overrides.task) or "none")
        tell_untested()
        asked = {key: one for key, one in OF_MODELS.items() if OmegaConf.select(settings, key) is not None}
        whole_numbers(settings, {**least, **asked}, optional=["threads"])
        texts(settings, lists)
        figure_style(settings)
        if settings.on_error not in ("continue", "stop"):
            raise ConfigurationError(f"`on_error` is continue or stop; got {settings.on_error}")
        sweep = sweep_folder()
        tracker = build(settings.tracker)
        if sweep is not None and getattr(tracker, "group", "") is None:
            tracker = replace(tracker, group=os.environ.get("WANDB_RUN_GROUP") or sweep.name)
        try:
            with mirrored(tracker, settings, folder):
                yield kept, tracker
        finally:
            if sweep is None:
                tell_offline(folder)
        logger.info("done")


def tell_offline(folder: Path) -> None:
    """Say in one line where W&B has kept a run or a sweep offline, and how to upload it."""
    place = shlex.quote(str(folder))
    runs = [f"{place}/{one.relative_to(folder)}" for one in sorted(folder.glob("wandb/offline-run-*"))[-1:]]
    if any(folder.glob("*/wandb/offline-run-*")):
        runs.append(f"{place}/*/wandb/offline-run-*")
    if runs:
        sys.stdout.write(f"W&B: kept offline; to upload it: wandb sync {' '.join(runs)}\n")


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


def _other_folder(error: Exception, what: str) -> str:
    """Return the way out when the folder of a run or a sweep cannot be written."""
    unwritable = isinstance(error, OSError) and not misused(error)
    return f"; choose another {what} folder with `hydra.{what}.dir`" if unwritable else ""


def tell_error(error: Exception, what: str = "run") -> int:
    """Say in one line what an error of a run or a sweep means, and return its exit code."""
    return said(code_of(error), explained(error) + _other_folder(error, what))


def said(code: int, text: str) -> int:
    """Say in one line on standard error what went wrong, and return `code`."""
    sys.stderr.write(f"kedit: {text}\n")
    return code
