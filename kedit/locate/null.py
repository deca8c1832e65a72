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
from kedit.models.mllm import MLLM, Generated, Mention
from kedit.samples import Concept, Counterfactual, Progress, silent
from kedit.sites import Site

FEWEST_WORDS = 5
"""Fewer wrong words tell nothing about a neuron's spread."""


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
    model: MLLM,
    site: Site,
    cases: Sequence[Case],
    target: Target,
    scorer: ActivationDifference,
    progress: Progress = silent,
) -> Tensor:
    """Return the p-value of each neuron changing more with the concept than with the control: `[block, neuron]`.

    For each sample what painting out the concept changes is set against what painting out the other region changes;
    see `signed_rank`. If a neuron does not care which of the two it is, either is as likely to change it more.
    Costs three forwards a picture.
    """
    concept = replace(scorer, control=False)
    each = {"concept": EachSample(concept), "control": EachSample(Controlled(concept))}
    gathered(model, site, cases, target, each, progress)
    return signed_rank(each["concept"].values() - each["control"].values())


def against_wrong_words(
    model: MLLM,
    site: Site,
    cases: Sequence[Case],
    target: Target,
    scorer: Scorer,
    wrong: Sequence[tuple[int, ...]],
    progress: Progress = silent,
) -> Tensor:
    """Return the p-value of each neuron being of use for the concept's word, not for any word: `[block, neuron]`.

    The scores are means over the samples, towards the word and towards each `wrong` one in its place, given as tokens; a
    neuron that speaks for no word in particular is as likely to have its highest score with any of them. See
    `against_own_null`. Costs a forward and a backward a picture for the word and for each wrong one.
    """

    def mean(tokens: tuple[int, ...] | None) -> Tensor:
        some = cases if tokens is None else [_naming(case, tokens) for case in cases]
        each = EachSample(scorer)
        gathered(model, site, some, target, {"word": each}, silent)
        return each.values().double().mean(0)

    asked = progress([None, *wrong], len(wrong) + 1, "wrong words")
    observed, *null = [mean(tokens) for tokens in asked]
    draws = torch.stack(null)
    return torch.stack([against_own_null(one, draws[:, row]) for row, one in enumerate(observed)])


def wrong_words(
    model: MLLM, concept: Concept, words: Sequence[Concept], at_most: int, seed: int
) -> dict[str, tuple[int, ...]]:
    """Return at most so many of the `words` that begin otherwise than the concept's, and their tokens; drawn by seed."""
    own = {tokens[0] for word in concept.words if (tokens := _tokens(model, Concept(word)))}
    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for one in words:
        tokens = _tokens(model, one)
        if one.name != concept.name and tokens and tokens[0] not in own:
            found.setdefault(tokens[0], (one.name, tokens))
    if len(found) < FEWEST_WORDS:
        named = ", ".join(f"`{name}`" for name, _ in found.values()) or "none"
        raise ValueError(
            f"`select=auto` sets `{concept.name}` against wrong words, {FEWEST_WORDS} or more that begin with other "
            f"tokens; the {len(words)} words given leave {named}"
        )
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = sorted(order[:at_most])
    usable = list(found.values())
    return dict(usable[place] for place in drawn)


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


def _tokens(model: MLLM, concept: Concept) -> tuple[int, ...]:
    """Return the word's tokens as a caption would continue with them; none if the tokenizer cannot spell it."""
    mention = model.mention(Generated("", ()), concept, force=True)
    return () if mention is None else mention.word
