"""Drawings and what draws them: what models that draw code by code share with those that paint by diffusion."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from PIL.Image import Image
from torch import Tensor, nn

from kedit import notebook
from kedit.arguments import require, require_count, shown
from kedit.models.media import Pictures
from kedit.samples import Mask, Progress, silent


@dataclass(frozen=True, eq=False)
class Drawings:
    """What a model drew."""

    prompts: tuple[str, ...]
    images: tuple[Image, ...]
    """RGB."""
    codes: Tensor
    """`[n, rows * columns]`, in raster order, ids of the codebook, on the CPU; `[n, 0]` where a model has no codes."""
    seed: int

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        return f"Drawings({', '.join(map(repr, self.prompts))}; seed {self.seed})"

    def _repr_html_(self) -> str:
        named = {
            f"{prompt} ({n})": image for n, (prompt, image) in enumerate(zip(self.prompts, self.images, strict=True))
        }
        return notebook.thumbnails(named)

    def __getitem__(self, chosen: slice) -> "Drawings":
        return Drawings(self.prompts[chosen], self.images[chosen], self.codes[chosen], self.seed)

    @property
    def region_shape(self) -> tuple[int, ...]:
        """The shape of what says where in each drawing something is: a cell for each code, or else a pixel."""
        if self.codes.shape[1] or not len(self):
            return tuple(self.codes.shape)
        width, height = self.images[0].size
        return (len(self), height, width)


class Drawer(ABC):
    """What draws with a model."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """The rows and columns of cells that a drawing has; (0, 0) where a model has no codes."""

    @property
    @abstractmethod
    def codebook(self) -> int:
        """How many codes a cell may have; 0 where a model has none."""

    @property
    @abstractmethod
    def unembedding(self) -> Tensor | None:
        """The rows that score the codes, `[code, d_model]`; None where the head is not linear."""

    @abstractmethod
    def check_ready(self) -> None:
        """Raise a ValueError where the model lacks something to draw with."""

    def draw(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int,
        temperature: float = 1.0,
        guidance: float | None = None,
        progress: Progress = silent,
    ) -> Drawings:
        """Return a picture of each prompt; one is the same whatever is drawn beside it.

        Args:
            prompts: What to draw.
            seed: With the prompt's text, of the random numbers of its row, which are made on the CPU. An edited and an
                unedited drawing of one seed have the same ones.
            temperature: 0 takes the likeliest code.
            guidance: How strongly a drawing follows its prompt; None for the family's own.
            progress: Shows the batches.

        Raises:
            TypeError: The prompts are no texts, or a number is none.
            ValueError: A number is out of its range, or the model cannot be drawn with so.
        """
        asked = [prompts] if isinstance(prompts, str) else prompts
        require(asked, Sequence, "prompts", "a list of texts")
        for one in asked:
            require(one, str, "prompts", "a list of texts")
        return self.draw_checked(list(asked), seed, temperature, guidance, progress)

    @abstractmethod
    def draw_checked(
        self, prompts: Sequence[str], seed: int, temperature: float, guidance: float | None, progress: Progress
    ) -> Drawings:
        """Return a picture of each prompt, which are texts; see `draw`."""

    @abstractmethod
    def region_of(self, mask: Mask) -> Tensor:
        """Return where something is in a drawing, of `Drawings.region_shape` but the first, from its pixels."""

    @abstractmethod
    def teacher_forced(self, drawings: Drawings) -> "ForcedDrawings":
        """Return the one pass that reads some drawings as they were made.

        Raises:
            ValueError: The drawings are another model's.
        """

    @abstractmethod
    def decode(self, codes: Tensor) -> list[Image]:
        """Return the pictures of codes `[n, cell]`."""

    @abstractmethod
    def encode(self, images: Pictures) -> Tensor:
        """Return the codes of pictures, `[n, cell]`."""


class ForcedDrawings(Protocol):
    """A pass over prompts and what was drawn of them, padded on the left.

    `record(module, site)` around `states` sees each neuron at each column as it was while the picture was drawn.
    """

    target: ClassVar[str]
    """What `shows` is."""

    @property
    def module(self) -> nn.Module:
        """What hooks go into."""
        ...

    @property
    def token_types(self) -> Tensor:
        """`[batch, pos]`, as in `TeacherForced`."""
        ...

    @property
    def columns(self) -> tuple[int, ...]:
        """The columns, the same in all rows, whose last hidden states the drawing is made from."""
        ...

    def states(self) -> Tensor:
        """Return the last hidden states at `columns`, `[batch, column, d_model]`, with a graph if gradients are on."""
        ...

    def inside(self, region: Tensor) -> Tensor:
        """Return which of `columns` make a region, `[batch, column]`; `region` is as `Drawings.region_shape`."""
        ...

    def shows(self, row: int, states: Tensor, region: Tensor) -> Tensor:
        """Return how much of a region is drawn in one row from its states, a number with a graph.

        Args:
            row: Of the batch.
            states: `[column, d_model]`.
            region: Where, in this row.
        """
        ...

    def repeated(self, n: int) -> "ForcedDrawings":
        """Return `n` copies of a pass over one drawing."""
        ...


def check_numbers(seed: int, temperature: float, guidance: float) -> None:
    """Raise a TypeError or ValueError unless these are numbers that a drawing can be made with."""
    require_count(seed, "seed", 0)
    for name, value, least in (("temperature", temperature, 0), ("guidance", guidance, 1)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"`{name}` is a number, {least} or more, got {shown(value)}")
        if not least <= value < float("inf"):
            raise ValueError(f"`{name}` is a number, {least} or more, got {value}")
