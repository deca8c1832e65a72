"""How much memory locating will need, and how much is free: told before it starts, not by the system when it ends."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kedit.models.mllm import MLLM, Forced
from kedit.models.passes import input_device
from kedit.sites import Site

logger = logging.getLogger(__name__)

OF_NEURONS = 4
"""Tensors as wide as a layer has neurons that it keeps until the backward pass: the gate before and after its
activation function, what it gates, and the product."""
OF_STREAM = 6
"""Tensors as wide as the residual stream that it keeps: two norms, queries, keys, values, and what attention gives."""


@dataclass(frozen=True)
class Estimate:
    """What locating needs at its peak, in bytes."""

    weights: int
    """Of the model, which are there already."""
    activations: int
    """Of one batch, in all layers, with what a gradient needs."""
    logits: int
    batch: int
    positions: int

    @property
    def needed(self) -> int:
        """What is needed beside the weights."""
        return self.activations + self.logits

    def __str__(self) -> str:
        return (
            f"about {_size(self.needed)} beside {_size(self.weights)} of weights, for batches of {self.batch} x "
            f"{self.positions} positions"
        )


def estimate(model: MLLM, site: Site, batch: Forced) -> Estimate:
    """Return what locating at `site` needs while `batch` goes through the model, with gradients.

    Counted are the weights, what each layer keeps of each position until the backward pass, and the last position's
    logits. Not counted is the vision tower, which keeps nothing, nor what a kernel needs for itself.
    """
    rows, columns = batch.kinds.shape
    embedding: Any = model.module.get_input_embeddings()  # type: ignore[operator]
    width, itemsize = int(embedding.embedding_dim), embedding.weight.dtype.itemsize
    kept = sum(OF_NEURONS * n_neurons + OF_STREAM * width for n_neurons in site.widths.values())
    kept += len(site.blocks) * _attended(model.module, columns)
    # The logits themselves, as 32-bit, and what a softmax and its gradient make of them.
    logits = rows * int(embedding.num_embeddings) * (itemsize + 3 * 4)
    return Estimate(weight_bytes(model.module), rows * columns * kept * itemsize, logits, rows, columns)


def _attended(module: nn.Module, columns: int) -> int:
    """Return how many weights of attention a layer keeps at each position: none where a kernel makes them anew."""
    described: Any = getattr(module, "config", None)
    text = getattr(described, "text_config", None) or described
    if getattr(text, "_attn_implementation", None) != "eager":
        return 0
    return columns * int(getattr(text, "num_attention_heads", 1))


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes of all weights and buffers that are in memory, shared ones once."""
    tensors = {one.data_ptr(): one for one in (*module.parameters(), *module.buffers()) if not one.is_meta}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory of `device` is free; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = [line.split()[1] for line in told.splitlines() if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def announce(model: MLLM, site: Site, batch: Forced, free: int | None = None) -> Estimate:
    """Log in one line what locating needs, beside what is free; warn where it is more.

    Args:
        model: The model, with its weights in place.
        site: Where its neurons live.
        batch: A batch as locating reads them.
        free: How many bytes are free; by default what the system says.
    """
    found = estimate(model, site, batch)
    free = free_bytes(input_device(model.module)) if free is None else free
    told = f"; {_size(free)} are free" if free is not None else ""
    if free is not None and found.needed > free:
        logger.warning("locating may run out of memory: it needs %s%s; lower `model.batch_size`", found, told)
    else:
        logger.info("locating needs %s%s", found, told)
    return found


def _size(count: int) -> str:
    """Return a number of bytes in the unit that leaves the fewest digits before the point."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = max(0, min(len(units) - 1, (max(count, 1).bit_length() - 1) // 10))
    size = count / 1024**power
    return f"{size:.0f} {units[power]}" if size >= 100 or power == 0 else f"{size:.3g} {units[power]}"
