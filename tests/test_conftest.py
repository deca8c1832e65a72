"""The checks for what is left behind see it, and see nothing else."""

import io
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
import yaml
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


def test_files_that_took_longest_come_first_and_keep_the_order_of_their_tests(conftest: ModuleType) -> None:
    took = {conftest.TOOK: {"a.py": 1.0, "b.py": 9.0}}
    items = [SimpleNamespace(nodeid=f"{name}.py::{test}") for name in "cab" for test in ("one[x::y]", "two")]
    conftest.pytest_collection_modifyitems(SimpleNamespace(cache=took), items)
    assert [one.nodeid[0] for one in items] == [*"bbaacc"]
    assert [one.nodeid.partition("::")[2] for one in items] == ["one[x::y]", "two"] * 3
    conftest.pytest_collection_modifyitems(SimpleNamespace(), items)  # without a cache they stay as they are
    assert [one.nodeid[0] for one in items] == [*"bbaacc"]


def test_a_text_of_yaml_is_the_same_however_often_it_is_read_and_belongs_to_the_reader() -> None:
    first, again = (yaml.load(io.StringIO("a: [1, {b: 2}]"), yaml.SafeLoader) for _ in range(2))
    first["a"].append(3)
    assert again == {"a": [1, {"b": 2}]} == yaml.load(io.StringIO("a: [1, {b: 2}]"), yaml.SafeLoader)
    for _ in range(2):
        with pytest.raises(yaml.YAMLError, match="line 1"):
            yaml.load(io.StringIO("a: ["), yaml.SafeLoader)
