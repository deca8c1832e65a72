"""What zeroing a neuron does to everything else: measured on the counterfactuals, from which the concept is gone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kedit.internals.hooks import frozen, intervene, traced
from kedit.internals.sites import Site
from kedit.locate.reduction import OverSamples, check_over_samples
from kedit.locate.scorer import Case, LayerEvidence, Need
from kedit.locate.target import margins, rivals
from kedit.models.mllm import MLLM, TeacherForced
from kedit.prompts import Prompt


@dataclass(frozen=True)
class Damage:
    """The damage that zeroing a neuron would do, as a negative score: the best neurons do the least.

    As a stage behind another it leaves out what every caption needs. The damage of neuron i is

        D_i = mean over references of sqrt(sum over all positions p of (A_i(p) * dm/dA_i(p))^2),

    m the mean margin (see `kedit.locate.target.margins`) of the caption's tokens but the concept's, of the likeliest
    other token in its place, and of the one that the model goes on with, its end. The references are the
    counterfactuals, with the original's caption forced: so a locator that reads those takes one backward more and no
    forward. Squares, since what a neuron does at one position and undoes at another is damage still, and a signed sum
    cancels it. Margins, since the gradient of a probability near one vanishes.
    """

    over_samples: OverSamples = "mean"

    def __post_init__(self) -> None:
        check_over_samples(self.over_samples)

    @property
    def needs(self) -> frozenset[Need]:
        """The damage, which is all that it hands on."""
        return frozenset({"damage"})

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`, none above zero."""
        assert evidence.damage is not None
        return -evidence.damage


def read_references(
    model: MLLM, site: Site, prompts: Sequence[Prompt], cases: Sequence[Case]
) -> tuple[TeacherForced, dict[int, Tensor], dict[int, Tensor]]:
    """Return the batch of references, each layer's activations on it, and their damage `[batch, neuron]`.

    Args:
        model: The model.
        site: Which neurons.
        prompts: The references.
        cases: Whose captions are forced on them.

    Raises:
        ValueError: A gradient is no number.
    """
    batch = model.read(prompts, [whole(case) for case in cases])
    activations: dict[int, Tensor] = {}
    damages: dict[int, Tensor] = {}
    roots: list[Tensor] = []

    def see(layer: int, activation: Tensor) -> Tensor:
        activations[layer] = activation.detach()
        damages[layer] = torch.zeros(len(batch.token_types), activation.shape[-1])
        return traced(activation, roots, lambda gradient: weigh(layer, gradient))

    def weigh(layer: int, gradient: Tensor) -> None:
        effects = (activations[layer].float() * gradient.float()).reshape(
            len(batch.token_types), -1, gradient.shape[-1]
        )
        damages[layer] = effects.pow(2).sum(1).sqrt().cpu()
        if not damages[layer].isfinite().all():
            raise ValueError(
                f"the damage in layer {layer} of `{model.name}` is no number; where 16 bits are too few for its "
                "gradients, load the model with `dtype=bfloat16` or `float32`"
            )

    rewrites = {layer: (lambda activation, layer=layer: see(layer, activation)) for layer in site.blocks}
    n_last = max(len(whole(case)) for case in cases) + 1
    try:
        with torch.enable_grad():
            with frozen(model.module), intervene(model.module, site, rewrites, label="locate"):
                logits = model.logits(batch, n_last=n_last)
            kept = [_mean_margin(row, case) for row, case in zip(logits, cases, strict=True)]
            torch.autograd.grad(torch.stack(kept).sum(), roots, allow_unused=True)
    finally:
        roots.clear()  # a hook on a root knows the root: together they would outlive this call
    return batch, activations, damages


def whole(case: Case) -> tuple[int, ...]:
    """Return the tokens of the caption, the concept's word among them."""
    return case.mention.prefix + case.mention.word + case.rest


def _mean_margin(logits: Tensor, case: Case) -> Tensor:
    """Return the mean margin over a caption, its end included: of what is said in the word's place, not of the word.

    The logits are `[pos, vocab]`, the last ones those after the caption.
    """
    row = logits[-len(whole(case)) - 1 :]
    start, end = len(case.mention.prefix), len(case.mention.prefix) + len(case.mention.word)
    tokens = torch.tensor([*whole(case), int(row[-1].argmax())], device=row.device)
    tokens[start] = rivals(row[start : start + 1], tokens[start : start + 1])[0, 0]
    counted = torch.tensor([not start < place < end for place in range(len(tokens))], device=row.device)
    return margins(row[counted], tokens[counted]).mean()
