"""What the states of the edited model still carry: whether the concept is shown (a probe), and how deep it is gone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kedit.edit.edit import Edit
from kedit.evaluation.measure import NO_CONTROL
from kedit.evaluation.statistics import Measured, bootstrap_mean, paired_difference
from kedit.fingerprints import of_concept, of_sample
from kedit.inspection.convergence import residuals
from kedit.inspection.depth import Depth, Reading, losses, stitched
from kedit.inspection.probe import Probed, probe
from kedit.inspection.resampling import Numbers
from kedit.models.identity import identity
from kedit.models.mllm import IMAGE
from kedit.pipelines.removal.subject import NO_NEVER, RANDOM, Answer, Subject, about_edit
from kedit.prompts import batches
from kedit.results.cache import of_edit
from kedit.samples import Sample

FOREIGN = 0.5
"""The share of D1 that other words may lose, too, before the never-knew model's states count as another language."""
LEAST = 8
"""Pictures of each kind that a probe has to learn from and to be asked about."""
Layers = list[dict[str, Measured]]
"""For each block, by name: `before`, `after`, and the two control tasks."""


def probed(subject: Subject) -> Layers:
    """Return how often a linear probe tells, after each block, that the concept is shown; nothing of too few pictures.

    Of the pictures with and without it, equally many, every other one is learned from.
    """
    n = min(len(subject.shown), len(subject.absent)) // 2 * 2
    if n < 2 * LEAST:
        return []
    samples = [*subject.shown[:n], *subject.absent[:n]]
    labels = [True] * n + [False] * n
    edits = (None, subject.edit)
    asked = {"samples": [of_sample(one) for one in samples], "seed": subject.seed}
    asked["concept"] = of_concept(subject.concept)  # whose words the control task is made of
    abouts = [asked | about_edit(one) for one in edits]
    content = subject.cache.many(
        "gone", "probes", abouts, lambda places: [_right(subject, samples, labels, edits[one]) for one in places]
    )
    before, after = content
    return [
        {f"{name}{task}": bootstrap_mean(layer[key], seed=subject.seed)
         for name, layer in (("before", was), ("after", now)) for task, key in (("", "right"), (" control", "control"))}
        | {f"{name} selectivity": paired_difference(layer["right"], layer["control"], seed=subject.seed)
           for name, layer in (("before", was), ("after", now))}
        for was, now in zip(before, after, strict=True)
    ]  # fmt: skip


def _right(
    subject: Subject, samples: Sequence[Sample], labels: Sequence[bool], edit: Edit | None
) -> list[dict[str, list[float]]]:
    """Return how often the probe after each block is right about each held-out picture, in both tasks."""
    with subject.under(edit):
        states = _states(subject.model, samples)
    types = [_type(one, subject.concept.name) for one in samples]
    layers: list[Probed] = [
        probe(one[::2], labels[::2], one[1::2], labels[1::2], (types[::2], types[1::2]), seed=subject.seed)
        for one in states
    ]
    return [{"right": one.right.tolist(), "control": one.control.tolist()} for one in layers]


def _type(sample: Sample, concept: str) -> str:
    """Return what decides a picture's label in the control task: the first by name of the other things in it."""
    return min(sample.objects - {concept}, default="")


@torch.no_grad()
def _states(model: Any, samples: Sequence[Sample]) -> list[Tensor]:
    """Return the mean state after each block, `[sample, width]`: over the picture's positions, or all."""
    parts: list[list[Tensor]] = []
    prompts = [one.asked(model.prompt) for one in samples]
    for chunk in batches(prompts, model.batch_size):
        batch = model.read([prompts[place] for place in chunk], [()] * len(chunk))
        with residuals(model) as states:
            model.logits(batch)
        of_image = batch.token_types == IMAGE
        where = torch.where(of_image.any(1, keepdim=True), of_image, batch.token_types != 0).double()[..., None]
        parts.append([(states[depth].double() * where).sum(1) / where.sum(1) for depth in sorted(states)[1:]])
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def probe_answers(layers: Layers) -> list[Answer]:
    """Return a row for the last block and for the one where the unedited states tell best."""
    question = "linear probe {}: selectivity"
    if not layers:
        missing = Measured.missing(f"a probe needs {2 * LEAST} pictures with the concept, and as many without")
        return [Answer("still seen", question.format("all blocks"), missing, missing, "unedited states")]
    best = max(range(len(layers)), key=lambda number: layers[number]["before selectivity"].value or 0.0)
    return [
        Answer("still seen", question.format(f"after block {number + 1} of {len(layers)}"),
               layers[number]["after selectivity"], layers[number]["before selectivity"], "unedited states")
        for number in sorted({best, len(layers) - 1})
    ]  # fmt: skip


def depth_answer(subject: Subject) -> Answer:
    """Return the depth score of the edit, and the mean over random neurons edited; see `kedit.inspection.depth`."""
    if subject.never is None:
        return _depth(Measured.missing(NO_NEVER), Measured.missing(NO_NEVER))
    about = subject.about | {"never": identity(subject.never), "edits": [of_edit(one) for one in subject.edits]}
    content = subject.cache.json("gone", "depth", lambda: about, lambda: _losses(subject))
    never, other = np.array(content["never"]), np.array(content["other words"])
    if "why" in content or other.mean() > FOREIGN * never.mean():
        why = content.get("why") or (
            f"the never-knew model's states are foreign: other words lose {other.mean():.2f} nats by them, this one "
            f"{never.mean():.2f}"
        )
        return _depth(Measured.missing(why), Measured.missing(why))
    edited, *random = np.array(content["edits"])
    control = _score(never, np.array(random), subject.seed) if random else Measured.missing(NO_CONTROL)
    return _depth(_score(never, edited, subject.seed), control)


def _depth(edited: Measured, control: Measured) -> Answer:
    return Answer("depth", "depth score", edited, control, RANDOM)


def _losses(subject: Subject) -> dict[str, Any]:
    """Return what each word loses after each block by the states of each model, `[picture][block]`."""
    model, never = subject.model, subject.never
    if model.tokenizer.get_vocab() != never.tokenizer.get_vocab():
        return {"why": "the never-knew model reads other tokens", "never": [[0.0]], "other words": [[0.0]]}
    readings = [
        (one.asked(model.prompt), mention.prefix, mention.word)
        for one, caption in zip(subject.target, subject.captions, strict=True)
        if (mention := model.mention(caption, subject.concept)) is not None
    ]
    others = _other_readings(subject)
    maps = stitched(model, never, others[::2])
    arms = {"never": losses(model, never, readings, maps), "other words": losses(model, never, others[1::2], maps)}
    edits = [losses(model, subject.edited(edit), readings).tolist() for edit in subject.edits]
    return {name: rows.tolist() for name, rows in arms.items()} | {"edits": edits}


def _other_readings(subject: Subject) -> list[Reading]:
    """Return where the captions of pictures without the concept first name something that they show."""
    prompts = [one.asked(subject.model.prompt) for one in subject.absent]
    found: list[Reading] = []
    for sample, prompt, caption in zip(
        subject.absent, prompts, subject.model.ask(prompts, what="captions"), strict=True
    ):
        shown = [one for one in subject.data.concepts if one.name in sample.objects]
        mentions = [one for concept in shown if (one := subject.model.mention(caption, concept)) is not None]
        if mentions:
            first = min(mentions, key=lambda one: len(one.prefix))
            found.append((prompt, first.prefix, first.word))
    return found


def _score(never: Numbers, edited: Numbers, seed: int) -> Measured:
    score = Depth(never, edited).measured(seed=seed)
    if score is None:
        return Measured.missing("the word loses nothing by the never-knew model's states")
    return Measured(*score, len(never))
