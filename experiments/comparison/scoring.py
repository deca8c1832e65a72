"""Scores of all methods for one concept, by as few passes through the model as their needs allow."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.comparison.choices import Method
from experiments.comparison.shelf import Shelf
from kedit.locate.locator import Locator
from kedit.locate.random import LayerMatched
from kedit.locate.scorer import Scorer
from kedit.locate.scoring import passes
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores
from kedit.pipelines.locate import Usable, usable
from kedit.pipelines.transcripts import captions_of, rows
from kedit.samples import Counterfactual, Progress

logger = logging.getLogger(__name__)

Scores = Mapping[str, NeuronScores]
BACKWARD = 2
"""How many forwards a backward counts as, where the seconds of shared passes are divided."""


@dataclass(frozen=True)
class Failed:
    """Why a method could not be carried out, in one line."""

    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True, eq=False)
class Task:
    """One scoring of all neurons; what selects among them does not matter."""

    locator: Any
    samples: int | None

    @property
    def key(self) -> str:
        """What decides the scores, as text: equal keys are scored once."""
        if not isinstance(self.locator, Locator):
            return f"{self.locator!r} {self.samples}"
        stages = [(name, repr(stage.scorer)) for name, stage in self.locator.stages.items()]
        return f"{stages} {self.locator.site} {self.locator.target!r} {self.samples}"

    @property
    def shares(self) -> bool:
        """Whether its passes are those that other methods make, too."""
        if not isinstance(self.locator, Locator) or self.samples is not None:
            return False
        return all(isinstance(stage.scorer, Scorer) for stage in self.locator.stages.values())


@dataclass(frozen=True, eq=False)
class Bench:
    """The model and the pairs that every method locates with."""

    model: MLLM
    found: Usable
    shelf: Shelf
    progress: Progress
    share: bool = True

    def scores(self, methods: Sequence[Method]) -> dict[str, list[Scores] | Failed]:
        """Return each method's scores, one entry for each of its locators, or why there are none."""
        wanted = {name: [task_of(one, method) for one in method.locators] for name, method in _named(methods)}
        tasks = {task.key: task for several in wanted.values() for task in several}
        done: dict[str, Scores | Failed] = {}
        for key in tasks:
            if (kept := self.shelf.scores(locator=key, pairs=self._pairs)) is not None:
                done[key] = kept
        self._share([task for key, task in tasks.items() if key not in done], done)
        for key, task in tasks.items():
            if key not in done:
                done[key] = self._alone(task)
        return {name: _all_of([done[task.key] for task in several]) for name, several in wanted.items()}

    @property
    def _pairs(self) -> list[str]:
        return [pair.sample.id for pair in self.found.pairs]

    def _share(self, tasks: Sequence[Task], done: dict[str, Scores | Failed]) -> None:
        """Score together what shares its passes, and put it into `done`; what fails is left to be scored alone."""
        groups: dict[tuple[str, str], list[Task]] = {}
        for task in tasks if self.share else ():
            if task.shares:
                groups.setdefault((task.locator.site, repr(task.locator.target)), []).append(task)
        for group in groups.values():
            if len(group) == 1:
                continue
            stages = {
                f"{number}/{name}": stage
                for number, task in enumerate(group)
                for name, stage in task.locator.stages.items()
            }
            try:
                scores = self._score(replace(group[0].locator, stages=stages), None)
            except Exception as error:
                _refuse_system(error)
                logger.info("%d methods could not share their passes: %s", len(group), error)
                continue
            for task, part in zip(group, _parts(scores, group), strict=True):
                done[task.key] = part
                self.shelf.keep_scores(part, locator=task.key, pairs=self._pairs)

    def _alone(self, task: Task) -> Scores | Failed:
        try:
            scores = self._score(task.locator, task.samples)
        except Exception as error:
            return failure(error)
        self.shelf.keep_scores(scores, locator=task.key, pairs=self._pairs)
        return scores

    def _score(self, locator: Any, samples: int | None) -> Scores:
        pairs, captions = self.found.pairs[:samples], self.found.captions[:samples]
        scored: Scores = locator.score(self.model, pairs, captions=captions, progress=self.progress)
        return scored


def task_of(locator: Any, method: Method) -> Task:
    """Return what has to be scored for a locator; one that wraps another has the other's scores."""
    return Task(locator.locator if isinstance(locator, LayerMatched) else locator, method.samples)


def failure(error: Exception) -> Failed:
    """Return why a method failed; a full disk is no fault of the method and is raised again."""
    from experiments.complaints import explained

    _refuse_system(error)
    logger.info("a method failed", exc_info=error)
    return Failed(explained(error))


def _refuse_system(error: Exception) -> None:
    if isinstance(error, OSError):
        raise error


def _named(methods: Sequence[Method]) -> Iterator[tuple[str, Method]]:
    return ((method.name, method) for method in methods)


def _all_of(found: Sequence[Scores | Failed]) -> list[Scores] | Failed:
    good = [one for one in found if not isinstance(one, Failed)]
    return good if len(good) == len(found) else next(one for one in found if isinstance(one, Failed))


def _parts(scores: Scores, group: Sequence[Task]) -> Iterator[dict[str, NeuronScores]]:
    """Yield each task's own scores, with the passes and the seconds that it would take alone."""
    about = next(iter(scores.values())).provenance
    whole = int(about["forwards"]) + BACKWARD * int(about["backwards"])
    for number, task in enumerate(group):
        scorers = [stage.scorer for stage in task.locator.stages.values()]
        forwards, backwards = passes(scorers, int(about["n_samples"]))
        cost = {
            "forwards": str(forwards),
            "backwards": str(backwards),
            "seconds": f"{float(about['seconds']) * (forwards + BACKWARD * backwards) / whole:.3f}",
        }
        yield {
            name: replace(one, provenance={**one.provenance, **cost})
            for name in task.locator.stages
            for one in [scores[f"{number}/{name}"]]
        }


def usable_on(shelf: Shelf, model: MLLM, pairs: Sequence[Counterfactual], progress: Progress) -> Usable:
    """Return the pairs that locating may use, from the shelf if they are there."""
    by_id = {pair.sample.id: pair for pair in pairs}

    def ask() -> dict[str, Any]:
        found = usable(model, pairs, progress)
        return {
            "pairs": [pair.sample.id for pair in found.pairs],
            "captions": rows(found.captions),
            "still_named": found.still_named,
        }

    kept = shelf.made("usable", ask, pairs=list(by_id))
    return Usable([by_id[one] for one in kept["pairs"]], captions_of(kept["captions"]), kept["still_named"])
