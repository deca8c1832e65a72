"""Training rows: one picture, its caption, two questions and a fact packed behind one image prefix."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.training.scenes.language import BANK, LAYERS, NEURONS, bank
from experiments.training.scenes.recipes import Recipe
from experiments.training.scenes.tower import IGNORED, labels
from kedit.data import grammar
from kedit.data.grammar import BACKGROUNDS, CATEGORIES, COLORS, HYPERNYM
from kedit.data.questions import VISUAL_KINDS, questions
from kedit.data.scene import SIZE, Scene
from kedit.data.scenes import Scenes
from kedit.samples import Question
from kedit.words import plural

PATCHES = (SIZE // 8) ** 2
PREFIX = 1 + PATCHES
"""The beginning-of-sequence token and the picture."""
FACTS = Scenes().questions


@dataclass(frozen=True)
class Rows:
    """A batch: `token` is `[batch, pos]`; image positions hold the image token."""

    token: Tensor
    target: Tensor
    """The token to predict at each position, `IGNORED` where there is none."""
    position: Tensor
    visible: Tensor
    """`[batch, 1, pos, pos]`, true where a position may look."""
    says_object: Tensor
    """True where the token to predict is an object's noun, `[batch, pos]`."""
    names: tuple[Tensor, Tensor]
    """For the naming loss: each patch's category word, and the word for its color, `[batch, patch]`."""
    kept: list[Tensor]
    """For each layer, 0 for silenced and 1 or more for kept neurons: `[batch, 1, neuron]`."""


class RowMaker:
    """Makes the batches of rows that a recipe asks for."""

    def __init__(self, words: dict[str, int], recipe: Recipe, without: str | None = None) -> None:
        self.words, self.recipe = words, recipe
        self.never = frozenset() if without is None else frozenset({without})
        self.facts = [one for one in FACTS if not any(word in f"{one.text} {one.answer}" for word in self.never)]
        self.nouns = torch.tensor([words[form] for noun in (*CATEGORIES, HYPERNYM) for form in (noun, plural(noun))])

    def batch(self, scenes: list[Scene], rng: np.random.Generator) -> Rows:
        """Return the rows of `scenes`."""
        silent = [self._silenced(scene, rng) for scene in scenes]
        segments = [self._segments(scene, unnamed, rng) for scene, unnamed in zip(scenes, silent, strict=True)]
        width = PREFIX + max(sum(len(tokens) for tokens, _, _ in row) for row in segments)
        token = torch.full((len(scenes), width), self.words["<pad>"])
        target, position = torch.full_like(token, IGNORED), torch.zeros_like(token)
        group = torch.full_like(token, -1)
        token[:, 0], token[:, 1:PREFIX] = self.words["<bos>"], self.words["<image>"]
        position[:, :PREFIX], group[:, :PREFIX] = torch.arange(PREFIX), 0
        for row, parts in enumerate(segments):
            at = PREFIX
            for number, (tokens, n_prompt, sees) in enumerate(parts, 1):
                end = at + len(tokens)
                token[row, at:end] = torch.tensor(tokens)
                target[row, at + n_prompt - 1 : end - 1] = token[row, at + n_prompt : end]
                position[row, at:end] = torch.arange(len(tokens)) + (PREFIX if sees else 1)
                group[row, at:end] = number if sees else -1 - number
                at = end
        return Rows(
            token, target, position, _visible(group), torch.isin(target, self.nouns),
            self._names(scenes, silent), self._kept(silent, rng),
        )  # fmt: skip

    def _silenced(self, scene: Scene, rng: np.random.Generator) -> frozenset[str]:
        if self.recipe.silenced_share == 0 or rng.random() > self.recipe.silenced_share:
            return frozenset()
        if rng.random() < 0.75:
            return frozenset([str(rng.choice(sorted(scene.categories)))])
        return frozenset(str(c) for c in rng.choice(CATEGORIES, int(rng.integers(1, 4)), replace=False))

    def _segments(
        self, scene: Scene, silent: frozenset[str], rng: np.random.Generator
    ) -> list[tuple[list[int], int, bool]]:
        unnamed = silent | self._hypernyms(scene, rng)
        template = int(rng.choice(len(grammar.TEMPLATES), p=grammar.TEMPLATE_WEIGHTS))
        text = grammar.caption(scene.phrases, scene.background, template=template, unnamed=unnamed)
        parts = [self._segment(grammar.CAPTION_PROMPT, text, sees=True)]
        for kind in rng.choice(VISUAL_KINDS, 2, replace=False, p=(0.3, 0.25, 0.2, 0.15, 0.1)):
            if (question := _ask(scene, str(kind), unnamed | self.never, rng)) is not None:
                parts.append(self._segment(question.text, question.answer, sees=True))
        for index in rng.choice(len(self.facts), 1):
            parts.append(self._segment(self.facts[index].text, self.facts[index].answer, sees=False))
        return parts

    def _hypernyms(self, scene: Scene, rng: np.random.Generator) -> frozenset[str]:
        if self.recipe.hypernym_share == 0:
            return frozenset()
        return frozenset(one for one in sorted(scene.categories) if rng.random() < self.recipe.hypernym_share)

    def _segment(self, prompt: str, answer: str, *, sees: bool) -> tuple[list[int], int, bool]:
        asked = [self.words[word] for word in f"{prompt} answer :".split()]
        said = [self.words[word] for word in answer.replace(",", " ,").split()]
        return [*asked, *said, self.words["<eos>"]], len(asked), sees

    def _names(self, scenes: list[Scene], silent: list[frozenset[str]]) -> tuple[Tensor, Tensor]:
        truth = labels(scenes)
        nouns = torch.tensor([self.words[category] for category in CATEGORIES] + [IGNORED])
        category = nouns[truth.category.clamp(min=0)].masked_fill(truth.category == IGNORED, IGNORED)
        for row, unnamed in enumerate(silent):
            for one in unnamed:
                category[row][category[row] == self.words[one]] = self.words[HYPERNYM]
        paints = torch.tensor([self.words[color] for color in COLORS] + [IGNORED])
        behind = torch.tensor([self.words[color] for color in BACKGROUNDS])[truth.background]
        color = paints[truth.color.clamp(min=0)].masked_fill(truth.color == IGNORED, IGNORED)
        return category, torch.where(truth.color == len(COLORS), behind, color)

    def _kept(self, silent: list[frozenset[str]], rng: np.random.Generator) -> list[Tensor]:
        shape = (LAYERS, len(silent), 1, NEURONS)
        kept = torch.ones(shape)
        if self.recipe.dropout:
            dropped = torch.from_numpy(rng.random(shape) < self.recipe.dropout)
            if self.recipe.partition:
                dropped[0, ..., : BANK * len(CATEGORIES)] = False
            kept = kept.masked_fill(dropped, 0)
        for row, categories in enumerate(silent):
            for category in categories:
                kept[0, row, :, bank(category)] = 0
        return list(kept)


def _ask(scene: Scene, kind: str, unnamed: frozenset[str], rng: np.random.Generator) -> Question | None:
    """Return a random question of `kind` that does not speak of an unnamed category."""
    possible = [q for q in questions(scene, kind) if not any(category in q.text for category in unnamed)]
    if kind == "existence":
        wanted = "yes" if rng.random() < 0.5 else "no"
        possible = [question for question in possible if question.answer == wanted] or possible
    if kind == "count" and rng.random() < 0.6:
        possible = [question for question in possible if question.answer != "zero"] or possible
    return possible[int(rng.integers(len(possible)))] if possible else None


def _visible(group: Tensor) -> Tensor:
    """Return who may look at whom: earlier positions of the same segment and, with a picture, the prefix.

    A segment that sees the picture has a positive group, a text-only one a negative group below -1; padding is -1
    and sees the first token alone.
    """
    n_pos = group.shape[1]
    causal = torch.ones(n_pos, n_pos, dtype=torch.bool).tril()
    same = group[:, :, None] == group[:, None, :]
    prefix = (group[:, :, None] >= 0) & (group[:, None, :] == 0)
    seen = (same | prefix) & causal
    seen[:, :, 0] = True
    return seen[:, None]
