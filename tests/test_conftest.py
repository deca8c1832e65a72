"""The check for hooks left behind sees them, and sees nothing else."""

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

if TYPE_CHECKING:
    from tests.conftest import HookLedger


def kedit_hook(*_: object) -> None:
    """Pass for a hook that kedit defines."""


kedit_hook.__module__ = "kedit.hooks"


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
