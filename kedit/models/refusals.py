"""Pictures that a model cannot read: its processor refuses them, or their grid has no rows."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image

from kedit.internals.positions import image_token
from kedit.models.mllm import IMAGE

EXTREME = 10
"""A picture that is so many times as long as wide is tried before it is used."""


def refusals(model: Any, images: Sequence[Image]) -> dict[int, str]:
    """Return the places of the pictures that `model` cannot read, with the reason in a line.

    Only pictures of extreme shape are tried, one of each size; processors resize all others to what the model takes.
    """
    shapes = {image.size: image for image in images if max(image.size) >= EXTREME * min(image.size)}
    reasons = {size: _refusal(model, image) for size, image in shapes.items()}
    return {place: reason for place, image in enumerate(images) if (reason := reasons.get(image.size, ""))}


@torch.no_grad()
def _refusal(model: Any, image: Image) -> str:
    """Return why a picture cannot be read; empty where it can."""
    try:
        batch = model.teacher_forced([image], [()])
        logits = model.logits(batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # processors raise whatever a grid without rows makes them stumble over
        told = next(iter(str(error).splitlines()), "") or type(error).__name__
        return f"{image.width} x {image.height} pixels: {told}"
    if image_token(model.module) is not None and not bool((batch.token_types == IMAGE).any()):
        return f"{image.width} x {image.height} pixels: no token of the sequence stands for it"
    return f"{image.width} x {image.height} pixels: its logits are NaN" if bool(logits.isnan().any()) else ""
