"""An exported edit is the hook's: to the bit where it can be, by rounding elsewhere, and refused with the reason."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import kedit
from kedit.edit.columns import FORMS, columns_of
from kedit.edit.delta import FILE
from kedit.edit.edit import Edit
from kedit.edit.operators import Patch, Scale, Zero
from kedit.models.adapters import WEIGHTS
from kedit.models.checkpoints import places_in, shared_copy, weight_files
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.identity import weights_digest
from kedit.models.loading import load
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronSet
from kedit.pipelines.export import export

HALF = NeuronSet.of({0: range(0, 24, 2), 2: [1, 5]})
PATHS = ["model.language_model.layers.0.mlp.down_proj", "model.language_model.layers.2.mlp.down_proj"]
SHARD = "20KB"

pytest.importorskip("peft")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA with random weights in several shards, its processor beside it."""
    folder, model = tmp_path_factory.mktemp("checkpoint") / "base", tiny("llava")
    model.module.save_pretrained(folder, max_shard_size=SHARD)  # type: ignore[operator]
    model.processor.save_pretrained(folder)
    (folder / "README.md").write_text("of the base\n")
    assert len(weight_files(folder)) > 2
    return folder


@pytest.fixture(scope="module")
def model(base: Path) -> HuggingFaceMLLM:
    return load(base, max_new_tokens=4)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: one for file in weight_files(folder) for name, one in load_file(file).items()}


@pytest.mark.parametrize("to", ["ia3", "merged", "delta", "lora"])
@pytest.mark.parametrize("factor", [0.0, 0.25, 0.3, -2.0])
def test_every_form_is_the_hook_to_the_bit_or_but_for_rounding(
    to: Any, factor: float, model: HuggingFaceMLLM, tmp_path: Path
) -> None:
    before = weights_digest(model.module), [one.requires_grad for one in model.module.parameters()]
    edit = Edit(HALF, Scale(factor) if factor else Zero())
    check = export(edit, model, tmp_path / "out", to=to).check
    # A power of two rounds nothing, before the product or after it; other factors round in another place.
    assert check.is_identical is (to == "ia3" or (to != "lora" and factor != 0.3))
    assert check.difference < 1e-6
    assert check.captions == check.prompts == 8
    assert check.effect > 0.01
    assert before == (weights_digest(model.module), [one.requires_grad for one in model.module.parameters()])
    assert not any("ia3" in name or "lora" in name for name, _ in model.module.named_modules())
    assert not hasattr(model.module, "peft_config")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_merged_checkpoint_has_the_columns_multiplied_and_all_else_byte_for_byte(
    model: HuggingFaceMLLM, base: Path, tmp_path: Path
) -> None:
    folder = export(Edit(HALF, Scale(0.5)), model, tmp_path / "out", to="merged").folder
    was, now = tensors_of(base), tensors_of(folder)
    changed = {name for name in was if not torch.equal(was[name], now[name])}
    places = places_in(base, model.module)
    assert places is not None
    assert changed == {places[f"{path}.weight"][1] for path in PATHS}
    for path, layer in zip(PATHS, (0, 2), strict=True):
        key, factors = places[f"{path}.weight"][1], torch.ones(24)
        factors[list(HALF.by_layer()[layer])] = 0.5
        assert torch.equal(now[key], was[key] * factors)
    for file in base.iterdir():
        if file.suffix != ".safetensors" and file.name != "README.md":
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name
    assert "of the base" not in (folder / "README.md").read_text()
    again = load(folder, max_new_tokens=4)
    with Edit(HALF, Scale(0.5)).applied(model):
        assert model.ask("What is it?") == again.ask("What is it?")


def test_weights_that_the_files_do_not_hold_are_merged_from_memory(base: Path, tmp_path: Path) -> None:
    model = load(base, max_new_tokens=4)
    model.module.get_parameter("model.language_model.layers.1.mlp.up_proj.weight").mul_(1.5)
    assert places_in(base, model.module) is None
    exported = export(Edit(HALF, Zero()), model, tmp_path / "out", to="merged")
    assert exported.check.difference < 1e-6
    assert exported.check.effect > 0.01
    assert load(exported.folder).name == "out"
    # Nor is an adapter one of the model in that folder.
    folder = export(Edit(HALF, Zero()), model, tmp_path / "ia3", to="ia3").folder
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert json.loads((folder / "reproduce.json").read_text())["base"]["name"] is None


def test_a_model_in_bfloat16_of_files_in_float32(base: Path, tmp_path: Path) -> None:
    model = load(base, max_new_tokens=4, dtype="bfloat16")
    edit = Edit(HALF, Scale(0.3))
    assert export(edit, model, tmp_path / "ia3", to="ia3").check.is_identical
    exported = export(edit, model, tmp_path / "merged", to="merged")
    assert 0 < exported.check.difference <= 0.05
    assert {one.dtype for one in tensors_of(exported.folder).values()} == {torch.float32}
    assert export(edit, model, tmp_path / "lora", to="lora").check.difference <= 0.05
    assert load_file(tmp_path / "lora" / WEIGHTS).popitem()[1].dtype == torch.float32


def test_an_edit_too_small_for_the_check_is_exported_with_a_warning(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit = Edit(NeuronSet.of({0: [1]}), Scale(0.999))
    assert not export(edit, load(base, max_new_tokens=4, dtype="bfloat16"), tmp_path / "few", to="ia3").check.tells
    assert "the check cannot tell it from none; load the model with `dtype=float32`" in caplog.text
    caplog.clear()
    assert export(Edit(HALF, Zero()), load(base, max_new_tokens=4), tmp_path / "all", to="ia3").check.tells
    assert "cannot tell it from none" not in caplog.text


@pytest.mark.parametrize("to", ["ia3", "merged", "delta", "lora"])
def test_weights_that_are_stored_the_other_way_round_and_models_in_memory(to: Any, tmp_path: Path) -> None:
    model = tiny("gpt2")
    check = export(Edit({0: [1, 2], 1: [3]}, Zero()), model, tmp_path / "out", to=to).check
    assert check.difference < 1e-6
    assert check.effect > 0


def test_the_card_of_a_delta_knows_weights_that_are_stored_the_other_way_round(tmp_path: Path) -> None:
    model = tiny("gpt2")
    folder = export(Edit({0: [1, 2], 1: [3]}, Scale(0.3)), model, tmp_path / "out", to="delta").folder
    model.module.save_pretrained(tmp_path / "base")  # type: ignore[operator]
    lines = (folder / "README.md").read_text().rpartition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    with chdir(tmp_path):
        exec(lines.replace("BASE", "base"), names)
    with safe_open(folder / FILE, "pt") as held:
        assert weights_digest(names["model"]) == held.metadata()["edited"]


@pytest.mark.parametrize("to", ["ia3", "merged"])
def test_neurons_of_the_vision_tower(to: Any, model: HuggingFaceMLLM, tmp_path: Path) -> None:
    width = model.site("mid", "vision").widths[0]
    towers = NeuronSet(tuple((0, index) for index in range(0, width, 2)), scope="vision")  # type: ignore[misc]
    check = export(Edit(towers, Zero()), model, tmp_path / "out", to=to).check
    assert check.is_identical
    assert check.effect > 0


def test_a_constant_is_a_lora_with_a_bias(model: HuggingFaceMLLM, tmp_path: Path) -> None:
    reference = {layer: torch.randn(24, generator=torch.Generator().manual_seed(layer)) for layer in range(3)}
    for number, patch in enumerate((Patch(0.7), Patch(reference))):
        check = export(Edit(HALF, patch), model, tmp_path / str(number), to="lora").check
        assert check.difference < 1e-5
        assert check.effect > 0.01
    assert json.loads((tmp_path / "0" / "adapter_config.json").read_text())["lora_bias"] is True


def test_a_delta_is_put_on_and_taken_off_to_the_bit(model: HuggingFaceMLLM, base: Path, tmp_path: Path) -> None:
    folder = export(Edit(HALF, Scale(0.3)), model, tmp_path / "out", to="delta").folder
    other = load(base, max_new_tokens=4)
    before = weights_digest(other.module)
    kedit.apply_delta(other, folder)
    with safe_open(folder / FILE, "pt") as held:
        about = held.metadata()
        assert about == {"base": before, "edited": weights_digest(other.module)}
    with Edit(HALF, Scale(0.3)).applied(model):
        assert other.ask("What is it?") == model.ask("What is it?")
    with pytest.raises(ValueError, match=r"is in the weights already: nothing was changed"):
        kedit.apply_delta(other, folder)
    kedit.revert_delta(other.module, folder)
    assert weights_digest(other.module) == before
    with pytest.raises(ValueError, match=r"is not in the weights: nothing was changed"):
        kedit.revert_delta(other, folder)
    stranger = tiny("llava", seed=1)
    with pytest.raises(ValueError, match=r"are not those that the delta in .* another model, or loaded as another"):
        kedit.apply_delta(stranger, folder)
    size = (folder / FILE).stat().st_size
    assert size < 5000 < sum(file.stat().st_size for file in weight_files(base))


class Halve:
    """An operator that only its own code tells of."""

    def __call__(self, values: torch.Tensor, layer: int, indices: torch.Tensor) -> torch.Tensor:
        return values / 2


SET = NeuronSet(((0, 1),))  # type: ignore[arg-type]
REFUSED: list[tuple[Edit, str, str]] = [
    (Edit((), Zero()), "ia3", "no neuron is edited"),
    (Edit(SET, Zero(), positions="image"), "merged", "`positions=image`, `phase=both` depends on where a token stands"),
    (Edit(SET, Zero(), phase="decode"), "delta", "`positions=all`, `phase=decode` depends on where a token stands"),
    (Edit(SET, Halve()), "ia3", "is no Zero, Scale or Patch"),
    (Edit(NeuronSet(SET.ids, "pre"), Zero()), "ia3", "at site `pre` acts before"),
    (Edit(NeuronSet(SET.ids, "act"), Patch(1.0)), "lora", "at site `act` acts before"),
    *((Edit(SET, Patch(1.0)), to, f"a patch adds a constant, which `to={to}` cannot hold") for to in ("ia3", "merged")),
    (Edit(SET, Zero()), "ia4", "`to` is one of merged, ia3, lora, delta, got 'ia4'; nearest: ia3"),
]


@pytest.mark.parametrize(("edit", "to", "why"), REFUSED, ids=[why[:40] for *_, why in REFUSED])
def test_an_edit_without_such_a_form_is_refused_in_one_line(
    edit: Edit, to: Any, why: str, model: HuggingFaceMLLM, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        export(edit, model, tmp_path / "out", to=to)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")  # peft asks so
def test_fused_experts_and_what_is_inside_an_adapter_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layer 0 keeps its \d+ experts as one weight .* stays a hook of kedit"):
        export(Edit(SET, Zero()), tiny("mixtral"), tmp_path / "out", to="ia3")
    peft, inner = pytest.importorskip("peft"), load(base)
    described = peft.IA3Config(target_modules=PATHS, feedforward_modules=PATHS)
    adapted = replace(inner, module=peft.get_peft_model(inner.module, described))
    with pytest.raises(ValueError, match=r"is inside an adapter \(Linear\): merge that into the model first"):
        export(Edit(SET, Zero()), adapted, tmp_path / "out", to="ia3")
    with pytest.raises(LookupError, match="no layer 9 with neurons"):
        export(Edit([(9, 0)], Zero()), inner, tmp_path / "out")


def test_an_act_of_a_gated_block_is_the_same_as_what_goes_into_the_projection(
    model: HuggingFaceMLLM, tmp_path: Path
) -> None:
    check = export(Edit(NeuronSet(HALF.ids, "act"), Scale(0.5)), model, tmp_path / "out", to="merged").check
    assert check.is_identical


def test_what_is_not_the_edit_is_not_left(
    model: HuggingFaceMLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedit.pipelines import export as pipeline

    def spoilt(columns: Sequence[Any], origin: str | None, folder: Path) -> None:
        write(columns, origin, folder)
        held = load_file(folder / WEIGHTS)
        save_file({name: one * 1.01 for name, one in held.items()}, folder / WEIGHTS)

    write = pipeline.write_ia3
    monkeypatch.setattr(pipeline, "write_ia3", spoilt)
    with pytest.raises(
        ValueError, match=r"the exported ia3 is not what the edit does \(logits differ by .*nothing was"
    ):
        export(Edit(HALF, Zero()), model, tmp_path / "out", to="ia3")
    assert not any(tmp_path.iterdir())


def test_without_peft_adapters_say_what_to_install(
    model: HuggingFaceMLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedit.pipelines import export as pipeline

    monkeypatch.setattr(pipeline, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"`to=lora` is checked with the package peft: `pip install 'kedit\[adapters\]'`"
    ):
        export(Edit(HALF, Zero()), model, tmp_path / "out", to="lora")


def test_the_card_tells_what_was_measured_and_what_made_it(model: HuggingFaceMLLM, base: Path, tmp_path: Path) -> None:
    edit = Edit(HALF, Zero(), name="star")
    plain = export(edit, model, tmp_path / "plain", to="ia3").folder
    assert "**Not measured.**" in (plain / "README.md").read_text()
    verdict = "No evidence that the edit suppresses `star`: nothing was said."
    measured = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 12}
    report = {"verdict": verdict, "suppression": {"mention_drop": measured}, "retention": {"objects": measured}}
    report["control"] = {"seeds": 3, "suppression": {"mention_drop": measured | {"value": 0.125}}}
    folder = export(edit, model, tmp_path / "out", to="lora", report=report, commands=["kedit run"]).folder
    card = (folder / "README.md").read_text()
    assert f"**{verdict}**" in card
    assert "| mention_drop | 0.250 [0.100, 0.400], n=12 | 0.125 [0.100, 0.400], n=12 |" in card
    assert "--max-lora-rank 16" in card  # 12 neurons in a layer
    assert (
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        == model.module.config.name_or_path
    )  # type: ignore[union-attr]
    content = json.loads((folder / "reproduce.json").read_text())
    assert content["commands"] == ["kedit run"]
    assert content["base"]["weights"] == weights_digest(model.module)
    assert content["files"].keys() == {"README.md", "adapter_config.json", WEIGHTS}
    assert content["edit"]["neurons"] == [list(one) for one in HALF]
    assert content["versions"]["peft"]


def test_a_folder_is_replaced_only_where_that_is_asked_for(model: HuggingFaceMLLM, tmp_path: Path) -> None:
    edit = Edit(HALF, Zero())
    export(edit, model, tmp_path / "out", to="ia3")
    with pytest.raises(FileExistsError, match="is there; name another folder, or replace it with `overwrite=true`"):
        export(edit, model, tmp_path / "out", to="lora")
    export(edit, model, tmp_path / "out", to="delta", overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "reproduce.json", FILE}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match=r"has no `reproduce.json`, so it is not replaced"):
        export(edit, model, tmp_path / "mine", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_copy_that_shares_its_weights_leaves_the_model_alone(model: HuggingFaceMLLM) -> None:
    copy = shared_copy(model.module)
    mine, others = dict(model.module.named_parameters()), dict(copy.named_parameters())
    assert mine.keys() == others.keys()
    assert all(mine[name] is others[name] for name in mine)
    assert not set(map(id, model.module.modules())) & set(map(id, copy.modules()))


ELSEWHERE = """
import json, re, sys
from pathlib import Path

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kedit":
            raise ImportError("kedit is not here")

sys.meta_path.insert(0, Block())
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

torch.set_num_threads(1)
base, held = sys.argv[1], load_file(sys.argv[2])
wanted, plain = held.pop("wanted"), held.pop("plain")

def logits(model):
    with torch.no_grad():
        return model(**held).logits

def fresh():
    return AutoModelForImageTextToText.from_pretrained(base)

def by_card(to, part=".after"):
    *_, lines = re.findall("```python\\n(.*?)```", Path(to, "README.md").read_text(), re.DOTALL)
    names = {}
    exec(lines.replace(".after", part), names)
    return logits(names["model"])

found = {to: by_card(to) for to in ("merged", "ia3", "lora", "delta")}
for to in ("ia3", "lora"):
    adapted = fresh()
    adapted.load_adapter(to)
    found[f"{to} load_adapter"] = logits(adapted)
    found[f"{to} merge_and_unload"] = logits(PeftModel.from_pretrained(fresh(), to).merge_and_unload())
assert torch.equal(logits(fresh()), plain)
assert torch.equal(by_card("delta", ".before"), plain)
print(json.dumps({name: float((one - wanted).abs().max()) for name, one in found.items()}))
assert "kedit" not in sys.modules
"""


def test_the_lines_of_each_card_load_it_where_kedit_is_not_installed(
    model: HuggingFaceMLLM, base: Path, tmp_path: Path
) -> None:
    edit = Edit(HALF, Zero())
    for to in FORMS:
        export(edit, model, tmp_path / to, to=to)
    inputs = model.encode(model_prompts(model))
    with torch.no_grad():
        plain = model.module(**inputs).logits
        with edit.applied(model):
            wanted = model.module(**inputs).logits
    save_file({**inputs, "wanted": wanted, "plain": plain}, tmp_path / "held.safetensors")
    words = [sys.executable, "-c", ELSEWHERE, str(base), str(tmp_path / "held.safetensors")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= set(FORMS) and len(found) == 8
    assert {found[name] for name in found if not name.startswith("lora")} == {0.0}
    assert max(found.values()) < 1e-5 < float((wanted - plain).abs().max())


def model_prompts(model: HuggingFaceMLLM) -> list[Any]:
    from kedit.pipelines.export_check import prompts_for

    return prompts_for(model, None)[:2]


SHARDED = """
import re, sys
from pathlib import Path
import torch
from kedit.edit.columns import Columns
from kedit.edit.merged import Place, merge

base, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir()
edits = [Columns(f"layers.{n}", 1024, torch.arange(4), torch.zeros(4)) for n in range(8)]
places = {one.name: Place(f"model-{n // 2}.safetensors", one.name) for n, one in enumerate(edits)}

def held(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

# What importing took at its most is no matter.
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
merge(base, target, edits, places)
print(held("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets what a process had at most")
def test_a_sharded_checkpoint_is_merged_in_less_memory_than_two_shards(tmp_path: Path) -> None:
    base, weights = tmp_path / "base", {f"layers.{n}.weight": torch.ones(2048, 1024) for n in range(8)}
    base.mkdir()
    for shard in range(4):
        names = [f"layers.{n}.weight" for n in (2 * shard, 2 * shard + 1)]
        save_file({name: weights[name] for name in names}, base / f"model-{shard}.safetensors")
    index = {"weight_map": {name: f"model-{int(name.split('.')[1]) // 2}.safetensors" for name in weights}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    words = [sys.executable, "-c", SHARDED, str(base), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shard_bytes = (base / "model-0.safetensors").stat().st_size
    assert 0 < int(done.stdout) < 2 * shard_bytes
    merged = tensors_of(tmp_path / "out")
    assert merged.keys() == weights.keys()
    for name, one in merged.items():
        assert torch.equal(one[:, :4], torch.zeros(2048, 4)), name
        assert torch.equal(one[:, 4:], weights[name][:, 4:])


def test_columns_are_those_of_the_edit(model: HuggingFaceMLLM) -> None:
    found = columns_of(Edit(HALF, Scale(3.0)), model.module)
    assert [one.path for one in found] == PATHS
    assert [tuple(one.indices.tolist()) for one in found] == [*HALF.by_layer().values()]
    assert all(one.factors.tolist() == [3.0] * len(one.indices) and one.constants is None for one in found)
