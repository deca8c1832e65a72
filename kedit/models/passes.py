"""How a module of transformers is called without a trace: its mode, where its inputs go, what its forward takes."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Keep `module` in evaluation mode, and put what was in training mode back into it afterwards."""
    training = [one for one in module.modules() if one.training]
    for one in training:
        one.training = False
    try:
        yield
    finally:
        for one in training:
            one.training = True


def input_device(module: nn.Module) -> torch.device:
    """Return where the inputs go: to the token embedding, or to where accelerate brings its offloaded weights."""
    named = getattr(module, "get_input_embeddings", None)
    first = named() if named is not None else None
    for one in (first, module):
        weight = next(one.parameters(), None) if isinstance(one, nn.Module) else None
        if weight is None:
            continue
        if not weight.is_meta:
            return weight.device
        placed = getattr(getattr(one, "_hf_hook", None), "execution_device", None)
        if placed is not None:
            return torch.device(placed)
    return torch.device("cpu")


def accepts(module: nn.Module, name: str) -> bool:
    """Return whether the forward of `module` takes a keyword `name`, by name or among any others."""
    parameters = inspect.signature(type(module).forward).parameters
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def declares(module: nn.Module, name: str) -> bool:
    """Return whether the forward of `module` takes a keyword of this very `name`."""
    return name in inspect.signature(type(module).forward).parameters
