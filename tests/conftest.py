"""What every test gets: one thread, no network, folders of its own, and a check that no hook stays behind."""

import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings
from torch.utils.hooks import RemovableHandle

from kedit.models.planted import Planted
from kedit.tested import tell_untested

# A busy second core makes torch's default threads wait for each other: a tiny forward takes 120 ms instead of 2.
torch.set_num_threads(1)
settings.register_profile("kedit", deadline=None, derandomize=True)
settings.load_profile("kedit")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module imports a library that reads it."""
    scratch = tempfile.TemporaryDirectory(prefix="kedit-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(scratch.cleanup)
    os.environ.update(
        {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "Agg",
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        }
    )
    for name in ("HF_HOME", "KEDIT_STORE", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        folder = Path(scratch.name, name.lower())
        folder.mkdir()
        os.environ[name] = str(folder)
    tell_untested()  # once a process, so that no test's captured output has it


def _is_ours(hook: Callable[..., Any]) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module.partition(".")[0] == "kedit"


class HookLedger:
    """Every hook registered on any module or tensor since the last `clear`, whoever registered it.

    torch makes a `RemovableHandle` for each, which knows the dictionary that the hook went into.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def note(self, handle: RemovableHandle) -> None:
        """Remember one registration."""
        self._handles.append(handle)

    def clear(self) -> None:
        """Forget all registrations."""
        self._handles.clear()

    def left(self) -> list[str]:
        """Return the qualified names of the hooks of kedit's that are still in place on a living object."""
        found = []
        for handle in self._handles:
            hooks = handle.hooks_dict_ref()
            if hooks is not None and handle.id in hooks and _is_ours(hooks[handle.id]):
                hook = hooks[handle.id]
                found.append(getattr(hook, "__qualname__", type(hook).__qualname__))
        return found


@pytest.fixture(scope="session")
def hook_ledger() -> Iterator[HookLedger]:
    """Watch all registrations of hooks for the length of the session."""
    ledger = HookLedger()
    construct = RemovableHandle.__init__

    @functools.wraps(construct)
    def construct_and_note(self: RemovableHandle, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        ledger.note(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemovableHandle, "__init__", construct_and_note)
        yield ledger


@pytest.fixture(autouse=True)
def no_hooks_left(hook_ledger: HookLedger) -> Iterator[None]:
    """Fail a test after which a hook of kedit's is still registered.

    Hooks of other libraries are theirs to keep: transformers leaves some on a model for good.
    """
    hook_ledger.clear()
    yield
    left = hook_ledger.left()
    hook_ledger.clear()
    assert not left, f"{len(left)} hooks still registered after the test: {sorted(set(left))}"


@pytest.fixture(scope="session")
def planted() -> Planted:
    """The hand-written model whose right answer is known; nobody changes it."""
    from kedit.models.planted import planted as build

    return build()


@pytest.fixture
def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a command line does to its process: loggers, environment, Hydra's state."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(logging, "raiseExceptions", True)
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    GlobalHydra.instance().clear()
