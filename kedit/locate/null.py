"""What a stage's scores look like where the concept is not the reason: control pictures and wrong words."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kedit.locate.difference import ActivationDifference
from kedit.locate.reduction import OverSamples
from kedit.locate.scorer import AcrossLayers, AcrossSamples, Case, LayerEvidence, Need, Prober, Scorer
from kedit.locate.scoring import gathered
from kedit.locate.significance import against_own_null, signed_rank
from kedit.locate.target import Target
from kedit.models.mllm import MLLM, Mention
from kedit.neurons import NeuronSet
from kedit.samples import Counterfactual, Progress, silent
from kedit.sites import Site


@dataclass(frozen=True, eq=False)
class ControlPictures:
    """The p-value of each neuron changing more with the concept than with the control.

    For each sample what painting out the concept changes is set against what painting out the other region changes;
    see `signed_rank`. If a neuron does not care which of the two it is, either is as likely to change it more.
    """

    samples: tuple[str, ...]
    values: Tensor
    words: tuple[str, ...] = ()

    def pvalues(self, among: NeuronSet | None) -> Tensor:
        """Return them: `[layer, neuron]`."""
        return self.values if among is None else self.values.masked_fill(~members(among, self.values), torch.nan)

    def smallest(self, tested: int) -> float:
        """Return the smallest p-value that the samples can give."""
        return 2.0 ** -len(self.samples)


@dataclass(frozen=True, eq=False)
class WrongWords:
    """The scores towards the concept's word and towards wrong ones in its place, means over the samples.

    A neuron that speaks for no word in particular is as likely to have its highest score with any of them; see
    `against_own_null`.
    """

    samples: tuple[str, ...]
    words: tuple[str, ...]
    observed: Tensor
    """`[layer, neuron]`, 64-bit."""
    draws: Tensor
    """`[word, layer, neuron]`."""

    def pvalues(self, among: NeuronSet | None) -> Tensor:
        """Return the p-values: `[layer, neuron]`; the null is that of the candidates."""
        chosen = ~self.observed.isnan()
        if among is not None:
            chosen &= members(among, self.observed)
        found = torch.full_like(self.observed, torch.nan)
        found[chosen] = against_own_null(self.observed[chosen], self.draws[:, chosen], chosen.nonzero()[:, 0])
        return found

    def smallest(self, tested: int) -> float:
        """Return the smallest p-value of `tested` neurons."""
        return 1 / (1 + len(self.words) * tested)


Null = ControlPictures | WrongWords
"""One stage beside its null distribution, measured on some samples."""


def check_testable(name: str, scorer: Scorer | Prober) -> None:
    """Raise a ValueError unless there is a null distribution for the scores of stage `name`."""
    if isinstance(scorer, ActivationDifference):
        return
    if isinstance(scorer, Scorer) and "gradient" in scorer.needs and not isinstance(scorer, AcrossSamples):
        return
    raise ValueError(
        f"`select=auto` has no null distribution for stage `{name}`, {type(scorer).__name__}: it knows the activation "
        "difference (control pictures) and scorers of a gradient (wrong words); use `select=knee` or `select=budget`"
    )


def has_control(pair: Counterfactual) -> bool:
    """Return whether something was painted out of the pair's control picture: it may be the original itself."""
    original = pair.sample.image
    if pair.control is None or pair.control is original:
        return False
    return pair.control.convert("RGB").tobytes() != original.convert("RGB").tobytes()


def against_controls(
    model: MLLM, site: Site, cases: Sequence[Case], target: Target, scorer: ActivationDifference, progress: Progress
) -> ControlPictures:
    """Return the test of an activation difference; three forwards a picture."""
    concept = replace(scorer, control=False)
    each = {"concept": EachSample(concept), "control": EachSample(Controlled(concept))}
    gathered(model, site, cases, target, each, progress)
    pvalues = signed_rank(each["concept"].values() - each["control"].values())
    return ControlPictures(_ids(cases), site.by_layer_number(pvalues))


def against_wrong_words(
    model: MLLM,
    site: Site,
    cases: Sequence[Case],
    target: Target,
    scorer: Scorer,
    wrong: dict[str, tuple[int, ...]],
    progress: Progress = silent,
) -> WrongWords:
    """Return the test of a gradient's score against the words `wrong`, given with their tokens.

    A forward and a backward a picture for the word, and for each wrong one.
    """

    def mean(tokens: tuple[int, ...] | None) -> Tensor:
        some = cases if tokens is None else [_naming(case, tokens) for case in cases]
        each = EachSample(scorer)
        gathered(model, site, some, target, {"word": each}, silent)
        return site.by_layer_number(each.values().double().mean(0))

    observed, *draws = [mean(one) for one in progress([None, *wrong.values()], len(wrong) + 1, "wrong words")]
    return WrongWords(_ids(cases), tuple(wrong), observed, torch.stack(draws))


def members(neurons: NeuronSet, like: Tensor) -> Tensor:
    """Return which entries of `[layer, neuron]` are in the set: booleans in the shape of `like`."""
    found = torch.zeros_like(like, dtype=torch.bool)
    for layer, index in neurons:
        found[layer, index] = True
    return found


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
