"""What is asked whether it is gone: the model, the edit, its controls, and the pictures for each question."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from kedit.edit.edit import Edit
from kedit.edit.weight_change import WeightChange
from kedit.evaluation.statistics import Measured
from kedit.fingerprints import of_concept, of_sample
from kedit.models.mllm import Generated
from kedit.pipelines.transcripts import captions_of, rows
from kedit.results.cache import Recall, of_edit
from kedit.samples import Concept, Data, Progress, Sample

NO_NEVER = "no never-knew model: not measured"


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
    recall: Recall
    progress: Progress

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edit, and that of random neurons."""
        return (self.edit, *self.random)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What decides the answers, but for the edit."""
        pictures = {name: [of_sample(one) for one in getattr(self, name)] for name in ("target", "absent")}
        return {"concept": of_concept(self.concept), "seed": self.seed, **pictures}

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

        def say(edits: Sequence[Edit | None]) -> list[list[list[Any]]]:
            said: list[list[list[Any]]] = []
            for edit in edits:
                if edit is None or not edit.acts:
                    said.append(rows(self.model.ask(prompts, drafts=drafts, what="answers")))
                    continue
                with edit.applied(self.model):
                    said.append(rows(self.model.ask(prompts, drafts=drafts, what="answers")))
            return said

        asked = {"question": question, "samples": [of_sample(one) for one in samples]} if self.recall.store else {}
        abouts = [asked | (of_edit(edit) if edit else {"edit": None}) for edit in (None, *self.edits)]
        every = (None, *self.edits)
        told = self.recall.many(
            "gone", "another question", abouts, lambda places: say([every[place] for place in places])
        )  # fmt: skip
        return [captions_of(one) for one in told]
