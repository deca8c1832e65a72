"""Thresholds from the data: the neurons whose scores would be too surprising if there were nothing to find."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kedit.locate.difference import ActivationDifference
from kedit.locate.locator import Locator
from kedit.locate.null import (
    FEWEST_WORDS,
    against_controls,
    against_wrong_words,
    check_testable,
    has_control,
    wrong_words,
)
from kedit.locate.scorer import Case, Prober, Scorer
from kedit.locate.significance import benjamini_hochberg, fewest_found
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.samples import Concept, Counterfactual, Progress, silent
from kedit.sites import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tested:
    """One stage's test: on which samples, against what, and what passed."""

    samples: tuple[str, ...]
    against: tuple[str, ...]
    """The wrong words; empty where control pictures were the null."""
    smallest: float
    """The smallest p-value that the test can give."""
    fewest: int
    """How many neurons had to be that surprising together so that any could pass."""
    tested: int
    kept: NeuronSet
    lowest: Mapping[int, float]
    """The threshold that this implies: of each layer, the lowest score that was kept."""

    def to_json(self) -> dict[str, object]:
        """Return the test as plain data."""
        null = {"words": list(self.against)} if self.against else {"pictures": "control"}
        return {
            "null": null,
            "samples": list(self.samples),
            "smallest_p": self.smallest,
            "fewest": self.fewest,
            "tested": self.tested,
            "kept": len(self.kept),
            "thresholds": {str(layer): value for layer, value in self.lowest.items()},
        }


@dataclass(frozen=True, eq=False)
class Significant:
    """The neurons that passed, the scores, and the p-values behind them."""

    q: float
    seed: int
    scores: dict[str, NeuronScores]
    pvalues: dict[str, NeuronScores]
    """For each stage `[layer, neuron]`, small where a neuron is surprising; `save_scores` writes them."""
    tests: dict[str, Tested]
    forwards: int
    """Passes of one sample that the tests took beside the scores."""
    backwards: int
    seconds: float

    @property
    def stages(self) -> dict[str, NeuronSet]:
        """What passed each stage."""
        return {name: test.kept for name, test in self.tests.items()}

    @property
    def neurons(self) -> NeuronSet:
        """What passed the last stage."""
        return list(self.stages.values())[-1]

    def to_json(self) -> dict[str, object]:
        """Return q, the seed of the halves, each stage's test and the passes; no seconds, so that it can be compared."""
        tests = {name: test.to_json() for name, test in self.tests.items()}
        passes = {"forwards": self.forwards, "backwards": self.backwards}
        return {"q": self.q, "seed": self.seed, "stages": tests, "cost": passes}


@dataclass(frozen=True)
class Auto:
    """Keeps in each stage the neurons that a false-discovery rate of `q` allows.

    Activation differences are tested against control pictures, gradient scores against wrong words; see
    `kedit.locate.null`. Benjamini and Hochberg choose among all neurons in the first stage and among the candidates in
    a later one. The stages are judged on disjoint samples, so that none is judged on what chose its candidates; those whose
    control picture shows no change go to a stage that needs none.

    Example:
        found = Auto(q=0.05).locate(model, two_stage(), pairs, words=data.concepts)
        found.neurons, found.pvalues["gradcam"]
    """

    q: float = 0.05
    words: int = 20
    """The most wrong words that a gradient is set against."""
    seed: int = 0
    """Which samples judge which stage, and which wrong words are drawn."""

    def __post_init__(self) -> None:
        if not 0 < self.q < 1:
            raise ValueError(f"`q` is a share of false discoveries, above 0 and below 1, got {self.q}")
        if not isinstance(self.words, int) or self.words < FEWEST_WORDS:
            raise ValueError(f"`words` is a number of wrong words, {FEWEST_WORDS} or more, got {self.words!r}")

    def check(self, locator: Locator) -> None:
        """Raise a ValueError that names the first stage without a null distribution."""
        for name, stage in locator.stages.items():
            check_testable(name, stage.scorer)

    def locate(
        self,
        model: MLLM,
        locator: Locator,
        pairs: Sequence[Counterfactual],
        *,
        captions: Sequence[Generated] | None = None,
        words: Sequence[Concept] = (),
        scores: Mapping[str, NeuronScores] | None = None,
        progress: Progress = silent,
    ) -> Significant:
        """Score all neurons, test them, and return which pass.

        Beside the scores this takes three forwards a picture for an activation difference, and for a gradient a
        forward and a backward a picture for the word and each wrong one; each on its share of the pictures.

        Args:
            model: The model, unedited.
            locator: One or several stages; their own selectors are not asked.
            pairs: Pictures with and without the concept and, for an activation difference, control pictures.
            captions: The model's captions of the originals, if they are known already.
            words: Where wrong words are drawn from, such as the data's concepts.
            scores: What `locator.score` gave on the same pairs, if it is known already.
            progress: Shows the batches go by.

        Raises:
            ValueError: A stage has no null distribution, the pairs no control pictures, or there are too few of them
                for any neuron to pass.
        """
        self.check(locator)
        if captions is None:
            captions = model.caption([pair.sample.image for pair in pairs], progress=progress)
        if scores is None:
            scores = locator.score(model, pairs, captions=captions, progress=progress)
        began = time.perf_counter()
        tests = _Tests(self, model, locator, model.site(locator.site, locator.scope), words, progress)
        tests.run(locator.cases(model, pairs, captions, progress), scores)
        seconds = time.perf_counter() - began
        return Significant(
            self.q, self.seed, dict(scores), tests.pvalues, tests.done, tests.forwards, tests.backwards, seconds
        )

    def parts(self, locator: Locator, cases: Sequence[Case]) -> dict[str, list[Case]]:
        """Return the samples that judge each stage: disjoint, as equal in number as control pictures allow."""
        order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(self.seed)).tolist()
        left = [cases[place] for place in order]
        parts: dict[str, list[Case]] = {name: [] for name in locator.stages}
        # Stages that need a control picture choose first.
        names = sorted(parts, key=lambda name: not _is_difference(locator.stages[name].scorer))
        for number, name in enumerate(names):
            share = -(-len(left) // (len(names) - number))
            fit = [case for case in left if has_control(case.pair) or not _is_difference(locator.stages[name].scorer)]
            parts[name] = fit[:share]
            taken = set(map(id, parts[name]))
            left = [case for case in left if id(case) not in taken]
        return parts


@dataclass(eq=False)
class _Tests:
    """The stages' tests, one after the other."""

    auto: Auto
    model: MLLM
    locator: Locator
    site: Site
    words: Sequence[Concept]
    progress: Progress
    pvalues: dict[str, NeuronScores] = field(default_factory=dict)
    done: dict[str, Tested] = field(default_factory=dict)
    forwards: int = 0
    backwards: int = 0

    def run(self, cases: Sequence[Case], scores: Mapping[str, NeuronScores]) -> None:
        """Test every stage on samples of its own."""
        candidates: NeuronSet | None = None
        for name, some in self.auto.parts(self.locator, cases).items():
            scorer = self.locator.stages[name].scorer
            assert isinstance(scorer, Scorer)
            if isinstance(scorer, ActivationDifference):
                rows, against, smallest = self._with_controls(name, scorer, some)
            else:
                rows, against, smallest = self._with_words(name, scorer, some)
            test = self._kept(name, rows, scores[name], candidates, some, against, smallest)
            candidates, self.done[name] = test.kept, test

    def _with_controls(
        self, name: str, scorer: ActivationDifference, cases: Sequence[Case]
    ) -> tuple[Tensor, tuple[str, ...], float]:
        if not cases:
            raise ValueError(
                f"stage `{name}` is tested against control pictures, and no pair has one in which anything "
                "is painted out; `select=auto` needs `inpaint.control=true`"
            )
        if (smallest := 2.0 ** -len(cases)) > self.auto.q:
            raise ValueError(
                f"stage `{name}` is tested on {len(cases)} pairs with a control picture, whose smallest p-value is "
                f"{smallest:.3g}, above q={self.auto.q:g}: no neuron could pass; locate with more pictures"
            )
        rows = against_controls(self.model, self.site, cases, self.locator.target, scorer, self.progress)
        self.forwards += 3 * len(cases)
        return rows, (), smallest

    def _with_words(
        self, name: str, scorer: Scorer, cases: Sequence[Case]
    ) -> tuple[Tensor, tuple[str, ...], float]:
        if not cases:
            raise ValueError(f"no pair is left to test stage `{name}` on; locate with more pictures")
        wrong = wrong_words(self.model, cases[0].pair.concept, self.words, self.auto.words, self.auto.seed)
        rows = against_wrong_words(
            self.model, self.site, cases, self.locator.target, scorer, list(wrong.values()), self.progress
        )
        passes = len(cases) * (len(wrong) + 1)
        self.forwards, self.backwards = self.forwards + passes, self.backwards + passes
        return rows, tuple(wrong), 1 / (1 + len(wrong) * max(self.site.widths.values()))

    def _kept(
        self,
        name: str,
        rows: Tensor,
        scores: NeuronScores,
        candidates: NeuronSet | None,
        cases: Sequence[Case],
        against: tuple[str, ...],
        smallest: float,
    ) -> Tested:
        """Let Benjamini and Hochberg choose, among the candidates where there are any."""
        pvalues = self.site.by_layer_number(rows)
        if candidates is not None:
            among = torch.zeros_like(pvalues, dtype=torch.bool)
            for layer, index in candidates:
                among[layer, index] = True
            hypotheses = pvalues.masked_fill(~among, torch.nan)
        else:
            hypotheses = pvalues
        tested = int((~hypotheses.isnan()).sum())
        passed = benjamini_hochberg(hypotheses, self.auto.q).nonzero().tolist()
        kept = scores.chosen(NeuronId(layer, index) for layer, index in passed)
        n_fewest = 1 if against else fewest_found(len(cases), tested, self.auto.q)
        about = {"samples": ",".join(case.pair.sample.id for case in cases), "q": f"{self.auto.q:g}"}
        method = f"p-value of {scores.method}"
        self.pvalues[name] = NeuronScores(pvalues, method, self.locator.site, about, scope=self.locator.scope)
        if not kept and tested:
            lowest = float(hypotheses[~hypotheses.isnan()].min())
            logger.warning(
                "stage `%s` keeps no neuron at q=%g; the lowest of %d p-values is %.3g", name, self.auto.q, tested, lowest
            )
        low = {layer: float(scores.of(NeuronId(layer, one) for one in ids).min()) for layer, ids in kept.by_layer().items()}
        ids = tuple(case.pair.sample.id for case in cases)
        return Tested(ids, against, smallest, n_fewest, tested, kept, low)


def _is_difference(scorer: Scorer | Prober) -> bool:
    return isinstance(scorer, ActivationDifference)
