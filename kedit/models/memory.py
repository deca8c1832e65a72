"""How much memory locating will need, and how much is free: told before it starts, not by the system when it ends."""

import logging
from pathlib import Path
from typing import Any

import torch

from kedit.internals.sites import Site
from kedit.internals.weights import unwrapped
from kedit.models.mllm import MLLM, TeacherForced
from kedit.models.passes import input_device

logger = logging.getLogger(__name__)

OF_NEURONS = 4
"""Tensors as wide as a layer has neurons that it keeps until the backward pass: the gate before and after its
activation function, what it gates, and the product."""
OF_STREAM = 6
"""Tensors as wide as the residual stream that it keeps: two norms, queries, keys, values, and what attention gives."""
GIB = 1 << 30


def estimate(model: MLLM, site: Site, batch: TeacherForced) -> int:
    """Return the bytes that locating at `site` needs beside the weights while `batch` goes through the model.

    Counted is what each layer keeps of each position until the backward pass, and the last position's logits. Not
    counted is the vision tower, which keeps nothing, what a kernel needs for itself, and the attention of models that
    keep its weights (`eager`).
    """
    rows, columns = batch.token_types.shape
    embedding: Any = model.module.get_input_embeddings()  # type: ignore[operator]
    embedding = unwrapped(embedding)
    width, itemsize = int(embedding.embedding_dim), int(embedding.weight.dtype.itemsize)
    kept = sum(OF_NEURONS * n_neurons + OF_STREAM * width for n_neurons in site.widths.values())
    # The logits themselves, as 32-bit, and what a softmax and its gradient make of them.
    logits = int(embedding.num_embeddings) * (itemsize + 3 * 4)
    return rows * (columns * kept * itemsize + logits)


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory of `device` is free; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    told = Path("/proc/meminfo")
    if device.type != "cpu" or not told.is_file():
        return None
    lines = dict(line.split(":", 1) for line in told.read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def announce(model: MLLM, site: Site, batch: TeacherForced, free: int | None = None) -> None:
    """Log in one line what locating needs, beside what is free; warn where it is more.

    Args:
        model: The model, with its weights in place.
        site: Where its neurons live.
        batch: A batch as locating reads them.
        free: How many bytes are free; by default what the system says.
    """
    needed, (rows, columns) = estimate(model, site, batch), batch.token_types.shape
    free = free_bytes(input_device(model.module)) if free is None else free
    text = f"about {needed / GIB:.3g} GiB for batches of {rows} x {columns} positions"
    text += "" if free is None else f"; {free / GIB:.3g} GiB are free"
    if free is not None and needed > free:
        logger.warning("locating may run out of memory: it needs %s; lower `model.batch_size`", text)
    else:
        logger.info("locating needs %s", text)
