"""Scores of all methods for one concept, by as few passes through the model as their needs allow."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from kedit.locate.locator import Locator
from kedit.locate.random import LayerMatched
from kedit.locate.scorer import Scorer
from kedit.locate.scoring import passes
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores
from kedit.pipelines.comparison.choices import Method
from kedit.pipelines.preparation import Usable
from kedit.pipelines.raw_outputs import rows
from kedit.results.cache import NO_CACHE, Cache, of_pairs, scorers
from kedit.samples import Progress, silent

logger = logging.getLogger(__name__)

Scores = Mapping[str, NeuronScores]
BACKWARD = 2
"""How many forwards a backward counts as, where the seconds of shared passes are divided."""


@dataclass(frozen=True)
class Failed:
    """Why a method could not be carried out, in one line."""

    why: str

    @classmethod
    def of(cls, error: Exception) -> "Failed":
        """Return why a method failed; a full disk is no fault of the method and is raised again."""
        if isinstance(error, OSError):
            raise error
        logger.info("a method failed", exc_info=error)
        kind = "" if type(error) in (ValueError, LookupError) else f"{type(error).__name__}: "
        return cls(" ".join(f"{kind}{error}".split()))


@dataclass(frozen=True, eq=False)
class Task:
    """One scoring of all neurons; what selects among them does not matter."""

    locator: Any
    samples: int | None = None

    @classmethod
    def of(cls, locator: Any, samples: int | None) -> "Task":
        """Return what has to be scored for a locator; one that wraps another has the other's scores."""
        return cls(locator.locator if isinstance(locator, LayerMatched) else locator, samples)

    @property
    def key(self) -> str:
        """What decides the scores: equal ones are scored once."""
        return f"{scorers(self.locator)} {self.samples}"

    @property
    def passes_like(self) -> str | None:
        """What tasks that can share their passes have in common; None for one that makes passes of its own."""
        if not isinstance(self.locator, Locator) or self.samples is not None:
            return None
        if not all(isinstance(stage.scorer, Scorer) for stage in self.locator.stages.values()):
            return None
        return f"{self.locator.site} {self.locator.target!r}"


@dataclass(frozen=True, eq=False)
class Bench:
    """The model and the pairs that every method locates with."""

    model: MLLM
    usable: Usable
    cache: Cache = NO_CACHE
    progress: Progress = silent
    share: bool = True
    """Whether methods share the passes that they have in common."""

    def scores(self, methods: Sequence[Method]) -> dict[str, list[Scores] | Failed]:
        """Return each method's scores, one entry for each of its locators, or why there are none."""
        wanted = {method.name: [Task.of(one, method.samples) for one in method.locators] for method in methods}
        tasks = {task.key: task for several in wanted.values() for task in several}
        scored: dict[str, Scores | Failed] = {}
        for key, task in tasks.items():
            if (known := self.cache.known_scores(task.locator, partial(self._about, task))) is not None:
                scored[key] = known
        self._score_together([task for key, task in tasks.items() if key not in scored], scored)
        for key in [key for key in tasks if key not in scored]:
            scored[key] = self._score_alone(tasks[key])
        return {name: _all_of([scored[task.key] for task in several]) for name, several in wanted.items()}

    def _score_together(self, tasks: Sequence[Task], scored: dict[str, Scores | Failed]) -> None:
        """Put into `scored` what shares its passes; what fails is left to be scored alone."""
        groups: dict[str, list[Task]] = {}
        for task in tasks if self.share else ():
            if (group := task.passes_like) is not None:
                groups.setdefault(group, []).append(task)
        for several in (group for group in groups.values() if len(group) > 1):
            stages = {
                f"{number}/{name}": stage
                for number, task in enumerate(several)
                for name, stage in task.locator.stages.items()
            }
            try:
                together = self._score(Task(replace(several[0].locator, stages=stages)))
            except Exception as error:
                logger.info("%d methods could not share their passes: %s", len(several), Failed.of(error).why)
                continue
            for task, part in zip(several, _parts(together, several), strict=True):
                scored[task.key] = self._keep(task, part)

    def _score_alone(self, task: Task) -> Scores | Failed:
        try:
            return self._keep(task, self._score(task))
        except Exception as error:
            return Failed.of(error)

    def _score(self, task: Task) -> Scores:
        pairs, captions = self.usable.pairs[: task.samples], self.usable.captions[: task.samples]
        with self.cache.keeping_words():
            scores: Scores = task.locator.score(self.model, pairs, captions=captions, progress=self.progress)
        return scores

    def _keep(self, task: Task, scores: Scores) -> Scores:
        self.cache.keep_scores(task.locator, partial(self._about, task), scores)
        return scores

    def _about(self, task: Task) -> dict[str, Any]:
        return {"pairs": self._pairs[: task.samples], "captions": rows(self.usable.captions[: task.samples])}

    @cached_property
    def _pairs(self) -> list[str]:
        return of_pairs(self.usable.pairs)


def _all_of(scored: Sequence[Scores | Failed]) -> list[Scores] | Failed:
    failure = next((one for one in scored if isinstance(one, Failed)), None)
    return failure or [one for one in scored if not isinstance(one, Failed)]


def _parts(scores: Scores, tasks: Sequence[Task]) -> Iterator[dict[str, NeuronScores]]:
    """Yield each task's own scores, with the passes and the seconds that it would take alone."""
    about = next(iter(scores.values())).provenance
    whole = int(about["forwards"]) + BACKWARD * int(about["backwards"])
    for number, task in enumerate(tasks):
        stages = task.locator.stages
        forwards, backwards = passes([stage.scorer for stage in stages.values()], int(about["n_samples"]))
        seconds = float(about["seconds"]) * (forwards + BACKWARD * backwards) / whole
        cost = {"forwards": str(forwards), "backwards": str(backwards), "seconds": f"{seconds:.3f}"}
        own = {name: scores[f"{number}/{name}"] for name in stages}
        yield {name: replace(one, provenance={**one.provenance, **cost}) for name, one in own.items()}
