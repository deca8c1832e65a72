"""A locator: named stages, each a scorer and a selector, the later ones choosing among the earlier ones' picks."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, get_args

from kedit.locate.joining import joined, refuse_sharing
from kedit.locate.outside import check_scope
from kedit.locate.parts import WHOLE, Maker, Part, PartError, Shard
from kedit.locate.scorer import Case, Prober, Scorer
from kedit.locate.scoring import Tally, gathered, passes, probed
from kedit.locate.selection import Selector, TopK
from kedit.locate.target import Target
from kedit.models.mllm import MLLM, Generated, Mention
from kedit.models.sequences import refuse_two_sequences
from kedit.neurons import NeuronScores, NeuronSet, Scope, SiteName
from kedit.samples import Counterfactual, Progress, silent
from kedit.sites import Site, by_layer_number

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One filter: how neurons are scored and which of them pass."""

    scorer: Scorer | Prober
    select: Selector


@dataclass(frozen=True)
class Locator:
    """Finds the neurons of a concept by one or several filters.

    Two-stage filtering (Sato and Takagi 2025) is `{difference, gradcam}`; a baseline is a locator of one stage.

    Example:
        locator = Locator({"difference": Stage(ActivationDifference(), Quantile(0.9)),
                           "gradcam": Stage(GradCAM(), RatioOfMax(0.1))})
        neurons = locator.select(locator.score(model, pairs))
    """

    stages: Mapping[str, Stage]
    site: SiteName = "mid"
    target: Target = field(default_factory=Target)
    scope: Scope = "language"
    """The part of the model; see `kedit.locate.outside` for what can be scored outside the language model."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a locator needs at least one stage, got none")
        if self.site not in get_args(SiteName):
            raise ValueError(f"`site` is one of {', '.join(get_args(SiteName))}, got {self.site!r}")
        check_scope(self.scope, {name: stage.scorer for name, stage in self.stages.items()})

    def score(
        self,
        model: MLLM,
        pairs: Sequence[Counterfactual],
        *,
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
    ) -> dict[str, NeuronScores]:
        """Score every neuron in every stage; slow, and independent of the selectors.

        Args:
            model: The model, unedited.
            pairs: Pictures with and without the concept.
            captions: The model's captions of the originals, if they are known already.
            progress: Shows the batches go by.

        Raises:
            ValueError: No pair is usable, since no caption names the concept.
        """
        return self.merged([self.part(model, pairs, captions=captions, progress=progress)])

    def part(
        self,
        model: MLLM,
        pairs: Sequence[Counterfactual],
        *,
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
        shard: Shard = WHOLE,
        places: Sequence[int] | None = None,
    ) -> Part:
        """Score `pairs`, those of one shard alone; no pair, or none whose caption names the concept, is an empty part.

        `places` say where each pair stands among all; by default as `shard.of` takes them.

        Raises:
            ValueError: There are several shards, and a stage has to see all samples at once.
        """
        refuse_two_sequences(model.module, model.name)
        refuse_sharing({name: stage.scorer for name, stage in self.stages.items()}, shard)
        site = model.site(self.site, self.scope)
        where = [shard.place(number) for number in range(len(pairs))] if places is None else places
        named = self._named(model, pairs, captions, progress)
        cases = [Case(pair, mention) for pair, mention in zip(pairs, named.mentions, strict=True) if mention]
        began = time.perf_counter()
        made, forwards, backwards = self._made(model, site, cases, progress) if cases else ({}, 0, 0)
        found = list(zip(where, (pair.sample.id for pair in pairs), named.mentions, strict=True))
        return Part(
            Maker.of(model, site, repr(self.target), self._scorers()),
            shard,
            pairs[0].concept.name if pairs else None,
            {place: one for place, one, mention in found if mention},
            {place: one for place, one, mention in found if not mention},
            made,
            forwards,
            backwards,
            time.perf_counter() - began,
            unnamed=named.unnamed,
        )

    def merged(self, parts: Sequence[Part]) -> dict[str, NeuronScores]:
        """Return the scores of every stage from the parts of all shards: bit by bit those of one part of all pairs.

        Raises:
            PartError: The parts do not belong together, or some are missing; see `joined`.
            ValueError: No pair is usable, since no caption names the concept.
        """
        whole = joined(parts)
        mine = replace(whole.maker, site=self.site, scope=self.scope, target=repr(self.target), scorers=self._scorers())
        if (told := mine.differs(whole.maker)) is not None:
            raise PartError(f"the parts are of another locator: {told}")
        if not whole.samples:
            raise self._unusable(whole.n_pairs, whole.concept, whole.unnamed)
        return {name: self._scores(stage.scorer, whole, name) for name, stage in self.stages.items()}

    def limited(self, k: int) -> "Locator":
        """Return the same locator whose last stage keeps the `k` best of what the earlier stages let through."""
        *earlier, (name, last) = self.stages.items()
        return replace(self, stages=dict(earlier) | {name: Stage(last.scorer, TopK(k))})

    def select(self, scores: Mapping[str, NeuronScores]) -> NeuronSet:
        """Return the neurons that pass every stage; instant and pure."""
        return list(self.select_each(scores).values())[-1]

    def select_each(self, scores: Mapping[str, NeuronScores]) -> dict[str, NeuronSet]:
        """Return what is left after each stage. An empty result is a warning, not an error."""
        candidates: NeuronSet | None = None
        passed: dict[str, NeuronSet] = {}
        for name, stage in self.stages.items():
            if name not in scores:
                raise ValueError(f"no scores for stage `{name}`; there are {', '.join(scores) or 'none'}")
            if n_invalid := int(scores[name].provenance.get("invalid", 0)):
                logger.warning("stage `%s`: %d scores are not a number", name, n_invalid)
            kept = stage.select(scores[name], candidates)
            if not kept and (candidates is None or candidates):
                ranked = scores[name].ranking(candidates)
                highest = f"{scores[name].of(ranked[:1]).item():.4g}" if ranked else "none"
                logger.warning(
                    "stage `%s` keeps no neuron with %r; its highest score is %s", name, stage.select, highest
                )
            candidates = passed[name] = kept
        return passed

    def cases(
        self,
        model: MLLM,
        pairs: Sequence[Counterfactual],
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
    ) -> list[Case]:
        """Return the usable pairs with their first mention; the others are skipped and logged."""
        named = self._named(model, pairs, captions, progress)
        cases = [Case(pair, mention) for pair, mention in zip(pairs, named.mentions, strict=True) if mention]
        if not cases:
            raise self._unusable(len(pairs), pairs[0].concept.name if pairs else None, named.unnamed)
        return cases

    def _named(
        self,
        model: MLLM,
        pairs: Sequence[Counterfactual],
        captions: Sequence[Generated] | None,
        progress: Progress,
    ) -> "_Named":
        """Return where each pair's caption names the concept; those that do not are logged."""
        if not pairs:
            return _Named([], "")
        told = captions or model.caption([pair.sample.image for pair in pairs], progress=progress)
        if len(told) != len(pairs):
            raise ValueError(f"{len(pairs)} pairs need as many captions, got {len(told)}")
        force = self.target.on_missing == "force"
        found = [model.mention(caption, pair.concept, force=force) for pair, caption in zip(pairs, told, strict=True)]
        if n_unnamed := found.count(None):
            name = pairs[0].concept.name
            logger.info("%d of %d captions do not name `%s`: skipped", n_unnamed, len(pairs), name)
        unnamed = (caption.text for caption, one in zip(told, found, strict=True) if one is None)
        return _Named(found, next(unnamed, ""))

    def _made(
        self, model: MLLM, site: Site, cases: Sequence[Case], progress: Progress
    ) -> tuple[dict[str, Tally], int, int]:
        """Return what each stage made of the cases, and the forwards and backwards that all took together."""
        scorers = {name: one.scorer for name, one in self.stages.items() if isinstance(one.scorer, Scorer)}
        probers = {name: one.scorer for name, one in self.stages.items() if isinstance(one.scorer, Prober)}
        made = gathered(model, site, cases, self.target, scorers, progress) if scorers else {}
        made |= {name: probed(model, site, cases, self.target, name, one, progress) for name, one in probers.items()}
        forwards, backwards = passes(scorers.values(), len(cases))
        return (
            {name: made[name] for name in self.stages},
            forwards + sum(one.forwards for one in made.values()),
            backwards + sum(one.backwards for one in made.values()),
        )

    def _scores(self, scorer: Scorer | Prober, whole: Part, name: str) -> NeuronScores:
        made, layers = whole.stages[name], whole.maker.widths
        own = {"invalid": str(made.n_invalid)} | {key: f"{value:.6g}" for key, value in made.notes.items()}
        ties = made.sums.ties()
        return NeuronScores(
            by_layer_number(made.values(scorer), layers),
            repr(scorer),
            self.site,
            {**whole.provenance(), **own},
            None if ties is None else by_layer_number(ties, layers),
            self.scope,
        )

    def _scorers(self) -> dict[str, str]:
        return {name: repr(stage.scorer) for name, stage in self.stages.items()}

    def _unusable(self, n_pairs: int, concept: str | None, first: str) -> ValueError:
        if not n_pairs:
            return ValueError("there is nothing to locate in: no counterfactual pairs")
        force = self.target.on_missing == "force"
        hint = "its tokenizer cannot spell the word" if force else "set `target.on_missing` to `force` to score it"
        return ValueError(f"none of the model's {n_pairs} captions names `{concept}` (the first: {first!r}); {hint}")


class _Named(NamedTuple):
    mentions: list[Mention | None]
    unnamed: str
    """The first caption without a mention."""
