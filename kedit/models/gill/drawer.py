"""Drawing with GILL: a Stable Diffusion paints from the states of its [IMG] tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.arguments import require
from kedit.models.drawings import Drawer, Drawings, check_numbers
from kedit.models.gill.model import GILLModel
from kedit.models.gill.painter import Painter
from kedit.models.media import Pictures
from kedit.models.mllm import TeacherForced
from kedit.prompts import Prompt
from kedit.samples import Mask, Progress


@dataclass(frozen=True, eq=False)
class GILLDrawer(Drawer):
    """GILL as something that draws. There are no codes: where something is, is told by pixels."""

    model: GILLModel
    grid: tuple[int, int] = (0, 0)
    codebook: int = 0
    unembedding: None = None

    def check_ready(self) -> None:
        """Raise a ValueError where the model was loaded without a Stable Diffusion."""
        self.model.require_painter()

    def draw_checked(
        self, prompts: Sequence[str], seed: int, temperature: float, guidance: float | None, progress: Progress
    ) -> Drawings:
        """Return a picture of each prompt; see `draw` and `GILLModel.draw`.

        Raises:
            ValueError: A temperature or a guidance is asked for: the noise has none, and the painter's is the model's.
        """
        check_numbers(seed, temperature, 1.0)
        if temperature != 1 or guidance is not None:
            raise ValueError(
                f"`{self.model.name}` paints by diffusion, without a temperature, and its `guidance` is said where it "
                "is loaded: `model.guidance=`"
            )
        drawn = self.model.draw(prompts, seed, progress=progress)
        images = tuple(one.picture.convert("RGB") for one in drawn)
        return Drawings(tuple(prompts), images, torch.empty(len(prompts), 0, dtype=torch.long), seed)

    def region_of(self, mask: Mask) -> Tensor:
        """Return the pixels themselves, `[height, width]`."""
        return torch.from_numpy(mask)

    def teacher_forced(self, drawings: Drawings) -> "ForcedStates":
        """Return the pass that reads each prompt and the [IMG] tokens behind it.

        Raises:
            ValueError: The drawings are another model's, or there is nothing to paint with.
        """
        require(drawings, Drawings, "drawings", "what `draw` returned")
        if not len(drawings):
            raise ValueError("there are no `drawings` to read; give one at least")
        if drawings.codes.shape[1]:
            raise self._codeless()
        painter = self.model.require_painter()
        batch = self.model.read_drawing([Prompt(one) for one in drawings.prompts])
        return ForcedStates(self.model, painter, batch, drawings.seed)

    def decode(self, codes: Tensor) -> list[Image]:
        """Raise a ValueError."""
        raise self._codeless()

    def encode(self, images: Pictures) -> Tensor:
        """Raise a ValueError."""
        raise self._codeless()

    def _codeless(self) -> ValueError:
        return ValueError(
            f"`{self.model.name}` draws from the states of its [IMG] tokens by diffusion and has no codes; what it "
            "draws from is read by `read_drawing`, `img_states` and `map_states`"
        )


@dataclass(frozen=True, eq=False)
class ForcedStates:
    """A teacher-forced pass over prompts and the [IMG] tokens behind them, and what paints from their states.

    Fang et al., NeurIPS 2024, section 3.1, step 1: the pixels of a region are attributed to the states by gradients
    through the diffusion and through GILL's mapper.
    """

    model: GILLModel
    painter: Painter
    batch: TeacherForced
    seed: int
    target: ClassVar[str] = "the pixels that show it"

    @property
    def module(self) -> nn.Module:
        """What hooks go into."""
        return self.model.module

    @property
    def token_types(self) -> Tensor:
        """`[batch, pos]`, as in `TeacherForced`."""
        return self.batch.token_types

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns of the [IMG] tokens, the last ones of each row."""
        module: Any = self.module
        width, n = self.batch.token_types.shape[1], module.config.n_img_tokens
        return tuple(range(width - n, width))

    def states(self) -> Tensor:
        """Return the last hidden states at `columns`, `[batch, img, d_model]`, with a graph if gradients are on."""
        return self.model.img_states(self.batch)

    def inside(self, region: Tensor) -> Tensor:
        """Return all columns, `[batch, img]`: any pixel is painted from all of them."""
        return torch.ones(len(region), len(self.columns), dtype=torch.bool, device=self.batch.token_types.device)

    def shows(self, row: int, states: Tensor, region: Tensor) -> Tensor:
        """Return the sum over the region `[height, width]` and the channels of what is painted, each pixel 0 to 1."""
        painted = self.painter.paint_with_graph(self.model.map_states(states[None])[0], self.seed)
        return painted[:, region.to(painted.device)].float().sum()

    def repeated(self, n: int) -> "ForcedStates":
        """Return `n` copies of a pass over one drawing."""
        return ForcedStates(self.model, self.painter, self.batch.repeated(n), self.seed)
