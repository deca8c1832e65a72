"""Thresholds from the data: the neurons whose scores would be too surprising if there were nothing to find."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kedit.locate.difference import ActivationDifference
from kedit.locate.fdr.distractor_words import FEWEST_WORDS, distractor_words
from kedit.locate.fdr.null_distribution import (
    NullDistribution,
    against_controls,
    against_distractor_words,
    check_testable,
    has_control,
)
from kedit.locate.fdr.result import FDRResult, Tested
from kedit.locate.fdr.significance import benjamini_hochberg, fewest_found
from kedit.locate.locator import Locator
from kedit.locate.scorer import Case, Prober, Scorer
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronId, NeuronScores, NeuronSet, ids_to
from kedit.samples import Concept, Pair, Progress, silent

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class NullDistributions:
    """Each stage beside its null distribution: all that takes passes, so that `q` can be swept without any."""

    by_stage: dict[str, NullDistribution]
    forwards: int
    """Passes of one sample, beside those of the scores."""
    backwards: int
    seconds: float


@dataclass(frozen=True)
class FDRSelector:
    """Keeps in each stage the neurons that a false-discovery rate of `q` allows.

    Activation differences are tested against control pictures, gradient scores against distractor words; see
    `kedit.locate.fdr.null_distribution`. Benjamini and Hochberg choose among all neurons in the first stage and among
    the candidates in a later one. The stages are judged on disjoint samples, so that none is judged on what chose its
    candidates; those whose control picture shows no change go to a stage that needs none.

    Example:
        found = FDRSelector(q=0.05).locate(model, two_stage(), pairs, words=data.concepts)
        found.neurons, found.pvalues["gradcam"]
    """

    q: float = 0.05
    words: int = 20
    """The most distractor words that a gradient is set against."""
    seed: int = 0
    """Which samples judge which stage, and which distractor words are drawn."""

    def __post_init__(self) -> None:
        if not 0 < self.q < 1:
            raise ValueError(f"`q` is a share of false discoveries, above 0 and below 1, got {self.q}")
        if not isinstance(self.words, int) or self.words < FEWEST_WORDS:
            raise ValueError(f"`words` is a number of distractor words, {FEWEST_WORDS} or more, got {self.words!r}")

    def check(self, locator: Locator) -> None:
        """Raise a ValueError that names the first stage without a null distribution."""
        for name, stage in locator.stages.items():
            check_testable(name, stage.scorer)

    def check_pairs(self, locator: Locator, pairs: Sequence[Pair]) -> None:
        """Raise a ValueError if a stage needs control pictures and the pairs have too few."""
        n_stages, n_controls = len(locator.stages), sum(map(has_control, pairs))
        for name, stage in locator.stages.items():
            if _is_difference(stage.scorer):
                self._check_enough(name, min(n_controls, -(-len(pairs) // n_stages)))

    def locate(
        self,
        model: MLLM,
        locator: Locator,
        pairs: Sequence[Pair],
        *,
        captions: Sequence[Generated] | None = None,
        words: Sequence[Concept] = (),
        scores: Mapping[str, NeuronScores] | None = None,
        progress: Progress = silent,
    ) -> FDRResult:
        """Score all neurons, test them, and return which pass; see `measure` for what it costs and refuses.

        A stage that keeps nothing is a warning, not an error.

        Args:
            model: The model, unedited.
            locator: One or several stages; their own selectors are not asked.
            pairs: Pictures with and without the concept and, for an activation difference, control pictures.
            captions: The model's captions of the originals, if they are known already.
            words: Where distractor words are drawn from, such as the data's concepts.
            scores: What `locator.score` gave on the same pairs, if it is known already.
            progress: Shows the batches go by.
        """
        self.check(locator)
        if captions is None:
            asked = [pair.sample.asked(model.prompt) for pair in pairs]
            captions = model.ask(asked, progress=progress, what="captions")
        if scores is None:
            scores = locator.score(model, pairs, captions=captions, progress=progress)
        nulls = self.measure(model, locator, pairs, captions=captions, words=words, progress=progress)
        found = self.choose(nulls, scores)
        for name, test in found.tests.items():
            if not test.kept and test.tested:
                pvalues = found.pvalues[name].values
                lowest = float(pvalues[~pvalues.isnan()].min())
                logger.warning(
                    "stage `%s` keeps no neuron at q=%g; the lowest of %d p-values is %.3g",
                    name, self.q, test.tested, lowest,
                )  # fmt: skip
        return found

    def measure(
        self,
        model: MLLM,
        locator: Locator,
        pairs: Sequence[Pair],
        *,
        captions: Sequence[Generated],
        words: Sequence[Concept] = (),
        progress: Progress = silent,
    ) -> NullDistributions:
        """Return each stage beside its null distribution, on samples of its own; it does not depend on `q`.

        This takes three forwards a picture for an activation difference, and for a gradient a forward and a
        backward a picture for the word and for each wrong one; each on its share of the pictures.

        Raises:
            ValueError: A stage has no null distribution, the pairs have no control pictures, or too few samples are
                left for any neuron to pass.
        """
        self.check(locator)
        site, target = model.site(locator.site, locator.scope), locator.target
        began, found, forwards, backwards = time.perf_counter(), dict[str, NullDistribution](), 0, 0
        for name, cases in self.parts(locator, locator.cases(model, pairs, captions, progress)).items():
            scorer = locator.stages[name].scorer
            assert isinstance(scorer, Scorer)
            if isinstance(scorer, ActivationDifference):
                self._check_enough(name, len(cases))
                found[name] = against_controls(model, site, cases, target, scorer, progress)
                forwards += 3 * len(cases)
            else:
                if not cases:
                    raise ValueError(f"no pair is left to test stage `{name}` on; locate with more pictures")
                wrong = distractor_words(model, cases[0].pair.concept, words, self.words, self.seed)
                found[name] = against_distractor_words(model, site, cases, target, scorer, wrong, progress)
                passes = len(cases) * (len(wrong) + 1)
                forwards, backwards = forwards + passes, backwards + passes
        return NullDistributions(found, forwards, backwards, time.perf_counter() - began)

    def choose(self, nulls: NullDistributions, scores: Mapping[str, NeuronScores]) -> FDRResult:
        """Return which neurons pass; instant and pure, so that rates can be swept."""
        candidates: NeuronSet | None = None
        pvalues: dict[str, NeuronScores] = {}
        tests: dict[str, Tested] = {}
        for name, null in nulls.by_stage.items():
            values = null.among(candidates)
            made = scores[name]
            about = {**made.provenance, "samples": ids_to(null.samples), "n_samples": str(len(null.samples))}
            method = f"p-value of {made.method}"
            pvalues[name] = NeuronScores(values.float(), method, made.site, about, scope=made.scope)
            tests[name] = self._tested(name, null, values, made)
            candidates = tests[name].kept
        return FDRResult(
            self.q, self.seed, dict(scores), pvalues, tests, nulls.forwards, nulls.backwards, nulls.seconds
        )

    def parts(self, locator: Locator, cases: Sequence[Case]) -> dict[str, list[Case]]:
        """Return the samples that judge each stage: disjoint, and as equal in number as control pictures allow."""
        order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(self.seed)).tolist()
        left = [cases[place] for place in order]
        parts: dict[str, list[Case]] = {name: [] for name in locator.stages}
        # Stages that need a control picture choose first.
        names = sorted(parts, key=lambda name: not _is_difference(locator.stages[name].scorer))
        for number, name in enumerate(names):
            share = -(-len(left) // (len(names) - number))
            picky = _is_difference(locator.stages[name].scorer)
            parts[name] = [case for case in left if not picky or has_control(case.pair)][:share]
            taken = set(map(id, parts[name]))
            left = [case for case in left if id(case) not in taken]
        return parts

    def _check_enough(self, name: str, n_pairs: int) -> None:
        if not n_pairs:
            raise ValueError(
                f"stage `{name}` is tested against control pictures, and no pair has one in which anything "
                "is painted out; `select=auto` needs `inpaint.control=true`"
            )
        if (smallest := 2.0**-n_pairs) > self.q:
            raise ValueError(
                f"stage `{name}` is tested on {n_pairs} pairs with a control picture, whose smallest p-value is "
                f"{smallest:.3g}, above q={self.q:g}: no neuron could pass; locate with more pictures"
            )

    def _tested(self, name: str, null: NullDistribution, values: Tensor, scores: NeuronScores) -> Tested:
        """Let Benjamini and Hochberg choose among the neurons that have a p-value."""
        passed = benjamini_hochberg(values, self.q).nonzero().tolist()
        kept = scores.chosen(NeuronId(*place) for place in passed)
        known = values[~values.isnan()]
        lowest = {
            layer: float(scores.of(NeuronId(layer, one) for one in some).min())
            for layer, some in kept.by_layer().items()
        }
        return Tested(null, len(known), fewest_found(null.smallest, len(known), self.q), kept, lowest)


def _is_difference(scorer: Scorer | Prober) -> bool:
    return isinstance(scorer, ActivationDifference)
