"""What every recipe does with Hydra: refuse foreign targets, fail in one line, exit with the right code."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf

T = TypeVar("T")
logger = logging.getLogger(__name__)

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


class ConfigurationError(Exception):
    """The command or the configuration is wrong; the message says what would fix it."""


def build(node: Any) -> Any:
    """Instantiate a configuration whose every `_target_` is kedit's own."""
    from hydra.utils import instantiate

    for target in _targets(node):
        if not target.startswith("kedit."):
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
        cause = error
        while cause.__cause__ is not None and isinstance(error, HydraException):
            cause = error = cause.__cause__  # type: ignore[assignment]
        text = cause.args[0] if isinstance(cause, KeyError) and cause.args else cause
        raise ConfigurationError(str(text).splitlines()[0]) from error


def guarded(main: Callable[[], Any]) -> int:
    """Call a Hydra main and return the exit code; whatever goes wrong is one line on standard error."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Hydra then raises instead of printing half a page and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except ConfigurationError as error:
        return _said(MISUSED, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _said(MISUSED, _explained(error))
    except KeyboardInterrupt:
        return _said(INTERRUPTED, "interrupted; STATUS in the run folder says so")
    except Exception as error:
        logger.debug("%s", traceback.format_exc())
        return _said(FAILED, f"{type(error).__name__}: {error}; the traceback is in kedit.log of the run folder")
    return DONE


def bar(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """Yield `items` with a progress bar on standard error; silent where that is no terminal."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, disable=None, leave=False, dynamic_ncols=True, delay=0.5)


def plain(node: Any) -> dict[str, Any]:
    """Return a configuration as plain data, resolved."""
    data = OmegaConf.to_container(node, resolve=True)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


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


def _explained(error: BaseException) -> str:
    """Return Hydra's complaint as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = str(error.__cause__).splitlines()[0] if error.__cause__ and str(error.__cause__) else ""
    told = "; ".join(lines[:2])
    return f"{told} ({cause})" if cause and cause not in told else told


def _said(code: int, text: str) -> int:
    sys.stderr.write(f"kedit: {text}\n")
    return code
