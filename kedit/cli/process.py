"""What a command changes in the process that calls it, put back when it has ended."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def borrowed_process() -> Iterator[None]:
    """Put back the root logger, the search path, Hydra's variable and its settings at the end of the `with` block.

    `hydra.verbose`, `--info` and a `hydra/job_logging` of the user's change the root logger for good, with a handler
    for the standard error of that moment, which a notebook or a test replaces long before somebody logs again. A sweep
    leaves its settings behind, in which no job has a folder.
    """
    from hydra.core.hydra_config import HydraConfig

    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    path, told, settings = sys.path[:], os.environ.get("HYDRA_FULL_ERROR"), HydraConfig.instance().cfg
    try:
        yield
    finally:
        for handler in [one for one in root.handlers if one not in handlers]:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raising
        sys.path[:] = path
        HydraConfig.instance().cfg = settings
        os.environ.pop("HYDRA_FULL_ERROR", None)
        if told is not None:
            os.environ["HYDRA_FULL_ERROR"] = told
