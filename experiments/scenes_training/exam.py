"""What a trained model knows: captions, questions and facts on scenes it has not seen."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL.Image import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from kedit.data import grammar
from kedit.data.grammar import CATEGORIES, COLORS
from kedit.data.questions import VISUAL_KINDS, questions
from kedit.data.scenes import Scene, Scenes
from kedit.samples import plural

NOUNS = {form: category for category in CATEGORIES for form in (category, plural(category))}
NAMED = re.compile(rf"\b(?:({'|'.join(COLORS)}) )?({'|'.join(NOUNS)})\b")


def named(caption: str) -> list[tuple[str, str]]:
    """Return the (color, category) of each object phrase in `caption`."""
    return [(color, NOUNS[noun]) for color, noun in NAMED.findall(caption)]


@torch.no_grad()
def answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, asked: Sequence[tuple[str, Image | None]]
) -> Iterator[str]:
    """Yield the greedy answers; all prompts have a picture or none has."""
    for start in range(0, len(asked), 64):
        chunk = asked[start : start + 64]
        texts = [("<image> " if image else "") + f"{text} answer :" for text, image in chunk]
        images = [image for _, image in chunk if image] or None
        batch = processor(text=texts, images=images, return_tensors="pt", padding=True)
        written = model.generate(**batch, max_new_tokens=28, do_sample=False)
        yield from processor.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def exam(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: Sequence[Scene]
) -> dict[str, dict[str, float]]:
    """Return each accuracy with its n: objects, colors and validity of captions, questions, facts."""
    images = [scene.image() for scene in scenes]
    captions = list(answers(model, processor, [(grammar.CAPTION_PROMPT, image) for image in images]))
    right: dict[str, list[bool]] = {"objects": [], "colors": [], "valid": []}
    for scene, caption in zip(scenes, captions, strict=True):
        said, shown = named(caption), {(t.color, t.category) for t in scene.things}
        right["objects"].append(sorted(c for _, c in said) == sorted(scene.categories))
        right["colors"].append(set(said) == shown)
        right["valid"].append(caption in scene.captions())
    rng = np.random.default_rng(0)
    for kind in VISUAL_KINDS:
        asked = [(image, list(questions(scene, kind))) for scene, image in zip(scenes, images, strict=True)]
        picked = [(image, found[int(rng.integers(len(found)))]) for image, found in asked if found]
        said_ = answers(model, processor, [(question.text, image) for image, question in picked])
        right[kind] = [answer == question.answer for answer, (_, question) in zip(said_, picked, strict=True)]
    facts = Scenes().questions
    told = answers(model, processor, [(fact.text, None) for fact in facts])
    right["facts"] = [answer == fact.answer for answer, fact in zip(told, facts, strict=True)]
    return {name: {"value": float(np.mean(hits)), "n": len(hits)} for name, hits in right.items()}
