"""MoverScore: laws, and distances that are known."""

import pytest
import torch
from torch import Tensor

from kedit.evaluation.moverscore import least_cost, mover_scores

ot = pytest.importorskip("ot", reason="POT is not installed")
EAST, NORTH, WEST = torch.eye(2)[0], torch.eye(2)[1], -torch.eye(2)[0]
POINTS = {"east": EAST, "north": NORTH, "west": WEST, "[s]": torch.tensor([0.6, 0.8])}


class Compass:
    """Embeds each word where it says, between two special tokens."""

    name, specials = "compass", (1, 1)

    def encode(self, texts: list[str]) -> list[Tensor]:
        return [torch.stack([POINTS[word] for word in ("[s]", *text.split(), "[s]")]) for text in texts]


def score(prediction: str, *references: str) -> float:
    return mover_scores(Compass(), [prediction], [references])[0]


def test_known_distances() -> None:
    assert score("east", "north") == pytest.approx(1 - 2**0.5)
    assert score("east", "west") == pytest.approx(-1)
    # Half of the weight stays, half moves across.
    assert score("east north", "east west") == pytest.approx(1 - 2**0.5 / 2)
    # A third moves from each of the three to the one that is missing.
    assert score("east east east", "east north") == pytest.approx(1 - 2**0.5 / 2)


def test_order_does_not_matter_and_the_best_reference_counts() -> None:
    assert score("north east", "east north") == pytest.approx(1)
    assert score("east", "west", "east north") == score("east", "east north")
    assert score("east", "north") == score("north", "east")


def test_blank_and_equal_texts_are_settled() -> None:
    assert score("east", "west", "east") == 1
    assert score("", "") == 1
    assert score("", "east") == 0 == score("east", " ")


def test_sets_without_a_point_are_as_far_as_can_be() -> None:
    assert least_cost(torch.empty(0, 2), EAST[None]) == 2


def test_as_many_references_as_predictions() -> None:
    with pytest.raises(ValueError, match="references"):
        mover_scores(Compass(), ["east"], [])
