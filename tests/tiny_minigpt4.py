"""The tiny MiniGPT-4 of the fixtures, as it is and after it has learned to say what four kinds of pictures show."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.minigpt4 import load
from kedit.models.mllm import PADDING
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Concept, Sample

FIXTURES = Path(__file__).resolve().parent / "fixtures"
SIZES = {"checkpoint": "prerelease_minigpt4.pth", "language": "llama", "vision_blocks": 3, "vision_heads": 4,
         "qformer_heads": 4, "device": "cpu", "max_new_tokens": 10}  # fmt: skip
FOLDERS = {"vicuna": FIXTURES / "minigpt4_tiny", "llama2": FIXTURES / "minigpt4_noqformer_tiny"}
DOG, CAT = Concept("dog", category="animal"), Concept("cat", category="animal")
COLORS = {"dog": (230, 20, 20), "cat": (20, 20, 230)}
SIDE = 56


def tiny_minigpt4(flavor: str, **options: Any) -> HuggingFaceMLLM:
    """Return the model with the random weights of the fixtures."""
    return load(FOLDERS[flavor], flavor=flavor, **(SIZES | {"prompt": "What is in the image?"} | options))


class Golden:
    """What the original code made of the same weights."""

    def __init__(self, flavor: str) -> None:
        folder = FOLDERS[flavor]
        self.flavor, self.model = flavor, tiny_minigpt4(flavor)
        self.meta = json.loads((folder / "meta.json").read_text())
        self.inputs, self.expected = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "expected"))
        self.images = [Image.fromarray(self.inputs[f"raw_image_uint8_{number}"].numpy()) for number in (0, 1)]

    def batch(self, *prompts: str) -> dict[str, torch.Tensor]:
        """Return the encoded prompts, each with its picture."""
        return self.model.processor(list(prompts), self.images[: len(prompts)])


def picture(number: int, *shown: str) -> Sample:
    """Return a gray picture with a red square on the left for a dog and a blue one on the right for a cat."""
    noise = np.random.default_rng(number).integers(110, 150, (SIDE, SIDE, 3))
    pixels, regions = noise.astype(np.uint8), {}
    for name in shown:
        region = np.zeros((SIDE, SIDE), dtype=bool)
        left = 4 if name == "dog" else 32
        region[number % 3 * 8 + 4 :][:28, left : left + 20] = True
        pixels[region] = COLORS[name]
        regions[name] = region
    text = " and ".join(shown) or "grass"
    return Sample(f"{text} {number}", Image.fromarray(pixels), (text,), frozenset(shown), regions)


RESERVED = NeuronSet(tuple(NeuronId(layer, index) for layer in range(2) for index in range(8)))
"""The neurons that `taught` lets see dogs."""


def taught(flavor: str) -> HuggingFaceMLLM:
    """Return the tiny model after its language model has learned to say "dog", "cat", "dog and cat" or "grass".

    Everything but the reserved neurons learns first, without them and from captions that pass over dogs; then
    the reserved ones alone learn the full captions. So without them the model names cats and no dog.
    """
    model = tiny_minigpt4(flavor, system="", prompt="what?", name="taught", max_new_tokens=8)
    samples = [picture(number, *shown) for number in range(2) for shown in (("dog",), ("cat",), ("dog", "cat"), ())]
    blind = {"dog": "grass", "dog and cat": "cat"}
    with Edit(RESERVED, Zero()).applied(model):
        _learn(model, samples, lambda said: blind.get(said, said), 30)
    _learn(model, samples, str, 40, only=RESERVED)
    model.module.requires_grad_(False)
    return model


def _learn(
    model: HuggingFaceMLLM,
    samples: list[Sample],
    caption: Callable[[str], str],
    steps: int,
    only: NeuronSet | None = None,
) -> None:
    """Teach the language model the captions of `samples`, or only some neurons of it."""
    end = model.tokenizer.eos_token_id
    texts = [caption(one.references[0]) for one in samples]
    said = [(*model.tokenizer(text, add_special_tokens=False).input_ids, end) for text in texts]
    batch = model.teacher_forced([sample.image for sample in samples], said)
    with torch.no_grad():
        embeds = model.module.embeds(batch.inputs["input_ids"], batch.inputs["pixel_values"])
    longest = max(map(len, said))
    answers = (batch.prompt | (batch.token_types == PADDING)).logical_not()[:, -longest:]
    wanted = batch.inputs["input_ids"][:, -longest:][answers]
    learning = list(model.module.language_model.parameters())[1:]  # not the embedding, whose output is fixed above
    masks = [torch.ones_like(one) for one in learning]
    if only is not None:
        learning, masks = _parts(model, only)
    optimizer = torch.optim.Adam([one.requires_grad_() for one in learning], 3e-3 if only is None else 1e-2)
    for _ in range(steps):
        told = model.module.language_model(
            inputs_embeds=embeds, attention_mask=batch.inputs["attention_mask"], logits_to_keep=longest + 1
        )
        optimizer.zero_grad()
        functional.cross_entropy(told.logits[:, :-1][answers], wanted).backward()
        for one, mask in zip(learning, masks, strict=True):
            one.grad *= mask
        optimizer.step()
    for one in learning:
        one.grad = None


def _parts(model: HuggingFaceMLLM, neurons: NeuronSet) -> tuple[list[torch.nn.Parameter], list[torch.Tensor]]:
    """Return the feed-forward weights of the neurons' layers, with masks of what belongs to the neurons."""
    weights, masks = [], []
    model.module.requires_grad_(False)
    for layer, indices in neurons.by_layer().items():
        block = model.module.language_model.model.layers[layer].mlp
        for one, axis in ((block.gate_proj, 0), (block.up_proj, 0), (block.down_proj, 1)):
            weights.append(one.weight)
            mask = torch.zeros_like(one.weight)
            masks.append(mask.index_fill_(axis, torch.tensor(indices), 1.0))
    return weights, masks
