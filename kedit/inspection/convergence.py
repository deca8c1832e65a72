"""How the modalities' states move together on their way up the layers (after Huang et al. 2024, MINER).

MINER shows it in pictures; the measures are kedit's choice. Zero neurons around a call to see what they contribute.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import normalize

from kedit.inspection.resampling import Numbers
from kedit.internals.hooks import after, before
from kedit.internals.sites import decoder_path, feed_forwards
from kedit.models.mllm import MLLM, MODALITIES, TeacherForced


@dataclass(frozen=True, eq=False)
class Streams:
    """Cosines in the residual stream: `[sample, depth]`, depth 0 before the first block, then after each block."""

    convergence: dict[str, Numbers]
    """For each modality, of the mean of its states to the state of the last position."""
    probing: dict[str, Numbers]
    """For each modality, the mean over its states of the cosine to the mean of the text states."""
    telomeres: Numbers | None
    """The mean over pairs of a special and a text position; None where there are none of either."""

    @property
    def depths(self) -> int:
        """How many states each position has: one more than there are blocks."""
        return int(next(iter(self.convergence.values())).shape[1])


@torch.no_grad()
def streams(model: MLLM, images: Sequence[Image]) -> Streams:
    """Read the prompt with each picture and return how alike the modalities' states are at each depth.

    A modality that a picture's prompt lacks gives NaN for that sample; one that none has is left out.
    """
    if not images:
        raise ValueError("there is no picture to follow through the layers")
    parts: list[dict[tuple[str, str], Tensor]] = []
    for start in range(0, len(images), model.batch_size):
        some = images[start : start + model.batch_size]
        batch = model.teacher_forced(some, [()] * len(some))
        with residuals(model) as states:
            model.logits(batch)
        parts.append(_cosines(torch.stack([states[depth] for depth in sorted(states)], 1), batch))
    joined = {key: torch.cat([one[key] for one in parts]).double().cpu().numpy() for key in parts[0]}
    present = {key: values for key, values in joined.items() if not np.isnan(values).all()}
    return Streams(
        {modality: values for (what, modality), values in present.items() if what == "convergence"},
        {modality: values for (what, modality), values in present.items() if what == "probing"},
        present.get(("telomeres", "special")),
    )


def blocks_path(model: MLLM) -> str:
    """Return the path of the list of the language model's blocks."""
    stack = decoder_path(model.module)
    first = feed_forwards(model.module)[0]
    blocks = first.output.removeprefix(f"{stack}.").split(".")[0] if stack else first.output.split(".")[0]
    return f"{stack}.{blocks}" if stack else blocks


@contextmanager
def residuals(model: MLLM) -> Iterator[dict[int, Tensor]]:
    """Yield a dict that gets the residual stream before the first block, as 0, and after each block."""
    module, path = model.module, blocks_path(model)
    states: dict[int, Tensor] = {}

    def entered(given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        states[0] = given[0] if given else named["hidden_states"]

    def left(depth: int, output: Tensor | tuple[Tensor, ...]) -> None:
        states[depth] = output if isinstance(output, Tensor) else output[0]

    with ExitStack() as attached:
        attached.enter_context(before(module, f"{path}.0", entered))
        for number, _ in enumerate(module.get_submodule(path).children()):
            see = lambda output, depth=number + 1: left(depth, output)  # noqa: E731
            attached.enter_context(after(module, f"{path}.{number}", see))
        yield states


def _cosines(states: Tensor, batch: TeacherForced) -> dict[tuple[str, str], Tensor]:
    """Return every measure, `[batch, depth]`, from `[batch, depth, pos, width]`."""
    states = states.float()
    units = normalize(states, dim=-1)
    masks = {name: batch.modalities == number for number, name in enumerate(MODALITIES) if name != "padding"}
    means = {name: _mean(states, mask) for name, mask in masks.items()}
    directions = {name: _mean(units, mask) for name, mask in masks.items()}
    last, text = units[:, :, -1], normalize(means["text"], dim=-1)
    found = {("convergence", name): (normalize(mean, dim=-1) * last).sum(-1) for name, mean in means.items()}
    # The mean of many cosines to one vector is the product of that vector with the mean of the unit vectors.
    found |= {("probing", name): (direction * text).sum(-1) for name, direction in directions.items()}
    found["telomeres", "special"] = (directions["special"] * directions["text"]).sum(-1)
    return found


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the positions in `mask`, `[batch, depth, width]`; NaN where there are none."""
    weights = mask[:, None, :, None].to(values)
    return values.masked_fill(~mask[:, None, :, None], 0).sum(2) / weights.sum(2).clamp(min=1).where(
        weights.sum(2) > 0, torch.nan
    )
