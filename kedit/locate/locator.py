"""A locator: named stages, each a scorer and a selector, the later ones choosing among the earlier ones' picks."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import torch

from kedit.arguments import require, shown
from kedit.internals.sites import Site
from kedit.locate.outside import check_scope
from kedit.locate.scorer import Case, Prober, Scorer
from kedit.locate.scoring import Tally, gathered, passes, probed
from kedit.locate.selection import Selector, TopK
from kedit.locate.target import Target
from kedit.models.mllm import MLLM, Generated, Mention
from kedit.models.sequences import refuse_two_sequences
from kedit.neurons import NeuronScores, NeuronSet, Scope, SiteName, ids_to
from kedit.prompts import Prompt
from kedit.samples import Pair, Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One filter: how neurons are scored and which of them pass."""

    scorer: Scorer | Prober
    select: Selector

    def __post_init__(self) -> None:
        if isinstance(self.scorer, type) or not isinstance(self.scorer, Scorer | Prober):
            raise TypeError(f"`scorer` is an object such as `GradCAM()`, got {shown(self.scorer)}")
        if isinstance(self.select, type) or not callable(self.select):
            raise TypeError(f"`select` is an object such as `Quantile(0.99)`, got {shown(self.select)}")


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
        require(self.stages, Mapping, "stages", "a `Stage` for each name of one, such as {'gradcam': Stage(...)}")
        for name, stage in self.stages.items():
            require(stage, Stage, f"stages[{name!r}]", "a `Stage` of a scorer and a selector")
        if not self.stages:
            raise ValueError("a locator needs at least one stage, got none")
        if self.site not in get_args(SiteName):
            raise ValueError(f"`site` is one of {', '.join(get_args(SiteName))}, got {self.site!r}")
        check_scope(self.scope, {name: stage.scorer for name, stage in self.stages.items()})

    def score(
        self,
        model: MLLM,
        pairs: Sequence[Pair],
        *,
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, NeuronScores]:
        """Score every neuron in every stage; slow, and independent of the selectors.

        Args:
            model: The model, unedited.
            pairs: Pictures or texts with and without the concept.
            captions: The model's captions of the originals, if they are known already.
            progress: Shows the batches go by.
            dtype: Of the scores; 64-bit floats for those of a shard, see `kedit.locate.shards`.

        Raises:
            ValueError: No pair is usable, since no caption names the concept.
        """
        refuse_drawn_regions(self)
        refuse_two_sequences(model.module, model.name)
        site = model.site(self.site, self.scope)
        cases = self.cases(model, pairs, captions, progress)
        began = time.perf_counter()
        made, forwards, backwards = self._tallies(model, site, cases, progress)
        about = {
            "model": model.name,
            "concept": pairs[0].concept.name,
            "target": repr(self.target),
            "samples": ids_to(case.pair.sample.id for case in cases),
            "n_samples": str(len(cases)),
            "skipped": str(len(pairs) - len(cases)),
            "forwards": str(forwards),
            "backwards": str(backwards),
            "seconds": f"{time.perf_counter() - began:.3f}",
        }
        return {name: self.as_scores(name, made[name], site, about, dtype) for name in self.stages}

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
        pairs: Sequence[Pair],
        captions: Sequence[Generated] | None = None,
        progress: Progress = silent,
    ) -> list[Case]:
        """Return the usable pairs with their first mention; the others are skipped and logged.

        Raises:
            ValueError: There is none, and the message has the first caption; or what the model says is no number.
        """
        if not pairs:
            raise ValueError("there is nothing to locate in: no counterfactual pairs")
        answers = captions or model.ask(
            [pair.sample.asked(model.prompt) for pair in pairs], progress=progress, what="captions"
        )
        found = self.mentions(model, pairs, answers)
        name, unnamed = pairs[0].concept.name, found.count(None)
        if unnamed == len(pairs):
            refuse_no_numbers(model, pairs[0].sample.asked(model.prompt))
            force = self.target.on_missing == "force"
            hint = "its tokenizer cannot spell the word" if force else (
                'the locator\'s `Target(on_missing="force")` (`locate.target.on_missing=force`) scores it all the same'
            )  # fmt: skip
            raise ValueError(
                f"none of the model's {len(pairs)} captions names `{name}` (the first: {answers[0].text!r}); {hint}"
            )
        if unnamed:
            logger.info("%d of %d captions do not name `%s`: skipped", unnamed, len(pairs), name)
        return [
            Case(pair, mention, _after(caption, mention))
            for pair, mention, caption in zip(pairs, found, answers, strict=True)
            if mention
        ]

    def mentions(self, model: MLLM, pairs: Sequence[Pair], captions: Sequence[Generated]) -> list[Mention | None]:
        """Return where each caption first names the concept of its pair; None where it does not."""
        if len(captions) != len(pairs):
            raise ValueError(f"{len(pairs)} pairs need as many captions, got {len(captions)}")
        force = self.target.on_missing == "force"
        return [model.mention(one, pair.concept, force=force) for pair, one in zip(pairs, captions, strict=True)]

    def _tallies(
        self, model: MLLM, site: Site, cases: Sequence[Case], progress: Progress
    ) -> tuple[dict[str, Tally], int, int]:
        """Return what each stage made of the cases, and the forwards and backwards that all took together."""
        scorers = {name: one.scorer for name, one in self.stages.items() if isinstance(one.scorer, Scorer)}
        probers = {name: one.scorer for name, one in self.stages.items() if isinstance(one.scorer, Prober)}
        made = gathered(model, site, cases, self.target, scorers, progress) if scorers else {}
        made |= {name: probed(model, site, cases, self.target, name, one, progress) for name, one in probers.items()}
        forwards, backwards = passes(scorers.values(), len(cases))
        return (
            made,
            forwards + sum(one.forwards for one in made.values()),
            backwards + sum(one.backwards for one in made.values()),
        )

    def as_scores(
        self, name: str, tally: Tally, site: Site, about: Mapping[str, str], dtype: torch.dtype
    ) -> NeuronScores:
        """Return what one stage made of the samples, and what else decided it."""
        scorer, ties = self.stages[name].scorer, tally.sums.ties()
        own = {"invalid": str(tally.n_invalid), "widths": json.dumps(site.widths)} | {
            key: f"{value:.6g}" for key, value in tally.notes.items()
        }
        return NeuronScores(
            site.by_layer_number(tally.values(scorer)).to(dtype),
            repr(scorer),
            self.site,
            {**about, **own},
            None if ties is None else site.by_layer_number(ties),
            self.scope,
        )


def refuse_drawn_regions(locator: object) -> None:
    """Raise a ValueError if a stage of `locator` looks at a region of a drawn picture, which pairs do not have."""
    for name, stage in getattr(locator, "stages", {}).items():
        if "region" in getattr(stage.scorer, "needs", ()):
            raise ValueError(f"stage `{name}` looks at a region of a drawn picture: use it with `kedit draw`")


def _after(caption: Generated, mention: Mention) -> tuple[int, ...]:
    """Return the caption's tokens after the mention; none if the word was forced."""
    begun = mention.prefix + mention.word
    return caption.tokens[len(begun) :] if caption.tokens[: len(begun)] == begun else ()


def refuse_no_numbers(model: MLLM, prompt: Prompt) -> None:
    """Raise a ValueError where a model's logits are NaN, as damaged weights make them: then all captions are empty."""
    with torch.no_grad():
        logits = model.logits(model.read([prompt], [()]))
    if logits.isnan().any():
        raise ValueError(
            f"the logits of `{model.name}` are NaN, so it says nothing: its weights are damaged, or 16 bits are too "
            "few for it (`dtype=bfloat16` or `float32`); `kedit doctor` tells more"
        )
