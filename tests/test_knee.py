"""Where the sorted scores bend, and what is done where they do not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kedit.locate.knee import Knee, before_knee
from kedit.neurons import NeuronId, NeuronScores, NeuronSet


def scored(*values: float) -> NeuronScores:
    return NeuronScores(torch.tensor(values)[None], "given")


def test_what_stands_out_of_a_flat_rest_is_kept() -> None:
    assert [one.index for one in Knee()(scored(0.1, 5.0, 0.1, 0.11, 4.0, 0.09, 0.1, -3.0))] == [1, 4]


def test_the_knee_is_the_one_of_the_paper() -> None:
    # Satopaa et al. 2011, figure 2: f(x) = -1/(x + 0.1) + 5 at ten points from 0 to 1 has its knee at 0.22, the third.
    # Here it is turned over, so that it falls: two points come before it.
    x = torch.linspace(0, 1, 10, dtype=torch.float64)
    assert before_knee(1 / (x + 0.1)) == 2


def test_of_several_knees_the_farthest_counts() -> None:
    assert before_knee(torch.tensor([10.0, 9.9, 2.0, 1.9, 1.8, 0.2, 0.1, 0.1])) == 2


@pytest.mark.parametrize(
    "values", [(), (1.0,), (2.0, 1.0), (3.0, 3.0, 3.0), (-1.0, -2.0, -5.0), (3.0, 2.0, 1.0), (9.0, 8.9, 8.5, 1.0)]
)
def test_without_a_knee_nothing_is_kept(values: tuple[float, ...]) -> None:
    assert len(Knee()(scored(*values))) == 0


def test_scores_below_zero_do_not_move_the_knee() -> None:
    some = (5.0, 4.0, 0.3, 0.2, 0.1)
    assert Knee()(scored(*some)) == Knee()(scored(*some, -100.0, torch.nan))


def test_a_knee_is_looked_for_among_the_candidates_and_keeps_at_most_so_many() -> None:
    given_ = scored(9.0, 8.0, 5.0, 4.0, 0.3, 0.2, 0.1)
    among = NeuronSet(tuple(NeuronId(0, index) for index in (2, 3, 4, 5, 6)))
    assert [one.index for one in Knee()(given_, among)] == [2, 3]
    assert [one.index for one in Knee(at_most=1)(given_, among)] == [2]
    with pytest.raises(ValueError, match="`at_most` is a number of neurons"):
        Knee(at_most=-1)


@given(st.lists(st.floats(0.125, 8, width=32), min_size=3, max_size=30), st.sampled_from([0.25, 4.0]))
def test_a_knee_does_not_depend_on_the_scale_and_leaves_the_lowest_out(values: list[float], scale: float) -> None:
    falling = torch.tensor(sorted(values, reverse=True))
    kept = before_knee(falling)
    assert kept == before_knee(scale * falling)
    assert kept < len(values)
    assert kept == 0 or falling[kept - 1] > falling[kept]
