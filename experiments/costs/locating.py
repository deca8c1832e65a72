"""Locating against the least that any such method must do: two forwards and one backward."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kedit.locate.locator import Locator
from kedit.models.mllm import MLLM, Generated, TeacherForced
from kedit.prompts import Prompt
from kedit.samples import Counterfactual


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model that reads each batch of pictures once and remembers its tensors; all else is the model's."""

    model: MLLM
    batches: dict[tuple[int, ...], TeacherForced] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def read(self, prompts: Sequence[Prompt], prefixes: Sequence[tuple[int, ...]]) -> TeacherForced:
        """Return each prompt with its prefix, from memory if they were asked for before."""
        key = (*(id(prompt.image) for prompt in prompts), hash(tuple(prefixes)))
        if key not in self.batches:
            self.batches[key] = self.model.read(prompts, prefixes)
        return self.batches[key]


@dataclass(frozen=True, eq=False)
class Locating:
    """What is located in: pictures with and without the concept, and the captions of the originals."""

    locator: Locator
    pairs: Sequence[Counterfactual]
    captions: Sequence[Generated]

    def with_kedit(self, model: MLLM) -> Any:
        """Return the scores of every stage."""
        return self.locator.score(model, self.pairs, captions=self.captions)

    def bare(self, model: MLLM) -> list[Tensor]:
        """Return the gradient in the first layer, batch by batch, after two forwards and one backward each.

        It finds the mentions and prepares the same batches through the same processor as kedit, reads the same logits,
        and runs back through the same layers; it keeps no activation and computes no score.
        """
        site, target = model.site(self.locator.site), self.locator.target
        first = model.module.get_submodule(site.module_path(min(site.blocks)))
        cases = self.locator.cases(model, self.pairs, self.captions)
        found: list[Tensor] = []
        for start in range(0, len(cases), model.batch_size):
            batch = cases[start : start + model.batch_size]
            mentions = [case.mention for case in batch]
            prefixes = [target.prefix(mention) for mention in mentions]
            original = model.teacher_forced([case.pair.sample.image for case in batch], prefixes)
            painted_out = model.teacher_forced([case.pair.image for case in batch], prefixes)
            roots: list[Tensor] = []
            with torch.no_grad():
                model.logits(painted_out)
            hook = first.register_forward_pre_hook(lambda _, inputs, roots=roots: (_root(inputs[0], roots),))
            try:
                logits = model.logits(original, n_last=target.n_last(mentions))
            finally:
                hook.remove()
            found += torch.autograd.grad(target.output(logits, mentions).sum(), roots)
        return found


def _root(activation: Tensor, roots: list[Tensor]) -> Tensor:
    roots.append(activation if activation.requires_grad else activation.detach().requires_grad_(True))
    return roots[-1]
