"""What a model did with a picture and with its counterfactual, one layer at a time.

The activations and gradients of a batch are computed once, shared by all scorers and reduced as soon as a layer's
tensors exist, so that scores need memory for layers x neurons, not layers x positions x neurons.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.hooks import intervene, record, with_graph
from kedit.locate.elsewhere import seen_whole
from kedit.locate.readout import Readout, spelled
from kedit.locate.scorer import Case, LayerEvidence, Need, Scorer
from kedit.locate.target import Target
from kedit.models.attention import Attention, attending
from kedit.models.mllm import MLLM, Forced
from kedit.sites import Site
from kedit.unembedding import Unembedding

SAMPLES_AT_ONCE = 4
"""How many samples of a batch a scorer sees at once."""


def gather(
    model: MLLM, site: Site, cases: Sequence[Case], target: Target, scorers: Mapping[str, Scorer]
) -> Iterator[dict[str, list[Tensor]]]:
    """Yield for each batch what each scorer makes of each layer: `[batch, ..., neuron]` by layer.

    A batch costs one forward on the originals, one on the counterfactuals if any scorer needs it, one on the
    control pictures if any needs those, and one backward if any scorer needs a gradient. Outside the language model
    a batch is one sample: what a layer sees of several pictures, in patches or tiles, cannot be told apart again.
    """
    at_once = model.batch_size if site.scope == "language" else 1
    needs = frozenset[Need]().union(*(scorer.needs for scorer in scorers.values()))
    readouts: dict[int, Readout] = {}
    if "unembedding" in needs:
        unembedding = Unembedding.of(model.module)
        named = sorted({name for case in cases for name in case.pair.sample.objects | {case.pair.concept.name}})
        spell = cache(partial(spelled, model))
        tokens = spell(tuple(named))
        readouts = {layer: Readout(model.module, site, layer, unembedding, tokens, spell) for layer in site.blocks}
    for start in range(0, len(cases), at_once):
        batch = _Batch(model, site, cases[start : start + at_once], target, needs, readouts)
        yield batch.scores(scorers)


@dataclass(frozen=True, eq=False)
class _Batch:
    model: MLLM
    site: Site
    cases: Sequence[Case]
    target: Target
    needs: frozenset[Need]
    readouts: Mapping[int, Readout]

    @torch.inference_mode(False)
    def scores(self, scorers: Mapping[str, Scorer]) -> dict[str, list[Tensor]]:
        """Run the passes and return what each scorer makes of each layer."""
        original = self._forced([case.pair.sample.image for case in self.cases])
        painted_out = self._activations("counterfactual", original)
        control = self._activations("control", original)
        found: dict[str, dict[int, Tensor]] = {name: {} for name in scorers}
        roots: list[Tensor] = []
        unread: dict[int, _Parts] = {}
        kept = any("gradient" in one.needs and one.needs & {"counterfactual", "control"} for one in scorers.values())
        attended = "gradient" in self.needs and any(
            {"gradient", "attention"} <= scorer.needs for scorer in scorers.values()
        )

        def score(layer: int, parts: _Parts) -> None:
            if parts.gradient is not None:
                del unread[layer]
            for name, scorer in scorers.items():
                if ("gradient" in scorer.needs) == (parts.gradient is not None):
                    pieces = self._evidence(layer, original, parts)
                    found[name][layer] = torch.cat([scorer.score(piece).float().cpu() for piece in pieces])

        def seen(layer: int, attention: dict[int, Attention]) -> Callable[[Tensor], Tensor | None]:
            def see(activation: Tensor) -> Tensor | None:
                parts = _Parts(
                    activation.detach(),
                    painted_out.pop(layer, None),
                    control.pop(layer, None),
                    attention.pop(layer, None),
                )
                score(layer, parts)
                if "gradient" not in self.needs:
                    return None
                traced = with_graph(activation)
                again = parts.reduced(pictures=kept, attention=attended)
                traced.register_hook(lambda gradient: score(layer, again.with_gradient(gradient)))
                unread[layer] = again
                if not roots or not activation.requires_grad:
                    # Two blocks that run beside each other, as experts and a shared one, are a root each.
                    roots.append(traced)
                return traced

            return see

        mentions = [case.mention for case in self.cases]
        with torch.set_grad_enabled("gradient" in self.needs):
            with self._watched() as attention:
                rewrites = {layer: seen(layer, attention) for layer in self.site.blocks}
                with intervene(self.model.module, self.site, rewrites, label="locate"):
                    logits = self.model.logits(original, n_last=self.target.n_last(mentions))
            if "gradient" in self.needs:
                # Every later layer lies between the first one and the logits: its hook sees its gradient on the way.
                torch.autograd.grad(self.target.output(logits, mentions).sum(), roots, allow_unused=True)
                for layer, parts in list(unread.items()):
                    # Nothing after it is read, as of the last layers of some vision towers.
                    score(layer, parts.with_gradient(torch.zeros_like(parts.original)))
        return {name: [layers[layer] for layer in self.site.blocks] for name, layers in found.items()}

    def _watched(self) -> AbstractContextManager[dict[int, Attention]]:
        return attending(self.model.module) if "attention" in self.needs else nullcontext({})

    def _forced(self, images: Sequence[Image]) -> Forced:
        return self.model.forced(images, [self.target.prefix(case.mention) for case in self.cases])

    def _activations(self, which: Need, original: Forced) -> dict[int, Tensor]:
        """Return each layer's activations on the counterfactual or control pictures, after the same words."""
        if which not in self.needs:
            return {}
        batch = self._forced([_image(case, which) for case in self.cases])
        if not torch.equal(batch.kinds, original.kinds):
            ids = ", ".join(case.pair.sample.id for case in self.cases[:3])
            raise ValueError(
                f"original and {which} runs have {original.kinds.shape[1]} and {batch.kinds.shape[1]} positions, "
                f"or other kinds of tokens, for samples {ids}; the pictures must give the same number of image tokens"
            )
        with torch.no_grad(), record(self.model.module, self.site) as activations:
            self.model.logits(batch)
        return activations

    def _evidence(self, layer: int, batch: Forced, parts: "_Parts") -> Iterator[LayerEvidence]:
        """Yield the evidence of a layer a few samples at a time, so that a scorer's own tensors stay small.

        Some models flatten batch and positions; here they are apart again.
        """
        tokens = torch.tensor([self.target.token(case.mention) for case in self.cases])
        if self.site.block(layer).scope != "language":
            batch = seen_whole(batch, parts.original)
        for start in range(0, len(batch.kinds), SAMPLES_AT_ONCE):
            rows = slice(start, start + SAMPLES_AT_ONCE)

            def some(values: Tensor | None, rows: slice = rows) -> Tensor | None:
                return None if values is None else values.reshape(*batch.kinds.shape, -1)[rows].float()

            original = some(parts.original)
            assert original is not None
            yield LayerEvidence(
                layer,
                batch.kinds[rows],
                original,
                some(parts.counterfactual),
                some(parts.gradient),
                some(parts.control),
                self.readouts.get(layer),
                tokens[rows],
                None if parts.attention is None else parts.attention.rows(rows),
                batch.modalities[rows],
                batch.prompt[rows],
            )


@dataclass(frozen=True, eq=False)
class _Parts:
    """The tensors of one layer, of the whole batch."""

    original: Tensor
    counterfactual: Tensor | None
    control: Tensor | None
    attention: Attention | None
    gradient: Tensor | None = None

    def reduced(self, *, pictures: bool, attention: bool) -> "_Parts":
        """Return what is worth keeping until the backward pass."""
        return _Parts(
            self.original,
            self.counterfactual if pictures else None,
            self.control if pictures else None,
            self.attention if attention else None,
        )

    def with_gradient(self, gradient: Tensor) -> "_Parts":
        """Return the same with the layer's gradient."""
        return _Parts(self.original, self.counterfactual, self.control, self.attention, gradient)


def _image(case: Case, which: Need) -> Image:
    if which == "counterfactual":
        return case.pair.image
    if case.pair.control is None:
        raise ValueError(
            f"sample `{case.pair.sample.id}` has no control picture; set `inpaint.control` to paint out another region"
        )
    return case.pair.control
