"""The trained model as a folder that plain `from_pretrained` reads, with its card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from experiments.training.scenes.evaluation import Scores, accuracy_table
from experiments.training.scenes.language import NEURONS, bank, blocks
from experiments.training.scenes.recipes import RECIPES
from kedit.data.grammar import CAPTION_PROMPT, CATEGORIES
from kedit.edit.reference import mean_activations
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.plots import Curve, Drawing, Look, draw_lines, exact
from kedit.plots.style import EDITED, SERIES
from kedit.samples import silent


def standardize(model: LlavaForConditionalGeneration, processor: LlavaProcessor, images: Sequence[Image]) -> None:
    """Fix the scale and sign of each neuron, which training leaves open; this changes no output.

    What a neuron writes gets norm 1 for an activation of 1, so that an activation is the length of what the neuron
    adds to the residual stream and neurons compare; and the mean activation on `images` is made positive, so that
    a neuron "fires" by going up.
    """
    view = HuggingFaceMLLM(model, processor, prompt=CAPTION_PROMPT, batch_size=64)
    means = mean_activations(view, images, "mid", "all", silent)
    for layer, block in enumerate(blocks(model)):
        with torch.no_grad():
            size = block.mlp.down_proj.weight.norm(dim=0).clamp(min=1e-12)
            size = torch.where(means[layer] < 0, -size, size)
            block.mlp.down_proj.weight.div_(size)
            block.mlp.up_proj.weight.mul_(size[:, None])


def shuffle_first_layer(model: LlavaForConditionalGeneration, seed: int) -> list[int]:
    """Permute the first layer's neurons, which changes no output, and return the old index of each.

    The reserved banks are contiguous in training; a locator must not be able to profit from that.
    """
    order = torch.randperm(NEURONS, generator=torch.Generator().manual_seed(seed))
    mlp = blocks(model)[0].mlp
    with torch.no_grad():
        mlp.gate_proj.weight.copy_(mlp.gate_proj.weight[order].clone())
        mlp.up_proj.weight.copy_(mlp.up_proj.weight[order].clone())
        mlp.down_proj.weight.copy_(mlp.down_proj.weight[:, order].clone())
    return [int(index) for index in order]


def banks(order: Sequence[int]) -> dict[str, list[list[int]]]:
    """Return the neurons reserved for each category, as (layer, index), after shuffling."""
    where = {old: new for new, old in enumerate(order)}
    spans = {category: bank(category) for category in CATEGORIES}
    return {name: sorted([0, where[old]] for old in range(one.start, one.stop)) for name, one in spans.items()}


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write weights (16 bits each), configuration and processor; the model is loaded in 32 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = next(model.parameters()).dtype
    model.half().save_pretrained(folder)
    model.to(dtype)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    processor.save_pretrained(folder)


def draw_curve(curve: Sequence[Mapping[str, Any]]) -> Drawing:
    """Return the training losses by step."""
    losses = [key for key in curve[-1] if key not in ("step", "seconds")]
    drawn = {}
    for loss, look in zip(losses, (Look(EDITED), *SERIES), strict=False):
        rows = [row for row in curve if row.get(loss, 0) > 0]
        drawn[loss] = Curve([row["step"] for row in rows], exact([row[loss] for row in rows]), look._replace(mark=""))
    return draw_lines(
        {"": drawn}, title="Training of the language model", across="step", up="loss (running mean)",
        prepare=lambda axes: (axes.set_yscale("log"), axes.yaxis.set_major_formatter("{x:g}")),
    )  # fmt: skip


def card(
    name: str,
    model: nn.Module,
    accuracies: Mapping[str, Scores],
    layers: Sequence[Mapping[str, Any]],
    training: Mapping[str, Any],
    command: str,
) -> str:
    """Return the model card, Markdown."""
    n_weights = sum(weight.numel() for weight in model.parameters())
    zeroed = [
        f"| {row['layer']} | {row['positions']} | {row['named']} | {row['facts'] if row['facts'] else '-'} |"
        for row in layers
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            RECIPES[name].about,
            "",
            f"- {n_weights:,} weights, stored in 16 bits; CLIP tower 4 layers of 128, projector, Llama 4 layers of 192"
            f" with {NEURONS} gated ReLU neurons each (2,048 in all).",
            f"- Training: {json.dumps(training)}; losses in `curve.jsonl` and `curve.png`.",
            f"- Made by `{command}`.",
            "",
            "## Accuracy on held-out scenes",
            "",
            "`distinct` is the world of training: objects of different categories have different colors. `free` lets",
            "them share a color (22 % of its scenes do), which no caption in training shows. With 95 % intervals.",
            "",
            *accuracy_table(accuracies),
            "",
            "## What zeroing a whole feed-forward layer leaves",
            "",
            "`named`: share of the categories named before that are still named; `facts`: facts still right.",
            "",
            "| layer | positions | named | facts |",
            "|---|---|---|---|",
            *zeroed,
            "",
            "![training losses](curve.png)",
            "",
        ]
    )
