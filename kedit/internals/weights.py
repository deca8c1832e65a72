"""The weight of a linear map: what the module multiplies with, wherever and in whatever form its numbers are kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kedit.internals.block_stacks import SiteError
from kedit.internals.wrappers import evaluating

WRAPPED = ("base_layer", "original_module")
"""What adapters call the module that they stand around."""
ROWS = 1024
"""How many unit vectors go through a module at a time."""
PROBES = 4
"""How many random vectors show whether a module is linear."""
WIDE = (torch.float64, torch.float32)
NARROW = (torch.bfloat16, torch.float16)
"""The types of number that a module may be given."""
CLOSE, COARSE = 1e-3, 0.05
"""How far the outputs for random vectors may be off, as a share of the largest: of wide numbers, and of others."""


class WeightError(SiteError):
    """A module's weight holds no numbers that can be read, or it is no linear map."""


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that adapters, one around the other, stand around; `module` itself if there are none."""
    while inner := [one for name in WRAPPED if isinstance(one := getattr(module, name, None), nn.Module)]:
        module = inner[0]
    return module


def is_conv1d(module: nn.Module) -> bool:
    """Return whether the weight is stored `[in, out]`, as GPT-2's Conv1D does."""
    return type(module).__name__ == "Conv1D"


def features_of(module: nn.Module) -> tuple[int, int] | None:
    """Return how many numbers a linear map takes and gives; None for a module that is none."""
    module = unwrapped(module)
    if is_conv1d(module):
        weight = module.weight
        assert isinstance(weight, Tensor)
        return weight.shape[0], weight.shape[1]
    n_in, n_out = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return (n_in, n_out) if isinstance(n_in, int) and isinstance(n_out, int) else None


def weight_of(module: nn.Module, path: str = "") -> Tensor:
    """Return the matrix that a linear map multiplies with: `[out, in]`.

    Where that is the module's own `weight`, the result is that weight or a view of it. Else it is measured: what the
    module gives for each unit vector, less what it gives for zero. So an adapter, a parametrization and a quantized
    weight count as they act, in evaluation mode and without the hooks of the module itself, such as an edit.

    Args:
        module: A linear map: one of torch's, a subclass of it, or one with such a map inside.
        path: What errors call it.

    Raises:
        WeightError: The weight is on the meta device and nothing says where its numbers are; the module cannot be run
            on a vector; or what it does is not linear.
    """
    with evaluating(module):
        stored = _stored(module)
        if stored is not None and (_is_plain(module) or _is_all(module, stored, path)):
            return stored
        return _measured(module, path)


def _is_plain(module: nn.Module) -> bool:
    """Return whether it is torch's own code that multiplies with `weight`.

    A forward that somebody put into one module alone, as accelerate does to load what lies elsewhere, is taken to do
    the same: `kedit doctor` tells where it does not.
    """
    return type(module).forward is nn.Linear.forward or is_conv1d(module)


def _stored(module: nn.Module) -> Tensor | None:
    """Return `weight` as it is for the next pass, `[out, in]`; None if it is no matrix of numbers."""
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils."):
            hook(module, ())  # as `weight_norm` and `prune` do before each pass
    weight: Any = getattr(module, "weight", None)
    if type(weight) not in (Tensor, nn.Parameter) or weight.ndim != 2 or weight.dtype not in WIDE + NARROW:
        return None
    if weight.is_meta:
        weight = _brought_back(module)
    return None if weight.is_meta else weight.T if is_conv1d(module) else weight


def _brought_back(module: nn.Module) -> Tensor:
    """Return a weight that accelerate keeps on disk or in memory, or one without numbers if it does not."""
    from accelerate.utils import align_module_device

    with align_module_device(module):
        read = module.weight
    assert isinstance(read, Tensor)
    return read.detach()


def _is_all(module: nn.Module, stored: Tensor, path: str) -> bool:
    """Return whether a module that holds nothing but weight and bias multiplies with that weight."""
    return {name for name, _ in module.named_parameters()} <= {"weight", "bias"} and _fits(module, stored, path)


@torch.no_grad()
def _measured(module: nn.Module, path: str) -> Tensor:
    features, run = features_of(module), _without_bias(module, path)
    if features is None:
        raise WeightError(f"`{path or type(module).__name__}` ({type(module).__name__}) does not say its sizes")
    rows = []
    for start in range(0, features[0], ROWS):
        unit = torch.zeros(min(ROWS, features[0] - start), features[0])
        unit[:, start:].fill_diagonal_(1.0)
        rows.append(run(unit))
    weight = torch.cat(rows).T
    if not _fits(module, weight, path):
        raise WeightError(
            f"`{path or type(module).__name__}` ({type(module).__name__}) is no linear map: what it gives for a sum is "
            "not the sum of what it gives, so its neurons write nothing that can be read; merge the adapter into the "
            "model, or take it off"
        )
    return weight


@torch.no_grad()
def _fits(module: nn.Module, weight: Tensor, path: str) -> bool:
    """Return whether the module multiplies random vectors with `weight`, as exactly as its numbers are."""
    run = _without_bias(module, path)
    probes = torch.randn(PROBES, weight.shape[1], generator=torch.Generator().manual_seed(0))
    given = run(probes).double()
    expected = probes.to(given) @ weight.to(given).T
    kinds = {one.dtype for one in module.parameters()}
    far = CLOSE if kinds and kinds <= set(WIDE) else COARSE
    return given.shape == expected.shape and bool((given - expected).abs().max() <= far * expected.abs().max())


def _without_bias(module: nn.Module, path: str) -> Callable[[Tensor], Tensor]:
    """Return what the module does to `[n, in]`, less what it does to zero."""
    held = [*module.parameters(), *module.buffers()]
    dtype = next((one.dtype for one in held if one.dtype in WIDE + NARROW), torch.float32)
    device = next((one.device for one in held if not one.is_meta), torch.device("cpu"))

    def run(rows: Tensor) -> Tensor:
        rows = rows.to(device, dtype)
        try:
            # Not by calling the module, which would run its hooks: those of an edit, say.
            given: Tensor = module.forward(rows) - module.forward(torch.zeros_like(rows[:1]))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise _unreadable(module, path) from error
        if given.is_meta:
            raise _unreadable(module, path)
        return given

    return run


def _unreadable(module: nn.Module, path: str) -> WeightError:
    """Return why a module that gives no numbers for a vector has no weight to read."""
    name = path or type(module).__name__
    if any(one.is_meta for one in module.parameters()):
        return WeightError(
            f"the weight of `{name}` is on the meta device: it holds no numbers, and accelerate does not keep them "
            "elsewhere; load the model without offloading it"
        )
    return WeightError(
        f"the weight of `{name}` ({type(module).__name__}) is packed or quantized: what its neurons write cannot be "
        "read from it; load the model without quantization"
    )
