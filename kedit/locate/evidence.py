"""What a model did with a picture or text and with its counterfactual, one layer at a time.

The activations and gradients of a batch are computed once, shared by all scorers and reduced as soon as a layer's
tensors exist, so that scores need memory for layers x neurons, not layers x positions x neurons.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from kedit.internals.hooks import frozen, intervene, record, traced
from kedit.internals.sites import Site
from kedit.internals.unembedding import Unembedding, left_out
from kedit.locate.damage import read_references, whole
from kedit.locate.effect import answer_of, last_stream
from kedit.locate.outside import seen_whole
from kedit.locate.readout import Readout
from kedit.locate.scorer import Answer, Case, LayerEvidence, Need, Scorer
from kedit.locate.target import Target
from kedit.models.attention import Attention, attending
from kedit.models.lengths import of_prompts
from kedit.models.mllm import MLLM, PADDING, TeacherForced
from kedit.prompts import Prompt
from kedit.samples import TextPair

logger = logging.getLogger(__name__)

SAMPLES_AT_ONCE = 4
"""How many samples of a batch a scorer sees at once, so that its own tensors stay small."""


def gather(
    model: MLLM,
    site: Site,
    cases: Sequence[Case],
    target: Target,
    scorers: Mapping[str, Scorer],
    batches: Sequence[Sequence[int]],
) -> Iterator[dict[str, list[Tensor]]]:
    """Yield for each batch what each scorer makes of each layer: `[batch, ..., neuron]` by layer.

    A batch costs one forward on the originals, one on the counterfactuals if any scorer needs it, one on the
    control pictures if any needs those, one backward if any scorer needs a gradient, and one from the counterfactuals
    if any needs the damage. Which cases they hold is up to `batches`, see `together`.
    """
    needs = frozenset[Need]().union(*(scorer.needs for scorer in scorers.values()))
    readouts: dict[int, Readout] = {}
    if "unembedding" in needs:
        unembedding = Unembedding.of(model.module)
        readouts = {layer: Readout(model.module, site, layer, unembedding) for layer in site.blocks}
        if between := left_out(model.module, site.blocks.values()):
            alone = "an expert" if any(block.experts for block in site.blocks.values()) else "a layer"
            logger.warning(
                "what the feed-forward blocks of `%s` write passes %s before the residual stream: scores by "
                "value vectors leave it out, so compare them within %s alone", model.name, " and ".join(between), alone,
            )  # fmt: skip
    for places in batches:
        yield _Batch(model, site, [cases[place] for place in places], target, needs, readouts).scores(scorers)


def together(
    model: MLLM, site: Site, cases: Sequence[Case], target: Target, *, to_end: bool = False
) -> list[list[int]]:
    """Return the places of the cases in batches, those with as many words before the concept's together.

    With `to_end`, only those with as many words after it, too: whole captions are forced as well.
    Outside the language model a batch is one sample: what a layer sees of several pictures, in patches or tiles,
    cannot be told apart again.
    """
    if site.scope != "language":
        return [[place] for place in range(len(cases))]
    lengths = [
        (len(target.prefix(case.mention)), target.n_last([case.mention]), len(whole(case)) if to_end else 0)
        for case in cases
    ]
    return of_prompts(model, [case.pair.sample.asked(model.prompt) for case in cases], lengths)


def watched(module: nn.Module, needs: frozenset[Need]) -> AbstractContextManager[dict[int, Attention]]:
    """Return what collects each layer's attention, if it is among the `needs`."""
    return attending(module) if "attention" in needs else nullcontext({})


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
        original = self._teacher_forced([case.pair.sample.asked(self.model.prompt) for case in self.cases])
        other: dict[Need, dict[int, Tensor]] = {"control": self._activations("control", original, scorers.values())}
        if "damage" in self.needs:
            other["counterfactual"], other["damage"] = self._references(original, scorers.values())
        else:
            other["damage"] = {}
            other["counterfactual"] = self._activations("counterfactual", original, scorers.values())
        reading = _Reading(self, scorers, original, other)
        try:
            return reading.scores()
        finally:
            # A hook on a root knows the reading: together they would outlive this call.
            reading.roots.clear()

    def _teacher_forced(self, prompts: Sequence[Prompt]) -> TeacherForced:
        return self.model.read(prompts, [self.target.prefix(case.mention) for case in self.cases])

    def _activations(self, which: Need, original: TeacherForced, scorers: Iterable[Scorer]) -> dict[int, Tensor]:
        """Return each layer's activations on the counterfactual or control samples, after the same words."""
        if which not in self.needs:
            return {}
        batch = self._teacher_forced([_other(case, which, self.model.prompt) for case in self.cases])
        with torch.no_grad(), record(self.model.module, self.site) as activations:
            self.model.logits(batch)
        return self._aligned(which, activations, batch, [0] * len(self.cases), original, scorers)

    def _agree_at_end(self, scorers: Iterable[Scorer]) -> bool:
        """Return whether nothing is compared but the last positions, which texts of any length have in common."""
        comparing = [one for one in scorers if one.needs & {"counterfactual", "control"}]
        only_last = all(getattr(one, "positions", None) == "target" for one in comparing)
        return only_last and all(isinstance(case.pair, TextPair) for case in self.cases)

    def _references(
        self, original: TeacherForced, scorers: Iterable[Scorer]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return each layer's activations on the counterfactuals, and the damage that is measured there."""
        prompts = [_other(case, "counterfactual", self.model.prompt) for case in self.cases]
        batch, activations, damage = read_references(self.model, self.site, prompts, self.cases)
        if "counterfactual" not in self.needs:
            return {}, damage
        # The answer is predicted before the word's last forced token and what comes after it.
        behind = [len(whole(case)) - len(self.target.prefix(case.mention)) for case in self.cases]
        return self._aligned("counterfactual", activations, batch, behind, original, scorers), damage

    def _aligned(
        self,
        which: Need,
        activations: dict[int, Tensor],
        batch: TeacherForced,
        behind: Sequence[int],
        original: TeacherForced,
        scorers: Iterable[Scorer],
    ) -> dict[int, Tensor]:
        """Return activations at as many positions as the originals have, up to the `behind` last ones of each row.

        Raises:
            ValueError: The positions hold other kinds of tokens, and not only the last one is compared.
        """
        width = original.token_types.shape[1]
        n_held = (batch.token_types != PADDING).sum(1) - torch.tensor(behind, device=batch.token_types.device)
        whole_rows = torch.equal(n_held, (original.token_types != PADDING).sum(1))
        alike = whole_rows and torch.equal(_ending(batch.token_types, behind, width), original.token_types)
        if not alike and not self._agree_at_end(scorers):
            ids = ", ".join(case.pair.sample.id for case in self.cases[:3])
            raise ValueError(
                f"original and {which} runs have {width} and {batch.token_types.shape[1] - max(behind)} positions, "
                f"or other kinds of tokens, for samples {ids}; pictures must give the same number of image tokens, and "
                "texts of several lengths are compared where the word is predicted (`positions=target`)"
            )
        if alike and not any(behind) and batch.token_types.shape[1] == width:
            return activations
        for layer, activation in activations.items():
            if self.site.block(layer).scope == "language":
                activations[layer] = _ending(activation.reshape(*batch.token_types.shape, -1), behind, width)
        return activations

    def evidence(self, layer: int, batch: TeacherForced, parts: "_Parts") -> Iterator[LayerEvidence]:
        """Yield the evidence of a layer a few samples at a time, so that a scorer's own tensors stay small.

        Some models flatten batch and positions; here they are apart again.
        """
        tokens = torch.tensor([self.target.token(case.mention) for case in self.cases])
        if self.site.block(layer).scope != "language":
            batch = seen_whole(batch, parts.original)
        for start in range(0, len(batch.token_types), SAMPLES_AT_ONCE):
            rows = slice(start, start + SAMPLES_AT_ONCE)

            def some(values: Tensor | None, rows: slice = rows) -> Tensor | None:
                return None if values is None else values.reshape(*batch.token_types.shape, -1)[rows].float()

            original = some(parts.original)
            assert original is not None
            yield LayerEvidence(
                layer,
                batch.token_types[rows],
                original,
                some(parts.counterfactual),
                some(parts.gradient),
                some(parts.control),
                self.readouts.get(layer),
                tokens[rows],
                None if parts.attention is None else parts.attention.rows(rows),
                batch.modalities[rows],
                batch.prompt[rows],
                None if parts.answer is None else parts.answer.rows(rows),
                None if parts.damage is None else parts.damage[rows],
            )


@dataclass(eq=False)
class _Reading:
    """The passes over a batch's originals: each layer is scored as soon as its tensors exist."""

    batch: _Batch
    scorers: Mapping[str, Scorer]
    original: TeacherForced
    other: Mapping[Need, dict[int, Tensor]]
    """The activations on the counterfactuals and the control pictures by layer, each given up when it is scored."""
    found: dict[str, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    roots: list[Tensor] = field(default_factory=list)
    """The first activations that the logits depend on."""
    unread: dict[int, "_Parts"] = field(default_factory=dict)
    """The layers that the backward pass has not reached."""
    steepest: float = 0.0
    """The largest gradient so far, without its sign."""
    answer: Answer | None = None
    """How the words stand against their rivals, once the logits are known."""

    def scores(self) -> dict[str, list[Tensor]]:
        """Run them and return what each scorer makes of each layer."""
        needs, target, model, site = self.batch.needs, self.batch.target, self.batch.model, self.batch.site
        mentions = [case.mention for case in self.batch.cases]
        with torch.set_grad_enabled("gradient" in needs):
            unembedding = self._unembedding()
            with watched(model.module, needs) as attention, last_stream(model.module, unembedding) as streams:
                rewrites = {layer: partial(self._see, layer, attention) for layer in site.blocks}
                with frozen(model.module), intervene(model.module, site, rewrites, label="locate"):
                    logits = model.logits(self.original, n_last=target.n_last(mentions))
            if unembedding is not None:
                tokens = torch.tensor([target.token(mention) for mention in mentions])
                last = streams[-1] if streams else None
                self.answer = answer_of(unembedding, last, logits[:, -1].detach(), tokens)
            if "gradient" in needs:
                self._descend(target.output(logits, mentions).sum())
        return {name: [self.found[name][layer] for layer in site.blocks] for name in self.scorers}

    def _unembedding(self) -> Unembedding | None:
        """Return the model's unembedding if a scorer needs the direction of the answer."""
        some = next(iter(self.batch.readouts.values()), None)
        return some.unembedding if some is not None and "answer" in self.batch.needs else None

    def _see(self, layer: int, attention: dict[int, Attention], activation: Tensor) -> Tensor | None:
        """Score what needs no gradient, and prepare the layer for the backward pass if there is one."""
        painted_out, control, damage = (
            self.other[which].pop(layer, None) for which in ("counterfactual", "control", "damage")
        )
        parts = _Parts(activation.detach(), painted_out, control, attention.pop(layer, None), damage)
        self._score(layer, parts)
        if "gradient" not in self.batch.needs:
            return None
        wanted = [one.needs for one in self.scorers.values() if "gradient" in one.needs]
        again = parts.reduced(
            pictures=any(needs & {"counterfactual", "control"} for needs in wanted),
            attention=any("attention" in needs for needs in wanted),
        )
        self.unread[layer] = again
        return traced(activation, self.roots, partial(self._differentiated, layer, again))

    def _descend(self, output: Tensor) -> None:
        """Take the gradients: every later layer lies between a root and the output, and its hook sees its own."""
        if output.requires_grad:
            torch.autograd.grad(output, self.roots, allow_unused=True)
        if self.steepest == 0:
            raise ValueError(
                f"no gradient of the concept's word reaches a layer of `{self.batch.model.name}`, so there is nothing "
                "to score by it; weights of 8 bits may have no backward pass (load the model without), and a "
                "probability near 1 has none either (`target.value=logit`)"
            )
        for layer, parts in list(self.unread.items()):
            # Nothing after it is read, as of the last layers of some vision towers.
            self._score(layer, parts.with_gradient(torch.zeros_like(parts.original), self.answer))

    def _differentiated(self, layer: int, parts: "_Parts", gradient: Tensor | None) -> None:
        """Score a layer that the backward pass has come to; None is what layers without a backward pass hand on."""
        if gradient is not None:
            self._score(layer, parts.with_gradient(self._checked(layer, gradient), self.answer))

    def _checked(self, layer: int, gradient: Tensor) -> Tensor:
        """Return the gradient of a layer; a ValueError says that it is no number."""
        steepest = float(gradient.abs().amax())
        if not math.isfinite(steepest):
            raise ValueError(
                f"the gradient in layer {layer} of `{self.batch.model.name}` is {steepest}; where 16 bits are too few "
                "for it, load the model with `dtype=bfloat16` or `float32`"
            )
        self.steepest = max(self.steepest, steepest)
        return gradient

    def _score(self, layer: int, parts: "_Parts") -> None:
        if parts.gradient is not None:
            del self.unread[layer]
        for name, scorer in self.scorers.items():
            if ("gradient" in scorer.needs) == (parts.gradient is not None):
                pieces = self.batch.evidence(layer, self.original, parts)
                self.found[name][layer] = torch.cat([scorer.score(piece).float().cpu() for piece in pieces])


@dataclass(frozen=True, eq=False)
class _Parts:
    """The tensors of one layer, of the whole batch."""

    original: Tensor
    counterfactual: Tensor | None
    control: Tensor | None
    attention: Attention | None
    damage: Tensor | None
    gradient: Tensor | None = None
    answer: Answer | None = None

    def reduced(self, *, pictures: bool, attention: bool) -> "_Parts":
        """Return what is worth keeping until the backward pass."""
        return _Parts(
            self.original,
            self.counterfactual if pictures else None,
            self.control if pictures else None,
            self.attention if attention else None,
            self.damage,
        )

    def with_gradient(self, gradient: Tensor, answer: Answer | None) -> "_Parts":
        """Return the same with the layer's gradient and the answer."""
        return replace(self, gradient=gradient, answer=answer)


def _ending(values: Tensor, behind: Sequence[int], n_columns: int) -> Tensor:
    """Return of each row the `n_columns` positions before the last `behind` ones, zeros where it has fewer."""
    aligned = values.new_zeros(len(values), n_columns, *values.shape[2:])
    for row, n_behind in enumerate(behind):
        kept = values[row, : values.shape[1] - n_behind][-n_columns:]
        aligned[row, n_columns - len(kept) :] = kept
    return aligned


def _other(case: Case, which: Need, question: str) -> Prompt:
    return case.pair.asked(question) if which == "counterfactual" else case.pair.asked_of_control(question)
