"""Teaching a model to say a picture's caption, through the calls that locating makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.models.mllm import PADDING
from kedit.samples import Progress, Sample


@dataclass(frozen=True)
class Lesson:
    """How long and how fast to learn."""

    steps: int
    rate: float
    batch: int
    seed: int

    def give(self, model: Any, samples: Sequence[Sample], progress: Progress) -> float:
        """Teach `model` the first caption of each sample, all its weights; return the last step's loss in nats."""
        end = int(model.tokenizer.eos_token_id)
        said = [(*model.tokenizer(one.references[0], add_special_tokens=False).input_ids, end) for one in samples]
        model.module.requires_grad_(True)
        optimizer = torch.optim.AdamW(model.module.parameters(), self.rate, betas=(0.9, 0.98), weight_decay=0.0)
        falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, self.steps, pct_start=0.1)
        order = torch.Generator().manual_seed(self.seed)
        loss = torch.tensor(torch.nan)
        for _ in progress(range(self.steps), self.steps, "lesson"):
            some = torch.randperm(len(samples), generator=order)[: self.batch].tolist()
            loss = caption_loss(model, [samples[one].image for one in some], [said[one] for one in some])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.module.parameters(), 1.0)
            optimizer.step()
            falling.step()
        model.module.zero_grad()
        model.module.requires_grad_(False)
        return loss.item()


def caption_loss(model: Any, images: Sequence[Any], captions: Sequence[tuple[int, ...]]) -> Tensor:
    """Return the mean cross-entropy of the captions' tokens after the prompt and the pictures."""
    batch = model.teacher_forced(images, captions)
    longest = max(map(len, captions))
    answers = ~(batch.prompt | (batch.token_types == PADDING))[:, -longest:]
    wanted = torch.tensor([token for caption in captions for token in caption], device=answers.device)
    logits = model.logits(batch, n_last=longest + 1)[:, :-1]
    return functional.cross_entropy(logits[answers], wanted)


def examined(model: Any, samples: Sequence[Sample], progress: Progress) -> Measured:
    """Return the share of samples whose caption is the right one to the letter."""
    captions = model.caption([one.image for one in samples], progress=progress)
    return bootstrap_mean(
        [float(one.text == sample.references[0]) for one, sample in zip(captions, samples, strict=True)]
    )
