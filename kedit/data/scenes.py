"""The embedded picture world as a data set: endless 64x64 scenes with exact masks and exact counterfactuals."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from PIL.Image import Image

from kedit.data import grammar
from kedit.data.drawing import check_counts
from kedit.data.question_file import check_halves
from kedit.data.questions import VISUAL_KINDS, questions
from kedit.data.scene import Scene, scene
from kedit.samples import Concept, Question, QuestionSplit, Sample, Split, find_concept

FIRST_EVALUATION_SEED, SEEDS_PER_SPLIT = 1_000_000, 50_000
FIRST_TRAINING_SEED, BEYOND_TRAINING = 10_000_000, 1 << 40
"""Splits draw from seeds that no training scene uses: those between the two are for training."""
SURVEYED = 500
"""Scenes from which it is taken how often things are shown, and together; POPE takes as many pictures."""


@dataclass(frozen=True)
class Scenes:
    """The picture world as a data set; endless, and each seed its own part of it."""

    colors: Literal["distinct", "free"] = "distinct"

    def __post_init__(self) -> None:
        if self.colors not in ("distinct", "free"):
            raise ValueError(f"`colors` is `distinct` or `free`, got {self.colors!r}")

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """The twelve categories."""
        return tuple(Concept(name, category=kind) for kind, names in grammar.KINDS.items() for name in names)

    @property
    def questions(self) -> tuple[Question, ...]:
        """The facts that need no picture."""
        return tuple(Question(text, answer, "fact") for text, answer in grammar.FACTS)

    @property
    def existence(self) -> str:
        """The question, in the picture world's words."""
        return "is there {} ?"

    def annotations(self, *, seed: int) -> list[frozenset[str]]:
        """Return the categories of the first scenes of the split of `seed`."""
        return [scene(number, colors=self.colors).categories for number in evaluation_seeds(seed)[:SURVEYED]]

    def sample(self, seed: int) -> Sample:
        """Return the scene of `seed` with its captions, objects, masks and exact counterfactuals."""
        one = scene(seed, colors=self.colors)
        return Sample(
            id=f"scene-{seed}",
            image=one.image(),
            references=one.captions(),
            objects=one.categories,
            regions={category: one.region(category) for category in sorted(one.categories)},
            render_without=partial(_without, one),
        )

    def split_questions(self, *, locate: int, evaluate: int, seed: int) -> QuestionSplit:
        """Return so many questions of each kind for each half, each about a scene of its own, and facts.

        A scene is asked about the kind that is furthest behind; which of its questions depends on its seed alone.
        The scenes come from the seeds of the split of `seed`, from which no training scene comes.
        """
        check_halves(locate, evaluate)
        found: dict[str, list[Question]] = {kind: [] for kind in VISUAL_KINDS}
        for number in evaluation_seeds(seed):
            behind = sorted(found, key=lambda kind: len(found[kind]))
            if len(found[behind[0]]) == locate + evaluate:
                break
            shown = scene(number, colors=self.colors)
            for kind in behind:
                possible = list(questions(shown, kind))
                if possible and len(found[kind]) < locate + evaluate:
                    found[kind].append(replace(possible[number % len(possible)], sample=self.sample(number)))
                    break
        first = [one for asked in found.values() for one in asked[:locate]]
        rest = [one for asked in found.values() for one in asked[locate:]]
        return QuestionSplit((*first, *self.questions[0::2][:locate]), (*rest, *self.questions[1::2][:evaluate]))

    def split(
        self, concept: Concept | str, *, locate: int = 24, target: int = 60, retention: int = 60, seed: int = 0
    ) -> Split:
        """Return disjoint samples, `retention` of them near and as many far.

        Scenes are taken in the order of their seeds, from a range that belongs to `seed` alone and that no
        training scene comes from.

        Raises:
            LookupError: The concept is not one of `concepts`.
            ValueError: A number is out of range, or one seed's scenes do not suffice.
        """
        concept = find_concept(self.concepts, concept)
        kin = frozenset(grammar.KINDS[concept.category or ""])
        check_counts(locate=locate, target=target, retention=retention)
        wanted = {"shown": locate + target, "near": retention, "far": retention}
        found: dict[str, list[int]] = {part: [] for part in wanted}
        for number in evaluation_seeds(seed):
            if all(len(found[part]) == n for part, n in wanted.items()):
                break
            shown = scene(number, colors=self.colors).categories
            part = "shown" if concept.name in shown else "near" if shown & kin else "far"
            if len(found[part]) < wanted[part]:
                found[part].append(number)
        if short := [part for part, n in wanted.items() if len(found[part]) < n]:
            raise ValueError(
                f"{wanted[short[0]]} samples asked for, but {SEEDS_PER_SPLIT} scenes of one seed have "
                f"{len(found[short[0]])} ({short[0]}, concept `{concept.name}`); ask for fewer"
            )
        samples = {part: tuple(map(self.sample, numbers)) for part, numbers in found.items()}
        return Split(samples["shown"][:locate], samples["shown"][locate:], samples["near"], samples["far"])


def evaluation_seeds(seed: int) -> range:
    """Return the seeds of the scenes that the split of `seed` may use; no other split and no training does."""
    if seed < 0:
        raise ValueError(f"the seed of a split is 0 or more, got {seed}")
    first = FIRST_EVALUATION_SEED + seed * SEEDS_PER_SPLIT
    first += BEYOND_TRAINING if first >= FIRST_TRAINING_SEED else 0
    return range(first, first + SEEDS_PER_SPLIT)


def _without(one: Scene, category: str) -> Image:
    """Return the picture of a scene without the things of a category; a lambda could not be pickled."""
    return one.without(category).image()
