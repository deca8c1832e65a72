"""Sets of neurons obey the laws of sets, and files of neurons and scores say what is wrong with them."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kedit.neurons import NeuronId, NeuronScores, NeuronSet, load_scores, save_scores

IDS = st.tuples(st.integers(0, 3), st.integers(0, 9)).map(lambda pair: NeuronId(*pair))
SETS = st.lists(IDS, max_size=12).map(lambda ids: NeuronSet(tuple(ids)))
SCORES = st.lists(
    st.lists(st.sampled_from([math.nan, math.inf, -math.inf, -2.0, 0.0, 0.5, 0.5, 3.0]), min_size=4, max_size=4),
    min_size=1,
    max_size=3,
).map(lambda rows: NeuronScores(torch.tensor(rows), "any"))


@settings(max_examples=40)
@given(SETS, SETS)
def test_union_intersection_and_difference_are_those_of_python_sets(a: NeuronSet, b: NeuronSet) -> None:
    assert set(a | b) == set(a) | set(b)
    assert set(a & b) == set(a) & set(b)
    assert set(a - b) == set(a) - set(b)
    assert (a <= b) == (set(a) <= set(b))


@settings(max_examples=40)
@given(SETS, SETS)
def test_union_and_intersection_commute_and_a_set_splits_into_the_shared_and_the_rest(
    a: NeuronSet, b: NeuronSet
) -> None:
    assert a | b == b | a and a & b == b & a
    assert (a & b) | (a - b) == a
    assert len(a | b) == len(a) + len(b) - len(a & b)
    assert (a & b) <= a <= (a | b)
    assert a.jaccard(b) == b.jaccard(a)


@settings(max_examples=40)
@given(SETS)
def test_a_set_is_ordered_without_repeats_and_its_layers_hold_all_of_it(a: NeuronSet) -> None:
    assert list(a) == sorted(set(a))
    assert [NeuronId(layer, index) for layer, indices in a.by_layer().items() for index in indices] == list(a)
    assert NeuronSet(tuple(reversed(a.ids)) + a.ids) == a
    assert hash(NeuronSet(tuple(reversed(a.ids)))) == hash(a)


@settings(max_examples=40)
@given(SETS)
def test_overlap_is_one_with_itself_and_zero_with_what_is_disjoint(a: NeuronSet) -> None:
    elsewhere = NeuronSet(tuple(NeuronId(layer + 9, index) for layer, index in a))
    assert a.jaccard(a) == 1.0
    assert a.jaccard(elsewhere) == (0.0 if len(a) else 1.0)


def test_overlap_of_three_of_five_is_0_6() -> None:
    a = NeuronSet(tuple(NeuronId(0, i) for i in range(4)))
    b = NeuronSet(tuple(NeuronId(0, i) for i in range(1, 5)))
    assert a.jaccard(b) == pytest.approx(3 / 5)


def test_plain_pairs_are_accepted_and_membership_is_by_layer_and_index() -> None:
    neurons = NeuronSet(((1, 2), (0, 7)))  # type: ignore[arg-type]
    assert neurons.ids == (NeuronId(0, 7), NeuronId(1, 2))
    assert (1, 2) in neurons and NeuronId(0, 7) in neurons
    assert (2, 1) not in neurons and "star" not in neurons


def test_the_representation_counts_neurons_by_layer() -> None:
    assert repr(NeuronSet(((0, 1), (0, 2), (3, 0)))) == "NeuronSet(3 neurons at `mid`, by layer {0: 2, 3: 1})"


@pytest.mark.parametrize("combine", [NeuronSet.__or__, NeuronSet.__and__, NeuronSet.__sub__, NeuronSet.__le__])
def test_sets_at_different_sites_do_not_combine(combine) -> None:
    with pytest.raises(ValueError, match="neurons at `mid` and at `act` cannot be combined"):
        combine(NeuronSet(((0, 1),)), NeuronSet(((0, 1),), "act"))


def test_a_negative_layer_or_index_is_named() -> None:
    with pytest.raises(ValueError, match=r"count from 0, got NeuronId\(layer=1, index=-2\)"):
        NeuronSet(((0, 5), (1, -2)))


def test_an_unknown_site_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no site `middle`; a site is one of mid, act, pre"):
        NeuronSet((), "middle")  # type: ignore[arg-type]


@settings(max_examples=40)
@given(SETS, st.sampled_from(["mid", "act", "pre"]))
def test_loading_a_saved_set_gives_the_set(tmp_path_factory, a: NeuronSet, site) -> None:
    path = tmp_path_factory.mktemp("neurons") / "neurons.json"
    neurons = NeuronSet(a.ids, site)
    neurons.save(path)
    assert NeuronSet.load(path) == neurons
    assert json.loads(path.read_text()) == neurons.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("star", "Expecting value"),
        ("[]", "list indices"),
        ('{"site": "mid"}', "it has no 'neurons'"),
        ('{"neurons": [[0, 1]]}', "it has no 'site'"),
        ('{"neurons": [[0, 1, 2]], "site": "mid"}', "too many values"),
        ('{"neurons": [[0, 1.5]], "site": "mid"}', "a whole number, got 1.5"),
        ('{"neurons": [["0", "1"]], "site": "mid"}', "a whole number, got '0'"),
        ('{"neurons": [[0, -1]], "site": "mid"}', "count from 0"),
        ('{"neurons": [[0, 1]], "site": "out"}', "no site `out`"),
        ('{"neurons": 3, "site": "mid"}', "not iterable"),
    ],
)
def test_a_file_that_is_no_neuron_set_is_refused_by_name_and_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "neurons.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"neurons\.json` is not a neuron set: ") as failure:
        NeuronSet.load(path)
    assert message in str(failure.value)


@settings(max_examples=40)
@given(SETS, st.integers(0, 5))
def test_a_layer_matched_set_is_as_large_in_each_layer_disjoint_and_the_same_again(a: NeuronSet, seed: int) -> None:
    widths = dict.fromkeys(range(4), 20)
    control = a.layer_matched(widths, seed)
    assert Counter(one.layer for one in control) == Counter(one.layer for one in a)
    assert len(control & a) == 0
    assert all(one.index < widths[one.layer] for one in control)
    assert control == a.layer_matched(widths, seed)


def test_layer_matched_sets_keep_the_site_and_differ_by_seed() -> None:
    neurons = NeuronSet(tuple(NeuronId(1, i) for i in range(10)), "act")
    drawn = {neurons.layer_matched({1: 1000}, seed) for seed in range(20)}
    assert {one.site for one in drawn} == {"act"}
    assert len(drawn) == 20


def test_layer_matched_draws_are_even_over_the_other_neurons() -> None:
    neurons = NeuronSet(((0, 0), (0, 5)))
    counts = Counter(one.index for seed in range(800) for one in neurons.layer_matched({0: 10}, seed))
    # 1,600 draws over 8 neurons: 200 each, with a standard deviation of about 12.
    assert set(counts) == set(range(10)) - {0, 5}
    assert all(150 <= n <= 250 for n in counts.values())


def test_drawing_a_control_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    NeuronSet(((0, 0),)).layer_matched({0: 10}, 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_layer_with_too_few_neurons_for_a_control_says_so() -> None:
    neurons = NeuronSet(tuple(NeuronId(2, i) for i in range(6)))
    with pytest.raises(ValueError, match="layer 2 has 10 neurons: too few for 6 random ones beside the 6"):
        neurons.layer_matched({2: 10}, 0)
    assert len(neurons.layer_matched({2: 12}, 0)) == 6


def test_a_layer_without_a_known_width_is_named() -> None:
    with pytest.raises(ValueError, match=r"neurons in layer 7, and widths are known of \[0, 1\]"):
        NeuronSet(((7, 0),)).layer_matched({0: 4, 1: 4}, 0)


@settings(max_examples=40)
@given(SCORES)
def test_a_ranking_descends_leaves_nan_out_and_breaks_ties_by_layer_then_index(scores: NeuronScores) -> None:
    ranked = scores.ranking()
    values = scores.of(ranked).tolist()
    assert len(ranked) == scores.values.numel() - scores.n_missing
    keys = [(-value, one) for value, one in zip(values, ranked, strict=True)]
    assert keys == sorted(keys)


@settings(max_examples=40)
@given(SCORES, SETS)
def test_a_ranking_among_a_set_is_the_whole_ranking_without_the_others(scores: NeuronScores, among: NeuronSet) -> None:
    assert scores.ranking(among) == [one for one in scores.ranking() if one in among]


def test_infinite_scores_rank_beyond_all_finite_ones() -> None:
    largest = torch.finfo(torch.float32).max
    scores = NeuronScores(torch.tensor([[-math.inf, -largest, math.nan, largest, math.inf]]), "any")
    assert [one.index for one in scores.ranking()] == [4, 3, 1, 0]
    assert scores.n_missing == 1


def test_scores_of_no_neurons_and_of_several_keep_their_order() -> None:
    scores = NeuronScores(torch.arange(6.0).reshape(2, 3), "any")
    assert scores.of([]).shape == (0,)
    assert scores.of([NeuronId(1, 2), NeuronId(0, 1)]).tolist() == [5.0, 1.0]


def test_scores_are_plain_32_bit_numbers_without_a_graph() -> None:
    scores = NeuronScores(torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True), "any")
    assert scores.values.dtype == torch.float32 and not scores.values.requires_grad


def test_scores_of_the_wrong_rank_are_refused_with_their_shape() -> None:
    with pytest.raises(ValueError, match=r"scores are \[layer, neuron\], got shape \(3,\)"):
        NeuronScores(torch.ones(3), "any")


def test_loading_saved_scores_gives_every_bit_their_order_and_what_made_them(tmp_path: Path) -> None:
    values = torch.tensor([[1.5, math.nan], [-math.inf, 1e-40]])
    stages = {
        "zeta": NeuronScores(values, "GradCAM()", "act", {"model": "planted", "samples": "12"}),
        "alpha": NeuronScores(values.T, "ActivationDifference()"),
        "middle": NeuronScores(values[:1], "random"),
    }
    save_scores(stages, tmp_path / "scores.safetensors")
    loaded = load_scores(tmp_path / "scores.safetensors")
    assert list(loaded) == ["zeta", "alpha", "middle"]
    for name, one in stages.items():
        again = loaded[name]
        assert (again.method, again.site, again.provenance) == (one.method, one.site, one.provenance)
        assert torch.equal(again.values.view(torch.int32), one.values.contiguous().view(torch.int32))


def test_one_score_table_may_serve_two_stages(tmp_path: Path) -> None:
    scores = NeuronScores(torch.ones(1, 2), "any")
    save_scores({"one": scores, "two": scores}, tmp_path / "scores.safetensors")
    assert list(load_scores(tmp_path / "scores.safetensors")) == ["one", "two"]


def test_a_single_table_saves_itself(tmp_path: Path) -> None:
    NeuronScores(torch.ones(1, 2), "any", "pre").save(tmp_path / "scores.safetensors")
    assert load_scores(tmp_path / "scores.safetensors")["scores"].site == "pre"


def test_files_that_hold_no_scores_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights\.safetensors` holds no neuron scores: .* has \['format'\]"):
        load_scores(tmp_path / "weights.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x01\x02")
    with pytest.raises(ValueError, match=r"torn\.safetensors` is not a file of neuron scores"):
        load_scores(tmp_path / "torn.safetensors")


def test_ties_decide_among_equal_scores_and_only_there(tmp_path: Path) -> None:
    values, ties = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.0, 0.3], [0.5, 9.0, 0.3]])
    scores = NeuronScores(values, "any", ties=ties)
    assert scores.ranking() == [NeuronId(*one) for one in ((1, 0), (0, 1), (0, 2), (1, 2), (0, 0), (1, 1))]
    save_scores({"a": scores, "b": NeuronScores(values, "any")}, tmp_path / "scores.safetensors")
    found = load_scores(tmp_path / "scores.safetensors")
    assert list(found) == ["a", "b"]
    assert found["b"].ties is None
    assert found["a"].ranking() == scores.ranking()
    with pytest.raises(ValueError, match=r"ties are \(1, 3\), the scores \(2, 3\)"):
        NeuronScores(values, "any", ties=ties[:1])
