"""`kedit.inspect` as a notebook calls it: of a run, of a set, and what does not fit together."""

import copy
import json
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

import kedit
from kedit.models.mllm import MLLM
from kedit.models.shipped import HERE
from kedit.pipelines.inspect import Inspection
from kedit.pipelines.run import RunResult
from kedit.results.run_folder import Run
from kedit.results.table import show
from tests.page_reader import EVIL, read_page

pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)

LOOKS = kedit.Looks(  # of as many pictures as `star_run`
    locate=4, target=6, retention=3, controls=2, splits=1, shares=(0.5,), singles=2, permutations=1, others=1
)


@pytest.fixture(scope="module")
def model(scenes_model: MLLM) -> MLLM:
    return scenes_model


@pytest.fixture(scope="module")
def result(star_run: RunResult) -> RunResult:
    return star_run


@pytest.fixture(scope="module")
def seen(model: MLLM, result: RunResult) -> Inspection:
    return kedit.inspect(model, kedit.Scenes(), "star", result, looks=LOOKS)


def test_every_neuron_of_a_run_has_a_row_that_says_all_there_is_to_say(seen: Inspection, result: RunResult) -> None:
    assert [(row.layer, row.index) for row in seen.rows] == [tuple(neuron) for neuron in result.neurons]
    for row in seen.rows:
        assert set(row.scores) == {"difference", "gradcam"} and None not in row.scores.values()
        assert len(row.words) == 10 and row.fires_at in ("text", "special", "image")
        assert all(0 <= share <= 1 for share in (row.peak_inside, row.auroc, row.stability) if share is not None)
        assert None not in (row.peak_inside, row.auroc, row.stability)


def test_a_neuron_that_every_half_of_the_samples_gives_is_stable(seen: Inspection) -> None:
    assert seen.stability is not None
    (halves,) = [row.located.value for row in seen.measures if row.name == "split halves"]
    # What two halves share is at least what both hold of the whole set.
    in_both = sum(share == 1 for share in seen.stability.held.values()) / len(seen.neurons)
    assert halves is not None and halves >= in_both


def test_an_inspection_prints_itself_as_text_and_as_html(seen: Inspection) -> None:
    told, page = str(seen), seen._repr_html_()
    for row in seen.measures:
        assert row.name in page
        assert row.located.value is None or show(row.located, fine=True) in told
    assert "no CLIPScore with pictures: no CLIP model" in told
    assert all(escape(" ".join(row.words)) in page for row in seen.rows)
    strange = replace(seen, model=EVIL)
    assert len(read_page(strange._repr_html_(), strange.table(), strange.neuron_table()).pictures) == 1


def test_what_an_inspection_saves_is_what_it_says(seen: Inspection, tmp_path: Path) -> None:
    folder = seen.save(tmp_path / "star")
    assert Run(folder).status == "done"
    report = json.loads((folder / "inspect.json").read_text(encoding="utf-8"))
    assert report == json.loads(json.dumps(seen.to_json()))
    assert {path.stem for path in (folder / "figures").iterdir()} == set(seen.figures)
    assert len((folder / "neurons.csv").read_text().splitlines()) == len(seen.neurons) + 1
    assert kedit.NeuronSet.load(folder / "neurons.json") == seen.neurons


def test_a_set_alone_gives_the_same_but_nothing_tells_its_stability(
    model: MLLM, result: RunResult, seen: Inspection, tmp_path: Path
) -> None:
    alone = kedit.inspect(model, kedit.Scenes(), "star", result.neurons, looks=LOOKS)
    sections = ("words", "heat maps", "sensitivity", "moved by zeroing")
    known, given = ([row for row in one.measures if row.section in sections] for one in (seen, alone))
    assert known == given
    reasons = {row.located.why for row in alone.measures if row.section == "stability"}
    assert reasons == {"the neurons were given, and nothing says how they were located"}
    assert alone.locator == "given" and {row.stability for row in alone.rows} == {None}
    assert not (alone.save(tmp_path / "given", figures=False) / "scores.safetensors").exists()


def test_neurons_that_fire_below_zero_are_seen_as_well_as_others(result: RunResult, seen: Inspection) -> None:
    turned: Any = kedit.load("scenes")
    for layer, index in result.neurons:
        # What it reads beside the gate and what it writes are negated: it fires below zero, and the model is the same.
        mlp = turned.module.model.language_model.layers[layer].mlp
        mlp.up_proj.weight[index] *= -1
        mlp.down_proj.weight[:, index] *= -1
    mirrored = kedit.inspect(turned, kedit.Scenes(), "star", result.neurons, looks=LOOKS)
    sections = ("words", "heat maps", "sensitivity")
    expected, known = ([row for row in one.measures if row.section in sections] for one in (seen, mirrored))
    assert expected == known
    for row, other in zip(seen.rows, mirrored.rows, strict=True):
        assert (row.fires, other.fires) == ("above zero", "below zero")
        assert row.peak is not None and row.peak == -(other.peak or 0)
        assert (row.words, row.opposite, row.auroc) == (other.words, other.opposite, other.auroc)
    found = replace(result.heat_maps, model=turned)
    assert found.measures == result.heat_maps.measures
    assert mirrored.figures["words"].title.startswith(f"{len(result.neurons)} of {len(result.neurons)} neurons of")


def test_a_run_of_another_model_of_the_same_name_is_not_inspected(model: MLLM, result: RunResult) -> None:
    module: Any = copy.deepcopy(model.module)
    module.lm_head.weight.data[-1, -1] += 1e-3
    with pytest.raises(ValueError, match="the neurons of the run do not fit: the model's weights are not the same"):
        kedit.inspect(replace(model, module=module), kedit.Scenes(), "star", result, looks=LOOKS)  # type: ignore[type-var]


def test_what_does_not_fit_together_is_refused(model: MLLM, result: RunResult) -> None:
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("the run is of the concept `star`, and `moon`", {"concept": "moon", "neurons": result}),
        ("of the model `other`, and `scenes`", {"concept": "star", "neurons": replace(result, model="other")}),
        ("give the same locator", {"concept": "star", "neurons": result, "locate": kedit.Miner()}),
        ("leave out `locate` or", {"concept": "star", "neurons": result.neurons, "locate": kedit.two_stage()}),
    ]
    for message, asked in wrong:
        with pytest.raises(ValueError, match=message):
            kedit.inspect(model, kedit.Scenes(), looks=LOOKS, **asked)


@pytest.mark.parametrize(("name", "least"), [("locate", 2), ("controls", 1), ("others", 0)])
def test_fewer_looks_than_measure_anything_are_refused(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is {least} or more, got {least - 1}"):
        kedit.Looks(**{name: least - 1})
