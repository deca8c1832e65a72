"""A model taught again, in its weights, what it was edited to lose: how fast it comes back is what was left of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedit.arguments import require_count
from kedit.internals.block_stacks import find_block_stacks, named_by_model
from kedit.internals.sites import decoder_path, feed_forwards
from kedit.prompts import Prompt

LARGEST_NORM = 1.0
"""Of the gradient of a step."""


@dataclass(frozen=True)
class Lessons:
    """How a model is taught, the same for everyone: few captions, all of them in every step of AdamW."""

    pictures: int = 8
    """Captions of the concept that it is taught on."""
    steps: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32)
    """After how many steps it is asked, the last one its end."""
    rate: float = 1e-4
    """The learning rate, small beside that of training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        require_count(self.pictures, "pictures", 1)
        if len(self.steps) < 2 or self.steps[0] != 0 or list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"`steps` rise from 0, such as 0, 1, 2, 4; got {self.steps}")
        if not self.rate > 0:
            raise ValueError(f"`rate` is a learning rate above 0, got {self.rate}")


def language_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of the language model by name: embeddings, blocks, last norm, head; no eye, no projector."""
    inside = f"{decoder_path(module)}.".lstrip(".")

    def part(path: str) -> str:
        return path.removeprefix(inside).partition(".")[0]

    # Some models hold an eye beside the blocks of the language model (IDEFICS, Chameleon).
    beside = {part(path) for path in find_block_stacks(module) if path.startswith(inside)}
    beside -= {part(block.output) for block in feed_forwards(module)}
    head = named_by_model(module, "get_output_embeddings")
    of_head = {id(one) for one in head.parameters()} if head is not None else set()
    return {
        name: one
        for name, one in module.named_parameters()
        if id(one) in of_head or (name.startswith(inside) and part(name) not in beside)
    }


def relearn(model: Any, prompts: Sequence[Prompt], texts: Sequence[str], lessons: Lessons) -> Iterator[int]:
    """Teach a model to answer `prompts` with `texts`, in place, and yield how many steps are done whenever it is asked.

    All weights of its language model learn (AdamW, no decay); a caption counts with all its words and its end. Nothing
    is drawn by lot, and there is no dropout: equal models learn equally.

    Args:
        model: A `HuggingFaceMLLM` whose weights may be changed.
        prompts: What is asked.
        texts: What is right to say.
        lessons: For how long, and how fast.

    Raises:
        ValueError: A gradient is no number, as 16 bits may have it; the model is then as the step before left it.
    """
    weights = list(language_weights(model.module).values())
    # In 16 bits small steps round to nothing, and AdamW's squares of gradients to zero: 32 bits learn, and are copied.
    learning = [one if one.dtype == torch.float32 else nn.Parameter(one.detach().float()) for one in weights]
    answers = [(*model.tokenizer(text, add_special_tokens=False).input_ids, _end(model)) for text in texts]
    optimizer = torch.optim.AdamW(learning, lr=lessons.rate, weight_decay=0.0)
    for step in range(lessons.steps[-1] + 1):
        if step in lessons.steps:
            yield step
        if step == lessons.steps[-1]:
            return
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            for start in range(0, len(prompts), model.batch_size):
                part = slice(start, start + model.batch_size)
                (_loss(model, prompts[part], answers[part]) / len(prompts)).backward()
        for weight, one in zip(weights, learning, strict=True):
            weight.requires_grad_(False)
            if one is not weight and weight.grad is not None:
                one.grad, weight.grad = weight.grad.float(), None
        norm = float(nn.utils.clip_grad_norm_(learning, LARGEST_NORM))
        if not math.isfinite(norm):
            raise ValueError(
                f"the gradient of step {step + 1} in which `{model.name}` is taught is {norm}; where 16 bits are too "
                "few for it, load the model with `dtype=bfloat16` or `float32`"
            )
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for weight, one in zip(weights, learning, strict=True):
                weight.copy_(one)


def _loss(model: Any, prompts: Sequence[Prompt], answers: Sequence[tuple[int, ...]]) -> Tensor:
    """Return the sum over the answers of the mean surprise of their tokens, in nats."""
    logits = model.logits(model.read(prompts, [answer[:-1] for answer in answers]), max(map(len, answers)))
    losses = [
        nn.functional.cross_entropy(row[-len(answer) :], torch.tensor(answer, device=row.device))
        for row, answer in zip(logits, answers, strict=True)
    ]
    return torch.stack(losses).sum()


def _end(model: Any) -> int:
    if model.tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of `{model.name}` has no end-of-text token, with which a caption ends")
    return int(model.tokenizer.eos_token_id)
