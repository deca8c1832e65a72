"""Choosing thresholds from the data: what is found on models whose answer is known, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kedit.locate.activation import Activation
from kedit.locate.choosing import check_choice, check_pairs, choose_neurons
from kedit.locate.difference import ActivationDifference
from kedit.locate.fdr.distractor_words import distractor_words
from kedit.locate.fdr.null_distribution import Controlled, EachSample, has_control
from kedit.locate.fdr.selector import FDRSelector, NullDistributions
from kedit.locate.gradcam import GradCAM
from kedit.locate.gradient import Gradient
from kedit.locate.knee import Knee
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.locate.target import Target
from kedit.models.mllm import Generated
from kedit.models.planted.nulls import NAMES, STAR_CONCEPT, PlantedNulls, null_pairs, planted_nulls
from kedit.neurons import NeuronScores, NeuronSet, load_scores, save_scores
from kedit.samples import Concept

FORCED = Target(on_missing="force")
BOTH = Locator(
    {"difference": Stage(ActivationDifference(), TopK(8)), "gradcam": Stage(GradCAM(), TopK(4))}, target=FORCED
)
FIRST = Locator({"difference": BOTH.stages["difference"]}, target=FORCED)
N = 48
PAIRS = null_pairs(N, 0)
CAPTIONS = [Generated("", ())] * N
WORDS = [Concept(name) for name in NAMES]


@pytest.fixture(scope="module")
def case() -> PlantedNulls:
    return planted_nulls(0)


@pytest.fixture(scope="module")
def scores(case: PlantedNulls) -> dict[str, NeuronScores]:
    return BOTH.score(case.model, PAIRS, captions=CAPTIONS)


@pytest.fixture(scope="module")
def nulls(case: PlantedNulls) -> NullDistributions:
    return FDRSelector().measure(case.model, BOTH, PAIRS, captions=CAPTIONS, words=WORDS)


def false_share(found: NeuronSet, truth: NeuronSet) -> float:
    return len(found - truth) / max(1, len(found))


def test_it_finds_what_changes_with_the_star_and_then_what_says_so(
    case: PlantedNulls, nulls: NullDistributions, scores: dict[str, NeuronScores]
) -> None:
    found = FDRSelector(q=0.1).choose(nulls, scores)
    first, last = found.stages.values()
    assert len(first & case.readers) >= 20
    assert false_share(first, case.readers) <= 0.2
    assert len(last & case.speakers) >= 4
    assert false_share(last, case.speakers) <= 0.2
    assert last <= first
    assert found.neurons == last


def test_what_it_reports_says_how_it_was_judged(nulls: NullDistributions, scores: dict[str, NeuronScores]) -> None:
    found = FDRSelector(q=0.1).choose(nulls, scores)
    content = json.loads(json.dumps(found.to_json()))
    one, two = content["stages"].values()
    assert set(one["samples"]).isdisjoint(two["samples"])
    assert len(one["samples"]) == len(two["samples"]) == N // 2
    assert (one["against"], two["against"]) == ("control pictures", [name for name in NAMES if name != "star"])
    assert (one["kept"], one["smallest_p"]) == (len(found.stages["difference"]), 2.0**-24)
    # A candidate whose gradient is zero towards every word is not tested.
    assert 0 < two["tested"] <= one["kept"]
    # Three forwards a picture, then one and a backward for the word and each of the 11 wrong ones.
    assert content["passes"] == {"forwards": 24 * 3 + 24 * 12, "backwards": 24 * 12}
    for name, stage in content["stages"].items():
        for layer, threshold in stage["thresholds"].items():
            kept = [neuron for neuron in found.stages[name] if neuron.layer == int(layer)]
            assert float(scores[name].of(kept).min()) == threshold


def test_a_rate_is_swept_without_running_the_model(
    case: PlantedNulls, nulls: NullDistributions, scores: dict[str, NeuronScores]
) -> None:
    sets = [FDRSelector(q=q).choose(nulls, scores).stages["difference"] for q in (0.01, 0.05, 0.3)]
    assert sets[0] <= sets[1] <= sets[2]
    assert len(sets[0]) < len(sets[2])
    again = FDRSelector(q=0.05).locate(case.model, BOTH, PAIRS, captions=CAPTIONS, words=WORDS, scores=scores)
    assert again.stages["difference"] == sets[1]


def test_one_stage_is_judged_on_all_samples_and_the_pvalues_can_be_kept(case: PlantedNulls, tmp_path: Path) -> None:
    found = FDRSelector().locate(case.model, FIRST, PAIRS[:16], captions=CAPTIONS[:16])
    assert len(found.tests["difference"].null.samples) == 16
    save_scores(found.pvalues, tmp_path / "pvalues.safetensors")
    kept = load_scores(tmp_path / "pvalues.safetensors")["difference"]
    assert kept.values.nan_to_num(-1).equal(found.pvalues["difference"].values.nan_to_num(-1))
    assert kept.method == "p-value of " + found.scores["difference"].method
    known = kept.values[~kept.values.isnan()]
    assert bool(((known > 0) & (known <= 1)).all())


def test_where_there_is_nothing_to_find_nothing_is_found_and_that_is_told(
    case: PlantedNulls, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = null_pairs(24, 3, shown=False)
    found = FDRSelector().locate(case.model, FIRST, nothing, captions=CAPTIONS[:24])
    assert not found.neurons
    assert "stage `difference` keeps no neuron at q=0.05; the lowest of" in caplog.text


def test_a_difference_that_subtracts_its_control_is_tested_alike(case: PlantedNulls) -> None:
    controlled = Locator({"difference": Stage(ActivationDifference(control=True), TopK(8))}, target=FORCED)
    each = [FDRSelector().measure(case.model, one, PAIRS[:8], captions=CAPTIONS[:8]) for one in (FIRST, controlled)]
    one, other = (nulls.by_stage["difference"].pvalues.nan_to_num(-1) for nulls in each)
    assert torch.equal(one, other)


def test_pictures_whose_control_shows_no_change_judge_the_stage_that_needs_none() -> None:
    pairs = [
        replace(pair, control=pair.sample.image) if number < 12 else pair for number, pair in enumerate(PAIRS[:24])
    ]
    assert [has_control(pair) for pair in pairs] == [False] * 12 + [True] * 12
    cases = BOTH.cases(planted_nulls(0).model, pairs, CAPTIONS[:24])
    parts = FDRSelector().parts(BOTH, cases)
    assert {has_control(one.pair) for one in parts["difference"]} == {True}
    assert (len(parts["difference"]), len(parts["gradcam"])) == (12, 12)


def test_the_halves_depend_on_the_seed_alone() -> None:
    cases = BOTH.cases(planted_nulls(0).model, PAIRS, CAPTIONS)
    ids = [[one.pair.sample.id for one in FDRSelector(seed=seed).parts(BOTH, cases)["gradcam"]] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_distractor_words_begin_otherwise_and_are_drawn_by_seed(case: PlantedNulls) -> None:
    drawn = [distractor_words(case.model, STAR_CONCEPT, [*WORDS, Concept("star")], 6, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 6
    assert "star" not in drawn[0]
    with pytest.raises(ValueError, match=r"5 or more that begin with other tokens; the 3 words given leave `house`"):
        distractor_words(case.model, STAR_CONCEPT, [Concept("house"), Concept("star"), Concept("house")], 6, 0)


@pytest.mark.parametrize(
    ("stages", "pairs", "message"),
    [
        ({"seen": Activation()}, PAIRS, r"no null distribution for stage `seen`, Activation: .* use `select=knee`"),
        ({"difference": ActivationDifference()}, PAIRS[:4], r"smallest p-value is 0.0625, above q=0.05"),
        (
            {"difference": ActivationDifference()},
            [replace(pair, control=None) for pair in PAIRS],
            r"needs `inpaint.control=true`",
        ),
        ({"gradient": Gradient()}, PAIRS, r"the 0 words given leave none"),
    ],
)
def test_what_cannot_be_tested_is_refused(
    case: PlantedNulls, stages: dict[str, object], pairs: list[object], message: str
) -> None:
    locator = Locator({name: Stage(one, TopK(1)) for name, one in stages.items()}, target=FORCED)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        FDRSelector().measure(case.model, locator, pairs, captions=CAPTIONS[: len(pairs)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"), [({"q": 0}, "`q` is a share"), ({"q": 1.0}, "`q`"), ({"words": 4}, "5 or more, got 4")]
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FDRSelector(**options)  # type: ignore[arg-type]


def test_a_choice_is_the_locators_own_its_last_selectors_or_the_tests(
    case: PlantedNulls, scores: dict[str, NeuronScores]
) -> None:
    def kept(select: object) -> dict[str, NeuronSet]:
        made = choose_neurons(select, case.model, BOTH, PAIRS, scores, captions=CAPTIONS, words=WORDS)  # type: ignore[arg-type]
        assert made.neurons == list(made.stages.values())[-1]
        assert (made.fdr_result is not None) == isinstance(select, FDRSelector)
        return made.stages

    own = BOTH.select_each(scores)
    assert kept(None) == own
    assert kept(TopK(2)) == {"difference": own["difference"], "gradcam": TopK(2)(scores["gradcam"], own["difference"])}
    assert kept(Knee())["gradcam"] == Knee()(scores["gradcam"], own["difference"])
    assert set(kept(FDRSelector())) == {"difference", "gradcam"}


def test_a_choice_that_a_locator_cannot_take_is_refused_before_any_model_is_there() -> None:
    check_choice(None, object())
    check_pairs(FDRSelector(), BOTH, PAIRS[:10])
    for few in (PAIRS[:8], [replace(pair, control=None) for pair in PAIRS]):
        check_pairs(Knee(), BOTH, few)
        with pytest.raises(ValueError, match=r"on 4 pairs with a control picture|needs `inpaint.control=true`"):
            check_pairs(FDRSelector(), BOTH, few)
    check_choice(Knee(), BOTH)
    with pytest.raises(ValueError, match="`locate` is object, which selects by itself"):
        check_choice(Knee(), object())
    with pytest.raises(ValueError, match="no null distribution for stage `seen`"):
        check_choice(FDRSelector(), Locator({"seen": Stage(Activation(), TopK(1))}))


def test_scores_of_each_sample_have_the_mean_that_the_locator_gives(
    case: PlantedNulls, scores: dict[str, NeuronScores]
) -> None:
    each = EachSample(BOTH.stages["difference"].scorer)  # type: ignore[arg-type]
    other = EachSample(Controlled(ActivationDifference()))
    stages = {"each": Stage(each, TopK(1)), "other": Stage(other, TopK(1))}
    made = replace(BOTH, stages=stages).score(case.model, PAIRS, captions=CAPTIONS)
    assert each.values().shape == (N, 3, 96)
    assert torch.equal(made["each"].values, scores["difference"].values)
    assert torch.allclose(other.values().double().mean(0).float(), made["other"].values)
