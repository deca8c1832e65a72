"""Intervals and tests: known answers, laws, and how often they err when nothing happened."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedit.evaluation.measure import compare
from kedit.evaluation.statistics import (
    Measured,
    bootstrap_mean,
    bootstrap_ratio,
    harmonic_mean,
    paired_difference,
    permutation_pvalue,
    share_difference,
    undominated,
)

NUMBERS = st.lists(st.floats(-100, 100), min_size=2, max_size=30)
SHARES = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0, 0.2, 0.4, 0.6, 0.8, 1])), min_size=1)


def at_most(share: float, trials: int) -> float:
    """Return the count that a rate of `share` exceeds in about one of 1,000 repeats of `trials`."""
    return share * trials + 3.1 * math.sqrt(trials * share * (1 - share))


def test_wilson_interval_of_shares_has_its_published_values() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        share = bootstrap_mean([1.0] * successes + [0.0] * (n - successes))
        assert (share.value, share.n) == (pytest.approx(successes / n), n)
        assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)


def test_twenty_of_twenty_is_not_certain() -> None:
    figure = bootstrap_mean([1.0] * 20)
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert figure.low == pytest.approx(20 / (20 + 1.959964**2))


def test_numbers_that_happen_to_be_0_or_1_are_no_shares() -> None:
    assert bootstrap_mean([0.0] * 4, shares=False) == Measured(0.0, 0.0, 0.0, 4)
    assert bootstrap_mean([0.0] * 4).high > 0.4


def test_bootstrap_interval_of_a_large_sample_is_the_normal_one() -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, size=2000)
    figure = bootstrap_mean(list(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert figure.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert figure.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_bootstrap_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    figures = [bootstrap_mean(list(rng.uniform(0, 1, 40)), seed=i, resamples=400) for i in range(400)]
    missed = sum(not figure.low <= 0.5 <= figure.high for figure in figures)
    assert missed <= at_most(0.08, 400)  # the percentile bootstrap is a little short at n = 40


@given(NUMBERS)
def test_an_interval_holds_its_value_and_the_seed_fixes_it(values: list[float]) -> None:
    figure = bootstrap_mean(values, seed=3, resamples=50)
    assert figure.low <= figure.value <= figure.high
    assert figure == bootstrap_mean(values, seed=3, resamples=50)
    assert figure.n == len(values)


def test_no_sample_gives_no_value_and_says_why() -> None:
    for figure in (bootstrap_mean([]), paired_difference([], []), share_difference([], [])):
        assert (figure.value, figure.low, figure.high, figure.n) == (None, None, None, 0)
        assert figure.why
        assert str(figure) == "not measured"


def test_one_sample_has_a_value_and_no_interval() -> None:
    figure = bootstrap_mean([0.4])
    assert (figure.value, figure.low, figure.n) == (0.4, None, 1)
    assert "at least 2 samples" in figure.why


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_by_place_and_value(bad: float) -> None:
    with pytest.raises(
        ValueError, match=rf"`values` has 1 of 3 entries that are not finite, the first {bad} at index 1"
    ):
        bootstrap_mean([0.5, bad, 0.1])
    for test in (paired_difference, share_difference, permutation_pvalue):
        with pytest.raises(ValueError, match="`b` has 1 of 1 entries that are not finite"):
            test([0.5], [bad])


@pytest.mark.parametrize("test", [paired_difference, share_difference, permutation_pvalue])
def test_paired_samples_must_be_equally_many(test) -> None:
    with pytest.raises(ValueError, match="equally many, got 2 and 1"):
        test([0.1, 0.2], [0.1])


def test_a_level_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="`level` must lie between 0 and 1, got 95"):
        bootstrap_mean([0.1, 0.2], level=95)


def test_a_figure_without_a_value_must_say_why() -> None:
    with pytest.raises(ValueError, match="must say `why`"):
        Measured(None, None, None, 0)
    with pytest.raises(ValueError, match="must be finite, got value nan"):
        Measured(math.nan, 0.0, 1.0, 3)


def test_a_figure_writes_itself_as_the_report_contract_says() -> None:
    assert Measured(0.5, 0.25, 0.75, 8).to_json() == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 8}
    missing = Measured.missing("no sample").to_json()
    assert missing == {"value": None, "low": None, "high": None, "n": 0, "why": "no sample"}
    assert str(Measured(0.5, 0.25, 0.75, 8)) == "0.50 [0.25, 0.75]"


def test_pairing_removes_what_both_sides_share() -> None:
    rng = np.random.default_rng(2)
    level = rng.normal(0, 10, 50)
    a, b = level + 1 + rng.normal(0, 0.1, 50), level
    figure = paired_difference(list(a), list(b))
    assert figure.value == pytest.approx((a - b).mean())
    assert 0.9 < figure.low < figure.high < 1.1


def test_share_difference_has_the_value_of_bonett_and_price() -> None:
    # 20 samples, all dropped by one and none by the other: (20 + 1 - 1) / 22 -+ 1.96 sqrt((1 - (20/22)^2) / 22).
    half = 1.959964 * math.sqrt((1 - (20 / 22) ** 2) / 22)
    figure = share_difference([1.0] * 20, [0.0] * 20)
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert figure.low == pytest.approx(20 / 22 - half)


@given(SHARES)
def test_a_share_difference_turns_its_sign_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    a, b = zip(*pairs, strict=True)
    there, back = share_difference(a, b), share_difference(b, a)
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


def test_share_difference_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match=r"`b` spans 0.0 to 2.0"):
        share_difference([1.0, 0.0], [2.0, 0.0])


def test_sign_flip_test_is_exact_on_few_samples() -> None:
    # Of 2^5 sign patterns only all plus and all minus are as extreme.
    assert permutation_pvalue([1, 2, 3, 4, 5], [0] * 5) == 2 / 32
    # |sum| >= 2 of (1, 1, 1, -1): of 16 patterns the 6 with two of each sign fall short.
    assert permutation_pvalue([1, 1, 1, 0], [0, 0, 0, 1]) == 10 / 16


def test_samples_that_agree_carry_no_evidence() -> None:
    assert permutation_pvalue([0.3] * 9, [0.3] * 9) == 1.0
    assert permutation_pvalue([], []) == 1.0
    assert permutation_pvalue([1, 1, 1] + [7.0] * 50, [0, 0, 0] + [7.0] * 50) == 2 / 8


def test_the_sampled_sign_flip_test_agrees_with_the_exact_one_and_is_never_0() -> None:
    rng = np.random.default_rng(4)
    twelve = list(rng.normal(0.3, 1, 12))
    exact = permutation_pvalue(twelve, [0] * 12)
    # A difference too small to matter is a thirteenth sample, for which the test draws.
    drawn = permutation_pvalue([*twelve, 1e-12], [0] * 13, resamples=20_000)
    assert drawn == pytest.approx(exact, abs=0.015)
    assert permutation_pvalue([1.0] * 40, [0.0] * 40, resamples=999) == 1 / 1000


def test_noise_is_called_a_difference_in_at_most_one_case_in_twenty() -> None:
    rng = np.random.default_rng(7)
    noise = [list(rng.normal(0, 1, 25)) for _ in range(400)]
    called = sum(permutation_pvalue(values, [0] * 25, seed=i, resamples=400) <= 0.05 for i, values in enumerate(noise))
    assert called <= at_most(0.05, 400)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("samples", [10, 30, 80])
def test_a_null_edit_beats_its_control_in_at_most_one_case_in_twenty(rate: float, samples: int) -> None:
    """The edit and five random sets lose mentions by the same chance: nothing tells them apart."""
    rng = np.random.default_rng(int(1000 * rate) + samples)
    drops = (rng.random((400, 6, samples)) < rate).astype(float)
    called = sum(compare(run[0].tolist(), run[1:].tolist(), seed=i).beats for i, run in enumerate(drops))
    assert called <= at_most(0.05, 400)


@pytest.mark.parametrize("samples", [20, 60])
def test_an_edit_that_changes_nothing_never_beats_a_control_that_changes_nothing(samples: int) -> None:
    comparison = compare([0.0] * samples, [[0.0] * samples] * 5)
    assert (comparison.beats, comparison.p, comparison.difference.value) == (False, 1.0, 0.0)


def test_an_effect_is_found_when_there_is_one() -> None:
    rng = np.random.default_rng(9)
    edited = (rng.random((100, 40)) < 0.5).astype(float)
    control = (rng.random((100, 5, 40)) < 0.05).astype(float)
    found = sum(
        compare(a.tolist(), b.tolist(), seed=i).beats for i, (a, b) in enumerate(zip(edited, control, strict=True))
    )
    assert found >= 95


def test_an_edit_that_one_random_set_matches_does_not_beat_its_control() -> None:
    edited = [1.0] * 18 + [0.0] * 2
    idle = [0.0] * 20
    assert compare(edited, [idle] * 5).beats
    comparison = compare(edited, [idle] * 4 + [edited])
    assert comparison.difference.low > 0
    assert comparison.p < 0.05
    assert not comparison.beats


def test_harmonic_mean_of_known_numbers() -> None:
    assert harmonic_mean(1.0, 1.0) == 1.0
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.0, 1.0) == 0.0
    for bad in ((), (-0.1, 1.0), (math.nan,)):
        with pytest.raises(ValueError, match="finite numbers of at least 0"):
            harmonic_mean(*bad)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_the_pareto_set_is_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    def beaten(one: tuple[int, int]) -> bool:
        return any(other[0] >= one[0] and other[1] >= one[1] and other != one for other in points)

    assert undominated(points) == [not beaten(one) for one in points]


def test_a_ratio_is_that_of_the_sums_and_resamples_what_belongs_together() -> None:
    found = bootstrap_ratio([2, 0, 1, 0], [4, 2, 1, 0])
    assert (found.value, found.n) == (3 / 7, 3)
    assert found.low is not None and found.high is not None and found.low <= 3 / 7 <= found.high
    # The parts of a sample stand or fall together: ten times as many of each are no more samples.
    tenfold = bootstrap_ratio([20, 0, 10, 0], [40, 20, 10, 0])
    assert tenfold == found


def test_a_ratio_of_shares_of_one_is_a_mean() -> None:
    for values in ([1, 0, 0, 1, 1], [0.5, 0.25, 1.0]):
        assert bootstrap_ratio(values, [1] * len(values)) == bootstrap_mean(values)


def test_a_ratio_of_nothing_or_all_is_as_sure_as_its_samples() -> None:
    for top in (0, 3):
        found = bootstrap_ratio([top] * 20, [3] * 20)
        assert found == bootstrap_mean([top / 3] * 20)
    assert bootstrap_ratio([0, 0], [0, 0]).why == "there is nothing to count"
    assert bootstrap_ratio([1], [2]).why == "an interval needs at least 2 samples"


def test_a_ratio_counts_no_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="lies between 0 and `total`"):
        bootstrap_ratio([3], [2])
    with pytest.raises(ValueError, match="a total for each sample, got 1 and 2"):
        bootstrap_ratio([1], [2, 2])
