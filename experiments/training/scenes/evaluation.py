"""What a trained model knows, on scenes it has not seen, and which layers it knows it by."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from kedit.data.grammar import CATEGORIES, COLORS
from kedit.data.questions import VISUAL_KINDS, questions
from kedit.data.scene import Scene
from kedit.data.scenes import Scenes
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.internals.positions import Positions
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronSet
from kedit.progress import show_progress
from kedit.samples import Concept, Question, Sample
from kedit.words import plural

NOUNS = {form: category for category in CATEGORIES for form in (category, plural(category))}
NAMED = re.compile(rf"\b(?:({'|'.join(COLORS)}) )?({'|'.join(NOUNS)})\b")
Scores = Mapping[str, Measured]


def named(caption: str) -> list[tuple[str, str]]:
    """Return the (color, category) of each object phrase in `caption`."""
    return [(color, NOUNS[noun]) for color, noun in NAMED.findall(caption)]


def evaluate(model: MLLM, scenes: Sequence[Scene], *, seed: int = 0) -> dict[str, Measured]:
    """Return each accuracy with its interval and n: `caption_scores`, one question of each kind a scene, facts."""
    scores = caption_scores(model, scenes)
    samples = [Sample(f"exam-{scene.seed}", scene.image()) for scene in scenes]
    rng = np.random.default_rng(seed)
    for kind in VISUAL_KINDS:
        possible = [(sample, list(questions(scene, kind))) for scene, sample in zip(scenes, samples, strict=True)]
        asked = [replace(some[int(rng.integers(len(some)))], sample=sample) for sample, some in possible if some]
        scores[kind] = _share(_right(model, asked))
    scores["facts"] = _share(_right(model, Scenes().questions))
    return scores


def caption_scores(model: MLLM, scenes: Sequence[Scene]) -> dict[str, Measured]:
    """Return the accuracies of captions, each with its interval and n.

    `objects` counts the captions that name exactly the categories shown, `colors` those that also give each its
    color, `valid` those that are one of the scene's captions to the letter, `pairs` the valid ones of scenes in which
    something is there twice.
    """
    right: dict[str, list[bool]] = {"objects": [], "colors": [], "valid": [], "pairs": []}
    captions = model.caption([scene.image() for scene in scenes], progress=show_progress)
    for scene, caption in zip(scenes, captions, strict=True):
        said, shown = named(caption.text), {(thing.color, thing.category) for thing in scene.things}
        right["objects"].append(sorted(category for _, category in said) == sorted(scene.categories))
        right["colors"].append(set(said) == shown)
        right["valid"].append(caption.text in scene.captions())
        if scene.paired:
            right["pairs"].append(right["valid"][-1])
    return {name: _share(hits) for name, hits in right.items() if hits}


def accuracy_table(accuracies: Mapping[str, Scores]) -> list[str]:
    """Return the lines of a table in Markdown: a row for each measure, a column for each set of scenes."""
    sets = list(accuracies)
    rows = [[accuracies[one][measure] for one in sets] for measure in accuracies[sets[0]]]
    return [
        "| | " + " | ".join(sets) + " |",
        "|---" * (len(sets) + 1) + "|",
        *(
            f"| {measure} | " + " | ".join(f"{figure} (n = {figure.n})" for figure in row) + " |"
            for measure, row in zip(accuracies[sets[0]], rows, strict=True)
        ),
    ]


def layer_table(model: MLLM, scenes: Sequence[Scene]) -> list[dict[str, object]]:
    """Return what zeroing each whole feed-forward layer leaves, by where it is zeroed.

    `named` is the share of the shown categories that the unedited caption names and the edited one still does,
    `facts` the share of facts still right.
    """
    images = [scene.image() for scene in scenes]
    before = [one.text for one in model.caption(images)]
    rows: list[dict[str, object]] = []
    for layer, width in model.site("mid").widths.items():
        whole = NeuronSet(tuple(NeuronId(layer, index) for index in range(width)))
        for positions in get_args(Positions)[:3]:
            with Edit(whole, Zero(), positions).applied(model):
                after = [one.text for one in model.caption(images)]
                facts = _right(model, Scenes().questions) if positions != "image" else None
            kept = [
                float(Concept(category).mentioned_in(new))
                for scene, old, new in zip(scenes, before, after, strict=True)
                for category in sorted(scene.categories)
                if Concept(category).mentioned_in(old)
            ]
            row: dict[str, object] = {"layer": layer, "positions": positions, "named": bootstrap_mean(kept)}
            rows.append(row | {"facts": _share(facts) if facts else None})
    return rows


def _right(model: MLLM, asked: Sequence[Question]) -> list[bool]:
    return [answers == one.answer for answers, one in zip(model.answer(asked), asked, strict=True)]


def _share(hits: Sequence[bool]) -> Measured:
    return bootstrap_mean([float(hit) for hit in hits])
