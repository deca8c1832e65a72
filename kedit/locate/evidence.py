"""What a model did with a picture and with its counterfactual, one layer at a time.

The activations and gradients of a batch are computed once, shared by all scorers and reduced as soon as a layer's
tensors exist, so that scores need memory for layers x neurons, not layers x positions x neurons.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from kedit.hooks import intervene, record, with_graph
from kedit.locate.target import Target
from kedit.models.mllm import IMAGE, MLLM, PADDING, TEXT, Forced, Mention
from kedit.samples import Counterfactual
from kedit.sites import Site

Need = Literal["counterfactual", "gradient"]
"""What a scorer reads beside the activations of the original picture."""
Evidence = Literal["all", "image", "text", "target"]
"""The positions that may count: valid ones, image tokens, text tokens, or the one that predicts the word."""
OverPositions = Literal["max", "sum", "mean", "abs_max"]
OverSamples = Literal["mean", "max", "vote"]
SAMPLES_AT_ONCE = 4
"""How many samples of a batch a scorer sees at once."""


@dataclass(frozen=True, eq=False)
class LayerEvidence:
    """One layer's tensors for a batch; each `[batch, pos, neuron]`, 32-bit."""

    layer: int
    kinds: Tensor
    """`[batch, pos]`: what each position holds."""
    original: Tensor
    counterfactual: Tensor | None = None
    gradient: Tensor | None = None
    """The derivative of the target with respect to `original`."""


class Scorer(Protocol):
    """Scores the neurons of a layer from the evidence, for each sample."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be in the evidence."""
        ...

    @property
    def over_samples(self) -> OverSamples:
        """How the samples' scores become one."""
        ...

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`."""
        ...


@dataclass(frozen=True, eq=False)
class Case:
    """A counterfactual pair and where the model's caption of the original names the concept."""

    pair: Counterfactual
    mention: Mention


def check_reductions(positions: Evidence, over_positions: OverPositions, over_samples: OverSamples) -> None:
    """Raise a ValueError that names the first option with an unknown value, and the known ones."""
    for name, value, known in (
        ("positions", positions, get_args(Evidence)),
        ("over_positions", over_positions, get_args(OverPositions)),
        ("over_samples", over_samples, get_args(OverSamples)),
    ):
        if value not in known:
            raise ValueError(f"`{name}` is one of {', '.join(known)}, got {value!r}")


def over_positions(values: Tensor, kinds: Tensor, positions: Evidence, how: OverPositions) -> Tensor:
    """Reduce `[batch, pos, neuron]` to `[batch, neuron]` over the positions that count.

    A sample without any such position scores zero.
    """
    if positions == "target":
        allowed = torch.zeros_like(kinds, dtype=torch.bool)
        allowed[:, -1] = True
    else:
        allowed = {"all": kinds != PADDING, "image": kinds == IMAGE, "text": kinds == TEXT}[positions]
    mask = allowed[..., None]
    if how in ("sum", "mean"):
        total = values.masked_fill(~mask, 0).sum(1)
        return total if how == "sum" else total / mask.sum(1).clamp(min=1)
    signed = values.abs() if how == "abs_max" else values
    peak = signed.masked_fill(~mask, -torch.inf).amax(1)
    return peak.masked_fill(~allowed.any(1, keepdim=True), 0)


def gather(
    model: MLLM, site: Site, cases: Sequence[Case], target: Target, scorers: Mapping[str, Scorer]
) -> Iterator[dict[str, list[Tensor]]]:
    """Yield for each batch what each scorer makes of each layer: `[batch, neuron]` by layer.

    A batch costs one forward on the originals, one on the counterfactuals if any scorer needs it, and one
    backward if any scorer needs a gradient.
    """
    needs = frozenset[Need]().union(*(scorer.needs for scorer in scorers.values()))
    for start in range(0, len(cases), model.batch_size):
        yield _score_batch(model, site, cases[start : start + model.batch_size], target, scorers, needs)


@torch.inference_mode(False)
def _score_batch(
    model: MLLM,
    site: Site,
    cases: Sequence[Case],
    target: Target,
    scorers: Mapping[str, Scorer],
    needs: frozenset[Need],
) -> dict[str, list[Tensor]]:
    prefixes = [target.prefix(case.mention) for case in cases]
    original = model.forced([case.pair.sample.image for case in cases], prefixes)
    painted_out = _counterfactual(model, site, cases, prefixes, original) if "counterfactual" in needs else {}
    found: dict[str, dict[int, Tensor]] = {name: {} for name in scorers}
    roots: list[Tensor] = []
    kept = any(scorer.needs >= {"counterfactual", "gradient"} for scorer in scorers.values())

    def score(layer: int, values: Tensor, other: Tensor | None, gradient: Tensor | None = None) -> None:
        for name, scorer in scorers.items():
            if ("gradient" in scorer.needs) == (gradient is not None):
                parts = _parts(layer, original.kinds, values, other, gradient)
                found[name][layer] = torch.cat([scorer.score(part).float().cpu() for part in parts])

    def seen(layer: int) -> Callable[[Tensor], Tensor | None]:
        def see(activation: Tensor) -> Tensor | None:
            values, other = activation.detach(), painted_out.pop(layer, None)
            score(layer, values, other)
            if "gradient" not in needs:
                return None
            traced, again = with_graph(activation), other if kept else None
            traced.register_hook(lambda gradient: score(layer, values, again, gradient))
            if not roots:
                roots.append(traced)
            return traced

        return see

    with torch.set_grad_enabled("gradient" in needs):
        with intervene(model.module, site, {layer: seen(layer) for layer in site.blocks}, label="locate"):
            logits = model.logits(original, n_last=target.n_last([case.mention for case in cases]))
        if "gradient" in needs:
            # Every later layer lies between the first one and the logits: its hook sees its gradient on the way.
            torch.autograd.grad(target.output(logits, [case.mention for case in cases]).sum(), roots)
    return {name: [layers[layer] for layer in site.blocks] for name, layers in found.items()}


def _counterfactual(
    model: MLLM, site: Site, cases: Sequence[Case], prefixes: Sequence[tuple[int, ...]], original: Forced
) -> dict[int, Tensor]:
    """Return each layer's activations on the counterfactual pictures, after the same words."""
    batch = model.forced([case.pair.image for case in cases], prefixes)
    if not torch.equal(batch.kinds, original.kinds):
        ids = ", ".join(case.pair.sample.id for case in cases[:3])
        raise ValueError(
            f"original and counterfactual runs have {original.kinds.shape[1]} and {batch.kinds.shape[1]} positions, "
            f"or other kinds of tokens, for samples {ids}; the pictures must give the same number of image tokens"
        )
    with torch.no_grad(), record(model.module, site) as activations:
        model.logits(batch)
    return activations


def _parts(layer: int, kinds: Tensor, *tensors: Tensor | None) -> Iterator[LayerEvidence]:
    """Yield the evidence of a layer a few samples at a time, so that a scorer's own tensors stay small.

    Some models flatten batch and positions; here they are apart again.
    """
    apart = [None if one is None else one.reshape(*kinds.shape, -1) for one in tensors]
    for start in range(0, len(kinds), SAMPLES_AT_ONCE):
        rows = slice(start, start + SAMPLES_AT_ONCE)
        original, counterfactual, gradient = (None if one is None else one[rows].float() for one in apart)
        assert original is not None
        yield LayerEvidence(layer, kinds[rows], original, counterfactual, gradient)
