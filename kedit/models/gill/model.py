"""GILL as kedit sees it: it captions and answers as other models do, and draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.internals.wrappers import evaluating
from kedit.models.gill.painter import Painter, PainterError
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.media import Pictures, pictures
from kedit.models.mllm import TeacherForced
from kedit.progress import Batched
from kedit.prompts import Prompt, as_prompts, batches
from kedit.samples import Progress, silent


@dataclass(frozen=True, eq=False)
class GILLDrawing:
    """A picture with what it was made from."""

    picture: Image
    prompt: str
    states: Tensor
    """The last hidden states at the [IMG] tokens: `[img, d_model]`."""
    conditioning: Tensor
    """What Stable Diffusion was told in place of a text: `[query, feature]`."""


@dataclass(frozen=True, eq=False)
class GILLModel(HuggingFaceMLLM):
    """GILL with its processor, and with a Stable Diffusion where one is given."""

    painter: Painter | None = None
    """What paints; drawing needs it, all else does not."""

    @torch.no_grad()
    def draw(
        self, prompts: Prompt | str | Sequence[Prompt | str], seed: int = 0, *, progress: Progress = silent
    ) -> list[GILLDrawing]:
        """Return a drawing for each prompt; one is the same whatever is drawn beside it.

        Args:
            prompts: What to draw, as texts, or prompts with a picture to go on from.
            seed: Of the noise that each begins with.
            progress: Shows the batches.

        Raises:
            PainterError: The model was loaded without a Stable Diffusion, or with one that reads no states of GILL.
        """
        painter, asked = self.require_painter(), as_prompts(prompts)
        drawings: dict[int, GILLDrawing] = {}
        chunks = list(batches(asked, self.batch_size))
        for places in progress(Batched(chunks, [*map(len, chunks)]), len(chunks), "drawings"):
            batch = self.read_drawing([asked[place] for place in places])
            states = self.img_states(batch)
            for place, state, told in zip(places, states, self.map_states(states), strict=True):
                picture = painter.paint(told, seed)
                drawings[place] = GILLDrawing(picture, asked[place].text, state.cpu(), told.cpu())
        return [drawings[place] for place in range(len(asked))]

    def require_painter(self) -> Painter:
        """Return what paints; a PainterError says that the model was loaded without."""
        if self.painter is None:
            raise PainterError(
                f"`{self.name}` has nothing to draw with: give a Stable Diffusion, `model.diffusion=FOLDER`"
            )
        return self.painter

    def read_drawing(self, prompts: Sequence[Prompt]) -> TeacherForced:
        """Return each prompt, all of one medium, followed by the [IMG] tokens: what a drawing is made from."""
        module: Any = self.module
        return self.read(prompts, [tuple(module.img_tokens)] * len(prompts))

    def img_states(self, batch: TeacherForced) -> Tensor:
        """Return the last hidden states at the [IMG] tokens of `read_drawing`, with a graph if gradients are on.

        Shape `[batch, img, d_model]`.
        """
        module: Any = self.module
        with evaluating(module):
            states: Tensor = module.img_states(**batch.inputs)
        return states

    def map_states(self, states: Tensor) -> Tensor:
        """Return what states at [IMG] tokens tell Stable Diffusion, with a graph: `[batch, query, feature]`."""
        module: Any = self.module
        with evaluating(module):
            told: Tensor = module.map_states(states)
        return told

    @torch.no_grad()
    def retrieve(self, prompts: Prompt | str | Sequence[Prompt | str], images: Pictures) -> Tensor:
        """Return how well each picture fits each prompt, by what GILL looks pictures up with: `[prompt, picture]`."""
        module: Any = self.module
        asked, shown = as_prompts(prompts), pictures(images)
        texts = [torch.empty(0)] * len(asked)
        with evaluating(module):
            for places in batches(asked, self.batch_size):
                states = self.img_states(self.read_drawing([asked[place] for place in places]))
                for place, vector in zip(places, module.text_vectors(states), strict=True):
                    texts[place] = vector
            pixels = self.processor.pixels(shown).to(self.device)
            scores: Tensor = torch.stack(texts) @ module.picture_vectors(pixels).T
        return scores.float()
