"""Average precision by hand, against its definition, and under random orders."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedit.evaluation.ranking import average_precision, expected_average_precision


def test_a_perfect_ranking_has_1_and_the_worst_has_what_is_left() -> None:
    assert average_precision([4, 3, 2, 1], [True, True, False, False]) == 1
    assert average_precision([4, 3, 2, 1], [False, False, False, True]) == pytest.approx(1 / 4)
    assert average_precision([4, 3, 2, 1], [False, False, True, True]) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_a_ranking_with_gaps_is_the_mean_precision_at_the_right_items() -> None:
    assert average_precision([0.9, 0.8, 0.7, 0.6, 0.5], [True, False, True, False, True]) == pytest.approx(
        (1 / 1 + 2 / 3 + 3 / 5) / 3
    )


def test_equal_scores_are_taken_in_together() -> None:
    assert average_precision([1, 1, 1, 1], [True, False, False, False]) == pytest.approx(1 / 4)
    # The three in front hold two right ones, and the last is at rank 5 of 5.
    assert average_precision([2, 2, 2, 1, 0], [True, False, True, False, True]) == pytest.approx(2 / 3 * 2 / 3 + 1 / 5)
    # The example in the documentation of scikit-learn's average_precision_score, and the same with a tie.
    assert average_precision([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == pytest.approx(0.8333333)
    assert average_precision([0.1, 0.4, 0.4, 0.8], [False, False, True, True]) == pytest.approx(0.5 + 0.5 * 2 / 3)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12), st.randoms())
def test_the_order_of_items_does_not_matter_and_neither_does_the_scale(
    items: list[tuple[int, bool]], random: object
) -> None:
    items[0] = (items[0][0], True)
    mixed = list(items)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    scores, right = zip(*items, strict=True)
    other_scores, other_right = zip(*mixed, strict=True)
    here = average_precision(scores, right)
    assert here == pytest.approx(average_precision([10.0**s - 3 for s in other_scores], other_right))
    assert 0 < here <= 1


def test_infinite_scores_are_ranked() -> None:
    assert average_precision([float("-inf"), 0.0, float("-inf")], [True, False, False]) == pytest.approx(1 / 3)
    assert average_precision([float("inf"), 0.0], [True, False]) == 1


@pytest.mark.parametrize(("n", "n_relevant"), [(1, 1), (4, 1), (5, 2), (5, 3), (5, 5)])
def test_the_expectation_is_the_mean_over_all_orders(n: int, n_relevant: int) -> None:
    values = [
        average_precision([float(one) for one in order], [place < n_relevant for place in range(n)])
        for order in permutations(range(n))
    ]
    assert expected_average_precision(n, n_relevant) == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        ([float("nan"), 1.0], [True, False], "1 of 2 scores are NaN"),
        ([1.0, 2.0], [False, False], "none of the 2 items is right"),
        ([1.0, 2.0], [True], r"got \(2,\) and \(1,\)"),
        ([], [], "none of the 0 items"),
    ],
)
def test_what_has_no_average_precision_is_refused(scores: list[float], relevant: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(scores, relevant)


def test_an_expectation_needs_something_right() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        expected_average_precision(5, 0)
