"""What every recipe does with Hydra: refuse foreign targets, fail in one line, exit with the right code."""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import wraps
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.complaints import ConfigurationError, NegativeResult, explained, misused, one_line
from experiments.sweeps import STOPPED, statuses
from kedit.runs import write_atomic

__all__ = [
    "ConfigurationError",
    "bar",
    "build",
    "guarded",
    "mirrored",
    "misuse",
    "plain",
    "reported",
    "run_folder",
    "use_threads",
    "whole_numbers",
]

T = TypeVar("T")
logger = logging.getLogger(__name__)

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

_exit_codes: ContextVar[list[int] | None] = ContextVar("exit_codes", default=None)
"""The codes of the jobs that failed so far; None where no `guarded` waits for them."""
_sweep: ContextVar[list[DictConfig] | None] = ContextVar("sweep", default=None)
"""The settings of the sweep that has begun; None where no `guarded` waits for it."""


def build(node: Any) -> Any:
    """Instantiate a configuration whose every `_target_` is kedit's own."""
    from hydra.utils import instantiate

    for key in sorted(OmegaConf.missing_keys(node)):
        raise ConfigurationError(f"`{key}` has no value; give it as `{key}=...`")
    for target in _targets(node):
        if not _is_ours(target):
            raise ConfigurationError(f"`_target_` must start with `kedit.`, got `{target}`")
    with misuse():
        return instantiate(node, _convert_="all")


@contextmanager
def misuse() -> Iterator[None]:
    """Turn what is wrong with a value the user gave into a `ConfigurationError`."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (ValueError, LookupError, TypeError, OSError, HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(explained(error)) from error


def whole_numbers(settings: DictConfig, least: Mapping[str, int], optional: Iterable[str] = ()) -> None:
    """Refuse settings that are not whole numbers from `least` on; those of `optional` may be null."""
    for key, smallest in least.items():
        found = OmegaConf.select(settings, key)
        if found is None and key in optional:
            continue
        if not isinstance(found, int) or isinstance(found, bool) or found < smallest:
            null = " or null" if key in optional else ""
            shown = "null" if found is None else found
            raise ConfigurationError(f"`{key}` is a whole number, {smallest} or more{null}; got {shown}")


def reported(job: Callable[[DictConfig], T]) -> Callable[[DictConfig], T | None]:
    """Let a job that fails say so in one line and leave its traceback in kedit.log.

    The other jobs of a sweep still run, unless `on_error=stop`. Hydra would announce a raised error in a second line,
    so the failure is handed to `guarded` instead; from a launcher's worker process, where none waits, STATUS tells it.
    """

    @wraps(job)
    def attempt(settings: DictConfig) -> T | None:
        sweep = _sweep_folder()
        if sweep is not None and (sweep / STOPPED).exists():
            return None
        try:
            return job(settings)
        except Exception as error:
            with suppress(OSError):
                logger.info("the job failed", exc_info=True)
            codes = _waiting()
            if codes is None and sweep is None:
                raise
            code = _said(_code(error), _job_label() + explained(error) + _where_to_look(error))
            if codes is not None:
                codes.append(code)
            if sweep is not None and settings.on_error == "stop":
                write_atomic(sweep / STOPPED, f"{_job_label()}{explained(error)}\n")
            return None

    return attempt


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
        codes.append(_said(INTERRUPTED, "interrupted; STATUS in the run folder says so"))
    except Exception as error:
        codes.append(_said(_code(error), explained(error) + _other_folder(error)))
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
        ended(settings, folder)
    except Exception as error:
        logger.info("the sweep could not be summed up", exc_info=True)
        return [_said(_code(error), f"no summary of {folder}: {explained(error)}")]
    told = statuses(folder).values()
    # Where some jobs are done, the command as such was right.
    return [FAILED] if (failed and "done" in told) or (not failed and set(told) - {"done"}) else []


def _sweep_folder() -> Path | None:
    """Return the folder of the sweep that the job belongs to, or None."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir)


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

    running = HydraConfig.get()
    folder = Path(running.runtime.output_dir)
    with Run(folder) as kept:
        logger.info("kedit %s, overrides: %s", __version__, ", ".join(running.overrides.task) or "none")
        whole_numbers(settings, least, optional=["threads"])
        if settings.on_error not in ("continue", "stop"):
            raise ConfigurationError(f"`on_error` is continue or stop; got {settings.on_error}")
        sweep = _sweep_folder()
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


def bar(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """Yield `items` with a progress bar on standard error; silent where that is no terminal."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, disable=None, leave=False, dynamic_ncols=True, delay=0.5)


def use_threads(count: int | None) -> None:
    """Let PyTorch use `count` CPU threads; None leaves the choice to it, or shares them out among jobs at once."""
    import torch

    from experiments.launching import threads_for, workers_of

    if count is None and _sweep_folder() is not None:
        from hydra.core.hydra_config import HydraConfig

        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = workers_of(plain(HydraConfig.get()), cpus)
        count = threads_for(workers, cpus, None) if workers > 1 else None
    if count is not None:
        torch.set_num_threads(count)


def plain(node: Any) -> dict[str, Any]:
    """Return a configuration as plain data, resolved."""
    data = OmegaConf.to_container(node, resolve=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def _waiting() -> list[int] | None:
    # A launcher pickles `attempt` with what it names, and a ContextVar cannot be pickled.
    return _exit_codes.get()


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in node:
            if key == "_target_":
                yield str(node[key])
            elif not OmegaConf.is_missing(node, str(key)):
                yield from _targets(node[key])
    elif isinstance(node, ListConfig):
        for item in node:
            yield from _targets(item)


def _is_ours(target: str) -> bool:
    if not target.startswith("kedit."):
        return False
    try:
        found = resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"there is no `_target_` `{target}`: {one_line(str(error))}") from error
    # A name may lead out again: `kedit.runs.os.system` is not kedit's.
    return str(getattr(found, "__module__", "")).startswith("kedit.")


def _code(error: Exception) -> int:
    return MISUSED if misused(error) else FAILED


def _job_label() -> str:
    """Return which job of a sweep this is."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    running = HydraConfig.get()
    if running.mode != RunMode.MULTIRUN:
        return ""
    return f"job {running.job.num} ({', '.join(running.overrides.task)}): "


def _where_to_look(error: Exception) -> str:
    """Return where the traceback is, for an error that is not the user's."""
    from hydra.core.hydra_config import HydraConfig

    log = Path(HydraConfig.get().runtime.output_dir) / "kedit.log"
    worth_it = _code(error) == FAILED and not isinstance(error, NegativeResult)
    return f"; the traceback is in {log}" if worth_it and log.is_file() else ""


def _other_folder(error: Exception) -> str:
    """Return the way out when Hydra cannot write the run folder."""
    unwritable = isinstance(error, OSError) and not misused(error)
    return "; choose another run folder with `hydra.run.dir`" if unwritable else ""


def _said(code: int, text: str) -> int:
    sys.stderr.write(f"kedit: {text}\n")
    return code
