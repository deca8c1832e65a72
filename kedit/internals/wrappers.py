"""What stands around a model or its blocks and runs them otherwise: compilers, checkpoints, adapters, many devices."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import nn

_STANCE = Lock()
"""Held while the way in which compiled code runs is changed: all threads share it."""
_eager: list[list[Any]] = []
"""For each who asked that compiled code runs as it is written, in order, what takes that back."""
TRANSPARENT = frozenset({"OptimizedModule", "CheckpointWrapper", "OffloadWrapper"})
"""Classes of torch that hold one module and compute what it does, by name: torch keeps them in private modules."""
SPREADING = frozenset({"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine"})
"""Classes that run copies or pieces of a module on several devices."""


def call(function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """Call `function`: what stands in place of torch's `checkpoint`."""
    return function(*given, **named)


CALM: Mapping[str, Any] = {"training": False, "grad_checkpointing": False, "checkpoint_fn": call}
"""What a module's own settings are while it is only read. Unlike transformers' checkpoints, those of timm
(`grad_checkpointing`) and torch's `checkpoint_wrapper` compute a block again in evaluation mode, too."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Keep `module` in evaluation mode, and put what was in training mode back into it afterwards.

    Meanwhile nothing of it is computed a second time in the backward pass, by which hooks would act twice, and what is
    compiled runs as it is written, since compiled code passes hooks by.
    """
    former = [
        (one, name, value)
        for one in module.modules()
        for name, calm in CALM.items()
        if (value := vars(one).get(name)) and value is not calm
    ]
    for one, name, _ in former:
        setattr(one, name, CALM[name])
    try:
        with as_written():
            yield
    finally:
        for one, name, value in former:
            setattr(one, name, value)


@contextmanager
def as_written() -> Iterator[None]:
    """Have compiled code run as it is written; of several who ask for it, in any thread, each may leave first.

    Nothing is done where torch's compiler was never loaded: asking torch would load it, which takes seconds.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with _STANCE:
        mine = [torch.compiler.set_stance("force_eager")]
        _eager.append(mine)
    try:
        yield
    finally:
        with _STANCE:
            place = next(number for number, one in enumerate(_eager) if one is mine)
            if mine is _eager[-1]:
                mine[0].__exit__(None, None, None)
            else:  # whoever came next goes back, at the end, to what was before both
                _eager[place + 1][:] = mine
            del _eager[place]


def checkpoints(module: nn.Module) -> bool:
    """Return whether blocks of `module` are computed a second time, in the backward pass."""
    settings = [vars(one) for one in module.modules()]
    own = any(one.get("training") and one.get("gradient_checkpointing") for one in settings)
    return own or any(one.get("grad_checkpointing") or one.get("checkpoint_fn", call) is not call for one in settings)


def bare(module: nn.Module) -> nn.Module:
    """Return the model inside `module`: what torch compiled, checkpoints as a whole, or peft put adapters into.

    Adapters stay where they are, and active. A wrapper's own attributes are not the model's: its forward takes
    anything, so that nobody can ask it what the model takes.

    Raises:
        ValueError: It is spread over devices, or an adapter puts virtual tokens into its sequence.
    """
    if type(module).__name__ in TRANSPARENT:
        return bare(next(module.children()))
    if type(module).__name__ in SPREADING:
        raise ValueError(
            f"the model is inside a {type(module).__name__}, which runs it on several devices; pass `.module`, the "
            "whole model in it"
        )
    described: Any = getattr(module, "peft_config", None) or {}
    for name, one in described.items():
        refuse_virtual_tokens(getattr(one, "num_virtual_tokens", None), str(getattr(one, "peft_type", name)))
    unwrap: Any = getattr(module, "get_base_model", None)
    return unwrap() if described and callable(unwrap) else module


def refuse_virtual_tokens(count: int | None, kind: str) -> None:
    """Raise a ValueError if an adapter of `kind` has virtual tokens, as prompt and prefix tuning have.

    They shift every position, so that an edit of image tokens would act on others.
    """
    if count is not None:
        raise ValueError(
            f"the adapter ({kind.rpartition('.')[2]}) puts {count} virtual tokens before the prompt, where no position "
            "is what it says; use an adapter that can be merged (LoRA, IA3), or the model without it"
        )
