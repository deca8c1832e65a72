"""Whether an exported edit says what the edit does: logits and captions of both, on a few pictures."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.data.scenes import Scenes
from kedit.edit.edit import Edit
from kedit.models.mllm import MLLM, Generated
from kedit.prompts import Prompt, batches

N_PICTURES = 8
"""How many pictures are looked at, at most."""
ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""How far logits may be off, as a share of the largest, where the same numbers are added in another order."""
TEXTS = ("The capital of France is", "Once upon a time", "A dog and a cat")
"""What a model is asked that reads no pictures."""


@dataclass(frozen=True)
class Check:
    """How far the exported form is from the edit as a hook."""

    prompts: int
    """How many pictures, or texts of a model that reads none."""
    tokens: int
    """How many tokens each logit is compared after, the prompt's last included."""
    difference: float
    """The largest difference of two logits, as a share of the largest logit."""
    tolerance: float
    """How large it may be."""
    captions: int
    """How many greedy captions are the same, word by word."""
    effect: float
    """How far the edit itself moves a logit, as a share of the largest: where it is 0, nothing was checked."""

    @property
    def is_identical(self) -> bool:
        """Whether all logits are the same to the bit."""
        return self.difference == 0

    @property
    def agrees(self) -> bool:
        """Whether the difference is rounding; a NaN is none."""
        return self.difference <= self.tolerance

    @property
    def tells(self) -> bool:
        """Whether the edit moves logits by more than rounding may: if not, a form that does nothing would pass, too."""
        return self.effect > self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the check as plain data."""
        return {**vars(self), "identical": self.is_identical}

    def __str__(self) -> str:
        logits = "logits identical to the bit" if self.is_identical else (
            f"logits differ by {self.difference:.1e} of the largest (allowed {self.tolerance:.0e})"
        )  # fmt: skip
        moved = f"the edit moves them by {self.effect:.1e}" if self.effect else "the edit moves none of them"
        return f"{logits}, captions equal on {self.captions} of {self.prompts}; {moved}"


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says under an edit: captions, and the logits along them."""

    prompts: list[Prompt]
    texts: list[Generated]
    logits: Tensor
    """`[prompt, token, vocab]`, after the prompt and after each of the first tokens that all captions have."""


def prompts_for(model: MLLM, pictures: Sequence[Image] | None) -> list[Prompt]:
    """Return what a model is asked: about the pictures, or about drawn ones; texts where it reads no pictures."""
    if "image" not in getattr(model, "media", ("image",)):
        return [Prompt(text) for text in TEXTS]
    drawn = pictures or [Scenes().sample(seed).image for seed in range(N_PICTURES)]
    return [Prompt(model.prompt, picture) for picture in drawn[:N_PICTURES]]


def answers(model: MLLM, prompts: Sequence[Prompt], edit: Edit | None = None, like: Answers | None = None) -> Answers:
    """Return what a model says, under an edit if there is one.

    Args:
        model: The model.
        prompts: What it is asked.
        edit: What acts on it meanwhile.
        like: Along whose captions the logits are taken; its own if None.
    """
    acting: AbstractContextManager[None] = nullcontext() if edit is None else edit.applied(model)
    with torch.no_grad(), acting:
        texts = model.ask(prompts)
        along = texts if like is None else like.texts
        shortest = min(len(text.tokens) for text in along)
        logits = []
        for some in batches(prompts, model.batch_size):
            batch = model.read([prompts[n] for n in some], [along[n].tokens[:shortest] for n in some])
            logits.append(model.logits(batch, shortest + 1).cpu())
    return Answers(list(prompts), texts, torch.cat(logits))


def compare(wanted: Answers, got: Answers, tolerance: float, effect: float) -> Check:
    """Return how far two sets of answers to the same prompts are apart."""
    same = sum(one.tokens == other.tokens for one, other in zip(wanted.texts, got.texts, strict=True))
    return Check(len(wanted.prompts), wanted.logits.shape[1], distance(wanted, got), tolerance, same, effect)


def distance(wanted: Answers, got: Answers) -> float:
    """Return the largest difference of two logits, as a share of the largest logit."""
    return float((wanted.logits - got.logits).abs().max()) / (float(wanted.logits.abs().max()) or 1.0)
