"""The known-answer benchmark: rankings by hand, costs that are counted, and the recipe from end to end."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from kedit.cli.comparison.truth import truth
from kedit.evaluation.ranking import expected_average_precision
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.locate.two_stage import two_stage
from kedit.models.planted.family import VARIANTS, PlantedCase, family
from kedit.models.planted.pictures import planted_pairs
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.paths import conf_dir
from kedit.pipelines.comparison.planted import (
    RANDOM,
    Cost,
    PlantedBenchmark,
    Verdict,
    check_variants,
    precision,
    rank_planted,
    ranks,
)
from kedit.results.run_folder import Run
from kedit.results.tracking import NoTracker
from tests.page_reader import read_page

TWO = Locator(
    {"difference": Stage(ActivationDifference(), TopK(2)), "gradcam": Stage(GradCAM(), TopK(1))},
)


def scored(*rows: tuple[float, ...], ties: tuple[tuple[float, ...], ...] | None = None) -> NeuronScores:
    return NeuronScores(torch.tensor(rows), "by hand", ties=None if ties is None else torch.tensor(ties))


def in_layer_0(places: dict[NeuronId, int]) -> list[int]:
    return [places[NeuronId(0, index)] for index in range(len(places))]


def test_the_last_stage_orders_what_passes_and_the_earlier_one_what_it_drops() -> None:
    # Neurons 0 and 1 pass; the others stay below however high the last stage scores them.
    scores = {"difference": scored((4, 3, 2, 1)), "gradcam": scored((0, 5, 8, 9))}
    assert in_layer_0(ranks(TWO, scores)) == [2, 3, 1, 0]


def test_equal_scores_share_a_rank_unless_votes_have_an_order() -> None:
    one = Locator({"gradcam": TWO.stages["gradcam"]})
    assert in_layer_0(ranks(one, {"gradcam": scored((1, 0, 1, 0))})) == [1, 0, 1, 0]
    voted = scored((1, 0, 1, 0), ties=((0.2, 0.1, 0.3, 0.1),))
    assert in_layer_0(ranks(one, {"gradcam": voted})) == [1, 0, 2, 0]


def test_a_neuron_without_a_score_is_last_of_its_stage() -> None:
    scores = {"difference": scored((4, 3, 2, 1)), "gradcam": scored((torch.nan, -5, 8, 9))}
    assert in_layer_0(ranks(TWO, scores)) == [2, 3, 1, 0]


def test_where_there_are_modalities_those_of_the_image_count() -> None:
    scores = {"text": scored((3, 2, 1)), "image": scored((1, 2, 3)), "prompt": scored((2, 3, 1))}
    assert in_layer_0(ranks(object(), scores)) == [0, 1, 2]


def turn_round(case: PlantedCase, neurons: Sequence[NeuronId]) -> None:
    """Negate what gated neurons read beside the gate and what they write: they fire below zero and do the same."""
    layers = case.model.module.model.language_model.layers
    for layer, index in neurons:
        layers[layer].mlp.up_proj.weight[index] *= -1
        layers[layer].mlp.down_proj.weight[:, index] *= -1


@pytest.mark.parametrize("seed", range(2))
def test_neurons_are_found_whichever_side_of_zero_they_fire_on(seed: int) -> None:
    pairs, plain, case = planted_pairs(8, seed), family("distributed", seed), family("distributed", seed)
    captions = plain.model.caption([pair.sample.image for pair in pairs])
    turned = list(case.truth)[::2]
    turn_round(case, turned)
    assert [one.text for one in case.model.caption([pair.sample.image for pair in pairs])] == [
        one.text for one in captions
    ]

    def found(of: PlantedCase, signed: bool = False) -> NeuronSet:
        first, last = Stage(ActivationDifference(signed=signed), TopK(24)), Stage(GradCAM(), TopK(len(of.truth)))
        locator = Locator({"difference": first, "gradcam": last})
        return locator.select(locator.score(of.model, pairs, captions=captions))

    assert found(case) == found(plain) == case.truth
    # The published difference of activations sees the others alone, and all twelve where none is turned.
    assert found(case, signed=True) & case.truth == NeuronSet(tuple(set(case.truth) - set(turned)))
    assert found(plain, signed=True) == case.truth


def test_two_stage_filtering_finds_the_one_neuron_that_fires_below_zero_unless_it_is_asked_for_signs() -> None:
    case, pairs = family("negative", 0), planted_pairs(8, 0)
    by_size, by_sign = (one.select(one.score(case.model, pairs)) for one in (two_stage(), two_stage(signed=True)))
    assert by_size == case.truth
    assert not by_sign & case.truth


def test_what_is_neither_right_nor_wrong_does_not_count() -> None:
    case = family("redundant", 0)
    all_of_them = [NeuronId(layer, index) for layer in range(3) for index in range(64)]
    first = dict.fromkeys(all_of_them, 0) | dict.fromkeys(case.truth, 1)
    assert precision(case, first) == 1
    assert precision(case, first | dict.fromkeys(case.ignored, 2)) == 1
    assert precision(case, first | dict.fromkeys(case.others["house"], 2)) == pytest.approx(2 / 3)


VERDICTS = [
    Verdict("random (expected)", {"plain": [0.1, 0.1], "late": [0.2, 0.2]}),
    Verdict("broken", {}, why="it has no words"),
    Verdict("two_stage", {"plain": [1.0, 1.0, 0.9], "late": [0.1, 0.2, 0.1]}, cost=Cost(2, 1, 2.25, 12.3)),
    Verdict("gradcam", {"plain": [0.5, 0.6, 0.5], "late": [0.1, 0.2, 0.1]}),
    Verdict("nam", {"plain": [0.1, 0.2, 0.1], "late": [0.9, 1.0, 0.8]}),
]


def benchmark(reference: str = "two_stage") -> PlantedBenchmark:
    return PlantedBenchmark(VERDICTS, ("plain", "late"), reference)


def test_methods_are_sorted_by_their_mean_and_failures_come_last() -> None:
    ordered = [one.method for one in benchmark().verdicts]
    assert ordered == ["two_stage", "nam", "gradcam", RANDOM, "broken"]
    assert VERDICTS[2].figure("mean").value == pytest.approx((2.9 / 3 + 0.4 / 3) / 2)


def test_the_reference_is_held_against_the_best_other_method_of_each_variant() -> None:
    contests = benchmark().contests
    assert [rival for rival, _ in contests.values()] == ["gradcam", "nam", "nam"]
    assert contests["plain"][1].value == pytest.approx((0.5 + 0.4 + 0.4) / 3)
    lines = benchmark().standing.splitlines()
    assert lines[2].startswith("- plain: ahead of `gradcam` (0.43 [")
    assert lines[3].startswith("- late: behind `nam` (-0.77 [")
    assert "best or level with the best on 1 of 2 variants" in benchmark().finding


def test_a_failure_is_a_row_whose_reason_is_a_note_and_what_was_not_measured_is_a_dash() -> None:
    table = benchmark().table()
    rows = {cells[0]: cells[1:] for cells in table.texts}
    assert rows["broken"] == [*"-------"]
    assert rows["two_stage"][-4:] == ["2", "1", "2.2x", "12x"]
    assert "broken failed: it has no words" in table.notes


def test_without_a_reference_nothing_is_held_against_it() -> None:
    for reference in ("domain_entropy", "broken"):
        assert benchmark(reference).contests == {}
        assert benchmark(reference).standing == ""


def test_unknown_variants_are_refused() -> None:
    assert check_variants(None) == list(VARIANTS)
    assert check_variants("late") == ["late"]
    for wrong, got in ((["plane"], "`plane`"), ([], "none")):
        with pytest.raises(ValueError, match=f"plain, decoys.*got {got}"):
            check_variants(wrong)


def test_one_call_ranks_a_locator_of_ones_own() -> None:
    mine = Locator({"mine": Stage(GradCAM(), TopK(1))})
    found = rank_planted([mine, "random"], variants=["plain"], models=1, pictures=3, reference="mine")
    assert [one.method for one in found.verdicts] == ["mine", RANDOM]
    assert found.verdicts[0].precisions == {"plain": [1.0]}
    assert "mine" in str(found) and "mine" in found._repr_html_()
    assert len(read_page(found._repr_html_(), found.table()).pictures) == 1
    # What a method takes was not measured, so there is no column of dashes for it.
    assert "forwards" not in found.table().columns
    assert "forwards" in found.with_costs({"mine": Cost(1, 1, 3.0, 2.0)}).table().columns


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("compare", overrides=["against=truth", *overrides])


def test_the_recipe_ranks_times_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = composed(
        "methods=[two_stage,gradcam,activation,random]", "planted.variants=[plain,late]", "planted.seeds=1",
        "planted.pictures=3", "planted.repeats=1",
    )  # fmt: skip
    with Run(tmp_path) as kept:
        truth(settings, kept, NoTracker(), style=True)
    report = json.loads((tmp_path / "planted.json").read_text())
    methods = report["methods"]
    assert set(methods) == {"two_stage", "gradcam", "activation", RANDOM}
    assert methods["gradcam"]["average_precision"]["plain"]["value"] == 1
    # No gradient reaches the last layer at image positions: its neurons are tied, and most others are in front.
    assert methods["gradcam"]["average_precision"]["late"]["value"] < 0.1
    assert methods[RANDOM]["by_model"] == {
        "plain": [expected_average_precision(192, 1)],
        "late": [expected_average_precision(192, 3)],
    }
    passes = {name: (one["cost"]["forwards"], one["cost"]["backwards"]) for name, one in methods.items() if one["cost"]}
    assert passes == {"two_stage": (2, 1), "gradcam": (1, 1), "activation": (1, 0)}
    assert methods["two_stage"]["cost"]["memory"] > 1
    lines = list(csv.DictReader((tmp_path / "planted.csv").read_text().splitlines()))
    assert len(lines) == 4 * 3
    assert {line["variant"] for line in lines} == {"plain", "late", "mean"}
    page = (tmp_path / "planted.md").read_text()
    assert "| method | mean | plain | late | forwards | backwards | time | memory |\n" in page
    assert "`two_stage` against the best other method of each variant" in page
    assert (tmp_path / "figures" / "planted.png").read_bytes()[:4] == b"\x89PNG"
    assert "two_stage" in capsys.readouterr().out
