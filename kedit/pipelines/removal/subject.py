"""What is asked whether it is gone: the model, the edit, its controls, and the pictures for each question."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from kedit.edit.edit import Edit
from kedit.edit.weight_change import WeightChange
from kedit.evaluation.statistics import Measured
from kedit.fingerprints import of_concept, of_question, of_sample
from kedit.models.mllm import Generated
from kedit.pipelines.raw_outputs import captions_of, rows
from kedit.results.cache import Cache, of_edit
from kedit.samples import Concept, Data, Progress, Sample

NO_NEVER = "no never-knew model: not measured"
RANDOM = "random neurons edited"
"""What most answers are compared with."""


@dataclass(frozen=True)
class Answer:
    """One question, what the edited model shows, and what its control does."""

    section: str
    question: str
    edited: Measured
    control: Measured
    against: str
    """What the control is."""

    def to_json(self) -> dict[str, Any]:
        """Return what gone.json says of it."""
        return {
            "question": self.question,
            "edited": self.edited.to_json(),
            "control": self.control.to_json(),
            "against": self.against,
        }


@dataclass(frozen=True, eq=False)
class Subject:
    """What is asked about, and how."""

    model: Any
    """The unedited model."""
    edit: Edit
    random: tuple[Edit, ...]
    """The same edit of layer-matched random neurons."""
    never: Any
    """A model that never knew the concept; None where there is none."""
    data: Data
    concept: Concept
    lessons: tuple[tuple[Sample, str], ...]
    """Pictures of the concept, apart from `target`, each with a caption that names it."""
    target: tuple[Sample, ...]
    """Held-out pictures of the concept, whose unedited caption names it."""
    captions: tuple[Generated, ...]
    """Those captions."""
    shown: tuple[Sample, ...]
    """All pictures of the concept."""
    absent: tuple[Sample, ...]
    """Pictures without it."""
    elsewhere: tuple[Sample, ...]
    """Those of them on which it is looked whether it is said all the same."""
    seed: int
    cache: Cache
    progress: Progress

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edit, and that of random neurons."""
        return (self.edit, *self.random)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What decides the answers, but for the edit."""
        pictures = {name: [of_sample(one) for one in getattr(self, name)] for name in ("target", "absent")}
        words = {"concepts": [of_concept(one) for one in self.data.concepts]}
        asked = {"questions": [of_question(one) for one in self.data.questions]}
        return {"concept": of_concept(self.concept), "seed": self.seed, **pictures, **words, **asked}

    def under(self, edit: Edit | None) -> AbstractContextManager[Any]:
        """Return a context in which the model is edited; None, and an edit of no neurons, leave it as it is."""
        return edit.applied(self.model) if edit is not None and edit.acts else nullcontext()

    def edited(self, edit: Edit | None) -> Any:
        """Return a copy of the model with an edit written into its weights, as an export has it; None leaves it out."""
        copy = replace(self.model, module=deepcopy(self.model.module))
        if edit is not None and edit.acts:
            with torch.no_grad():
                for name, weight in WeightChange.of_edit(edit, copy.module).tensors.items():
                    copy.module.get_parameter(name).copy_(weight)
        return copy

    def ask(
        self, question: str, samples: Sequence[Sample], drafts: Sequence[Generated] | None = None
    ) -> list[list[Generated]]:
        """Return what is said to a question about pictures: unedited, under the edit, and under each random one."""
        prompts = [one.asked(question) for one in samples]

        def say(edit: Edit | None) -> list[list[Any]]:
            with self.under(edit):
                return rows(self.model.ask(prompts, drafts=drafts, what="answers"))

        asked = {"question": question, "samples": [of_sample(one) for one in samples]} if self.cache.store else {}
        every = (None, *self.edits)
        abouts = [asked | about_edit(edit) for edit in every]
        content = self.cache.many(
            "gone", "another question", abouts, lambda places: [say(every[place]) for place in places]
        )  # fmt: skip
        return [captions_of(one) for one in content]


def about_edit(edit: Edit | None) -> dict[str, Any]:
    """Return what decides an answer under an edit, or unedited."""
    return of_edit(edit) if edit is not None else {"edit": None}
