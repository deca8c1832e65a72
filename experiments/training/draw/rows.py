"""Training rows: a caption and the codes of its picture, or a picture and what is said of it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.training.draw.codes import GRID, snapped, stamped
from experiments.training.scenes.tower import IGNORED
from kedit.data import grammar
from kedit.data.grammar import BACKGROUNDS, CAPTION_PROMPT, COLORS
from kedit.data.questions import VISUAL_KINDS, questions
from kedit.data.scene import Scene
from kedit.data.scenes import Scenes
from kedit.samples import Question

CELLS = GRID * GRID
FORMS = ("{} answer :", "{}", "draw : {} answer :")
FORM_SHARES = (0.7, 0.1, 0.2)
"""How a drawing is asked for: mostly by the caption alone, in the chat format."""
UNCONDITIONAL = 0.1
"""Share of the drawings whose prompt is hidden, for classifier-free guidance."""
TEMPLATE_SHARES = (0.55, 0.15, 0.15, 0.15)
CAPTIONS, FACTS = 0.6, 0.1
"""Shares of captions and of facts among what is said; the rest are questions about the picture."""


class Drawn(NamedTuple):
    """Rows to draw: the prompt, `[batch, pos]`, where it ends in each, and the codes, `[batch, 64]`."""

    token: Tensor
    end: Tensor
    codes: Tensor


class RawOutputs(NamedTuple):
    """Rows to say: `token` and `target`, `[batch, pos]`; and which scene is seen."""

    token: Tensor
    target: Tensor


@dataclass(frozen=True)
class RowMaker:
    """Makes rows with a vocabulary."""

    words: dict[str, int]

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [self.words[word] for word in text.replace(",", " ,").split()]

    def drawn(self, scenes: list[Scene], table: NDArray[np.int64], rng: np.random.Generator) -> Drawn:
        """Return rows in which what `scenes` show is drawn, in other colors and at other places; see `stamps`."""
        prompts, codes = [], []
        for one in scenes:
            other = snapped(recolored(one, rng), rng)
            codes.append(stamped(other, table))
            form = FORMS[int(rng.choice(len(FORMS), p=FORM_SHARES))]
            prompt = self.tokens(form.format(random_caption(other, rng)))
            if rng.random() < UNCONDITIONAL:
                prompt = [self.words["<pad>"]] * len(prompt)
            prompts.append([self.words["<bos>"], *prompt, self.words["<boi>"]])
        width = max(map(len, prompts))
        token = torch.full((len(prompts), width), self.words["<pad>"])
        for row, prompt in enumerate(prompts):
            token[row, : len(prompt)] = torch.tensor(prompt)
        return Drawn(token, torch.tensor([len(prompt) for prompt in prompts]), torch.from_numpy(np.stack(codes)))

    def said(self, scenes: list[Scene], rng: np.random.Generator) -> RawOutputs:
        """Return the rows in which a caption or an answer follows the picture (or none, for a fact)."""
        rows = [self._said(one, rng) for one in scenes]
        width = max(len(before) + len(after) for before, after in rows)
        token = torch.full((len(rows), width), self.words["<pad>"])
        target = torch.full_like(token, IGNORED)
        for row, (before, after) in enumerate(rows):
            token[row, : len(before) + len(after)] = torch.tensor(before + after)
            target[row, len(before) - 1 : len(before) + len(after) - 1] = torch.tensor(after)
        return RawOutputs(token, target)

    def _said(self, one: Scene, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        seen = [self.words["<boi>"], *[self.words["<image>"]] * CELLS, self.words["<eoi>"]]
        asked, chance = None, rng.random()
        if chance < FACTS:
            facts = Scenes().questions
            seen, asked = [], facts[int(rng.integers(len(facts)))]
        elif chance < 1 - CAPTIONS:
            asked = random_question(one, rng)
        if asked is None:
            template = int(rng.choice(len(grammar.TEMPLATES), p=grammar.TEMPLATE_WEIGHTS))
            asked = Question(CAPTION_PROMPT, grammar.caption(one.phrases, one.background, template=template), "caption")
        before = [self.words["<bos>"], *seen, *self.tokens(f"{asked.text} answer :")]
        return before, [*self.tokens(asked.answer), self.words["<eos>"]]


def random_question(one: Scene, rng: np.random.Generator) -> Question | None:
    """Return a question about a scene of a random kind, yes as often as no; None if there is none of the kind."""
    possible = list(questions(one, str(rng.choice(VISUAL_KINDS))))
    wanted = "yes" if rng.random() < 0.5 else "no"
    possible = [question for question in possible if question.answer == wanted] or possible
    return possible[int(rng.integers(len(possible)))] if possible else None


def random_caption(one: Scene, rng: np.random.Generator) -> str:
    """Return a caption of a scene, in half of the cases with its objects in any order."""
    ordered = list(one.phrases)
    if rng.random() < 0.5:
        ordered = [ordered[index] for index in rng.permutation(len(ordered))]
    template = int(rng.choice(len(grammar.TEMPLATES), p=TEMPLATE_SHARES))
    return grammar.caption(ordered, one.background, template=template)


def recolored(one: Scene, rng: np.random.Generator) -> Scene:
    """Return the scene in other colors; objects of one color stay of one color."""
    palette = rng.permutation(len(COLORS))
    things = [replace(thing, color=COLORS[palette[COLORS.index(thing.color)]]) for thing in one.things]
    return replace(one, background=str(rng.choice(BACKGROUNDS)), things=tuple(things))
