"""What a model must still be after edits: its weights and its hooks."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kedit.internals.experts import Gate, gates
from kedit.internals.hooks import Forgotten, Hook


@dataclass(frozen=True)
class State:
    """The weights and buffers of a model by path, as digests, and its hooks."""

    weights: dict[str, str]
    hooks: tuple[int, ...]
    """The identities of the hooks that are not kedit's."""
    ours: int
    """How many of kedit's hooks are registered."""

    @classmethod
    def of(cls, module: nn.Module) -> "State":
        """Read the state of `module`; offloaded weights, which are not there to read, count as unchanged."""
        hooks = [*gates(module), *(hook for one in module.modules() for hook in hooks_on(one))]
        ours = [one for one in hooks if isinstance(one, Hook | Forgotten | Gate)]
        weights = {path: _digest(one) for path, one in module.state_dict(keep_vars=True).items()}
        return cls(weights, tuple(id(one) for one in hooks if one not in ours), len(ours))

    def changes(self, before: "State") -> list[str]:
        """Return what is no longer as it was, each in a few words."""
        found = [f"the weight `{path}`" for path, digest in self.weights.items() if before.weights.get(path) != digest]
        found += [f"the weight `{path}` (gone)" for path in before.weights.keys() - self.weights.keys()]
        # Libraries add hooks of their own when a model first runs; what was there has to stay.
        found += ["a hook that is not kedit's (gone)" for one in before.hooks if one not in self.hooks]
        return found + ["a hook of kedit's (left behind)"] * max(self.ours - before.ours, 0)


def hooks_on(one: nn.Module) -> list[object]:
    """Return the hooks that are registered on a module itself; torch has no public way to list them."""
    kinds = (one._forward_pre_hooks, one._forward_hooks, one._backward_hooks, one._backward_pre_hooks)
    return [hook for hooks in kinds for hook in hooks.values()]


def _digest(values: object) -> str:
    if not isinstance(values, Tensor) or values.is_meta:
        return "not here"
    data = values.detach().contiguous().cpu().flatten().view(torch.uint8)
    return hashlib.sha256(data.numpy().data).hexdigest()
