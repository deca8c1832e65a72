"""CHAIR and POPE beside an edit: what is asked for POPE, and both as tables; CHAIR reads the captions of the run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from kedit.edit.edit import Change
from kedit.evaluation.chair import GROUPS, ChairReport, ObjectWords, measure_chair
from kedit.evaluation.pope import PARSES, Answers, PopeReport, measure_pope
from kedit.evaluation.report import Figures
from kedit.fingerprints import of_question
from kedit.models.mllm import MLLM, Generated
from kedit.models.yes_no import log_odds
from kedit.pipelines.outputs import EditOutputs
from kedit.pipelines.preparation import Prepared
from kedit.pipelines.raw_outputs import captions_of, rows
from kedit.progress import Batched
from kedit.results.cache import NO_CACHE, Cache
from kedit.results.table import Cell, Table
from kedit.samples import TARGET, Progress, Question

CHAIR = {
    "chair_i": "hallucinated mentions (CHAIRi)",
    "chair_s": "captions with one (CHAIRs)",
    "recall": "objects there that are named",
    "chair_i_all": "CHAIRi with the concept",
    "chair_s_all": "CHAIRs with the concept",
}
"""What the figures of CHAIR are called in its table."""
POPE = {
    "present_yes": "yes where it is", "absent_yes": "yes where it is not", "denied": "yes became no",
    "accuracy": "accuracy", "f1": "F1", "yes_rate": "yes",
    "same_picture": "on its pictures", "other_picture": "on other pictures", "alone": "same without a picture",
    "log_odds_present": "log-odds of yes where it is", "log_odds_absent": "log-odds of yes where it is not",
}  # fmt: skip
"""The same of those of POPE's that its table has."""
READ_BY = {"text": "by their text", "log_odds": "by log-odds"}


def take_benchmarks(
    model: MLLM,
    prepared: Prepared,
    outputs: EditOutputs,
    words: ObjectWords | None,
    edits: Sequence[Change],
    seed: int,
    progress: Progress,
    cache: Cache = NO_CACHE,
) -> tuple[ChairReport | None, PopeReport | None]:
    """Return CHAIR and POPE, each None if it was not asked for.

    Args:
        model: The model.
        prepared: The pictures, and POPE's questions if they are to be asked.
        outputs: The captions.
        words: Which words name which object, for CHAIR; None leaves it out.
        edits: The edit that is judged, and random ones.
        seed: Of the bootstrap.
        progress: Shows how far it is.
        cache: What is known from before.
    """
    evaluation_set, polls = prepared.evaluation_set, prepared.polls
    chair = None if words is None else measure_chair(evaluation_set, *outputs, words, seed=seed)
    if not polls:
        return chair, None
    before, (after, *others) = poll(model, polls, edits, progress, cache)
    return chair, measure_pope(evaluation_set.concept, polls, before, after, others, seed=seed)


def poll(
    model: MLLM, questions: Sequence[Question], edits: Sequence[Change], progress: Progress, cache: Cache = NO_CACHE
) -> tuple[Answers, list[Answers]]:
    """Return what the model answers unedited, and under each edit, if it is not known from before.

    A question that several kinds have is asked once. See `Cache.under_changes`.
    """
    once = {_key(question): question for question in questions}
    asked = list(once.values())
    about = {"polls": [of_question(one) for one in asked]} if cache.store else {}

    def ask(edits: Sequence[Change], before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        return _asked(model, asked, edits, captions_of(before["texts"]) if before else None, progress)

    before = cache.json("generations", "polls unedited", lambda: about, lambda: ask((), None)[0])
    acting = [edit for edit in edits if edit.acts]
    changed = iter(cache.under_changes("polls edited", about, acting, lambda some: ask(some, before)))
    said = [before, *(next(changed) if edit.acts else before for edit in edits)]
    places = {key: place for place, key in enumerate(once)}
    first, *others = (_answers(one, [places[_key(question)] for question in questions]) for one in said)
    return first, others


def _asked(
    model: MLLM,
    questions: Sequence[Question],
    edits: Sequence[Change],
    before: Sequence[Generated] | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Return the answers under each edit; those of the model as it is if nothing was said `before`."""
    prompts = [question.prompt for question in questions]
    if before is None:
        said = [model.ask(prompts, progress=progress, what="POPE")]
    else:
        said = []
        for edit in progress(Batched(edits, [1] * len(edits), "neuron sets"), len(edits), "edited POPE"):
            with edit.applied(model):
                drafts = before if edit.teacher_forceable else None
                said.append(model.ask(prompts, drafts=drafts, progress=progress, what="POPE of a set"))
    conditions: list[Callable[[], AbstractContextManager[Any]]] = [nullcontext]
    if before is not None:
        conditions = [partial(edit.applied, model) for edit in edits]
    odds: Sequence[list[float] | None] = log_odds(model, prompts, conditions, progress=progress) or [None] * len(said)
    return [{"texts": rows(texts), "log_odds": one} for texts, one in zip(said, odds, strict=True)]


def _answers(content: Mapping[str, Any], places: Sequence[int]) -> Answers:
    texts, odds = captions_of(content["texts"]), content["log_odds"]
    by_odds = None if odds is None else tuple(odds[place] for place in places)
    return Answers(tuple(texts[place].text for place in places), by_odds)


def _key(question: Question) -> tuple[str | None, str]:
    return None if question.sample is None else question.sample.id, question.text


def chair_table(report: ChairReport) -> Table:
    """Return CHAIR of the captions of each group, before the edit, after it, and of the random controls."""
    rows = [
        row
        for group in GROUPS
        if group in report.before
        for row in _rows(group, CHAIR, *(one[group] for one in (report.before, report.after, report.control)))
    ]
    title = f"CHAIR, of the objects besides {report.concept}; objects by {report.words}"
    return Table(("", "before", "after", "random control", "n"), tuple(rows), title)


def pope_table(report: PopeReport, concept: str) -> Table:
    """Return POPE as a table; report.json has all of it, by log-odds and with the concept among the rest, too."""
    parts: list[tuple[Cell, ...]] = []
    for parse in PARSES:
        conditions = [one[parse] for one in (report.before, report.after, report.control)]
        for section in conditions[1]:
            kind = f"{concept if section == TARGET else section}, {READ_BY[parse]}"
            if section == TARGET or (parse == "text" and not section.startswith("all_")):
                parts += _rows(kind, POPE, *(one.get(section, {}) for one in conditions))
    asked = ", ".join(f"{kind} {n}" for kind, n in report.questions.items())
    title = f"POPE, random, popular and adversarial of all but {concept}"
    return Table(("", "before", "after", "random control", "n"), tuple(parts), title, (f"questions: {asked}",))


def _rows(
    part: str, names: Mapping[str, str], before: Figures, after: Figures, control: Figures
) -> Iterator[tuple[Cell, ...]]:
    for name, figure in after.items():
        if name in names:
            yield f"{part}: {names[name]}", before.get(name), figure, control.get(name), figure.n
