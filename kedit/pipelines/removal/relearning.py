"""The edited model taught again on few captions, beside one that never knew the concept and random neurons edited."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kedit.edit.edit import Edit
from kedit.edit.relearning import Lessons, relearn
from kedit.evaluation.measure import NO_CONTROL
from kedit.evaluation.recovery import Recovery
from kedit.evaluation.statistics import Measured
from kedit.fingerprints import of_sample
from kedit.models.identity import identity
from kedit.pipelines.removal.subject import NO_NEVER, RANDOM, Answer, Subject
from kedit.results.cache import of_edit
from kedit.settings import of_settings

EDITED, NEVER = "edited", "never knew it"
SECTION = "relearning"


@dataclass(frozen=True, eq=False)
class Relearned:
    """How one arm came back: on held-out pictures of the concept, and on pictures that do not show it."""

    named: Recovery
    elsewhere: Recovery


def relearned(subject: Subject, lessons: Lessons) -> dict[str, Relearned]:
    """Return the curves of each arm; of several random sets, their mean picture by picture."""
    arms: list[tuple[str, Edit | None]] = [(EDITED, subject.edit), *((RANDOM, one) for one in subject.random)]
    arms += [(NEVER, None)] if subject.never is not None else []
    common = subject.about | {
        "lessons": of_settings(lessons),
        "taught": [[of_sample(one), text] for one, text in subject.lessons],
    }

    def about(edit: Edit | None) -> dict[str, Any]:
        return of_edit(edit) if edit is not None else {"never": identity(subject.never)}

    def make(places: Sequence[int]) -> list[dict[str, Any]]:
        wanted = subject.progress([arms[place] for place in places], len(places), "models taught again")
        return [_taught(subject, lessons, edit) for _, edit in wanted]

    curves = subject.cache.many("gone", "relearning", [common | about(edit) for _, edit in arms], make)
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for (name, _), curve in zip(arms, curves, strict=True):
        by_arm.setdefault(name, []).append(curve)
    return {name: Relearned(*(_mean(some, key, lessons) for key in ("named", "elsewhere")))
            for name, some in by_arm.items()}  # fmt: skip


def _taught(subject: Subject, lessons: Lessons, edit: Edit | None) -> dict[str, Any]:
    """Return whether each picture's caption names the concept after so many steps, `[step][picture]`, 0 or 1."""
    never = subject.never
    model = subject.edited(edit) if edit is not None else replace(never, module=deepcopy(never.module))
    asked = [one.asked(model.prompt) for one in (*subject.target, *subject.elsewhere)]
    prompts, texts = [one.asked(model.prompt) for one, _ in subject.lessons], [text for _, text in subject.lessons]
    n, said = len(subject.target), None
    curves: dict[str, Any] = {"named": [], "elsewhere": []}
    for _ in relearn(model, prompts, texts, lessons):
        said = model.ask(asked, drafts=said, what="captions")
        names = [int(subject.concept.mentioned_in(one.text)) for one in said]
        curves["named"].append(names[:n])
        curves["elsewhere"].append(names[n:])
    return curves


def _mean(curves: Sequence[Mapping[str, Any]], key: str, lessons: Lessons) -> Recovery:
    return Recovery(lessons.steps, np.mean([one[key] for one in curves], axis=0))


def relearning_answers(curves: Mapping[str, Relearned], lessons: Lessons, seed: int) -> list[Answer]:
    """Return what the curves say, a row for each question and control."""
    last, n = lessons.steps[-1], lessons.pictures
    edited = curves[EDITED]
    rows: list[Answer] = []

    def row(question: str, of: Any, arm: str) -> None:
        control = of(curves[arm]) if arm in curves else Measured.missing(NO_NEVER if arm == NEVER else NO_CONTROL)
        rows.append(Answer(SECTION, question, of(edited), control, arm))

    row("merged edit, nothing taught: still named", lambda one: one.named.curve(seed=seed)[0], RANDOM)
    row(f"named after {last} steps on {n} captions", lambda one: one.named.curve(seed=seed)[-1], NEVER)
    row("steps to half of the unedited rate", lambda one: one.named.steps_to_half(seed=seed), NEVER)
    row("area under the curve", lambda one: one.named.area(seed=seed), NEVER)
    row("area under the curve", lambda one: one.named.area(seed=seed), RANDOM)
    row(f"named after {last} steps where it is not", lambda one: one.elsewhere.curve(seed=seed)[-1], NEVER)
    return rows
