"""What masking a set of neurons costs: the questions answered before, after, and with random neurons masked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.edit.plan import EditPlan
from kedit.evaluation.answers import Match
from kedit.evaluation.fluency import Speech
from kedit.evaluation.task import TaskReport, judged
from kedit.fingerprints import of_question
from kedit.inspection.convergence import Streams, streams
from kedit.locate.miner import UNION, Miner
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronScores, NeuronSet
from kedit.pipelines.outputs import speech
from kedit.pipelines.raw_outputs import captions_of, rows
from kedit.pipelines.task import by_kind
from kedit.progress import show_progress
from kedit.results.cache import Cache, of_edit
from kedit.samples import Question, QuestionSplit

Scores = Mapping[str, NeuronScores]
"""The importance of every neuron, by modality."""


@dataclass(frozen=True, eq=False)
class Masking:
    """A model and the questions it is asked; what was answered before is in the store."""

    model: MLLM
    question_split: QuestionSplit
    plan: EditPlan
    cache: Cache
    controls: int
    match: Match
    seed: int

    def scores(self, miner: Miner, questions: Sequence[Question] | None = None) -> Scores:
        """Return the importance that `miner` measures on `questions`; on all that are located with if None."""
        asked = self.question_split.locate if questions is None else questions
        prompts = {kind: [one.prompt for one in some] for kind, some in by_kind(asked).items()}
        about = {"questions": [of_question(one) for one in asked]}
        make = lambda: miner.score_prompts(self.model, prompts, progress=show_progress)  # noqa: E731
        return self.cache.scores(miner, lambda: about, make)

    def halves(self) -> tuple[list[Question], list[Question]]:
        """Return the questions that are located with, dealt out by turns within each benchmark."""
        kinds = by_kind(self.question_split.locate).values()
        first, second = ([one for some in kinds for one in some[start::2]] for start in (0, 1))
        return first, second

    def report(self, neurons: NeuronSet) -> TaskReport:
        """Return what masking `neurons` does to the answers, beside as many random ones in the same layers."""
        widths = self.model.site(neurons.site).widths
        random = [neurons.layer_matched(widths, self.seed + number) for number in range(self.controls)]
        after, *others = self._answers([neurons, *random])
        spoken = self._unedited
        edited = speech(self.model, self._asked, after, self._before, spoken.surprise, progress=show_progress)
        said = [[one.text for one in some] for some in others]
        asked, count = self.question_split.evaluate, len(neurons)
        return judged(asked, spoken, edited, said, neurons=count, match=self.match, seed=self.seed)

    def streams(self, neurons: NeuronSet, pictures: int) -> tuple[Streams, Streams] | None:
        """Return the modalities' states through the layers, unmasked and masked; None if no question has a picture."""
        images = [one.sample.image for one in self.question_split.evaluate if one.sample is not None][:pictures]
        if not images:
            return None
        plain = streams(self.model, images)
        with Edit(neurons, Zero()).applied(self.model):
            return plain, streams(self.model, images)

    def _answers(self, sets: Sequence[NeuronSet]) -> list[list[Generated]]:
        operator = self.plan.operator_for(self.model, [])
        edits = [self.plan.edit(one, operator, "MINER") for one in sets]

        def make(places: Sequence[int]) -> list[Any]:
            said = []
            for place in show_progress(places, len(places), "masked answers"):
                with edits[place].applied(self.model):
                    said.append(rows(self.model.ask(self._asked, progress=show_progress)))
            return said

        abouts = [self._about | of_edit(edit) for edit in edits]
        return [captions_of(content) for content in self.cache.many("generations", "answers masked", abouts, make)]

    @cached_property
    def _before(self) -> list[Generated]:
        make = lambda: rows(self.model.ask(self._asked, progress=show_progress))  # noqa: E731
        return captions_of(self.cache.json("generations", "answers unmasked", lambda: self._about, make))

    @cached_property
    def _unedited(self) -> Speech:
        return speech(self.model, self._asked, self._before, progress=show_progress)

    @cached_property
    def _asked(self) -> list[Any]:
        return [question.prompt for question in self.question_split.evaluate]

    @cached_property
    def _about(self) -> dict[str, Any]:
        return {"questions": [of_question(one) for one in self.question_split.evaluate]}


@dataclass(frozen=True)
class Setting:
    """One way of choosing the neurons that are masked."""

    part: str
    """The table that it stands in: `MODALITY`, `STRATEGY` or `SHARE`."""
    name: str
    miner: Miner


MODALITY, STRATEGY, SHARE = "modality", "strategy", "share"
ALL = "all"


def list_settings(
    base: Miner, modalities: Sequence[str], strategies: Sequence[str], mixes: Mapping[str, Any], ratios: Sequence[float]
) -> Iterator[Setting]:
    """Yield what is masked: each modality and all of them, each strategy with each mix, and each share.

    Args:
        base: MINER as it is configured.
        modalities: Those that the questions have.
        strategies: How neurons are shared out.
        mixes: What the importance counts, by name.
        ratios: Other shares of all neurons.
    """
    yield Setting(MODALITY, ALL, replace(base, modalities="all"))
    for name in modalities:
        yield Setting(MODALITY, name, replace(base, modalities=(name,)))  # type: ignore[arg-type]
    for mix, weights in mixes.items():
        for strategy in strategies:
            miner = replace(base, modalities="all", strategy=strategy, weights=tuple(weights))  # type: ignore[arg-type]
            yield Setting(STRATEGY, f"{strategy}, {mix}", miner)
    for ratio in sorted({base.ratio, *ratios}):
        yield Setting(SHARE, f"{ratio:.1%}", replace(base, modalities="all", ratio=ratio))


def choose(miner: Miner, scores: Scores) -> NeuronSet:
    """Return the neurons that are masked."""
    return miner.select_each(scores)[UNION]
