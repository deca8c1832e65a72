"""The weight of a module as numbers, wherever they are kept."""

import hashlib

from torch import Tensor, nn

LEADING = 64
"""How many numbers of each weight `signature` reads."""


class WeightError(LookupError):
    """A module's weight holds no numbers that can be read."""


def weight_of(module: nn.Module, path: str = "") -> Tensor:
    """Return the weight of `module`; one that accelerate keeps on disk or in memory is read from there.

    Args:
        module: A module with a `weight`.
        path: What errors call it.

    Raises:
        WeightError: The weight is on the meta device and nothing says where its numbers are.
    """
    from accelerate.utils import align_module_device

    weight = module.weight
    assert isinstance(weight, Tensor)
    if not weight.is_meta:
        return weight
    with align_module_device(module):
        read = module.weight
    assert isinstance(read, Tensor)
    if read.is_meta:
        raise WeightError(
            f"the weight of `{path or type(module).__name__}` is on the meta device: it holds no numbers, and "
            "accelerate does not keep them elsewhere; load the model without offloading it"
        )
    return read.detach()


def signature(module: nn.Module) -> str:
    """Return a digest of every weight's name, shape, type and first numbers, in hexadecimal.

    Cheap for models of any size. A weight that accelerate keeps elsewhere counts without its numbers.
    """
    whole = hashlib.sha256()
    for name, weight in module.named_parameters():
        whole.update(f"{name} {tuple(weight.shape)} {weight.dtype};".encode())
        if not weight.is_meta:
            whole.update(repr(weight.detach().flatten()[:LEADING].float().tolist()).encode())
    return whole.hexdigest()
