"""MINER's figures by hand, the counts of its strategies, and the neurons that it finds in real models."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_llava import D_FF, N_LAYERS, tiny_llava
from torch import Tensor

from kedit.data.inpaint import Exact
from kedit.data.scenes import Scenes
from kedit.internals.hooks import record
from kedit.locate.difference import ActivationDifference
from kedit.locate.importance import (
    METRICS,
    attention_scores,
    importance,
    over_samples,
    over_sets,
    positions_of,
    scaled,
    token_weights,
)
from kedit.locate.locator import Locator, Stage
from kedit.locate.miner import UNION, Miner
from kedit.locate.modality_importance import ModalityImportance
from kedit.locate.modality_selection import RANDOM, best, picks
from kedit.locate.scorer import LayerEvidence
from kedit.locate.selection import Quantile, TopK
from kedit.models.attention import Attention
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.mllm import MODALITIES, Generated
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.neurons import NeuronId, NeuronScores, load_scores, save_scores
from kedit.samples import Concept, Counterfactual

STRATEGIES: tuple[Any, ...] = ("uniform", "adaptive", "LA_MU", "LU_MA")
NAMES = ("text", "special", "image", "video")
PAIRS = [without(picture("one", (5,)), STAR_CONCEPT), without(picture("two", (1, 2), (9,)), STAR_CONCEPT)]


def random_importance(n_modalities: int, n_layers: int, n_neurons: int, seed: int = 0) -> dict[str, Tensor]:
    values = torch.rand(n_modalities, n_layers, n_neurons, generator=torch.Generator().manual_seed(seed))
    return dict(zip(NAMES, values, strict=False))


def union(picked: dict[str, list[NeuronId]]) -> set[NeuronId]:
    return {one for ids in picked.values() for one in ids}


@pytest.fixture(scope="module")
def tiny() -> HuggingFaceMLLM:
    model = tiny_llava()
    model.module.requires_grad_(False)
    return model


def act_of(model: HuggingFaceMLLM, pairs: Sequence[Counterfactual]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the activations of each layer on the prompt, what its positions hold, and which of them are prompt."""
    batch = model.teacher_forced([pair.sample.image for pair in pairs], [()] * len(pairs))
    with record(model.module, model.site("act")) as seen:
        model.logits(batch)
    return [seen[layer].detach() for layer in sorted(seen)], batch.modalities, batch.prompt


# --- the figures


def test_a_modality_is_where_the_prompt_holds_it() -> None:
    token_types = torch.tensor(
        [[MODALITIES.index(one) for one in ("padding", "special", "image", "text", "audio", "text")]]
    )
    prompt = torch.tensor([[False, True, True, True, True, False]])
    expected = {
        "text": [3], "special": [1], "special_text": [1, 3], "image": [2], "video": [], "audio": [4],
        "prompt": [1, 2, 3, 4],
    }  # fmt: skip
    for modality, where in expected.items():
        found = positions_of(modality, token_types, prompt)  # type: ignore[arg-type]
        assert found[0].nonzero().flatten().tolist() == where


@pytest.mark.parametrize("seed", range(5))
def test_the_attention_figures_are_sums_over_rows_of_the_attention_times_the_activations(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(2, 7, 5, generator=generator)
    scores = torch.rand(2, 7, 7, generator=generator).softmax(-1)
    where = torch.tensor([[False, True, True, False, True, False, True], [False] * 6 + [True]])
    made = importance(activations, where, scores, ("attn_k", "attn_q"))
    for row in range(2):
        inside = where[row]
        among, of_tokens = scores[row][inside][:, inside], activations[row][inside]
        torch.testing.assert_close(made[row, 0], (among.softmax(0).T @ of_tokens).sum(0))
        torch.testing.assert_close(made[row, 1], (among.softmax(1) @ of_tokens).sum(0))
        by_key, by_query = token_weights(scores[row : row + 1], inside[None], "faithful")
        torch.testing.assert_close(made[row, 0], by_key[0] @ activations[row])
        torch.testing.assert_close(made[row, 1], by_query[0] @ activations[row])
        # Each column, or row, of the modality hands out a weight of one.
        for weights in (by_key, by_query):
            torch.testing.assert_close(weights.sum(), torch.tensor(float(inside.sum())))


def test_the_simple_figures_are_those_of_the_modalitys_tokens() -> None:
    activations = torch.tensor([[[9.0, 9.0], [1.0, -1.0], [3.0, -2.0], [-1.0, 0.0]]])
    where = torch.tensor([[False, True, True, True]])
    made = importance(activations, where, None, ("prob", "mean", "max"))[0]
    torch.testing.assert_close(made, torch.tensor([[2 / 3, 0.0], [1.0, -1.0], [3.0, 0.0]]))


def test_plain_attention_is_shared_out_by_its_own_size() -> None:
    scores = torch.tensor([[[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.3, 0.3, 0.4]]])
    by_key, by_query = token_weights(scores, torch.tensor([[False, True, True]]), "plain")
    # Among tokens 1 and 2: [[.8, 0], [.3, .4]]; columns sum to 1.1 and .4, rows to .8 and .7.
    torch.testing.assert_close(by_key, torch.tensor([[0.0, 8 / 11, 3 / 11 + 1]]))
    torch.testing.assert_close(by_query, torch.tensor([[0.0, 1 + 3 / 7, 4 / 7]]))


def test_the_attention_of_the_reference_looks_ahead_and_neither_looks_at_padding_or_forced_words() -> None:
    query = torch.tensor([0.0, 1.0, 2.0, 3.0]).view(1, 1, 4, 1)
    attention = Attention(query, query, 1.0)
    prompt = torch.tensor([[False, True, True, False]])
    ahead = torch.tensor([[1.0, 2.0], [2.0, 4.0]]).softmax(-1)
    torch.testing.assert_close(attention_scores(attention, prompt, "faithful")[0, 1:3, 1:3], ahead)
    own = torch.tensor([[1.0, 0.0], [*torch.tensor([2.0, 4.0]).softmax(-1)]])
    torch.testing.assert_close(attention_scores(attention, prompt, "plain")[0, 1:3, 1:3], own)
    for mode in ("faithful", "plain"):
        scores = attention_scores(attention, prompt, mode)  # type: ignore[arg-type]
        assert scores[0][:, [0, 3]].count_nonzero() == 0
        assert scores[0, 0].sum() == (1.0 if mode == "faithful" else 0.0)


@pytest.mark.parametrize("mode", ["faithful", "plain"])
@pytest.mark.parametrize("n_tokens", [0, 1, 3])
def test_constant_activations_no_token_or_a_single_one_give_no_nan(mode: Any, n_tokens: int) -> None:
    where = torch.arange(4)[None] < n_tokens
    scores = torch.full((1, 4, 4), 0.25)
    for activations in (torch.ones(1, 4, 3), torch.randn(1, 4, 3)):
        made = importance(activations, where, scores, METRICS, mode)
        assert made.isfinite().all()
        assert scaled(made).isfinite().all()
        assert (made.count_nonzero() == 0) == (n_tokens == 0)
    assert scaled(importance(torch.ones(1, 4, 3), where, scores, METRICS, mode)).count_nonzero() == 0


def test_what_is_no_number_at_the_padding_does_not_count() -> None:
    activations = torch.tensor([[[math.nan], [2.0], [4.0]]])
    made = importance(activations, torch.tensor([[False, True, True]]), torch.full((1, 3, 3), 1 / 3))
    assert made[0, :, 0].tolist() == [1.0, 3.0, 4.0, 6.0, 6.0]


def test_a_figure_is_scaled_by_layer_over_all_layers_or_not_at_all() -> None:
    figures = torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, math.nan]])
    by_layer = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.0, math.nan]])
    torch.testing.assert_close(scaled(figures), by_layer, equal_nan=True)
    over_all = torch.tensor([[0.0, 0.25, 0.5], [1.0, 1.0, math.nan]])
    torch.testing.assert_close(scaled(figures, "global"), over_all, equal_nan=True)
    assert scaled(figures, "none") is figures


def test_samples_without_a_modality_dilute_it_in_the_reference_only() -> None:
    mean, present = torch.tensor([[[0.25]], [[0.5]], [[0.0]]]), torch.tensor([[[0.5]], [[1.0]], [[0.0]]])
    assert over_samples(mean, present).flatten().tolist() == [0.5, 0.5, 0.0]
    assert over_samples(mean, present, faithful=True) is mean


def test_a_modality_counts_over_the_data_sets_that_have_it() -> None:
    one, other = torch.tensor([[[0.4]], [[0.0]], [[0.0]]]), torch.tensor([[[0.2]], [[0.6]], [[0.0]]])
    torch.testing.assert_close(over_sets([one, other]), torch.tensor([[[0.3]], [[0.6]], [[0.0]]]))


# --- the strategies


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 30), st.sampled_from([0.02, 0.1, 0.37, 1.0]), st.booleans())
def test_each_strategy_picks_as_many_neurons_as_it_says(m: int, n_layers: int, n: int, ratio: float, old: bool) -> None:
    values = random_importance(m, n_layers, n)
    k = math.floor(round(ratio * n_layers * n, 9))
    counts = {one: picks(values, one, ratio, faithful=old) for one in STRATEGIES}
    assert sum(map(len, counts["adaptive"].values())) == k
    assert {name: len(counts["LA_MU"].get(name, ())) for name in values} == dict.fromkeys(values, k // m)
    assert sum(map(len, counts["LU_MA"].values())) == n_layers * (k // n_layers)
    uniform = [(name, one.layer) for name, ids in counts["uniform"].items() for one in ids]
    assert {uniform.count((name, layer)) for name in values for layer in range(n_layers)} == {k // (m * n_layers)}
    assert len(union(counts["adaptive"])) == k
    assert len(union(picks(values, RANDOM, ratio))) == k


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 30))
def test_adaptive_gives_each_neuron_to_the_modality_it_matters_to_most(m: int, n_layers: int, n: int) -> None:
    values = random_importance(m, n_layers, n)
    for name, ids in picks(values, "adaptive", 0.5).items():
        for one in ids:
            assert all(values[name][one] >= other[one] for other in values.values())


def test_a_neuron_that_two_modalities_need_is_picked_for_both_except_by_adaptive() -> None:
    values = {"text": torch.tensor([[0.9, 0.1, 0.0, 0.0]]), "image": torch.tensor([[0.8, 0.0, 0.7, 0.0]])}
    first, third = NeuronId(0, 0), NeuronId(0, 2)
    assert picks(values, "LA_MU", 0.5) == picks(values, "uniform", 0.5) == {"text": [first], "image": [first]}
    assert picks(values, "LU_MA", 0.75) == {"text": [first], "image": [first, third]}
    assert picks(values, "adaptive", 0.5) == {"text": [first], "image": [third]}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ties_go_to_the_lower_layer_and_index_and_the_first_modality(strategy: Any) -> None:
    values = {"text": torch.ones(2, 8), "image": torch.ones(2, 8)}
    layers = {"adaptive": {"text": [0, 0, 0, 0]}, "LA_MU": {"text": [0, 0], "image": [0, 0]}}
    layers |= {"LU_MA": {"text": [0, 0, 1, 1]}, "uniform": {"text": [0, 1], "image": [0, 1]}}
    made = picks(values, strategy, 0.25)
    assert {name: [one.layer for one in ids] for name, ids in made.items()} == layers[strategy]
    for ids in made.values():
        assert ids == sorted(ids)
        assert {one.index for one in ids} <= {0, 1, 2, 3}


@pytest.mark.parametrize("strategy", (*STRATEGIES, RANDOM))
@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_neurons_that_a_layer_does_not_have_are_never_picked_and_do_not_count(strategy: Any, ratio: float) -> None:
    values = random_importance(2, 2, 10)
    for one in values.values():
        one[1, 4:] = math.nan
    made = union(picks(values, strategy, ratio)) | union(best(values, strategy, 14, tuple(values)))
    assert made <= {NeuronId(0, index) for index in range(10)} | {NeuronId(1, index) for index in range(4)}
    assert sum(map(len, picks(values, "adaptive", 0.5).values())) == 7


def test_uniform_goes_on_in_other_layers_in_the_reference_only() -> None:
    """The reference ranks one layer's scores among zeros that stand for all others."""
    values = {"text": torch.tensor([[0.0, -1.0, -2.0], [3.0, 2.0, 1.0]])}
    ids = [NeuronId(0, 0), NeuronId(0, 1), NeuronId(1, 0), NeuronId(1, 1)]
    assert picks(values, "uniform", 0.67) == {"text": ids}
    spilled = picks(values, "uniform", 0.67, faithful=True)["text"]
    assert spilled == [NeuronId(0, 0), NeuronId(1, 0), NeuronId(1, 0), NeuronId(1, 1)]


def test_a_share_that_is_a_whole_number_but_for_rounding_is_one_short_in_the_reference_only() -> None:
    values = {"text": torch.rand(1, 100)}
    assert int(0.29 * 100) == 28
    assert len(picks(values, "LA_MU", 0.29)["text"]) == 29
    assert len(picks(values, "LA_MU", 0.29, faithful=True)["text"]) == 28


def test_the_reference_draws_with_replacement() -> None:
    values = {"text": torch.rand(2, 5)}
    drawn = picks(values, RANDOM, 1.0, faithful=True)[RANDOM]
    assert len(drawn) == 10 > len(set(drawn))
    assert len(set(picks(values, RANDOM, 1.0)[RANDOM])) == 10


@settings(max_examples=40)
@given(
    st.sampled_from([*STRATEGIES, RANDOM]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(0, 9)
)
def test_a_number_of_neurons_is_met_and_a_larger_one_adds_to_it(
    strategy: Any, m: int, n_layers: int, n: int, k: int
) -> None:
    values = random_importance(m, n_layers, n)
    made = union(best(values, strategy, k, tuple(values)))
    assert len(made) == min(k, n_layers * n)
    assert made <= union(best(values, strategy, k + 1, tuple(values)))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ratio", [0.1, 0.3])
def test_as_many_neurons_as_a_ratio_picks_are_the_same_ones(strategy: Any, ratio: float) -> None:
    values = random_importance(3, 4, 50)
    expected = union(picks(values, strategy, ratio))
    assert union(best(values, strategy, len(expected), tuple(values))) == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_number_of_neurons_is_met_by_the_wanted_modalities_alone(strategy: Any) -> None:
    values = random_importance(3, 4, 50)
    made = best(values, strategy, 7, ["image"])
    assert list(made) == ["image"]
    assert len(made["image"]) == len(set(made["image"])) == 7


# --- a stage of a locator


def test_with_the_mean_alone_and_unscaled_it_is_the_mean_activation_over_image_tokens(tiny: HuggingFaceMLLM) -> None:
    acts, token_types, prompt = act_of(tiny, PAIRS)
    where = (token_types == MODALITIES.index("image")) & prompt
    for weights, figure in (
        ([0, 1, 0, 0, 0], torch.mean),
        ([1, 0, 0, 0, 0], lambda one, axis: (one > 0).float().mean(axis)),
    ):
        scorer = ModalityImportance("image", weights, norm="none")
        scores = Miner(weights=weights, norm="none").score(tiny, PAIRS)["image"]
        assert scores.method == repr(scorer)
        for layer, act in enumerate(acts):
            expected = torch.stack([figure(row[keep], 0) for row, keep in zip(act, where, strict=True)]).mean(0)
            torch.testing.assert_close(scores.values[layer], expected)
    assert where.any()


def test_scaled_over_all_layers_the_best_neuron_of_one_sample_is_one(tiny: HuggingFaceMLLM) -> None:
    scores = Miner(weights=[0, 0, 1, 0, 0], norm="global").score(tiny, PAIRS[:1])["image"].values
    assert (scores.min(), scores.max()) == (0, 1)
    by_layer = Miner(weights=[0, 0, 1, 0, 0]).score(tiny, PAIRS[:1])["image"].values
    assert by_layer.amax(1).tolist() == [1.0] * N_LAYERS
    assert scores.amax(1).tolist() != [1.0] * N_LAYERS


@pytest.mark.parametrize("mode", ["faithful", "plain"])
@pytest.mark.parametrize("split", ["prompt", "special_text_as_one", "special_text_separate"])
def test_a_stage_sees_the_prompt_as_miner_does_whatever_is_forced_after_it(
    tiny: HuggingFaceMLLM, mode: Any, split: Any
) -> None:
    """Captions of several lengths pad the prompts on the left."""
    named = Concept("thing", ("star", "unicorn"))
    pairs = [replace(pair, concept=named) for pair in PAIRS]
    texts = ("a picture of the blue sky and a unicorn", "star")
    captions = [Generated(one, tuple(tiny.tokenizer(one, add_special_tokens=False).input_ids)) for one in texts]
    options: dict[str, Any] = {"weights": (0.1, 0.2, 0.2, 0.25, 0.25), "attn_mode": mode}
    found = Miner(split=split, **options).score(tiny, pairs)
    stages = {name: Stage(ModalityImportance(name, **options), TopK(1)) for name in found}  # type: ignore[arg-type]
    again = Locator(stages, site="act").score(tiny, pairs, captions=captions)
    for name, one in found.items():
        torch.testing.assert_close(again[name].values, one.values, atol=1e-5, rtol=1e-5)
        assert again[name].method == one.method
        assert float(one.values.max()) > 0


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_plain_attention_is_the_one_that_the_model_reports(tiny: HuggingFaceMLLM, implementation: str) -> None:
    before = tiny.module.config._attn_implementation
    tiny.module.set_attn_implementation("eager")  # type: ignore[operator]
    batch = tiny.teacher_forced([pair.sample.image for pair in PAIRS], [()] * len(PAIRS))
    with torch.no_grad():
        reported = tiny.module(**batch.inputs, output_attentions=True).attentions
    acts, token_types, prompt = act_of(tiny, PAIRS)
    where = positions_of("image", token_types, prompt)
    tiny.module.set_attn_implementation(implementation)  # type: ignore[operator]
    scores = Miner(weights=[0, 0, 0, 0, 1], norm="none", attn_mode="plain").score(tiny, PAIRS)["image"].values
    tiny.module.set_attn_implementation(before)  # type: ignore[operator]
    for layer, (act, attention) in enumerate(zip(acts, reported, strict=True)):
        expected = importance(act, where, attention.mean(1), ["attn_q"], "plain")[:, 0].mean(0)
        torch.testing.assert_close(scores[layer], expected, atol=1e-5, rtol=1e-5)


def test_it_filters_the_candidates_of_another_stage(planted: Planted) -> None:
    first, second = Stage(ActivationDifference(), TopK(2)), Stage(ModalityImportance("image"), Quantile(0.5))
    locator = Locator({"difference": first, "miner": second}, site="act")
    sets = locator.select_each(locator.score(planted.model, PAIRS))
    assert (len(sets["difference"]), len(sets["miner"])) == (2, 1)
    assert sets["miner"] <= sets["difference"]


def test_attention_is_asked_for_only_if_it_has_a_weight_and_its_lack_is_named() -> None:
    assert ModalityImportance().needs == {"attention"}
    assert ModalityImportance(weights=[1, 1, 1, 0, 0]).needs == frozenset()
    token_types = torch.full((1, 2), MODALITIES.index("image"))
    evidence = LayerEvidence(
        3, token_types, torch.ones(1, 2, 4), modalities=token_types, prompt=torch.ones(1, 2).bool()
    )
    with pytest.raises(LookupError, match=r"attention of layer 3 does not go through .* give `attn_k` and `attn_q` no"):
        ModalityImportance().score(evidence)


# --- the locator


def test_miner_reads_each_picture_once_and_needs_no_caption_that_names_the_concept(tiny: HuggingFaceMLLM) -> None:
    calls: list[int] = []
    hook = tiny.module.register_forward_hook(lambda module, inputs, output: calls.append(1))
    unnamed = [replace(pair, concept=Concept("elephant")) for pair in PAIRS * 3]
    scores = Miner().score(tiny, unnamed)
    hook.remove()
    assert len(calls) == math.ceil(len(unnamed) / tiny.batch_size) == 2
    assert list(scores) == ["text", "special", "image"]
    for one in scores.values():
        assert one.values.shape == (N_LAYERS, D_FF)
        assert one.site == "act"
        told = {
            key: one.provenance[key] for key in ("concept", "forwards", "backwards", "skipped", "target", "samples")
        }
        assert told == {
            "concept": "elephant", "forwards": "6", "backwards": "0", "skipped": "0", "target": "none",
            "samples": '["one", "two", "one", "two", "one", "two"]',
        }  # fmt: skip
        assert float(one.provenance["seconds"]) > 0


def test_several_data_sets_count_alike_whatever_their_size(tiny: HuggingFaceMLLM) -> None:
    first, second = Miner().score(tiny, PAIRS[:1]), Miner().score(tiny, PAIRS[1:])
    both = Miner().score_sets(tiny, {"a": PAIRS[:1] * 3, "b": PAIRS[1:]})
    for name, one in both.items():
        torch.testing.assert_close(one.values, (first[name].values + second[name].values) / 2, atol=1e-5, rtol=1e-5)
        assert one.provenance["forwards"] == "4"


@pytest.mark.parametrize("strategy", (*STRATEGIES, RANDOM))
@pytest.mark.parametrize("k", [0, 1, 5, 11])
def test_limited_to_some_neurons_it_picks_that_many(tiny: HuggingFaceMLLM, strategy: Any, k: int) -> None:
    scores = Miner().score(tiny, PAIRS[:1])
    sets = Miner(strategy=strategy).limited(k).select_each(scores)
    assert len(sets[UNION]) == k
    names = [RANDOM] if strategy == RANDOM else list(scores)
    assert list(sets) == [*names, UNION]
    assert {one for name in names for one in sets[name]} == set(sets[UNION])
    assert all(one.site == "act" for one in sets.values())


def test_the_union_is_of_the_chosen_modalities() -> None:
    scores = {name: NeuronScores(one, "by hand", "act") for name, one in random_importance(3, 2, 50).items()}
    sets = Miner(ratio=0.3).select_each(scores)
    assert sets[UNION] == sets["text"] | sets["special"] | sets["image"]
    assert Miner(ratio=0.3).select(scores) == sets[UNION]
    chosen = Miner(ratio=0.3, modalities=["special", "image"])
    assert chosen.select_each(scores) == sets | {UNION: sets["special"] | sets["image"]}
    assert len(chosen.limited(9).select(scores)) == 9


def test_scores_from_a_file_select_the_same_neurons(tiny: HuggingFaceMLLM, tmp_path: Path) -> None:
    scores, miner = Miner().score(tiny, PAIRS), Miner(ratio=0.3)
    save_scores(scores, tmp_path / "scores.safetensors")
    assert miner.select_each(load_scores(tmp_path / "scores.safetensors")) == miner.select_each(scores)


def test_a_budget_that_is_less_than_one_neuron_each_is_a_warning(
    planted: Planted, caplog: pytest.LogCaptureFixture
) -> None:
    scores = Miner().score(planted.model, PAIRS)
    assert len(Miner().select(scores)) == 0
    assert [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING] == [
        "`LA_MU` picks no neuron: ratio 0.02 of 16 neurons is 0.32, to be shared out over 3 modalities and 2 layers; "
        "raise `ratio` or set `k`"
    ]


def test_in_the_planted_model_what_sees_color_serves_pictures_only_and_the_decoy_as_much_as_the_concept(
    planted: Planted,
) -> None:
    scores = Miner(weights=[0, 0, 1, 0, 0], norm="none").score(planted.model, PAIRS)

    def of(modality: str, name: str) -> float:
        return float(scores[modality].of(getattr(planted, name).ids))

    for name in ("star", "decoy", "house"):
        assert of("text", name) == of("special", name) == 0
        assert of("image", name) > 0
    assert of("image", "star") == of("image", "decoy")
    assert of("text", "prior") == pytest.approx(of("image", "prior"), rel=0.1)


def test_in_the_shipped_model_each_modality_has_its_own_neurons() -> None:
    model = load("scenes", prompt="describe the picture .")
    data = Scenes()
    concept = data.concepts[0]
    split = data.split(concept, locate=2, target=1, retention=1, seed=0)
    scores = Miner().score(model, [Exact()(sample, concept) for sample in split.locate])
    n_neurons = scores["image"].values.numel()
    sets = Miner().select_each(scores)
    each = int(0.02 * n_neurons) // 3
    assert {name: len(one) for name, one in sets.items() if name != UNION} == dict.fromkeys(scores, each)
    assert sets["image"].jaccard(sets["text"]) < 0.5
    assert len(Miner(modalities=["image"]).limited(20).select(scores)) == 20


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "out"}, "`site` is one of mid, act, pre, got 'out'"),
        ({"split": "words"}, "`split` is one of prompt, special_text_as_one, special_text_separate, got 'words'"),
        ({"strategy": "best"}, "`strategy` is one of uniform, adaptive, LA_MU, LU_MA, random, got 'best'"),
        ({"ratio": 0}, "`ratio` is a share of all neurons, above 0 and at most 1, got 0"),
        ({"k": -1}, "`k` is a number of neurons, 0 or more, got -1"),
        ({"weights": [1, 2]}, "`weights` are 5 numbers of 0 or more, not all 0, for prob, mean, .*; got 1, 2"),
        ({"weights": [0] * 5}, "`weights` are 5 numbers of 0 or more, not all 0"),
        ({"attn_mode": "raw"}, "`attn_mode` is one of faithful, plain, got 'raw'"),
        ({"norm": "rows"}, "`norm` is one of layer, global, none, got 'rows'"),
        ({"modalities": ["prompt"]}, r"`modalities` is `all` or a list of .*, got \('prompt',\)"),
        ({"modalities": "image"}, "`modalities` is `all` or a list of what `split=special_text_separate` tells apart"),
        ({"modalities": []}, r"`modalities` is `all` or a list of .*, got \(\)"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Miner(**options)


def test_a_modality_that_no_prompt_has_is_refused(tiny: HuggingFaceMLLM) -> None:
    with pytest.raises(ValueError, match="no sample's prompt has `video` tokens"):
        Locator({"only": Stage(ModalityImportance("video"), TopK(1))}, site="act").score(
            tiny, PAIRS, captions=[Generated("star", (5 + 9,))] * 2
        )
    scores = Miner().score(tiny, PAIRS)
    with pytest.raises(ValueError, match="`modalities` asks for video; the samples have text, special, image"):
        Miner(modalities=["video"]).select(scores)
    with pytest.raises(ValueError, match=r"no scores for any of prompt .*; there are text, special, image"):
        Miner(split="prompt").select(scores)
    with pytest.raises(ValueError, match=r"`modality` is one of text, special, .*, got 'sound'"):
        ModalityImportance("sound")  # type: ignore[arg-type]


def test_no_pairs_are_refused(tiny: HuggingFaceMLLM) -> None:
    with pytest.raises(ValueError, match="nothing to locate in: no counterfactual pairs in `b`"):
        Miner().score_sets(tiny, {"a": PAIRS, "b": []})
