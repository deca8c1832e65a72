"""How a module of transformers is called without a trace: its mode, where its inputs go, what its forward takes."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import nn

from kedit.internals.block_stacks import named_by_model


def input_device(module: nn.Module) -> torch.device:
    """Return where the inputs go: to the token embedding, or to where accelerate brings its offloaded weights."""
    for one in (named_by_model(module, "get_input_embeddings"), module):
        weight = next(one.parameters(), None) if isinstance(one, nn.Module) else None
        if weight is None:
            continue
        if not weight.is_meta:
            return weight.device
        if spread := getattr(module, "hf_device_map", None):
            # As accelerate does: what is kept in memory or on disk is computed where the first of the others is.
            return torch.device(next((place for place in spread.values() if place not in ("cpu", "disk")), "cpu"))
    return torch.device("cpu")


def accepts(module: nn.Module, name: str) -> bool:
    """Return whether the forward of `module` takes a keyword `name`, by name or among any others."""
    taken = parameters(module)
    return name in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())


def declares(module: nn.Module, name: str) -> bool:
    """Return whether the forward of `module` takes a keyword of this very `name`."""
    return name in parameters(module)


def parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Return what the forward of `module` takes, by name."""
    return _parameters(type(module).forward)


@cache
def _parameters(function: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    # Asked for at every call of a model, and slow to find out.
    return inspect.signature(function).parameters
