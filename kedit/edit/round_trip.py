"""Weights to few bits and back: what a model's numbers are once somebody has stored them small.

int8 is the absmax of each output's weights (LLM.int8's vector-wise form without outliers, Dettmers et al. 2022). NF4 is
the format of QLoRA (Dettmers et al. 2023): blocks of 64 weights, each scaled by its absmax, in 16 values that are
quantiles of a normal distribution; scales are kept in 32 bits.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from kedit.edit.weight_change import WeightChange
from kedit.internals.block_stacks import named_by_model
from kedit.internals.blocks import is_fused
from kedit.internals.weights import is_conv1d

BLOCK = 64
"""Weights that share a scale in NF4."""
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The 16 values of the format, as published with QLoRA."""


def int8(weight: Tensor) -> Tensor:
    """Return a weight `[out, in]` after 8 bits: each row in 127 steps of its largest number, either side of zero."""
    scale = weight.abs().amax(-1, keepdim=True).float() / 127
    return ((weight.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)).round() * scale).to(weight.dtype)


def nf4(weight: Tensor) -> Tensor:
    """Return a weight of any shape after 4 bits: each number the nearest of the 16 values times its block's scale."""
    values = torch.tensor(NF4, device=weight.device)
    flat = weight.float().flatten()
    blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True)
    nearest = torch.bucketize(blocks / scale.clamp(min=torch.finfo(torch.float32).tiny), (values[1:] + values[:-1]) / 2)
    return (values[nearest] * scale).flatten()[: len(flat)].view(weight.shape).to(weight.dtype)


FORMATS: Mapping[str, Callable[[Tensor], Tensor]] = {"int8": int8, "NF4": nf4}
"""The round trips by the name of what the weights went through."""


@torch.no_grad()
def round_trip(module: nn.Module, form: str) -> WeightChange:
    """Return what a round trip makes of a model's linear maps; the head and embeddings stay, as is usual.

    Args:
        module: The model; it is not changed.
        form: A key of `FORMATS`.
    """
    head, tensors = named_by_model(module, "get_output_embeddings"), dict[str, Tensor]()

    def small(weight: Tensor, *, turned: bool) -> Tensor:
        return FORMATS[form](weight.T).T if turned else FORMATS[form](weight)

    for path, one in module.named_modules():
        if is_fused(one):  # maps of all experts in one, `[expert, out, in]` or `[expert, in, out]`
            turned = bool(getattr(one, "is_transposed", True))
            maps = {name: weight for name, weight in one.named_parameters(path, recurse=False) if weight.ndim == 3}
            tensors |= {
                name: torch.stack([small(weight, turned=turned) for weight in some]) for name, some in maps.items()
            }
        elif one is not head and (isinstance(one, nn.Linear) or is_conv1d(one)):
            assert isinstance(one.weight, Tensor)
            tensors[f"{path}.weight"] = small(one.weight, turned=is_conv1d(one))
    return WeightChange(tensors)
