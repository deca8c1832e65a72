"""Which concept loses its word when another one's neurons are edited."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from kedit.edit.edit import Edit
from kedit.evaluation.fluency import Guard, Speech
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.fingerprints import of_sample
from kedit.models.mllm import MLLM, Generated
from kedit.pipelines.outputs import speech
from kedit.pipelines.raw_outputs import captions_of, rows
from kedit.results.cache import NO_CACHE, Cache, of_edit
from kedit.results.table import Cell, Table
from kedit.samples import AnySample, Concept, Progress, silent


@dataclass(frozen=True)
class Matrix:
    """For each edited concept (row) the share of each concept's (column) pictures that lose its word."""

    drops: Mapping[str, Mapping[str, Measured]]
    neurons: Mapping[str, int]
    why: Mapping[str, str]
    """Why concepts that were asked for have no row."""

    @property
    def specificity(self) -> Measured:
        """The mean over concepts of the drop of the concept itself less the mean drop of the others.

        A difference (kedit's choice), since a ratio has no value where no other concept is hit; the interval is a
        bootstrap over concepts.
        """
        gaps = [own - others for own, others in self._own_and_others()]
        return (
            bootstrap_mean(gaps, shares=False)
            if gaps
            else Measured.missing("no edited concept has a drop of its own and others'")
        )

    @property
    def own(self) -> Measured:
        """The mean of the diagonal."""
        return self._mean(0)

    @property
    def others(self) -> Measured:
        """The mean over concepts of what the other concepts lose."""
        return self._mean(1)

    @property
    def finding(self) -> str:
        """How much more a concept's own word suffers than the others', in a sentence."""
        gap = self.specificity
        if gap.value is None:
            return f"Specificity was not measured: {gap.why}."
        own, others = self.own, self.others
        return f"Specificity {gap}: own word lost {own}, other words {others}, n = {gap.n} edited concepts."

    def table(self) -> Table:
        """Return the drops, a row for each edited concept."""
        columns = tuple(next(iter(self.drops.values()), {}))
        rows: list[tuple[Cell, ...]] = [(edited, *drops.values()) for edited, drops in self.drops.items()]
        notes = [self.finding, *(f"`{name}` has no row: {why}" for name, why in self.why.items())]
        return Table(("edited", *columns), tuple(rows), "What one concept's neurons do to the others", tuple(notes))

    def to_json(self) -> dict[str, Any]:
        """Return the matrix as plain data."""
        return {
            "drops": {row: {name: one.to_json() for name, one in cells.items()} for row, cells in self.drops.items()},
            "neurons": dict(self.neurons),
            "why": dict(self.why),
            "own": self.own.to_json(),
            "others": self.others.to_json(),
            "specificity": self.specificity.to_json(),
        }

    def _mean(self, which: int) -> Measured:
        values = [pair[which] for pair in self._own_and_others()]
        return bootstrap_mean(values) if values else Measured.missing("no edited concept has a drop of its own")

    def _own_and_others(self) -> list[tuple[float, float]]:
        pairs = []
        for row, cells in self.drops.items():
            own = cells[row].value if row in cells else None
            others = [one.value for name, one in cells.items() if name != row and one.value is not None]
            if own is not None and others:
                pairs.append((own, sum(others) / len(others)))
        return pairs


class Captions(NamedTuple):
    """What the model says to the pictures of a gallery, and what tells whether it is language."""

    texts: list[Generated]
    speech: Speech


@dataclass(frozen=True, eq=False)
class Gallery:
    """Held-out pictures of every concept of the matrix, captioned together."""

    model: MLLM
    pictures: Mapping[Concept, Sequence[AnySample]]
    cache: Cache = NO_CACHE
    progress: Progress = silent

    def drops(self, edit: Edit, seen: frozenset[str]) -> dict[str, Measured]:
        """Return for each concept the share of its pictures whose caption no longer names it under the edit.

        Only pictures whose unedited caption names it count, and none that locating has `seen`.

        Raises:
            ValueError: The edit broke the language, so that a word that is gone is no evidence.
        """
        after = self._captions(edit) if edit.neurons else self._before
        if broken := Guard().judge({"all": (self._before.speech, after.speech)}, where="").why:
            raise ValueError(f"broken language, {broken}")
        missing = Measured.missing("no unedited caption of its pictures names it")
        drops: dict[str, Measured] = {}
        texts = iter(zip(self._before.speech.texts, after.speech.texts, strict=True))
        for concept, samples in self.pictures.items():
            lost = [
                float(not concept.mentioned_in(new))
                for sample, (old, new) in zip(samples, texts, strict=False)
                if sample.id not in seen and concept.mentioned_in(old)
            ]
            drops[concept.name] = bootstrap_mean(lost) if lost else missing
        return drops

    @cached_property
    def _before(self) -> Captions:
        return self._captions(None)

    def _captions(self, edit: Edit | None) -> Captions:
        samples = [sample for several in self.pictures.values() for sample in several]

        def about() -> dict[str, Any]:
            return {"samples": [of_sample(one) for one in samples], "edit": of_edit(edit) if edit else None}

        def ask() -> dict[str, Any]:
            prompts = [sample.asked(self.model.prompt) for sample in samples]
            with edit.applied(self.model) if edit else nullcontext():
                texts = self.model.ask(prompts, progress=self.progress, what="captions")
            before = (self._before.texts, self._before.speech.surprise) if edit else ()
            told = speech(self.model, prompts, texts, *before, progress=self.progress)
            return {"texts": rows(texts), "surprise": told.surprise, "cut": told.cut}

        found = self.cache.json("generations", "captions of the matrix", about, ask)
        texts = captions_of(found["texts"])
        return Captions(texts, Speech([one.text for one in texts], found["surprise"], found["cut"]))
