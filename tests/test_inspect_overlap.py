"""Overlaps of sets, areas under curves and their intervals, by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kedit.inspection import overlap
from kedit.inspection.resampling import auroc_gain, auroc_interval, pairwise_interval, wins
from kedit.neurons import NeuronId, NeuronScores, NeuronSet

NUMBERS = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=6).map(np.array)


def neurons(*indices: int, layer: int = 0) -> NeuronSet:
    return NeuronSet(tuple(NeuronId(layer, index) for index in indices))


def scores(*values: float) -> NeuronScores:
    return NeuronScores(torch.tensor([values]), "by hand")


def test_overlaps_count_what_two_sets_share() -> None:
    a, b = neurons(1, 2, 3, 4), neurons(3, 4, 5)
    assert a.jaccard(b) == 2 / 5
    assert overlap.shared(a, b) == overlap.shared(b, a) == 2 / 4


def test_two_empty_sets_overlap_fully_and_an_empty_one_shares_nothing_with_another() -> None:
    empty = neurons()
    assert empty.jaccard(empty) == overlap.shared(empty, empty) == 1
    assert empty.jaccard(neurons(1)) == overlap.shared(empty, neurons(1)) == 0


def test_the_invariance_is_the_mean_overlap_of_each_two_sets() -> None:
    found = overlap.invariance([neurons(1, 2), neurons(1, 3), neurons(4, 5)])
    assert found.value == pytest.approx((0.5 + 0 + 0) / 3)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.n == 3


def test_one_set_that_is_found_everywhere_is_fully_invariant() -> None:
    assert overlap.invariance([neurons(1, 2)] * 4) == (1.0, 1.0, 1.0, 4)


def test_an_invariance_needs_two_sets() -> None:
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        overlap.invariance([neurons(1)])


def test_specificity_is_one_minus_the_overlap_with_each_other_concept() -> None:
    assert overlap.specificity(neurons(1, 2), [neurons(1, 2), neurons(2, 9), neurons(8, 9)]) == [0, 0.5, 1]


def test_two_random_sets_share_as_much_as_their_layers_are_full() -> None:
    both = neurons(0, 1) | neurons(5, layer=1)
    # Two of 10 twice share 2 * 2/10 neurons, one of 4 twice 1/4: together 0.65 of 3.
    assert overlap.by_chance(both, {0: 10, 1: 4}) == pytest.approx(0.65 / 3)
    assert overlap.by_chance(neurons(*range(10)), {0: 10}) == 1


def test_random_sets_share_on_average_what_chance_says() -> None:
    own, widths = neurons(*range(5)), {0: 20}
    drawn = [
        neurons(*torch.randperm(20, generator=torch.Generator().manual_seed(seed))[:5].tolist()) for seed in range(400)
    ]
    assert np.mean([overlap.shared(own, one) for one in drawn]) == pytest.approx(
        overlap.by_chance(own, widths), abs=0.02
    )


@given(n=st.integers(2, 30), seed=st.integers(0, 5))
def test_halves_are_disjoint_complete_and_level(n: int, seed: int) -> None:
    first, second = overlap.halves(n, seed)
    assert sorted(first + second) == list(range(n))
    assert 0 <= len(second) - len(first) <= 1
    assert overlap.halves(n, seed) == (first, second)


@given(n=st.integers(1, 30), share=st.floats(0.01, 1))
def test_a_part_has_its_share_of_the_samples_and_at_least_one(n: int, share: float) -> None:
    part = overlap.part(n, share, 0)
    assert len(set(part)) == len(part) == max(1, round(share * n))
    assert set(part) <= set(range(n))


def test_a_share_of_nothing_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match=r"`share` lies above 0 and up to 1, got 0\.0"):
        overlap.part(4, 0.0, 0)


def test_rank_correlation_is_spearmans() -> None:
    rising = scores(1, 2, 3, 4)
    assert overlap.rank_correlation(rising, scores(10, 20, 30, 1000)) == pytest.approx(1)
    assert overlap.rank_correlation(rising, scores(4, 3, 2, 1)) == pytest.approx(-1)
    # Ranks 1 2 3 4 against 1.5 1.5 3.5 3.5: covariance 4/4, deviations sqrt(5/4) and 1.
    assert overlap.rank_correlation(rising, scores(0, 0, 7, 7)) == pytest.approx(1 / (5 / 4) ** 0.5)


def test_rank_correlation_leaves_out_neurons_without_a_score_and_constants_rank_nothing() -> None:
    nan = float("nan")
    assert overlap.rank_correlation(scores(1, nan, 2, 3), scores(5, 0, 6, 7)) == pytest.approx(1)
    assert overlap.rank_correlation(scores(1, 2, 3), scores(4, 4, 4)) == 0


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    # 3 beats 2 and 0, 1 beats 0 alone.
    assert auroc_interval(wins(np.array([3.0, 1.0]), np.array([2.0, 0.0]))).value == 0.75
    assert auroc_interval(wins(np.array([1.0, 1.0]), np.array([1.0]))).value == 0.5


@given(a=NUMBERS, b=NUMBERS)
def test_the_area_is_symmetric_and_lies_in_its_interval(a: np.ndarray, b: np.ndarray) -> None:
    one, other = auroc_interval(wins(a, b), resamples=50), auroc_interval(wins(b, a), resamples=50)
    assert one.value + other.value == pytest.approx(1)
    assert 0 <= one.low <= one.value <= one.high <= 1


@pytest.mark.parametrize(("n_present", "n_absent"), [(3, 3), (20, 30), (60, 60)])
def test_pictures_that_are_told_apart_perfectly_leave_a_doubt_that_shrinks(n_present: int, n_absent: int) -> None:
    perfect = auroc_interval(np.ones((n_present, n_absent)))
    low, shared = perfect.low, (n_present + n_absent) / 2 - 1
    # Newcombe 2006, part 2, method 5: the bound solves this equation.
    spread = low * (1 - low) * (1 + shared * (1 - low) / (2 - low) + shared * low / (1 + low)) / (n_present * n_absent)
    assert (1 - low) ** 2 == pytest.approx(1.959964**2 * spread, rel=1e-4)
    assert perfect.value == perfect.high == 1
    assert auroc_interval(np.ones((2 * n_present, 2 * n_absent))).low > low
    reversed_ = auroc_interval(np.zeros((n_present, n_absent)))
    assert (reversed_.low, reversed_.value) == (0, 0)
    assert reversed_.high == pytest.approx(1 - low)


def test_a_difference_of_areas_is_of_the_same_pictures() -> None:
    table = wins(np.array([3.0, 1.0, 2.0]), np.array([2.0, 0.0]))
    assert auroc_gain(table, table) == (0, 0, 0, 5)
    assert auroc_gain(np.ones((4, 4)), np.full((4, 4), 0.5)) == (0.5, 0.5, 0.5, 8)
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(2, 2\)"):
        auroc_gain(table, table[:2])


def test_an_area_needs_pictures_of_both_kinds() -> None:
    with pytest.raises(ValueError, match="got 2 with the concept and 0 without"):
        auroc_interval(wins(np.array([1.0, 2.0]), np.array([])))


def test_the_interval_of_pairs_is_as_wide_as_new_samples_would_spread() -> None:
    generator = np.random.default_rng(0)

    def table() -> np.ndarray:
        level = generator.random(30)
        return np.outer(level, level)

    spread = np.std([pairwise_interval(table(), resamples=2).value for _ in range(300)])
    widths = [one.high - one.low for one in (pairwise_interval(table(), resamples=400) for _ in range(20))]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * spread, rel=0.25)
