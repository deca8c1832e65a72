"""A language model without pictures, as kedit's protocol sees it, over token ids of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedit.internals.sites import Site
from kedit.models.mllm import PADDING, TEXT, TeacherForced
from kedit.neurons import Scope, SiteName
from kedit.prompts import Prompt
from tests.tiny import PAD, VOCAB


@dataclass(frozen=True, eq=False)
class TextModel:
    """Reads each character as a token, pads on the left, and says where each position is."""

    module: Any
    name: str = "text"
    batch_size: int = 4
    prompt: str = "what is it?"

    def site(self, name: SiteName = "mid", scope: Scope = "language") -> Site:
        """Return where the neurons live."""
        return Site.of(self.module, name, scope)

    def read(self, prompts: Sequence[Prompt], prefixes: Sequence[tuple[int, ...]]) -> TeacherForced:
        """Return the prompts as a batch."""
        first = PAD + 1
        rows = [
            [*(first + ord(character) % (VOCAB - first) for character in one.text), *prefix]
            for one, prefix in zip(prompts, prefixes, strict=True)
        ]
        width = max(map(len, rows))
        ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        token_types = mask * TEXT + (1 - mask) * PADDING
        places = (mask.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
        return TeacherForced(inputs, token_types, mask, mask.bool())

    def logits(self, batch: TeacherForced, n_last: int = 1) -> Tensor:
        """Return the last logits."""
        options = {"use_cache": False} if self.module.can_generate() else {}
        found: Tensor = self.module(**batch.inputs, **options).logits[:, -n_last:].float()
        return found
