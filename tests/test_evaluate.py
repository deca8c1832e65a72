"""Any edit is measured as kedit measures its own, and other weights as an edit that is gone after its `with`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import kedit
from kedit.data.pope import Pope
from kedit.edit.edit import Edit
from kedit.edit.operators import Scale, Zero
from kedit.edit.weight_change import WeightChange
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.identity import weights_digest
from kedit.models.loading import load, load_like
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronSet
from kedit.pipelines.export import export
from kedit.pipelines.run import RunResult
from kedit.prompts import Prompt

COUNTS = kedit.Counts(locate=4, target=6, retention=3, controls=1)
"""Those of `star_run`."""
SCENES = kedit.Scenes()


@pytest.fixture(scope="module")
def model(scenes_model: HuggingFaceMLLM) -> HuggingFaceMLLM:
    return scenes_model


@pytest.fixture(scope="module")
def result(star_run: RunResult) -> RunResult:
    return star_run


@pytest.fixture(scope="module")
def unharmed(model: HuggingFaceMLLM) -> Iterator[None]:
    before = weights_digest(model.module)
    yield
    assert weights_digest(model.module) == before


def test_an_edit_that_a_run_located_is_measured_as_the_run_did(model: HuggingFaceMLLM, result: RunResult) -> None:
    edit = Edit(result.neurons, Zero())
    found = kedit.evaluate(model, SCENES, "star", edit=edit, counts=COUNTS, progress=False)
    assert found.report == result.report
    assert found.captions == result.captions
    assert found.to_json()["neurons"] == {"count": len(result.neurons)}
    assert str(found.table()).count("mention") == str(result.table()).count("mention")


@pytest.mark.parametrize("to", ["ia3", "merged"])
def test_an_adapter_and_a_checkpoint_say_what_the_edit_says(
    to: str, model: HuggingFaceMLLM, result: RunResult, unharmed: None, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    folder = export(Edit(result.neurons, Zero()), model, tmp_path / "star", to=to).folder  # type: ignore[arg-type]
    found = kedit.evaluate(model, SCENES, "star", edit=folder, counts=COUNTS, progress=False)
    assert found.outputs.after.target == result.outputs.after.target
    assert found.report.suppression["mention_drop"] == result.report.suppression["mention_drop"]
    assert found.report.retention == result.report.retention
    assert found.report.control.seeds == 1
    assert found.operator == "weights of star"
    found.save(tmp_path / "out", figures=False)
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["operator"] == "weights of star"
    assert content["verdict"] == found.report.verdict


def test_chair_and_pope_of_other_weights_are_those_of_the_edit(
    model: HuggingFaceMLLM, result: RunResult, unharmed: None, tmp_path: Path
) -> None:
    edit = Edit(result.neurons, Zero())
    folder = export(edit, model, tmp_path / "star", to="merged").folder
    counts = replace(COUNTS, controls=0)
    asked = {"counts": counts, "chair": True, "pope": Pope("is there {} ?"), "progress": False}
    by_hook, by_weights = (kedit.evaluate(model, SCENES, "star", edit=one, **asked) for one in (edit, folder))
    for name in ("chair", "pope"):
        hook, weights = getattr(by_hook, name), getattr(by_weights, name)
        assert (hook.before, hook.after) == (weights.before, weights.after)
        assert hook.before != hook.after
        assert by_weights.to_json()[name] == weights.to_json()
    assert len(by_weights.tables) == 3


def test_a_module_in_memory_is_measured_and_the_same_weights_do_nothing(model: HuggingFaceMLLM, unharmed: None) -> None:
    other = load("scenes").module
    counts = kedit.Counts(locate=1, target=2, retention=1, controls=1)
    found = kedit.evaluate(model, SCENES, "star", edit=other, counts=counts, progress=False)
    assert found.outputs.before == found.outputs.after
    assert not found.report.has_evidence


def test_other_weights_are_in_a_model_only_inside_with() -> None:
    base, other = tiny("llava"), tiny("llava")
    half = NeuronSet.of({0: range(0, 24, 2)})
    weight = other.module.get_parameter("model.language_model.layers.0.mlp.down_proj.weight")
    weight[:, ::2] = 0
    change, before = WeightChange.between(base.module, other.module), weights_digest(base.module)
    assert change.acts
    assert list(change.tensors) == ["model.language_model.layers.0.mlp.down_proj.weight"]
    batch = base.read([Prompt("Hi")], [()])
    with torch.no_grad(), change.applied(base):
        changed = base.logits(batch)
    with torch.no_grad(), Edit(half, Scale(0.0)).applied(base):
        assert torch.equal(base.logits(batch), changed)
    with pytest.raises(RuntimeError, match="inside"), change.applied(base):
        raise RuntimeError("inside")
    assert weights_digest(base.module) == before
    assert not WeightChange.between(base.module, base.module).acts


def test_the_control_of_a_change_is_as_large_and_reads_other_inputs() -> None:
    base, other = tiny("llava"), tiny("llava")
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    was = base.module.get_parameter(name)
    drawn = torch.Generator().manual_seed(0)
    other.module.get_parameter(name).add_(torch.randn(16, 2, generator=drawn) @ torch.randn(2, 24, generator=drawn))
    change = WeightChange.between(base.module, other.module)
    dealt = change.dealt(base, 3).tensors[name] - was
    true = change.tensors[name] - was
    spectra = [torch.linalg.svdvals(one) for one in (dealt, true)]
    assert torch.allclose(*spectra, atol=1e-5)
    assert spectra[0][2] < 1e-5 < spectra[0][1]
    assert not torch.allclose(dealt, true)
    assert torch.equal(change.dealt(base, 3).tensors[name], change.dealt(base, 3).tensors[name])


def test_the_control_of_a_neurons_change_reads_another_neuron_however_the_weight_is_stored() -> None:
    base, other, name = tiny("gpt2"), tiny("gpt2"), "transformer.h.0.mlp.c_proj.weight"
    other.module.get_parameter(name)[3] += 1
    changed = WeightChange.between(base.module, other.module).dealt(base, 1).tensors[name] - base.module.get_parameter(
        name
    )
    (row,) = changed.abs().sum(1).gt(1e-4).nonzero().flatten().tolist()
    assert row != 3
    torch.testing.assert_close(changed[row], torch.ones(changed.shape[1]))


def test_models_that_are_not_alike_are_told_apart() -> None:
    base, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert isinstance(other.running_mean, torch.Tensor)
    other.running_mean += 1
    with pytest.raises(ValueError, match="the buffer `running_mean` differs"):
        WeightChange.between(base, other)
    with pytest.raises(ValueError, match="is in one of the two models alone, so they are not alike"):
        WeightChange.between(tiny("llava").module, tiny("gpt2").module)
    wider = tiny("gpt2")
    wider.module.resize_token_embeddings(300)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"the weight `.*` is \(\d+, \d+\) and \(300, \d+\): the models are not alike"):
        WeightChange.between(tiny("gpt2").module, wider.module)


def test_a_folder_with_other_weights_needs_no_processor_and_all_weights(tmp_path: Path) -> None:
    base, other = tiny("llava"), tiny("llava", seed=1)
    other.module.save_pretrained(tmp_path / "other")  # type: ignore[operator]
    read = load_like(base.module, tmp_path / "other")
    assert weights_digest(read) == weights_digest(other.module)
    assert not any(one.requires_grad for one in read.parameters())
    held = load_file(tmp_path / "other" / "model.safetensors")
    held.pop(next(name for name in held if "down_proj" in name))
    save_file(held, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileNotFoundError, match=r"1 weights are not in its files, such as `.*down_proj"):
        load_like(base.module, tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no model folder `/no/where`"):
        load_like(base.module, "/no/where")


def test_an_adapter_is_merged_into_the_model_that_is_named_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = load("scenes")
    folder = export(Edit([(0, 3)], Zero()), model, tmp_path / "ia3", to="ia3").folder
    described = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(described | {"base_model_name_or_path": "/no/where"}))
    merged = load("scenes", adapter=folder)
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    was = model.module.get_parameter(name).clone()
    was[:, 3] = 0
    assert torch.equal(merged.module.get_parameter(name), was)
    with pytest.raises(ValueError, match=r"is no folder of an adapter .*; a whole model is given as `path`"):
        load("scenes", adapter=tmp_path)
