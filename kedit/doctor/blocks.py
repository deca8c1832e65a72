"""Where the neurons are, and whether what is recorded there is what the feed-forward block computes with."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, at_most
from kedit.doctor.patient import Patient
from kedit.hooks import after, record

COLUMNS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The types of weight whose columns can be read and written; others are quantized."""


def sites(patient: Patient) -> Finding:
    """Count the layers with neurons, and those that the model's configuration has."""
    widths = patient.site.widths
    found = f"neurons in {len(widths)} layers: {_summed(list(widths.values()))}"
    described = _described_layers(patient.module)
    if described is None or len(widths) >= described:
        return Finding("SUPPORTED", "", len(widths), described or 1, ">=", found)
    missing = f"the configuration has {described} layers, and the others' neurons cannot be found"
    return Finding("DEGRADED", missing, len(widths), described, ">=", found)


def recorded(patient: Patient) -> Finding:
    """Apply each output projection's weight and bias to what was recorded, and compare with what it returned."""
    module = patient.module
    written: dict[int, Tensor] = {}
    with ExitStack() as attached:
        for layer, block in patient.site.blocks.items():
            keep = lambda output, layer=layer: written.__setitem__(layer, output.detach().clone())  # noqa: E731
            attached.enter_context(after(module, block.output, keep))
        activations = attached.enter_context(record(module, patient.site))
        patient.logits()
    if idle := sorted(patient.site.blocks.keys() - activations.keys()):
        return _never_ran(patient, idle)
    gaps = {layer: gap(_applied(patient, layer, seen), written[layer]) for layer, seen in activations.items()}
    worst = max(gaps, key=lambda layer: gaps[layer])
    return at_most(
        gaps[worst], patient.tolerance, f"difference of recorded x weight and the projection's output, {SHARE}",
        f"`{patient.site.blocks[worst].output}` does not compute with what is recorded at its input",
    )  # fmt: skip


def unreadable(patient: Patient, layer: int) -> str:
    """Return why the columns of the output projection's weight cannot be read and written; empty where they can."""
    projection = patient.module.get_submodule(patient.site.blocks[layer].output)
    weights = list(projection.parameters(recurse=False))
    if any(one.is_meta for one in weights) or getattr(getattr(projection, "_hf_hook", None), "offload", False):
        return "the weight is offloaded, and what is written to it would be lost"
    odd = [one.dtype for one in weights if one.dtype not in COLUMNS]
    if odd or not weights:
        return f"the weight is quantized ({odd[0] if odd else 'no parameter'} in {type(projection).__name__})"
    vectors = patient.site.value_matrix(patient.module, layer).untyped_storage().data_ptr()
    if vectors not in [one.untyped_storage().data_ptr() for one in weights]:
        return f"{type(projection).__name__} keeps its weight in another form"
    return ""


def _applied(patient: Patient, layer: int, activations: Tensor) -> Tensor:
    """Return what the output projection of `layer` makes of `activations`, by its weight where that can be read."""
    projection: Any = patient.module.get_submodule(patient.site.blocks[layer].output)
    if unreadable(patient, layer):
        with torch.no_grad():
            done: Tensor = type(projection).forward(projection, activations)
        return done
    product = activations.double() @ patient.site.value_matrix(patient.module, layer).detach().double()
    bias = getattr(projection, "bias", None)
    return product if bias is None else product + bias.detach().double()


def _never_ran(patient: Patient, idle: list[int]) -> Finding:
    path = patient.site.blocks[idle[0]].output
    return at_most(
        len(idle), 0, "layers whose output projection never ran",
        f"`{path}` is passed by (layers {', '.join(map(str, idle))}): nothing is recorded and edits do nothing there",
    )  # fmt: skip


def _described_layers(module: nn.Module) -> int | None:
    """Return how many layers the configuration gives the language model; None where it does not say."""
    described: Any = getattr(module, "config", None)
    text = described.get_text_config() if hasattr(described, "get_text_config") else described
    found = getattr(text, "num_hidden_layers", None)
    return found if isinstance(found, int) else None


def _summed(widths: list[int]) -> str:
    if len(set(widths)) == 1:
        return f"{widths[0]} each"
    return f"{min(widths)} to {max(widths)} each, {sum(widths)} in all"
