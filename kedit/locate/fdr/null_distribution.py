"""What a stage's scores look like where the concept is not the reason: control pictures and distractor words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kedit.internals.sites import Site
from kedit.locate.difference import ActivationDifference
from kedit.locate.fdr.significance import against_own_null, signed_rank
from kedit.locate.reduction import OverSamples
from kedit.locate.scorer import AcrossLayers, AcrossSamples, Case, LayerEvidence, Need, Prober, Scorer
from kedit.locate.scoring import gathered
from kedit.locate.target import Target
from kedit.models.mllm import MLLM, Mention
from kedit.neurons import NeuronSet
from kedit.samples import Pair, Progress, TextPair, silent


@dataclass(frozen=True, eq=False)
class NullDistribution:
    """How surprising one stage's scores are beside their null distribution, measured on some samples."""

    samples: tuple[str, ...]
    words: tuple[str, ...]
    """The distractor words; empty where control pictures are the null."""
    pvalues: Tensor
    """`[layer, neuron]`, 64-bit; NaN of neurons that cannot be tested."""
    smallest: float
    """The smallest p-value that there could be."""

    def among(self, candidates: NeuronSet | None) -> Tensor:
        """Return the p-values, NaN of those that are no candidates."""
        if candidates is None:
            return self.pvalues
        known = torch.zeros_like(self.pvalues, dtype=torch.bool)
        for layer, index in candidates:
            known[layer, index] = True
        return self.pvalues.masked_fill(~known, torch.nan)


def check_testable(name: str, scorer: Scorer | Prober) -> None:
    """Raise a ValueError unless there is a null distribution for the scores of stage `name`."""
    if isinstance(scorer, ActivationDifference):
        return
    if isinstance(scorer, Scorer) and "gradient" in scorer.needs and not isinstance(scorer, AcrossSamples):
        return
    raise ValueError(
        f"`select=auto` has no null distribution for stage `{name}`, {type(scorer).__name__}: it knows the activation "
        "difference (control pictures) and scorers of a gradient (distractor words); use `select=knee` or "
        "`select=budget`"
    )


def has_control(pair: Pair) -> bool:
    """Return whether something was painted out of the pair's control picture: it may be the original itself."""
    if isinstance(pair, TextPair):
        return False
    original = pair.sample.image
    if pair.control is None or pair.control is original:
        return False
    return pair.control.convert("RGB").tobytes() != original.convert("RGB").tobytes()


def against_controls(
    model: MLLM, site: Site, cases: Sequence[Case], target: Target, scorer: ActivationDifference, progress: Progress
) -> NullDistribution:
    """Return whether neurons change more with the concept than with the control; three forwards a picture.

    For each sample what painting out the concept changes is set against what painting out the other region changes;
    see `signed_rank`. If a neuron does not care which of the two it is, either is as likely to change it more.
    """
    concept = replace(scorer, control=False)
    each = {"concept": EachSample(concept), "control": EachSample(Controlled(concept))}
    gathered(model, site, cases, target, each, progress)
    pvalues = signed_rank(each["concept"].values() - each["control"].values())
    return NullDistribution(_ids(cases), (), site.by_layer_number(pvalues), 2.0 ** -len(cases))


def against_distractor_words(
    model: MLLM,
    site: Site,
    cases: Sequence[Case],
    target: Target,
    scorer: Scorer,
    wrong: Mapping[str, tuple[int, ...]],
    progress: Progress = silent,
) -> NullDistribution:
    """Return whether neurons speak for the concept's word and not for any word.

    The scores are means over the samples, towards the word and towards each of the words `wrong`, given with their
    tokens, in its place; see `against_own_null`. A neuron that speaks for no word in particular is as likely to have
    its highest score with any of them. A forward and a backward a picture for the word, and for each wrong one.
    """

    def mean(tokens: tuple[int, ...] | None) -> Tensor:
        some = cases if tokens is None else [_naming(case, tokens) for case in cases]
        each = EachSample(scorer)
        gathered(model, site, some, target, {"word": each}, silent)
        return each.values().double().mean(0)

    observed, *draws = [mean(one) for one in progress([None, *wrong.values()], len(wrong) + 1, "distractor words")]
    null = torch.stack(draws)
    rows = torch.stack([against_own_null(one, null[:, row]) for row, one in enumerate(observed)])
    widest = int((~rows.isnan()).sum(1).max())
    return NullDistribution(_ids(cases), tuple(wrong), site.by_layer_number(rows), 1 / (1 + len(wrong) * widest))


@dataclass(frozen=True)
class Controlled:
    """An activation difference with the control picture in the place of the counterfactual."""

    difference: ActivationDifference

    @property
    def needs(self) -> frozenset[Need]:
        """The activations on the control picture."""
        return frozenset({"control"})

    @property
    def over_samples(self) -> OverSamples:
        """As the difference."""
        return self.difference.over_samples

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`."""
        return self.difference.score(replace(evidence, counterfactual=evidence.control))


@dataclass(frozen=True, eq=False)
class EachSample:
    """A scorer whose scores of each sample are kept."""

    scorer: Scorer
    seen: list[Tensor] = field(default_factory=list)

    @property
    def needs(self) -> frozenset[Need]:
        """As the scorer."""
        return self.scorer.needs

    @property
    def over_samples(self) -> OverSamples:
        """The mean, since nobody reads it."""
        return "mean"

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer: `[batch, neuron]`."""
        return self.scorer.score(evidence)

    def across_layers(self, scores: Tensor) -> Tensor:
        """Keep the scores of a batch, `[batch, layer, neuron]`, and return them."""
        made = self.scorer.across_layers(scores) if isinstance(self.scorer, AcrossLayers) else scores
        self.seen.append(made)
        return made

    def values(self) -> Tensor:
        """Return the scores of all samples, in the order in which they were read: `[sample, block, neuron]`."""
        return torch.cat(self.seen)


def _naming(case: Case, tokens: tuple[int, ...]) -> Case:
    return Case(case.pair, Mention(case.mention.prefix, tokens))


def _ids(cases: Sequence[Case]) -> tuple[str, ...]:
    return tuple(case.pair.sample.id for case in cases)
