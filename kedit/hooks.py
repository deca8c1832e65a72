"""Record and intervene: the only hooks in kedit, alive only inside `with`.

A hook belongs to the module and to the thread that attached it. A deep copy of the model made meanwhile is not
affected, foreign hooks are never touched, and nothing is ever written in place.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedit.experts import Gate, Routing, check_order, gates
from kedit.sites import Site

Rewrite = Callable[[Tensor], Tensor | None]
"""Takes the activations of one layer and returns new ones, or None to leave them alone."""


@dataclass(frozen=True, eq=False)
class Some:
    """A rewrite of some neurons of a layer, the others left as they are.

    In a layer of experts only these neurons are laid out, which takes far less memory than all of them.
    """

    at: Tensor
    """The indices of the neurons, `[k]`."""
    rewrite: Callable[[Tensor], Tensor]
    """Takes their activations, `[..., k]`, and returns new ones."""

    def __call__(self, activation: Tensor) -> Tensor:
        """Return the activations `[..., neuron]` with the neurons rewritten, as a copy."""
        at = self.at.to(activation.device)
        edited = activation.clone()
        edited[..., at] = self.rewrite(activation[..., at])
        return edited


class Hook:
    """A forward (pre-)hook that acts on one module, in one thread, until it is removed."""

    def __init__(self, act: Callable[..., Any], label: object = None) -> None:
        self.act, self.label = act, label
        self.thread = threading.get_ident()
        self.n_calls = 0

    def __call__(self, module: nn.Module, *inputs: Any) -> Any:
        """Act, if this is the thread that attached the hook."""
        if threading.get_ident() != self.thread:
            return None
        self.n_calls += 1
        return self.act(*inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Forgotten":
        return Forgotten()


class Forgotten:
    """What a hook becomes in a deep copy of its model: it removes itself when it is first called."""

    def __call__(self, module: nn.Module, *inputs: Any) -> None:
        """Leave the copy."""
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if hook is self]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


@contextmanager
def intervene(
    module: nn.Module, site: Site, rewrites: Mapping[int, Rewrite], *, label: object = None
) -> Iterator[Mapping[int, Hook]]:
    """Pass the activations of each layer in `rewrites` through its rewrite; yield the hooks by layer.

    In a layer of experts the activations are `[token, neuron]`, the neurons of all experts side by side and zero
    where a token is not routed to the expert; what is returned there is dropped. That takes n_tokens x n_neurons
    numbers at a time (half a megabyte for each token of Mixtral 8x7B), or less with `Some`.

    Args:
        module: The model. Its weights and code are not touched.
        site: Which tensor holds the neurons.
        rewrites: For each layer, a function of the activations `[..., neuron]`.
        label: Who intervenes, for `labels`.

    Raises:
        SiteError: A layer does not exist. Nothing is left attached.
    """
    with ExitStack() as attached:
        yield {
            layer: attached.enter_context(_attached(module, site, layer, rewrite, label))
            for layer, rewrite in rewrites.items()
        }


@contextmanager
def record(module: nn.Module, site: Site, *, differentiable: bool = False) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that holds each layer's activations `[..., neuron]` after a forward pass (the last one's).

    With `differentiable`, the tensors are part of the graph even if every weight is frozen, so that
    `torch.autograd.grad(y, list(recorded.values()))` works and no weight gets a gradient.
    """
    recorded: dict[int, Tensor] = {}

    def recorder(layer: int) -> Rewrite:
        def keep(activation: Tensor) -> Tensor | None:
            recorded[layer] = with_graph(activation) if differentiable else activation.detach()
            return recorded[layer] if differentiable else None

        return keep

    with intervene(module, site, {layer: recorder(layer) for layer in site.blocks}, label="record"):
        yield recorded


def with_graph(activation: Tensor) -> Tensor:
    """Return `activation` as a tensor that a gradient can be taken for."""
    return activation if activation.requires_grad else activation.detach().requires_grad_(True)


@contextmanager
def before(module: nn.Module, path: str, see: Callable[..., None]) -> Iterator[Hook]:
    """Call `see(args, kwargs)` before each forward of the submodule at `path`, without changing them."""
    hook = Hook(see)
    with _removing(module.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)):
        yield hook


@contextmanager
def replacing(module: nn.Module, path: str, change: Callable[[Any, Any], tuple[Any, Any] | None]) -> Iterator[Hook]:
    """Call the submodule at `path` with the arguments that `change(args, kwargs)` returns, or with its own for None."""
    hook = Hook(change)
    with _removing(module.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)):
        yield hook


@contextmanager
def after(module: nn.Module, path: str, see: Callable[[Any], None]) -> Iterator[Hook]:
    """Call `see(output)` after each forward of the submodule at `path`, without changing the output."""
    hook = Hook(lambda inputs, output: see(output))
    with _removing(module.get_submodule(path).register_forward_hook(hook)):
        yield hook


def labels(module: nn.Module) -> list[object]:
    """Return who intervenes in `module` right now, in the order in which they act."""
    found: dict[int, object] = {}
    for one in [*module.modules(), *gates(module)]:
        for hook in (*one._forward_pre_hooks.values(), *one._forward_hooks.values()):
            if isinstance(hook, Hook) and hook.label is not None:
                found[id(hook.label)] = hook.label
    return list(found.values())


@contextmanager
def _attached(module: nn.Module, site: Site, layer: int, rewrite: Rewrite, label: object) -> Iterator[Hook]:
    target = module.get_submodule(site.module_path(layer))
    if site.block(layer).experts is not None:
        with _attached_to_experts(target, site.module_path(layer), rewrite, label) as hook:
            yield hook
        return
    if site.name == "act":
        hook = Hook(lambda inputs, output: rewrite(output), label)
        handle = target.register_forward_hook(hook)
    else:
        hook = Hook(lambda inputs: _replaced(inputs, rewrite), label)
        handle = target.register_forward_pre_hook(hook)
    with _removing(handle):
        yield hook


@contextmanager
def _attached_to_experts(experts: nn.Module, path: str, rewrite: Rewrite, label: object) -> Iterator[Hook]:
    implementation, routings = check_order(experts, path), list[Routing]()

    def see_routing(inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        chosen: Tensor = kwargs["top_k_index"] if "top_k_index" in kwargs else inputs[1]
        routings[:] = [Routing.of(chosen, len(experts.down_proj), implementation)]  # type: ignore[arg-type]

    def act(_: tuple[Any, ...], rows: Tensor) -> Tensor | None:
        routing = routings.pop()
        if isinstance(rewrite, Some):
            at = rewrite.at.to(rows.device)
            return routing.put_back(rows, at, rewrite.rewrite(routing.some(rows, at)))
        changed = rewrite(routing.laid_out(rows))
        return None if changed is None else routing.taken_back(changed)

    hook = Hook(act, label)
    with ExitStack() as attached:
        seen = experts.register_forward_pre_hook(Hook(see_routing), with_kwargs=True)
        attached.enter_context(_removing(seen))
        gate = attached.enter_context(_gated(experts))
        attached.enter_context(_removing(gate.register_forward_hook(hook)))
        yield hook


@contextmanager
def _gated(experts: nn.Module) -> Iterator[nn.Module]:
    """Yield the module whose output are the experts' neurons; it stands in their place as long as it has hooks."""
    if not experts.has_gate:
        yield experts.act_fn  # type: ignore[misc]
        return
    own = vars(experts)
    if "_apply_gate" not in own:
        own["_apply_gate"] = Gate(experts)
    gate: nn.Module = own["_apply_gate"]
    if not isinstance(gate, Gate):
        raise RuntimeError(f"something else has put a `_apply_gate` of its own on {type(experts).__name__}")
    try:
        yield gate
    finally:
        if not gate._forward_hooks:
            own.pop("_apply_gate", None)


def _replaced(inputs: tuple[Any, ...], rewrite: Rewrite) -> tuple[Any, ...] | None:
    changed = rewrite(inputs[0])
    return None if changed is None else (changed, *inputs[1:])


@contextmanager
def _removing(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
