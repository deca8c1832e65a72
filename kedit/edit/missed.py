"""What an edit misses: layers that no hook reaches, threads and backward passes that go on after its end."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from kedit.internals.hooks import Hook, before
from kedit.internals.wrappers import checkpoints


@contextmanager
def watch(module: nn.Module, hooks: Mapping[int, Hook]) -> Iterator[Callable[[], list[str]]]:
    """Yield a function that returns, in a sentence each, what ran in the meantime without its edit, or still does.

    Args:
        module: The model.
        hooks: The hooks of the edit, by layer.
    """
    earlier = {thread.ident for thread in threading.enumerate()}
    differentiated: list[int] = []

    def count(*_: object) -> None:
        # Not where kedit reads the model, which sets checkpoints aside.
        if torch.is_grad_enabled() and checkpoints(module):
            differentiated.append(1)

    def missed() -> list[str]:
        found = (_idle(hooks), _running(hooks, earlier), _not_replayed(hooks, len(differentiated)))
        return [what for what in found if what]

    if not checkpoints(module):
        yield missed
        return
    with before(module, "", count):
        yield missed


def _idle(hooks: Mapping[int, Hook]) -> str:
    """Return which layers never ran with their hook."""
    idle = [layer for layer, hook in hooks.items() if not hook.n_calls]
    if not idle:
        return ""
    why = "(a layer may be passed by, a copy of the model called, or code that was compiled inside the block)"
    if len(idle) == len(hooks):
        return f"the model never ran the {len(idle)} edited layers: nothing was edited {why}"
    return f"the model ran, but not layers {', '.join(map(str, idle))} of the {len(hooks)} that are edited {why}"


def _running(hooks: Mapping[int, Hook], earlier: set[int | None]) -> str:
    """Return which threads that ran the edited model began inside the block and go on after it."""
    ran = set().union(*(hook.threads for hook in hooks.values()))
    alive = [one for one in threading.enumerate() if one.ident in ran and one.ident not in earlier]
    if not alive:
        return ""
    names = ", ".join(sorted(one.name for one in alive))
    return f"the thread {names} ran the edited model and goes on after the edit ends: join it inside the `with` block"


def _not_replayed(hooks: Mapping[int, Hook], n_differentiated: int) -> str:
    """Return whether a backward pass is to come that will compute blocks again, without their edit."""
    ran = [hook.n_calls for hook in hooks.values() if hook.n_calls]
    if not ran or min(ran) >= 2 * n_differentiated:
        return ""
    return (
        "gradient checkpointing computes blocks again in the backward pass, and there was none for some calls: call "
        "`backward` inside the `with` block, or the gradients are not the edited model's"
    )
