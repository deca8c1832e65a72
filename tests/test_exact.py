"""Exact sums equal math.fsum in any order, batches and shards, and come back from their tensors."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kedit.exact import LIMIT, ExactSum

# Sums of 40 of these neither overflow nor are subnormal; the numbers themselves may be.
anything = st.floats(min_value=-1e300, max_value=1e300, allow_nan=False, allow_infinity=False)
alike = st.floats(min_value=-1, max_value=1, width=32)
numbers = st.lists(anything | alike, min_size=1, max_size=40)


def summed(values: Tensor, *cuts: int) -> ExactSum:
    """Return the sum of the values, added in pieces that begin at the cuts."""
    total = ExactSum()
    for start, end in itertools.pairwise((0, *sorted(cuts), len(values))):
        if start < end:
            total.add(values[start:end])
    return total


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


@given(numbers)
def test_a_sum_is_rounded_once_as_fsum_does(values: list[float]) -> None:
    expected = math.fsum(values)
    found = summed(torch.tensor(values, dtype=torch.float64)).value().item()
    assert found == expected or (abs(expected) < 2**-1021 and abs(found - expected) <= 2**-1074)


@given(numbers, st.randoms(use_true_random=False), st.lists(st.integers(0, 40), max_size=4))
def test_order_batches_and_shards_change_no_bit_of_the_state(values: list[float], random: object, cuts: list) -> None:
    whole = torch.tensor(values, dtype=torch.float64)
    shuffled = torch.tensor(random.sample(values, len(values)), dtype=torch.float64)  # type: ignore[attr-defined]
    cuts = [cut for cut in cuts if cut < len(values)]
    expected, found = summed(whole).tensors(), summed(shuffled, *cuts).tensors()
    shards = ExactSum()
    for index in (1, 2, 0):
        shards.merge(summed(shuffled[index::3]) if len(shuffled) > index else ExactSum())
    for other in (found, shards.tensors()):
        assert list(other) == list(expected)
        assert all(torch.equal(one, expected[name]) for name, one in other.items())


def test_each_entry_of_a_tensor_has_a_sum_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = 2.0 ** torch.randint(-140, 120, (50, 3, 7), generator=generator)
    values = (torch.randn(50, 3, 7, generator=generator) * scale).float()
    found = summed(values, 10, 11, 30).value()
    for place in itertools.product(range(3), range(7)):
        assert found[place].item() == math.fsum(values[:, *place].tolist())


def test_a_small_number_survives_a_large_one_that_is_taken_away_again() -> None:
    values = torch.tensor([1e30, 1e-30, -1e30, 5e-324], dtype=torch.float64)
    assert summed(values).value().item() == 1e-30 == summed(values, 1, 2, 3).value().item()
    assert values.sum().item() != 1e-30


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, math.nan], math.nan),
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1e300], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([0.0, -0.0], 0.0),
        ([1.5, -1.5], 0.0),
        ([1.7e308, 1.7e308], math.inf),
    ],
)
def test_what_is_not_finite_is_added_as_floats_are(values: list[float], expected: float) -> None:
    rows = torch.tensor(values, dtype=torch.float64)
    for one in (summed(rows), summed(rows, 1), summed(rows.flip(0), 1)):
        assert same(one.value(), torch.tensor(expected, dtype=torch.float64))


@given(numbers)
def test_the_tensors_say_all(values: list[float]) -> None:
    total = summed(torch.tensor(values, dtype=torch.float64))
    again = ExactSum.of(total.tensors())
    assert again.n == total.n == len(values)
    again.add(torch.tensor([math.nan], dtype=torch.float64))
    assert again.value().isnan()
    assert same(ExactSum.of(total.tensors()).value(), total.value())


def test_an_empty_sum_has_no_value_and_too_many_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing was added"):
        ExactSum().value()
    total = ExactSum.of(summed(torch.ones(1)).tensors() | {"count": torch.tensor(LIMIT - 1)})
    with pytest.raises(OverflowError, match=f"fewer than {LIMIT}"):
        total.add(torch.ones(1))
