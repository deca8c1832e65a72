"""Drawing code by code: a prompt becomes a picture as it would become a text, and one pass reads it as it was written.

Janus (arXiv 2410.13848) and Emu3 (arXiv 2409.18869): each column of the language model predicts the code of the next
cell of a grid, and a VQ tokenizer makes a picture of the codes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.arguments import require
from kedit.internals.wrappers import evaluating
from kedit.models.drawing_families import Family
from kedit.models.drawings import Drawer, Drawings, check_numbers
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.media import Pictures, pictures
from kedit.models.passes import declares
from kedit.models.sequences import columns
from kedit.models.special_tokens import modalities, places
from kedit.progress import Batched
from kedit.samples import Mask, Progress

COVERED = 0.25
"""How much of a cell a region has to cover for the cell to be part of it."""


@dataclass(frozen=True, eq=False)
class Step:
    """One cell of a batch of drawings."""

    scores: Tensor
    """The logits, guided, `[batch, code]`, 32-bit."""
    codes: Tensor
    """What was drawn of them, `[batch]`."""


@dataclass(frozen=True, eq=False)
class TokenDrawer(Drawer):
    """A model that draws code by code."""

    model: HuggingFaceMLLM
    family: Family

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of cells that a drawing has."""
        return self.family.grid

    @property
    def codebook(self) -> int:
        """How many codes a cell may have."""
        return self.family.codebook

    @property
    def unembedding(self) -> Tensor | None:
        """The rows that score the codes, `[code, d_model]`; None where the head is not linear, as Janus's."""
        return self.family.unembedding

    @property
    def n_cells(self) -> int:
        """How many codes a drawing has."""
        return self.grid[0] * self.grid[1]

    @torch.no_grad()
    def draw_checked(
        self, prompts: Sequence[str], seed: int, temperature: float, guidance: float | None, progress: Progress
    ) -> Drawings:
        """Return a picture of each prompt; see `draw`.

        Codes are drawn from softmax((u + guidance * (c - u)) / temperature), c and u the logits after the prompt and
        without it (classifier-free guidance, arXiv 2207.12598): each prompt is a row of its own in the batch, and a
        second one for u unless `guidance` is 1. Edits act on both. Temperature 0 takes the likeliest code.
        """
        strength = self._strength(guidance)
        size = max(1, self.model.batch_size // (1 if strength == 1 else 2))
        chunks = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        codes = [torch.empty(0, self.n_cells, dtype=torch.long)]
        for chunk in progress(Batched(chunks, [*map(len, chunks)]), len(chunks), "drawings"):
            steps = self.steps(chunk, seed=seed, temperature=temperature, guidance=strength)
            codes.append(torch.stack([step.codes for step in steps], dim=1).cpu())
        drawn = torch.cat(codes)
        return Drawings(tuple(prompts), tuple(self.decode(drawn)), drawn, seed)

    @torch.no_grad()
    def steps(
        self, prompts: Sequence[str], *, seed: int, temperature: float = 1.0, guidance: float | None = None
    ) -> Iterator[Step]:
        """Yield the codes of one batch, cell by cell, with the logits that they were drawn from; see `draw`."""
        strength = self._strength(guidance)
        check_numbers(seed, temperature, strength)
        noise = [_generator(prompt, seed) for prompt in prompts]
        with evaluating(self.model.module):
            ids, mask = self.family.write(prompts, unconditional=strength != 1)
            cache = self._cache()
            states = self.run(self._embedding(ids), ids, mask, cache)
            for number, ends_row in enumerate(layout := self._layout()):
                if ends_row:
                    embedded = self._row_end(mask)
                else:
                    scores = _guided(self.family.score(states[:, -1]).float(), strength)
                    codes = _chosen(scores, temperature, noise)
                    yield Step(scores, codes)
                    if number == len(layout) - 1:
                        return
                    embedded = self.family.embed(codes.repeat(len(mask) // len(codes))[:, None])
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                states = self.run(embedded, torch.full_like(mask[:, -1:], self.family.placeholder), mask, cache)

    def check_ready(self) -> None:
        """Do nothing: all that draws is part of the model."""

    def region_of(self, mask: Mask) -> Tensor:
        """Return the cells that something covers, `[cell]`, from its pixels; see `cells_of`."""
        return cells_of(mask, self.grid)

    def teacher_forced(self, drawings: Drawings) -> "ForcedCodes":
        """Return the one pass that reads each prompt and the codes of its drawing, as they were written.

        The last code is left out, since nothing is predicted behind it. The rows are those of the prompts: what guides
        a drawing away from the empty prompt is no part of it.

        Raises:
            ValueError: The drawings are another model's.
        """
        require(drawings, Drawings, "drawings", "what `draw` returned")
        if not len(drawings):
            raise ValueError("there are no `drawings` to read; give one at least")
        codes = self._checked(drawings.codes)
        ids, mask = self.family.write(drawings.prompts, unconditional=False)
        n_prompt, layout = ids.shape[1], self._layout()
        tail = torch.full((len(ids), len(layout) - 1), self.family.placeholder, device=ids.device)
        ids, mask = torch.cat([ids, tail], dim=1), torch.cat([mask, torch.ones_like(tail)], dim=1)
        held = modalities(self.model.module, self.model.tokenizer, ids)
        token_types, kept, prompt = places(held, mask, [tail.shape[1]] * len(ids))
        # A code is predicted by the column before its own.
        cells = [n_prompt - 1 + place for place, ends_row in enumerate(layout) if not ends_row]
        return ForcedCodes(self, ids, mask, codes, token_types, kept, prompt, tuple(cells))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> list[Image]:
        """Return the pictures of codes `[n, cell]`, by the VQ tokenizer alone.

        Raises:
            ValueError: There are not as many codes as cells, or they are not of the codebook.
        """
        images, checked = list[Image](), self._checked(codes)
        with evaluating(self.model.module):
            for some in checked.split(self.model.batch_size) if len(checked) else ():
                pixels = [one.float().cpu() for one in self.family.pixels(some)]
                images += self.model.processor.postprocess(pixels, return_tensors="PIL.Image.Image")["pixel_values"]
        return images

    @torch.no_grad()
    def encode(self, images: Pictures) -> Tensor:
        """Return the codes of pictures, `[n, cell]` on the CPU, by the VQ tokenizer alone."""
        seen = [one.convert("RGB") for one in pictures(images)]
        size = self.model.batch_size
        with evaluating(self.model.module):
            codes = [self.family.codes(seen[start : start + size]) for start in range(0, len(seen), size)]
        return torch.cat(codes).cpu() if codes else torch.empty(0, self.n_cells, dtype=torch.long)

    def run(self, embedded: Tensor, ids: Tensor, mask: Tensor, cache: Any = None) -> Tensor:
        """Return the last hidden states of some columns, `[batch, pos, d_model]`, behind those in `cache`.

        Args:
            embedded: What the language model reads, `[batch, pos, d_model]`.
            ids: What the columns hold, `[batch, pos]`: the placeholder where a code or the end of its row is.
            mask: Zero at padding, of all columns so far.
            cache: Where keys and values are kept; None for a pass without one.
        """
        language = self.family.language
        # Edits by position learn from the embedding what columns hold: to it, a code is a piece of a picture.
        self._embedding(ids)
        how = {"cache" if declares(language, "cache") else "past_key_values": cache, "use_cache": cache is not None}
        numbers = columns(mask)[:, -ids.shape[1] :]
        out = language(inputs_embeds=embedded, attention_mask=mask, position_ids=numbers, **how)
        states: Tensor = out.last_hidden_state
        return states

    def embedded(self, ids: Tensor, codes: Tensor) -> Tensor:
        """Return what a teacher-forced pass reads, `[batch, pos, d_model]`: a prompt, and codes but the last."""
        layout = self._layout()[:-1]
        held = iter(self.family.embed(codes[:, :-1]).to(ids.device).split(1, dim=1))
        parts = [self._row_end(ids) if ends_row else next(held) for ends_row in layout]
        return torch.cat([self._embedding(ids[:, : ids.shape[1] - len(layout)]), *parts], dim=1)

    def _layout(self) -> list[bool]:
        """Return whether each column behind the prompt ends a row; the others hold a code. The last code is last."""
        rows, width = self.grid
        row = [False] * width + ([] if self.family.row_end is None else [True])
        return (row * rows)[: rows * len(row) - (len(row) - width)]

    def _row_end(self, like: Tensor) -> Tensor:
        """Return the embedding of what ends a row, one for each row of `like`: `[batch, 1, d_model]`."""
        return self._embedding(torch.full_like(like[:, :1], self.family.row_end or 0))

    def _strength(self, guidance: float | None) -> float:
        return self.family.guidance if guidance is None else guidance

    def _embedding(self, ids: Tensor) -> Tensor:
        module: Any = self.model.module
        embedded: Tensor = module.get_input_embeddings()(ids)
        return embedded

    def _cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.family.language.config)

    def _checked(self, codes: Tensor) -> Tensor:
        """Return codes as the model's device has them, or raise where they are no drawing of this model."""
        require(codes, Tensor, "codes", "a tensor `[n, cell]` of whole numbers")
        fits = codes.ndim == 2 and codes.shape[1] == self.n_cells and not codes.is_floating_point()
        if not fits or (codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook):
            between = f", {int(codes.min())} to {int(codes.max())}" if codes.numel() else ""
            raise ValueError(
                f"`codes` of `{self.model.name}` are [n, {self.n_cells}], 0 to {self.codebook - 1}; got "
                f"{list(codes.shape)} of {codes.dtype}{between}: they are another model's"
            )
        return codes.to(self.model.device, torch.long)


@dataclass(frozen=True, eq=False)
class ForcedCodes:
    """A teacher-forced pass over prompts and what was drawn of them, padded on the left.

    `record(model.module, site)` around `states` sees each neuron at each column as it was while the picture was drawn.
    """

    drawer: TokenDrawer
    ids: Tensor
    """`[batch, pos]`: the prompt's tokens, then the placeholder for each code and each end of a row."""
    mask: Tensor
    """`[batch, pos]`, zero at padding."""
    codes: Tensor
    """`[batch, cell]`."""
    token_types: Tensor
    """`[batch, pos]`, as in `TeacherForced`: drawn columns are `IMAGE`."""
    modalities: Tensor
    """`[batch, pos]`, as in `TeacherForced`."""
    prompt: Tensor
    """`[batch, pos]`, as in `TeacherForced`: true at the prompt."""
    columns: tuple[int, ...]
    """The column that predicts each cell, in all rows; the cell's code is in the next one, but for the last."""
    target: ClassVar[str] = "the log-probabilities of the codes that show it"

    @property
    def module(self) -> nn.Module:
        """What hooks go into."""
        return self.drawer.model.module

    def states(self) -> Tensor:
        """Return the last hidden states at `columns`, `[batch, cell, d_model]`, with a graph if gradients are on."""
        with evaluating(self.drawer.model.module):
            embedded = self.drawer.embedded(self.ids, self.codes)
            return self.drawer.run(embedded, self.ids, self.mask)[:, list(self.columns)]

    def logits(self, states: Tensor | None = None) -> Tensor:
        """Return the logits of each cell's code, `[batch, cell, code]`, 32-bit; of `states()` if none are given."""
        with evaluating(self.drawer.model.module):
            return self.drawer.family.score(self.states() if states is None else states).float()

    def log_probs(self, states: Tensor | None = None) -> Tensor:
        """Return the log-probability of each drawn code, `[batch, cell]`, unguided and at temperature 1."""
        states = self.states() if states is None else states
        # Row by row: Emu3's logits of one picture take a gigabyte.
        return torch.stack([self._of_row(*row) for row in zip(states, self.codes, strict=True)])

    def inside(self, region: Tensor) -> Tensor:
        """Return which columns predict a code of the region: the cells themselves, `[batch, cell]`."""
        return region.to(self.codes.device)

    def shows(self, row: int, states: Tensor, region: Tensor) -> Tensor:
        """Return the sum of the log-probabilities of the codes in the region `[cell]` of one row."""
        return self._of_row(states, self.codes[row])[region.to(states.device)].sum()

    def repeated(self, n: int) -> "ForcedCodes":
        """Return `n` copies of a pass over one drawing."""
        parts = ("ids", "mask", "codes", "token_types", "modalities", "prompt")
        return replace(self, **{name: getattr(self, name).repeat(n, 1) for name in parts})

    def _of_row(self, states: Tensor, codes: Tensor) -> Tensor:
        """Return the log-probability of each code of a drawing, `[cell]`."""
        logs = self.logits(states).log_softmax(-1)
        return logs.gather(-1, codes.to(logs.device)[:, None])[:, 0]


def _generator(prompt: str, seed: int) -> torch.Generator:
    """Return the random numbers of a row, which depend on its prompt and the seed alone."""
    digest = hashlib.sha256(f"{seed} {prompt}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))


def _guided(scores: Tensor, strength: float) -> Tensor:
    """Return `[batch, code]` of the rows with a prompt and, where there are any, those without it."""
    if strength == 1:
        return scores
    conditional, without = scores.chunk(2)
    return without + strength * (conditional - without)


def _chosen(scores: Tensor, temperature: float, noise: list[torch.Generator]) -> Tensor:
    """Return a code of each row, `[batch]`, drawn from softmax(scores / temperature) as the Gumbel maximum.

    Two near-equal scores may change places by rounding; elsewhere the choice is the same in any batch.
    """
    if temperature == 0:
        return scores.argmax(-1)
    waits = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=one) for one in noise])
    return (scores / temperature - waits.log().to(scores.device)).argmax(-1)


def cells_of(mask: Mask, grid: tuple[int, int]) -> Tensor:
    """Return which cells a region covers to a quarter or more, `[cell]`; of a smaller one, the cell it covers most.

    Args:
        mask: `[height, width]`, true inside.
        grid: The rows and columns of cells.
    """
    rows, columns = (np.linspace(0, side, n + 1).round().astype(int) for side, n in zip(mask.shape, grid, strict=True))
    covered = torch.tensor(
        [
            [float(mask[top:bottom, left:right].mean()) for left, right in pairwise(columns)]
            for top, bottom in pairwise(rows)
        ]
    ).flatten()
    found = covered >= COVERED
    if not found.any() and covered.any():
        found[covered.argmax()] = True
    return found
