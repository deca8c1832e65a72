"""The comparison on a model: locate with every method, edit, measure, and show."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from omegaconf import DictConfig

from experiments.app import bar, build, misuse, plain
from experiments.comparison.choices import Choices
from experiments.comparison.effects import Trial
from experiments.comparison.matrix import Gallery, Matrix
from experiments.comparison.outcome import Outcome
from experiments.comparison.rows import Row, budget_size, picked, rows
from experiments.comparison.scoring import Bench, Failed, usable_on
from experiments.comparison.shelf import Shelf
from experiments.pairs import inpainter, paired, prepared
from experiments.sharing import loaded
from kedit import __version__
from kedit.data.inpaint import Inpainter
from kedit.edit.plan import EditPlan
from kedit.evaluation.exam import Exam
from kedit.evaluation.metrics import Similarity
from kedit.locate.locator import Locator
from kedit.models.encoder import OwnLayers
from kedit.models.mllm import MLLM
from kedit.pipelines.locate import language_only
from kedit.runs import Run
from kedit.samples import Concept, Counterfactual, Data, Sample, find_concept
from kedit.tracking import Tracker

logger = logging.getLogger(__name__)


def effect(cfg: DictConfig, kept: Run, tracker: Tracker) -> None:
    """Compare the methods by what editing their neurons does; an interruption still shows what is there."""
    from experiments.comparison import show

    began = time.perf_counter()
    # Whatever can be wrong is found before the model is loaded, which is slow.
    with misuse():
        choices = Choices.of(cfg)
    parts = Parts(build(cfg.data), inpainter(cfg), choices.method(choices.reference).locators[0], build(cfg.edit))
    encoder = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else None
    with misuse():
        asked = [prepared(parts.data, name, parts.inpaint, cfg.evaluate, cfg.seed) for name in choices.concepts]
        hall = _hall(cfg, parts, choices)
        for method in choices.methods:
            language_only(method.locators[0], "compare")
    model = loaded(cfg.model)
    with misuse():
        model.site(parts.locator.site)
    groups = ("model", "data", "inpaint", *(["segment"] if cfg.get("segment") is not None else []))
    about = {key: plain(cfg[key]) for key in groups} | {"seed": cfg.seed}
    job = _Job(cfg, choices, parts, model, Shelf(kept, about), Similarity(encoder or OwnLayers(model)))
    outcome = Outcome(_about(cfg, choices, model), choices.reference, cfg.seed, model.site("mid").widths)
    try:
        for exam, pairs, _ in asked:
            job.add_rows(outcome, exam, pairs)
        if not any(row.effect for row in outcome.rows):
            raise ValueError(f"no method could be measured: {outcome.rows[0].why}")
        if hall:
            outcome.matrix = job.matrix(hall)
    except KeyboardInterrupt:
        outcome.interrupted = True
        raise
    finally:
        if any(row.effect for row in outcome.rows):
            outcome.seconds = round(time.perf_counter() - began, 1)
            show.everything(outcome, kept, tracker)


class Parts(NamedTuple):
    """What the configuration chose, before a model is there."""

    data: Data
    inpaint: Inpainter
    locator: Locator
    plan: EditPlan


@dataclass(frozen=True, eq=False)
class _Job:
    """What the concepts of one comparison share."""

    cfg: DictConfig
    choices: Choices
    parts: Parts
    model: MLLM
    shelf: Shelf
    similarity: Similarity

    def bench(self, pairs: Sequence[Counterfactual]) -> Bench:
        """Return what every method locates the concept of `pairs` with."""
        shelf = self.shelf.about(concept=pairs[0].concept.name)
        return Bench(self.model, usable_on(shelf, self.model, pairs, bar), shelf, bar, bool(self.cfg.share_passes))

    def add_rows(self, outcome: Outcome, exam: Exam, pairs: Sequence[Counterfactual]) -> None:
        """Add the rows of one concept; if it cannot be located in at all, each says why."""
        name = exam.concept.name
        try:
            bench = self.bench(pairs)
            counts = {key: self.cfg.evaluate[key] for key in ("locate", "target", "retention")}
            shelf = self.shelf.about(concept=name, edit=plain(self.cfg.edit), **counts)
            trial = Trial(
                self.model, exam, self.parts.plan, bench.found.pairs, self.similarity, shelf, bar, self.cfg.seed
            )
            scores = bench.scores(self.choices.methods)
            made = rows(self.choices, scores, trial)
            total = len(self.choices.methods) * len(self.choices.budgets)
            for row in bar(made, total, f"methods for {name}"):
                logger.info("%s, budget %s, %s: %s", name, row.budget, row.method, row.why or row.figure("selectivity"))
                outcome.rows.append(row)
        except ValueError as error:
            logger.info("`%s` cannot be compared on", name, exc_info=True)
            done = {(row.budget, row.method) for row in outcome.rows if row.concept == name}
            asked = [(str(budget), one.name) for budget in self.choices.budgets for one in self.choices.methods]
            outcome.rows += [Row(name, *one, why=str(error)) for one in asked if one not in done]

    def matrix(self, hall: dict[Concept, tuple[list[Counterfactual], list[Sample]]]) -> Matrix:
        """Return the drop of each concept's word when another's neurons are edited."""
        what = {"concepts": [concept.name for concept in hall], "target": self.cfg.matrix.target}
        shelf = self.shelf.about(edit=plain(self.cfg.edit), **what)
        gallery = Gallery(self.model, self.parts.plan, {one: held for one, (_, held) in hall.items()}, shelf, bar)
        drops, neurons, why = {}, {}, {}
        for concept, (pairs, _) in bar(hall.items(), len(hall), "matrix"):
            found = self._matrix_row(gallery, pairs)
            if isinstance(found, Failed):
                why[concept.name] = found.why
            else:
                drops[concept.name], neurons[concept.name] = found
        return Matrix(drops, neurons, why)

    def _matrix_row(self, gallery: Gallery, pairs: list[Counterfactual]) -> Any:
        method = self.choices.method(str(self.cfg.matrix.method or self.choices.reference))
        budget = self.choices.budgets[-1]
        wanted = [one for one in self.choices.methods if one.name in (method.name, budget)]
        try:
            bench = self.bench(pairs)
            scores = bench.scores(wanted)
            found = scores[method.name]
            if isinstance(found, Failed):
                return found
            neurons = picked(method, budget_size(budget, self.choices, scores), found)[0]
            operator = self.parts.plan.operator_for(self.model, bench.found.pairs, progress=bar)
        except ValueError as error:
            return Failed(str(error))
        seen = frozenset(pair.sample.id for pair in pairs)
        return gallery.drops(neurons, operator, seen), len(neurons)


def _hall(cfg: DictConfig, parts: Parts, choices: Choices) -> dict[Concept, tuple[list[Counterfactual], list[Sample]]]:
    """Return for each concept of the matrix the pairs to locate it with and its held-out pictures."""
    if not cfg.matrix or (cfg.matrix.concepts is not None and not cfg.matrix.concepts):
        return {}
    data = parts.data
    choices.method(str(cfg.matrix.method or choices.reference), "matrix.method")
    names = cfg.matrix.concepts or [concept.name for concept in data.concepts]
    hall = {}
    for name in names:
        concept = find_concept(data.concepts, str(name))
        split = data.split(concept, locate=cfg.evaluate.locate, target=cfg.matrix.target, retention=0, seed=cfg.seed)
        hall[concept] = (paired(parts.inpaint, split.locate, concept).made, list(split.target))
    return hall


def _about(cfg: DictConfig, choices: Choices, model: MLLM) -> dict[str, Any]:
    return {
        "kedit": __version__,
        "model": model.name,
        "concepts": list(choices.concepts),
        "edit": plain(cfg.edit),
        "site": str(cfg.site),
        "positions": str(cfg.positions),
        "seed": cfg.seed,
        "random_seeds": cfg.random_seeds,
        "samples": {key: cfg.evaluate[key] for key in ("locate", "target", "retention")},
    }
