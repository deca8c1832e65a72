"""The checks for what is left behind see it, and see nothing else."""

import io
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

if TYPE_CHECKING:
    from tests.conftest import HookLedger


@pytest.fixture
def conftest(pytestconfig: pytest.Config) -> ModuleType:
    """Return the suite's conftest, which pytest alone may import."""
    (found,) = [
        one
        for one in pytestconfig.pluginmanager.get_plugins()
        if getattr(one, "__file__", None) == str(Path(__file__).with_name("conftest.py"))
    ]
    return found  # type: ignore[no-any-return]


def kedit_hook(*_: object) -> None:
    """Pass for a hook that kedit defines."""


kedit_hook.__module__ = "kedit.internals.hooks"


def foreign_hook(*_: object) -> None:
    """Do nothing, and belong to this file."""


@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_a_hook_of_kedit_is_seen_until_it_is_removed(hook_ledger: "HookLedger", register: str) -> None:
    layer = nn.Linear(2, 2)
    handle = getattr(layer, register)(kedit_hook)
    assert hook_ledger.left() == ["kedit_hook"]
    handle.remove()
    assert hook_ledger.left() == []


def test_a_hook_on_a_tensor_or_on_all_modules_is_seen(hook_ledger: "HookLedger") -> None:
    tensor = torch.ones(1, requires_grad=True)
    handles = [tensor.register_hook(kedit_hook), nn.modules.module.register_module_forward_hook(kedit_hook)]
    assert len(hook_ledger.left()) == 2
    for handle in handles:
        handle.remove()


def test_a_partial_of_a_hook_of_kedit_is_seen(hook_ledger: "HookLedger") -> None:
    handle = nn.Linear(2, 2).register_forward_hook(partial(kedit_hook, 1))
    assert hook_ledger.left() == []  # the module is gone, and the hook with it
    layer = nn.Linear(2, 2)
    handle = layer.register_forward_hook(partial(kedit_hook, 1))
    assert len(hook_ledger.left()) == 1
    handle.remove()


def test_foreign_hooks_are_not_counted(hook_ledger: "HookLedger") -> None:
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(foreign_hook)
    assert hook_ledger.left() == []


def add_a_handler(patch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    patch.setattr(root, "handlers", [*root.handlers, logging.NullHandler()])


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "log handlers": add_a_handler,
    "log level": lambda patch: patch.setattr(logging, "raiseExceptions", False),
    "command line": lambda patch: patch.syspath_prepend("/nowhere"),
    "streams": lambda patch: patch.setattr(sys, "__stderr__", io.StringIO()),
    "working folder": lambda patch: patch.chdir("/"),
    "environment": lambda patch: patch.setenv("HYDRA_FULL_ERROR", "1"),
    "torch": lambda patch: patch.setattr(torch, "get_num_threads", lambda: 7),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_test_leaves_changed_in_its_process_is_named(conftest: ModuleType, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        watch = conftest.unchanged()
        next(watch)
        CHANGES[name](patch)
        with pytest.raises(AssertionError, match=f"left changed: {name}: "):
            next(watch)


def test_a_test_that_puts_back_what_it_changed_passes(conftest: ModuleType) -> None:
    watch = conftest.unchanged()
    next(watch)
    with pytest.MonkeyPatch.context() as patch:
        for change in CHANGES.values():
            change(patch)
    assert list(watch) == []
