"""MINER's figures and selections are those of its own code, and differ where that code is wrong."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kedit.edit.edit import Edit
from kedit.edit.operators import Operator, Patch, Zero
from kedit.internals.hooks import record
from kedit.internals.sites import Site
from kedit.locate.importance import METRICS, SPLITS, importance, over_sets, positions_of, scaled, weighted
from kedit.locate.modality_selection import RANDOM, Picks, picks
from kedit.models.mllm import MODALITIES
from kedit.neurons import NeuronId, NeuronSet

FOLDER = Path(__file__).parent / "fixtures" / "miner_tiny"
META: dict[str, Any] = json.loads((FOLDER / "meta.json").read_text())
SETTINGS = sorted(META["masks"])
SAMPLES = ("mmlu_0", "mmlu_1", "msvd_qa_0", "msvd_qa_1", "text_vqa_0", "text_vqa_1", "text_vqa_2")
SETS = {"text_vqa": 3, "mmlu": 2, "msvd_qa": 2}
TOLERANCE = {"atol": 1e-6, "rtol": 0.0}
N_LAYERS, N_NEURONS = 4, 30


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


def modalities_of(sample: str) -> Tensor:
    named = META["label_code"]
    labels = tensors("inputs")[f"{sample}.label"].tolist()
    return torch.tensor([[MODALITIES.index(named[str(label)]) for label in labels]])


def selection(setting: str) -> tuple[dict[str, Tensor], str, float]:
    """Return the weighted importance by modality, the strategy and the ratio of a recorded setting."""
    split, ratio, weights, strategy = setting.split("|")
    summed = weighted(tensors("expected")[f"split.{split}.ISM"], [float(one) for one in weights.split("_")])
    return dict(zip(META["splits"][split], summed, strict=True)), strategy, float(ratio)


def recorded(setting: str) -> Picks:
    return {
        modality: [NeuronId(*one) for one in neurons] for modality, neurons in META["masks"][setting]["neurons"].items()
    }


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_importance_of_a_sample_is_the_recorded_one(sample: str) -> None:
    inputs, modalities = tensors("inputs"), modalities_of(sample)
    prompt = torch.ones_like(modalities, dtype=torch.bool)
    layers = list(zip(inputs[f"{sample}.act"], inputs[f"{sample}.attn"], strict=True))
    by_modality = []
    for modality in META["modalities"]:
        where = positions_of(modality, modalities, prompt)
        by_modality.append(torch.stack([importance(act[None], where, attn[None])[0] for act, attn in layers], 1))
    made = scaled(torch.stack(by_modality, 1))
    torch.testing.assert_close(made, tensors("expected")[f"{sample}.ISM"], **TOLERANCE)


def test_the_figures_and_modalities_have_the_recorded_order_and_splits() -> None:
    assert list(METRICS) == META["metrics"]
    for split, modalities in META["splits"].items():
        assert [one for one in SPLITS[split] if one != "audio"] == modalities


def test_the_importance_over_data_sets_is_the_recorded_one() -> None:
    expected = tensors("expected")
    made = over_sets(expected[f"{name}.ISM_sum"] / n for name, n in SETS.items())
    torch.testing.assert_close(made, expected["aggregate.sum_ISM"], **TOLERANCE)


def test_a_data_set_is_the_sum_of_its_samples_in_the_reference_and_so_diluted() -> None:
    expected = tensors("expected")
    for name, n in SETS.items():
        summed = torch.stack([expected[f"{name}_{number}.ISM"] for number in range(n)]).sum(0)
        torch.testing.assert_close(summed, expected[f"{name}.ISM_sum"], **TOLERANCE)


def test_there_are_as_many_settings_as_recorded() -> None:
    assert len(SETTINGS) == 135


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_selection_is_the_recorded_one_in_order(setting: str) -> None:
    values, strategy, ratio = selection(setting)
    assert picks(values, strategy, ratio, seed=2024, faithful=True) == recorded(setting)  # type: ignore[arg-type]


def test_only_the_random_choices_rest_on_a_mistake_and_by_default_no_neuron_comes_twice() -> None:
    changed = []
    for setting in SETTINGS:
        values, strategy, ratio = selection(setting)
        made = picks(values, strategy, ratio, seed=2024)  # type: ignore[arg-type]
        if made != recorded(setting):
            changed.append(setting)
            drawn = made[RANDOM]
            assert list(made) == [RANDOM]
            assert len(drawn) == len(set(drawn)) == int(ratio * N_LAYERS * N_NEURONS)
            assert made == picks(values, strategy, ratio, seed=2024)  # type: ignore[arg-type]
            assert made != picks(values, strategy, ratio, seed=2025)  # type: ignore[arg-type]
    assert changed == [setting for setting in SETTINGS if setting.endswith(RANDOM)]
    assert len(changed) == 27


# --- what the reference does with the neurons


class Replay(nn.Module):
    """An activation function that always returns what was recorded."""

    def __init__(self, recorded: Tensor) -> None:
        super().__init__()
        self.register_buffer("recorded", recorded)

    def forward(self, values: Tensor) -> Tensor:
        return self.recorded + 0 * values


class Replayed(nn.Module):
    """Blocks whose activations are those of `apply.act`."""

    def __init__(self, recorded: Tensor) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(8, N_NEURONS), "act_fn": Replay(one), "down": nn.Linear(N_NEURONS, 8)})
            for one in recorded
        )

    def forward(self, residual: Tensor) -> Tensor:
        for block in self.blocks:
            residual = residual + block["down"](block["act_fn"](block["up"](residual)))  # type: ignore[index]
        return residual


@pytest.mark.parametrize("which", ["all_modalities", "image"])
@pytest.mark.parametrize("value", ["0.0", "-1"])
@pytest.mark.parametrize("complement", [False, True])
def test_an_edit_at_the_activation_does_what_the_reference_does(which: str, value: str, complement: bool) -> None:
    before = tensors("inputs")["apply.act"]
    chosen = recorded(META["apply_mask_key"])
    neurons = NeuronSet(tuple(one for name, ids in chosen.items() if which in ("all_modalities", name) for one in ids))
    every = NeuronSet(tuple(NeuronId(layer, index) for layer in range(N_LAYERS) for index in range(N_NEURONS)))
    ids = (every - neurons if complement else neurons).ids
    # -1 stands for the minimum over the whole layer.
    lowest = {layer: torch.full((N_NEURONS,), float(one.min())) for layer, one in enumerate(before)}
    operator: Operator = Zero() if value == "0.0" else Patch(lowest, site="act")
    module = Replayed(before)
    with Edit(NeuronSet(ids, "act"), operator).applied(module), record(module, Site.of(module, "act")) as after:
        module(torch.zeros(before.shape[1], 8))
    made = torch.stack([after[layer] for layer in range(N_LAYERS)])
    assert torch.equal(made, tensors("expected")[f"apply.comp{int(complement)}.val{value}.{which}"])
