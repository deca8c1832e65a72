"""Any edit, whoever made it, measured as kedit measures its own: suppression, retention and a random control."""

import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kedit import __version__
from kedit.arguments import require
from kedit.data.pope import Pope
from kedit.edit.edit import Edit
from kedit.edit.operators import aim
from kedit.edit.weight_change import WeightChange
from kedit.evaluation.chair import ChairReport, ObjectWords, object_words
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.pope import PopeReport
from kedit.evaluation.report import EditReport
from kedit.evaluation.scores import text_counts
from kedit.evaluation.texts import TextEncoder
from kedit.evaluation.verdict import Aim
from kedit.models.adapters import Adapter
from kedit.models.loading import load_like
from kedit.models.mllm import MLLM
from kedit.pipelines.benchmarks import take_benchmarks
from kedit.pipelines.given import as_pope, check_common, require_model
from kedit.pipelines.outputs import (
    EditOutputs,
    collect_outputs,
    measure_outputs,
    similarity_of,
)
from kedit.pipelines.preparation import Counts, Prepared, build_evaluation_set, draw
from kedit.pipelines.readable import readable
from kedit.pipelines.run import BeforeAfter
from kedit.progress import as_progress, run_stage
from kedit.results.cache import Cache
from kedit.results.table import Table
from kedit.samples import Concept, Data, Progress, find_concept
from kedit.words import counted


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(BeforeAfter):
    """What an edit did that kedit did not locate, and how sure that is; prints and saves itself as a run does."""

    model: str
    """The model's name."""
    operator: str
    """What the edit is: the operator, or whose weights they are."""
    positions: str
    phase: str
    n_neurons: int
    """How many neurons kedit edited; none where the weights are others."""
    evaluation_set: EvaluationSet
    """The held-out pictures and questions."""
    outputs: EditOutputs
    """What the model said unedited, edited, and under each random edit instead."""
    report: EditReport
    corpus: Mapping[str, Mapping[str, float]]
    """How alike edited and unedited captions are as whole corpora, by group and metric."""
    skipped: Mapping[str, int]
    """How many pictures could not be used, by the reason."""
    seconds: Mapping[str, float]
    chair: ChairReport | None = None
    """CHAIR of the captions, if it was asked for."""
    pope: PopeReport | None = None
    """POPE, if it was asked for."""

    def table(self) -> Table:
        """Return suppression and retention of the edit, beside the random control's."""
        edit = f"{self.operator} of {self.n_neurons} neurons" if self.n_neurons else self.operator
        columns = ("", edit, f"random control, {counted(self.report.control.seeds, 'seed')}", "n")
        return Table(columns, tuple(self.effect_rows()), f"{self.concept} in {self.model}", (self.report.verdict,))

    def to_json(self) -> dict[str, Any]:
        """Return what report.json holds; a function of what was asked, without times."""
        return {
            "kedit": __version__,
            "concept": self.concept,
            "model": self.model,
            "locator": "none",
            "operator": self.operator,
            "positions": self.positions,
            "phase": self.phase,
            "neurons": {"count": self.n_neurons},
            **self.report.to_json(),
            **self.benchmarks_json(),
            "corpus": self.corpus,
            "samples": {
                "skipped": dict(self.skipped),
                "target": len(self.evaluation_set.target),
                "retention": len(self.evaluation_set.retention),
                "text": text_counts(self.evaluation_set, self.outputs.before),
            },
        }


def evaluate(
    model: MLLM,
    data: Data,
    concept: str | Concept,
    *,
    edit: Edit | nn.Module | str | Path,
    encoder: TextEncoder | None = None,
    counts: Counts | None = None,
    chair: bool | str | Path | ObjectWords = False,
    pope: bool | Pope = False,
    seed: int = 0,
    store: str | Path | None = None,
    progress: Progress | bool = True,
) -> Evaluation:
    """Measure an edit that is there already, by the protocol of `kedit.run`: nothing is located.

    Example:
        kedit.evaluate(model, kedit.Scenes(), "star", edit="/adapters/forgets-star")

    Args:
        model: The model without the edit; its weights are afterwards what they were.
        data: Where the pictures and the text-only questions come from.
        concept: The name of a concept that the data knows.
        edit: An `Edit`; or the folder of an adapter of PEFT, or of the same model with other weights, such as another
            tool's; or such a module in memory. Of weights, the random control is as large a change that is dealt out
            among each weight's inputs at random; of an `Edit`, the same of random neurons.
        encoder: Embeds texts for BERTScore; the model's own layers if None.
        counts: How many pictures and random controls to take; the pictures are those that `kedit.run` evaluates on.
        chair: Whether to take CHAIR of the captions, by kedit's own words; or the file of synonyms to take it by.
        pope: Whether to ask POPE's questions; or how.
        seed: Of the pictures drawn, the random controls and the bootstrap.
        store: The folder of results that later jobs may use again; None computes everything.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        LookupError: The data has no such concept.
        TypeError: Something is of another kind than what is asked for.
        ValueError: There are too few pictures, or the edit is of another model.
    """
    counted = counts or Counts()
    check_common(data, seed, counts, Counts)
    found = find_concept(data.concepts, concept)
    require(edit, (Edit, nn.Module, str, Path), "edit", "an `Edit`, a folder or a module")
    words, show = object_words(chair, data.concepts), as_progress(progress)
    require_model(model)
    prepared = readable(model, _drawn(data, found, counted, as_pope(pope), seed))
    cache, seeds = Cache.of_model(store, model), range(seed, seed + counted.controls)
    return _measured(model, prepared, edit, encoder, words, seeds, cache, show)


def _measured(
    model: MLLM, prepared: Prepared, edit: Any, encoder: TextEncoder | None, words: ObjectWords | None, seeds: range,
    cache: Cache, show: Progress,
) -> Evaluation:  # fmt: skip
    """Return what an edit does beside random controls of some seeds; the first is also that of the bootstrap."""
    began, evaluation_set, seed = time.perf_counter(), prepared.evaluation_set, seeds.start
    about, edits = _as_changes(model, edit, seeds)
    outputs = collect_outputs(model, evaluation_set, edits, show, cache)
    similarity = similarity_of(model, encoder, "image" if evaluation_set.has_pictures else "text")
    measures = partial(
        measure_outputs, evaluation_set, outputs, similarity, about.pop("neurons"), seed, cache, aim=about.pop("aim")
    )
    report, corpus = run_stage(measures, show, "measures")
    chair, pope = take_benchmarks(model, prepared, outputs, words, edits, seed, show, cache)
    seconds = {"seconds": time.perf_counter() - began}
    return Evaluation(
        model.name, evaluation_set=evaluation_set, outputs=outputs, report=report, corpus=corpus,
        skipped=prepared.skipped, seconds=seconds, n_neurons=report.neurons or 0, chair=chair, pope=pope, **about,
    )  # fmt: skip


def _drawn(data: Data, concept: Concept, counts: Counts, pope: Pope | None, seed: int) -> Prepared:
    """Return what an edit is judged on, without the pictures that one would locate with."""
    split = draw(data, concept, counts, seed=seed)
    polls = () if pope is None else pope.questions(data, concept, split, seed=seed)
    return Prepared(build_evaluation_set(data, concept, split, counts), [], dict(split.skipped), polls=polls)


def _as_changes(model: MLLM, edit: Any, seeds: range) -> tuple[dict[str, Any], list[Edit] | list[WeightChange]]:
    """Return what is edited, in words, and the edit itself with as many random controls as there are seeds."""
    if isinstance(edit, Edit):
        widths = model.site(edit.neurons.site, edit.neurons.scope).widths
        about = _about(repr(edit.operator), aim(edit.operator), len(edit.neurons), edit.positions, edit.phase)
        return about, edit.with_random(widths, seeds)
    change = WeightChange.between(model.module, _other_module(model, edit))
    name = type(edit).__name__ if isinstance(edit, nn.Module) else Path(edit).resolve().name
    return _about(f"weights of {name}", "less", None), [change, *(change.dealt(model, one) for one in seeds)]


def _about(
    operator: str, aimed: Aim, neurons: int | None, positions: str = "all", phase: str = "both"
) -> dict[str, Any]:
    return {"operator": operator, "aim": aimed, "neurons": neurons, "positions": positions, "phase": phase}


def _other_module(model: Any, edit: nn.Module | str | Path) -> nn.Module:
    """Return a module with the weights that are to be measured: the model's own is left alone."""
    if isinstance(edit, nn.Module):
        return edit
    adapter = Adapter.beside(str(edit))
    if adapter is not None:
        merged: nn.Module = adapter.merged(deepcopy(model.module))
        return merged
    # In memory, whatever the model is on: only the weights that differ are put there.
    return load_like(model.module, edit, device=torch.device("cpu"))
