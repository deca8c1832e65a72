"""A training loop that survives being killed: the step number alone decides the data."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kedit.progress import show_progress

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """Steps, peak learning rate and warm-up; the rate falls to zero along a cosine."""

    steps: int
    peak: float
    warmup: int = 100
    weight_decay: float = 0.05

    def rate(self, step: int) -> float:
        """Return the learning rate at `step`."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def optimizer_of(module: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """Return AdamW over the trainable weights; vectors (norms, biases) are not decayed."""
    weights = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.peak, betas=(0.9, 0.98), fused=True)


def train(
    name: str,
    module: nn.Module,
    schedule: Schedule,
    losses: Callable[[int], Losses],
    folder: Path,
    *,
    save_every: int = 100,
) -> Iterator[int]:
    """Train `module` on the sum of `losses(step)`; resume from `folder` if it holds a checkpoint.

    Yields the number of finished steps after each checkpoint, so that the caller can evaluate. The curve is
    appended to `folder/<name>.jsonl`.
    """
    optimizer = optimizer_of(module, schedule)
    start = _resume(name, module, optimizer, folder)
    began, seen = time.perf_counter(), {}
    for step in show_progress(range(start, schedule.steps), schedule.steps - start, f"{name}, steps"):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        parts = losses(step)
        total = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss of {name} is {total.item()} at step {step}: {parts}")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        for key, value in parts.items():
            seen[key] = 0.95 * seen.get(key, value.item()) + 0.05 * value.item()
        done = step + 1
        if done % save_every == 0 or done == schedule.steps:
            row = {"step": done, "seconds": round(time.perf_counter() - began, 1)}
            row |= {key: round(value, 5) for key, value in seen.items()}
            _checkpoint(name, module, optimizer, done, row, folder)
            yield done


def _resume(name: str, module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    path = folder / f"{name}.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _checkpoint(
    name: str, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, row: dict[str, float], folder: Path
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.pt.partial"
    torch.save({"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    partial.replace(folder / f"{name}.pt")
    with (folder / f"{name}.jsonl").open("a") as curve:
        curve.write(json.dumps(row) + "\n")
