"""Laws of selecting: it is pure, deterministic and monotone, and it never keeps what it should not."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kedit.locate.selection import Above, Quantile, RatioOfMax, Selector, TopK
from kedit.neurons import NeuronId, NeuronScores, NeuronSet

SHAPE = (2, 5)
few = settings(max_examples=50)
numbers = st.floats(-4, 4, width=32)
# Few different values, so that ties are the rule; and anything at all.
coarse = st.sampled_from([-1.0, 0.0, 0.5, 1.0, math.nan])


def to_scores(values: list[float]) -> NeuronScores:
    return NeuronScores(torch.tensor(values).reshape(SHAPE), "given")


def lists_of(one: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(one, min_size=SHAPE[0] * SHAPE[1], max_size=SHAPE[0] * SHAPE[1])


scores_ = st.one_of(lists_of(numbers), lists_of(coarse)).map(to_scores)
sets = st.lists(st.tuples(st.integers(0, SHAPE[0] - 1), st.integers(0, SHAPE[1] - 1))).map(
    lambda ids: NeuronSet(tuple(NeuronId(*one) for one in ids))
)
shares = st.floats(0, 1)
counts = st.integers(0, 12)
selectors: st.SearchStrategy[Selector] = st.one_of(
    st.builds(Above, numbers, at_most=st.none() | counts),
    st.builds(TopK, counts),
    st.builds(Quantile, shares, at_most=st.none() | counts),
    st.builds(RatioOfMax, st.floats(0.01, 1), at_most=st.none() | counts),
)


def row(*values: float) -> NeuronScores:
    return NeuronScores(torch.tensor([values]), "given")


def indices(kept: NeuronSet) -> list[int]:
    return [one.index for one in kept]


@few
@given(scores_, selectors, sets)
def test_a_selector_keeps_only_candidates_and_numbers(scores: NeuronScores, select: Selector, among: NeuronSet) -> None:
    kept = select(scores, among)
    assert kept <= among
    assert not scores.of(kept).isnan().any()


@few
@given(scores_, selectors, sets)
def test_whatever_is_kept_outranks_whatever_is_dropped(
    scores: NeuronScores, select: Selector, among: NeuronSet
) -> None:
    ranked = scores.ranking(among)
    kept = select(scores, among)
    assert kept == NeuronSet(tuple(ranked[: len(kept)]))


@few
@given(scores_, selectors, sets)
def test_selecting_again_among_what_was_kept_is_a_subset_and_selecting_is_pure(
    scores: NeuronScores, select: Selector, among: NeuronSet
) -> None:
    before = scores.values.clone()
    once = select(scores, among)
    assert select(scores, among) == once
    assert select(scores, once) <= once
    assert torch.equal(scores.values.nan_to_num(9), before.nan_to_num(9))


@few
@given(scores_, numbers, numbers, sets)
def test_a_higher_threshold_keeps_a_subset(scores: NeuronScores, a: float, b: float, among: NeuronSet) -> None:
    assert Above(max(a, b))(scores, among) <= Above(min(a, b))(scores, among)


@few
@given(scores_, st.floats(0.01, 1), st.floats(0.01, 1), sets)
def test_a_higher_ratio_keeps_a_subset(scores: NeuronScores, a: float, b: float, among: NeuronSet) -> None:
    assert RatioOfMax(max(a, b))(scores, among) <= RatioOfMax(min(a, b))(scores, among)


@few
@given(scores_, shares, shares, sets)
def test_a_higher_quantile_keeps_a_subset(scores: NeuronScores, a: float, b: float, among: NeuronSet) -> None:
    assert Quantile(max(a, b))(scores, among) <= Quantile(min(a, b))(scores, among)


@few
@given(scores_, counts, counts, sets)
def test_a_larger_budget_keeps_a_superset_of_exactly_that_many(
    scores: NeuronScores, a: int, b: int, among: NeuronSet
) -> None:
    fewer, more = TopK(min(a, b))(scores, among), TopK(max(a, b))(scores, among)
    assert fewer <= more
    assert len(more) == min(max(a, b), len(scores.ranking(among)))


@few
@given(scores_, numbers)
def test_above_keeps_exactly_the_scores_above(scores: NeuronScores, threshold: float) -> None:
    expected = [NeuronId(*place) for place in (scores.values > threshold).nonzero().tolist()]
    assert Above(threshold)(scores) == NeuronSet(tuple(expected))


@few
@given(scores_, st.floats(0.01, 1))
def test_ratio_of_max_keeps_the_best_if_any_is_positive(scores: NeuronScores, ratio: float) -> None:
    best = scores.values.nan_to_num(-1).max().item()
    kept = RatioOfMax(ratio)(scores)
    assert bool(kept) == (best > 0)
    assert all(one >= ratio * best for one in scores.of(kept).tolist())


@few
@given(scores_, selectors, counts)
def test_at_most_keeps_the_best_of_what_it_would_keep_anyway(
    scores: NeuronScores, select: Selector, at_most: int
) -> None:
    assume(not isinstance(select, TopK))
    capped = type(select)(*list(vars(select).values())[:1], at_most=at_most)  # type: ignore[call-arg]
    free = type(select)(*list(vars(select).values())[:1])
    assert capped(scores) == TopK(at_most)(scores, free(scores))


@pytest.mark.parametrize(
    ("q", "n_kept"), [(0, 10), (0.1, 9), (0.5, 5), (0.85, 1), (0.9, 1), (0.91, 0), (0.99, 0), (1, 0)]
)
def test_a_quantile_of_ten_scores_keeps_the_best_share_and_at_least_one(q: float, n_kept: int) -> None:
    scores = row(*range(10))
    assert indices(Quantile(q, allow_empty=True)(scores)) == list(range(10))[10 - n_kept :]
    assert indices(Quantile(q)(scores)) == list(range(10))[10 - max(n_kept, int(q < 1)) :]


def test_the_quantile_is_taken_among_the_candidates() -> None:
    among = NeuronSet(tuple(NeuronId(0, index) for index in range(4)))
    assert indices(Quantile(0.5)(row(*range(100)), among)) == [2, 3]


def test_ties_go_to_the_lower_layer_and_then_the_lower_index() -> None:
    scores = NeuronScores(torch.tensor([[0.0, 1.0, 1.0], [1.0, 2.0, 1.0]]), "given")
    order = [(1, 1), (0, 1), (0, 2), (1, 0), (1, 2), (0, 0)]
    for k in range(7):
        assert TopK(k)(scores) == NeuronSet(tuple(NeuronId(*one) for one in order[:k]))


def test_what_is_not_a_number_is_never_kept_even_if_all_else_is() -> None:
    scores = row(math.nan, -math.inf, 3.0, math.nan)
    assert indices(TopK(4)(scores)) == [1, 2]
    assert indices(Quantile(0)(scores)) == [1, 2]
    assert not TopK(4)(row(math.nan, math.nan))
    assert not RatioOfMax(0.5)(row(math.nan))


def test_scores_of_zero_are_not_near_the_maximum() -> None:
    assert not RatioOfMax(0.1)(row(0.0, 0.0, -1.0))


@pytest.mark.parametrize("select", [Above(0), TopK(3), Quantile(0), RatioOfMax(0.1)])
def test_no_candidates_and_no_layers_above_zero_give_the_empty_set(select: Selector) -> None:
    assert select(row(1, 2), NeuronSet()) == NeuronSet()


@pytest.mark.parametrize("select", [Above(0), TopK(1), Quantile(0), RatioOfMax(1)])
def test_the_set_is_at_the_site_of_the_scores(select: Selector) -> None:
    assert select(NeuronScores(torch.ones(1, 1), "given", "act")).site == "act"


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (lambda: Above(math.nan), "`threshold`.*got nan"),
        (lambda: Above(math.inf), "`threshold`.*got inf"),
        (lambda: Above(0, at_most=-1), "`at_most`.*got -1"),
        (lambda: TopK(-2), "`k`.*got -2"),
        (lambda: TopK(2.5), "`k`.*got 2.5"),  # type: ignore[arg-type]
        (lambda: TopK(True), "`k`.*got True"),
        (lambda: TopK(None), "`k`.*got None"),  # type: ignore[arg-type]
        (lambda: Quantile(1.5), "`q`.*got 1.5"),
        (lambda: Quantile(-0.1), "`q`.*got -0.1"),
        (lambda: Quantile("high"), "`q`.*got high"),  # type: ignore[arg-type]
        (lambda: Quantile(math.nan), "`q`.*got nan"),
        (lambda: Quantile(0.5, at_most=1.5), "`at_most`.*got 1.5"),  # type: ignore[arg-type]
        (lambda: RatioOfMax(0), "`ratio`.*got 0"),
        (lambda: RatioOfMax(1.01), "`ratio`.*got 1.01"),
        (lambda: RatioOfMax(math.nan), "`ratio`.*got nan"),
        (lambda: RatioOfMax(0.5, at_most=-3), "`at_most`.*got -3"),
    ],
)
def test_a_bad_parameter_is_refused_with_its_value(build: object, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        build()  # type: ignore[operator]
