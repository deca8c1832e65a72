"""Record and intervene: the only hooks in kedit, alive only inside `with`.

A hook belongs to the module that it was attached to, and acts in every thread that runs it, as PyTorch's own do,
unless `this_thread_only` was asked for. A deep copy of the model made meanwhile is not affected, foreign hooks are
never touched, and nothing is ever written in place.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kedit.internals.experts import Routing, check_order, gated, gates
from kedit.internals.sites import Site

Rewrite = Callable[[Tensor], Tensor | None]
"""Takes the activations of one layer and returns new ones, or None to leave them alone."""

LOADERS = frozenset({"torch", "transformers", "accelerate", "peft", "bitsandbytes"})
"""Packages whose own hooks are part of what a model is."""


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
    """A forward (pre-)hook that acts on one module until it is removed."""

    def __init__(self, act: Callable[..., Any], label: object = None, *, this_thread_only: bool = False) -> None:
        self.act, self.label = act, label
        self.thread = threading.get_ident() if this_thread_only else None
        self.n_calls = 0
        self.threads: set[int] = set()
        """The threads in which it acted; not told by compiled code."""

    def __call__(self, module: nn.Module, *inputs: Any) -> Any:
        """Act, unless another thread alone is meant."""
        if self.thread is not None and threading.get_ident() != self.thread:
            return None
        self.n_calls += 1
        if not torch.compiler.is_compiling():
            self.threads.add(threading.get_ident())
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
    module: nn.Module,
    site: Site,
    rewrites: Mapping[int, Rewrite],
    *,
    label: object = None,
    this_thread_only: bool = False,
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
        this_thread_only: Whether calls of the model in other threads are left alone.

    Raises:
        SiteError: A layer does not exist. Nothing is left attached.
    """
    how = {"label": label, "this_thread_only": this_thread_only}
    with ExitStack() as attached:
        attached.enter_context(_unpacked(module))
        yield {
            layer: attached.enter_context(_attach(module, site, layer, rewrite, how))
            for layer, rewrite in rewrites.items()
        }


@contextmanager
def record(module: nn.Module, site: Site, *, differentiable: bool = False) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that holds each layer's activations `[..., neuron]` after this thread's last forward pass.

    With `differentiable`, the tensors are part of the graph even if every weight is frozen, so that
    `torch.autograd.grad(y, list(recorded.values()))` works and no weight gets a gradient.
    """
    recorded: dict[int, Tensor] = {}

    def recorder(layer: int) -> Rewrite:
        def keep(activation: Tensor) -> Tensor | None:
            recorded[layer] = with_graph(activation) if differentiable else activation.detach()
            return recorded[layer] if differentiable else None

        return keep

    recorders = {layer: recorder(layer) for layer in site.blocks}
    with intervene(module, site, recorders, label="record", this_thread_only=True):
        yield recorded


def with_graph(activation: Tensor) -> Tensor:
    """Return `activation` as a tensor that a gradient can be taken for."""
    return activation if activation.requires_grad else activation.detach().requires_grad_(True)


def traced(activation: Tensor, roots: list[Tensor], see: Callable[[Tensor], None]) -> Tensor:
    """Return `activation` in a graph; when its gradient is known, `see` gets it.

    `roots` collects what `torch.autograd.grad` has to start from: all that is traced depends on one of them, if the
    model is `frozen`.
    """
    result = with_graph(activation)
    result.register_hook(see)
    if not roots or not activation.requires_grad:
        # Two blocks that run beside each other, as experts and a shared one, are a root each.
        roots.append(result)
    return result


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let no weight of `module` ask for a gradient, so that what is `traced` alone begins a graph."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


@contextmanager
def before(module: nn.Module, path: str, see: Callable[..., None], *, this_thread_only: bool = False) -> Iterator[Hook]:
    """Call `see(args, kwargs)` before each forward of the submodule at `path`, without changing them."""
    hook = Hook(see, this_thread_only=this_thread_only)
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


def foreign(module: nn.Module) -> list[str]:
    """Return the paths of the parts in which something acts that their class and configuration do not tell.

    Hooks and a replaced `forward`, but for those of the libraries that models are loaded with.
    """

    def is_told(act: Any) -> bool:
        while isinstance(act, partial):
            act = act.func
        return str(getattr(act, "__module__", None) or type(act).__module__).partition(".")[0] in LOADERS

    return [
        path
        for path, one in module.named_modules()
        if not all(
            is_told(act)
            for act in (
                *one._forward_pre_hooks.values(),
                *one._forward_hooks.values(),
                *(act for name, act in vars(one).items() if name == "forward"),
            )
        )
    ]


@contextmanager
def _unpacked(module: nn.Module) -> Iterator[None]:
    """Keep torch's encoders from packing padded rows into nested tensors, in which no position can be rewritten.

    Without their padding the rows are the same as before; interventions may end in any order.
    """
    encoders = [one for one in module.modules() if isinstance(one, nn.TransformerEncoder)]
    with _ENCODERS:
        mine = [one for one in encoders if one.use_nested_tensor or _UNPACKED[one]]
        _UNPACKED.update(mine)
        for one in mine:
            one.use_nested_tensor = False
    try:
        yield
    finally:
        with _ENCODERS:
            _UNPACKED.subtract(mine)
            for one in mine:
                if not _UNPACKED[one]:
                    del _UNPACKED[one]
                    one.use_nested_tensor = True


_ENCODERS = threading.Lock()
"""Held while encoders are told how to read: threads may intervene in one model."""
_UNPACKED = Counter[nn.Module]()
"""How many interventions are under way in each encoder that would pack rows without them."""


@contextmanager
def _attach(module: nn.Module, site: Site, layer: int, rewrite: Rewrite, how: dict[str, Any]) -> Iterator[Hook]:
    target = module.get_submodule(site.module_path(layer))
    if site.block(layer).experts is not None:
        with _attach_to_experts(target, site.module_path(layer), rewrite, how) as hook:
            yield hook
        return
    if site.name == "act":
        hook = Hook(lambda inputs, output: _rewritten(output, rewrite), **how)
        handle = target.register_forward_hook(hook)
    else:
        hook = Hook(lambda inputs: _replaced(inputs, rewrite), **how)
        handle = target.register_forward_pre_hook(hook)
    with _removing(handle):
        yield hook


@contextmanager
def _attach_to_experts(experts: nn.Module, path: str, rewrite: Rewrite, how: dict[str, Any]) -> Iterator[Hook]:
    implementation, routings = check_order(experts, path), dict[int, Routing]()

    def see_routing(inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        chosen: Tensor = kwargs["top_k_index"] if "top_k_index" in kwargs else inputs[1]
        routing = Routing.of(chosen, len(experts.down_proj), implementation)  # type: ignore[arg-type]
        routings[threading.get_ident()] = routing

    def act(_: tuple[Any, ...], rows: Tensor) -> Tensor | None:
        routing = routings.pop(threading.get_ident())
        if isinstance(rewrite, Some):
            at = rewrite.at.to(rows.device)
            return routing.put_back(rows, at, rewrite.rewrite(routing.some(rows, at)))
        changed = rewrite(routing.laid_out(rows))
        return None if changed is None else routing.taken_back(changed)

    seer = Hook(see_routing, this_thread_only=how["this_thread_only"])
    hook = Hook(act, **how)
    with ExitStack() as attached:
        attached.enter_context(_removing(experts.register_forward_pre_hook(seer, with_kwargs=True)))
        gate = attached.enter_context(gated(experts)) if experts.has_gate else experts.act_fn
        attached.enter_context(_removing(gate.register_forward_hook(hook)))  # type: ignore[union-attr]
        yield hook


def _replaced(inputs: tuple[Any, ...], rewrite: Rewrite) -> tuple[Any, ...] | None:
    changed = _rewritten(inputs[0], rewrite)
    return None if changed is None else (changed, *inputs[1:])


def _rewritten(activation: Tensor, rewrite: Rewrite) -> Tensor | None:
    if activation.is_nested:
        raise ValueError(
            "the model was called with a nested tensor, whose rows have no positions in common to record or rewrite: "
            "call it with padded rows and their mask"
        )
    return rewrite(activation)


@contextmanager
def _removing(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
