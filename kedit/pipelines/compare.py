"""Locating methods side by side: what editing each one's neurons does, at equal budgets, on the same samples.

Example:
    mine = kedit.Locator({"mine": kedit.Stage(MyScorer(), kedit.TopK(64))})
    comparison = kedit.compare(model, data, ["star"], methods=["two_stage", "gradcam", mine], budget=64)
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kedit import __version__
from kedit.data.inpaint import Inpainter
from kedit.edit.edit import Edit
from kedit.edit.operators import Operator, aim
from kedit.edit.plan import EditPlan, Plan
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.texts import TextEncoder
from kedit.locate.locator import Locator
from kedit.models.mllm import MLLM
from kedit.pipelines.comparison.choices import Budget, Choices, Method
from kedit.pipelines.comparison.effects import Trial
from kedit.pipelines.comparison.matrix import Gallery, Matrix
from kedit.pipelines.comparison.result import Comparison
from kedit.pipelines.comparison.rows import Row, budget_size, picked, rows
from kedit.pipelines.comparison.scoring import Bench, Failed
from kedit.pipelines.given import as_inpainter, as_plan, check_common, names_of_concepts, require_model
from kedit.pipelines.locate import check_model
from kedit.pipelines.outputs import similarity_of
from kedit.pipelines.preparation import Counts, Prepared, prepare, usable
from kedit.pipelines.readable import readable
from kedit.progress import as_progress
from kedit.results.cache import NO_CACHE, Cache
from kedit.samples import Concept, Data, Progress, silent

logger = logging.getLogger(__name__)
METHODS = ("two_stage", "selective", "difference", "gradcam", "activation", "random_layer_matched")
COUNTS = Counts(controls=20)
PICTURES = 20
"""Held-out pictures of each concept of the matrix."""


def compare(
    model: MLLM,
    data: Data,
    concepts: str | Concept | Sequence[str | Concept],
    *,
    methods: str | Locator | Method | Sequence[str | Locator | Method] = METHODS,
    budget: Budget | Sequence[Budget] | None = None,
    reference: str = "two_stage",
    site: str = "mid",
    positions: str = "own",
    edit: Operator | EditPlan | None = None,
    inpaint: Inpainter | str | None = None,
    encoder: TextEncoder | None = None,
    counts: Counts = COUNTS,
    matrix: Sequence[str] = (),
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | bool = True,
) -> Comparison:
    """Locate concepts with several methods, edit what each found, and rank the methods by what that did.

    All locate with the same pairs, name equally many neurons, and are judged on the same held-out samples.

    Args:
        model: The model; its weights are not touched.
        data: Where the pictures and the text-only questions come from.
        concepts: The names of concepts that the data knows.
        methods: Each the name of a shipped one (a file of `conf/locate`, such as "gradcam"), a locator, which is
            called by its stages, or a `Method` that names a locator: `Method("slow", locator, samples=8)`.
        budget: How many neurons a method may name, or several such numbers; instead of a number, the method whose own
            selection sets it, or "own" for each one's own selection. If None, the reference's sets it.
        reference: The method that the others are tested against, sample by sample.
        site: The site that all methods score; "own" leaves each its published one.
        positions: The positions that all methods read; "own" leaves each its published ones.
        edit: An operator, at all positions, or a plan that limits it; zeroing if None.
        inpaint: Paints the concept out of a picture; as `kedit.run` does if None.
        encoder: Embeds texts for BERTScore; the model's own layers if None.
        counts: How many pictures to take, and with how many seeds random methods are drawn (`controls`).
        matrix: Concepts of which is measured how often each loses its word when another's neurons are edited.
        seed: Of the pictures drawn, the random methods and the resampling.
        store: The folder of results that later jobs may use again; None computes everything.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept, or kedit no such method.
        ValueError: There are too few pictures, the model cannot be located in, or an option does not fit.
    """
    check_common(data, seed, counts, Counts)
    names, budgets, show = names_of_concepts(data, concepts), _several(budget or reference), as_progress(progress)
    choices = Choices(_several(methods), budgets, reference, site, positions, counts, seed)
    require_model(model)
    ask = partial(prepare, data, inpaint=as_inpainter(inpaint), seed=seed, progress=show)
    return compare_prepared(
        model, choices, [ask(name, counts=counts) for name in names], as_plan(edit), encoder=encoder,
        matrix=[ask(name, counts=of_matrix(counts)) for name in names_of_concepts(data, matrix, "matrix")],
        cache=Cache.of_model(store, model), progress=show,
    )  # fmt: skip


def of_matrix(counts: Counts, pictures: int = PICTURES) -> Counts:
    """Return how many pictures to take of a concept of the matrix, which is located as it is elsewhere."""
    return replace(counts, target=pictures, retention=0)


def compare_prepared(
    model: MLLM,
    choices: Choices,
    asked: Sequence[Prepared],
    plan: EditPlan,
    *,
    matrix: Sequence[Prepared] = (),
    matrix_method: str | None = None,
    encoder: TextEncoder | None = None,
    share: bool = True,
    cache: Cache = NO_CACHE,
    keep: Callable[[Comparison], object] | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Do what `compare` does with pictures and questions that are prepared; see there.

    Args:
        model: The model.
        choices: The methods, and what is forced on them.
        asked: What `prepare` returned for each concept.
        plan: The operator and where it acts.
        matrix: The same for each concept of the matrix.
        matrix_method: The method whose neurons are edited for the matrix; the reference if None.
        encoder: Embeds texts for BERTScore.
        share: Whether methods share the passes that they have in common.
        cache: What is known from before.
        keep: Called with what there is when the comparison is broken off after the first method.
        progress: Shows how far it is.
    """
    if isinstance(plan, Plan) and aim(plan.operator) == "more":
        raise ValueError(
            f"methods are ranked by what their edit takes, and `{plan.operator!r}` strengthens; compare them with "
            "`edit=zero`, `patch` or a scale below 1"
        )
    check_model(model, choices.method(choices.reference).locator, asked[0].medium)
    method = choices.method(matrix_method or choices.reference, "matrix.method")
    similarity = similarity_of(model, encoder, asked[0].medium)
    concepts = [one.evaluation_set.concept.name for one in asked]
    job = _Job(model, choices, plan, similarity, share, cache, progress, concepts)
    try:
        for one in asked:
            job.add_rows(one)
        if not any(row.effect for row in job.rows):
            raise ValueError(f"no method could be measured: {job.rows[0].why}")
        if matrix:
            job.add_matrix([readable(model, one) for one in matrix], method)
    except BaseException:
        if keep is not None and any(row.effect for row in job.rows):
            keep(job.result(interrupted=True))
        raise
    return job.result()


@dataclass(eq=False)
class _Job:
    """What the concepts of one comparison share, and what is known so far."""

    model: MLLM
    choices: Choices
    plan: EditPlan
    similarity: Similarity
    share: bool
    cache: Cache
    progress: Progress
    concepts: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    matrix: Matrix | None = None
    began: float = field(default_factory=time.perf_counter)

    def add_rows(self, asked: Prepared) -> None:
        """Add the rows of one concept; if it cannot be located in at all, each says why."""
        name, choices = asked.evaluation_set.concept.name, self.choices
        try:
            total = len(choices.methods) * len(choices.budgets)
            for row in self.progress(self._rows_of(readable(self.model, asked)), total, f"methods for {name}"):
                logger.info("%s, budget %s, %s: %s", name, row.budget, row.method, row.why or row.figure("selectivity"))
                self.rows.append(row)
        except ValueError as error:
            logger.info("`%s` cannot be compared on", name, exc_info=True)
            done = {(row.budget, row.method) for row in self.rows if row.concept == name}
            wanted = [(str(budget), method.name) for budget in choices.budgets for method in choices.methods]
            self.rows += [Row(name, *one, why=str(error)) for one in wanted if one not in done]

    def _rows_of(self, asked: Prepared) -> Iterator[Row]:
        bench = self._bench(asked)
        scores = bench.scores(self.choices.methods)
        trial = Trial(
            self.model, asked.evaluation_set, self.plan, bench.usable.pairs, self.similarity, self.cache, self.progress,
            self.choices.seed,
        )  # fmt: skip
        yield from rows(self.choices, scores, trial)

    def add_matrix(self, shown: Sequence[Prepared], method: Method) -> None:
        """Measure how often each concept's word is lost when another one's neurons are edited."""
        pictures = {one.evaluation_set.concept: one.evaluation_set.target for one in shown}
        gallery = Gallery(self.model, pictures, self.cache, self.progress)
        drops, neurons, why = dict[str, Any](), dict[str, int](), dict[str, str]()
        for one in self.progress(shown, len(shown), "matrix"):
            name = one.evaluation_set.concept.name
            try:
                edit = self._edit_of(one, method)
                drops[name] = gallery.drops(edit, frozenset(pair.sample.id for pair in one.pairs))
            except ValueError as error:
                why[name] = str(error)
                continue
            neurons[name] = len(edit.neurons)
        self.matrix = Matrix(drops, neurons, why)

    def _edit_of(self, asked: Prepared, method: Method) -> Edit:
        """Return the edit of what a method finds of a concept; a ValueError says why there is none."""
        bench, budget = self._bench(asked), self.choices.budgets[-1]
        scores = bench.scores([one for one in self.choices.methods if one.name in (method.name, budget)])
        mine = scores[method.name]
        if isinstance(mine, Failed):
            raise ValueError(mine.why)
        neurons = picked(method, budget_size(budget, self.choices, scores), mine)[0]
        operator = self.plan.operator_for(self.model, bench.usable.pairs, progress=self.progress)
        return self.plan.edit(neurons, operator, "matrix")

    def result(self, *, interrupted: bool = False) -> Comparison:
        """Return what is known."""
        counts, choices = self.choices.counts, self.choices
        about = {
            "kedit": __version__,
            "model": self.model.name,
            "concepts": list(self.concepts),
            "edit": repr(self.plan),
            "site": choices.site,
            "positions": choices.positions,
            "seed": choices.seed,
            "random_seeds": counts.controls,
            "samples": {name: getattr(counts, name) for name in ("locate", "target", "retention")},
        }
        return Comparison(
            about, choices.reference, choices.seed, self.model.site("mid").widths, tuple(self.rows), self.matrix,
            interrupted, round(time.perf_counter() - self.began, 1),
        )  # fmt: skip

    def _bench(self, asked: Prepared) -> Bench:
        found = usable(self.model, asked.pairs, self.progress, self.cache)
        return Bench(self.model, found, self.cache, self.progress, self.share)


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
