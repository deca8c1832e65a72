"""Domain entropy: known values, who belongs to a domain, and neurons planted for one kind of picture."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kedit.locate.domain_entropy import DomainEntropy, domain_entropy, domain_neurons, members
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.models.planted.pictures import BLUE, RED
from kedit.models.planted.smallest import DECOY, KNOWS_HOUSE, KNOWS_STAR
from kedit.neurons import NeuronId, NeuronSet


def activity(*domains: list[float]) -> Tensor:
    """Return `[domain, 1, neuron]`."""
    return torch.tensor(domains)[:, None]


@pytest.mark.parametrize("k", [2, 3, 5])
def test_one_domain_alone_has_no_entropy_and_all_alike_have_the_most(k: int) -> None:
    values = torch.zeros(k, 1, 3)
    values[1, 0, 0] = 0.3
    values[:, 0, 1] = 0.2
    found = domain_entropy(values)[0].tolist()
    assert found == pytest.approx([0, math.log(k), 0], abs=1e-6)


def test_the_entropy_is_that_of_the_shares() -> None:
    found = domain_entropy(activity([0.6], [0.2])).item()
    assert found == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert domain_entropy(activity([0.06], [0.02])).item() == pytest.approx(found)


def test_neurons_that_a_layer_does_not_have_have_no_entropy_and_move_no_bar() -> None:
    values = activity([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8])
    wider = torch.cat([values, torch.full((2, 1, 3), torch.nan)], dim=2)
    assert domain_entropy(wider)[0].isnan().tolist() == [False] * 4 + [True] * 3
    assert members(wider, 0.5)[..., :4].equal(members(values, 0.5))
    assert not members(wider, 0.5)[..., 4:].any()


@pytest.mark.parametrize(("quantile", "n_above"), [(0.0, 19), (0.5, 10), (0.95, 1), (1.0, 0)])
def test_a_domains_neurons_lie_above_the_quantile_of_all_activities(quantile: float, n_above: int) -> None:
    values = torch.arange(20.0).reshape(2, 2, 5)
    found = members(values, quantile)
    assert int(found.sum()) == n_above
    assert found.flatten()[20 - n_above :].all()


def test_a_neuron_below_the_bar_has_no_score_however_specific_it_is() -> None:
    with_it = [0.9, 0.9, 0.8, 0.1, 0.3]
    without_it = [0.0, 0.9, 0.2, 0.0, 0.8]
    scores = DomainEntropy(quantile=0.5).across_samples(activity(with_it, without_it))[0]
    mixed = 1 - (-0.8 * math.log(0.8) - 0.2 * math.log(0.2)) / math.log(2)
    assert scores[:3].tolist() == pytest.approx([1, 0, mixed], abs=1e-6)
    assert scores[3:].isnan().all()


@pytest.mark.parametrize(("quantile", "value"), [(-0.1, "-0.1"), (1.5, "1.5")])
def test_an_impossible_quantile_is_refused(quantile: float, value: str) -> None:
    with pytest.raises(ValueError, match=f"`quantile` lies between 0 and 1, got {value}"):
        DomainEntropy(quantile=quantile)


def test_among_pairs_the_neurons_of_the_concept_are_active_only_with_it(planted: Planted) -> None:
    pairs = [without(picture(name, cells), STAR_CONCEPT) for name, cells in (("a", tuple(range(15))), ("b", (1, 2)))]
    locator = Locator({"only": Stage(DomainEntropy("image", quantile=0.0), TopK(2))}, site="act")
    scores = locator.score(replace(planted.model, batch_size=1), pairs)["only"]
    assert scores.provenance["forwards"] == "4"
    assert scores.of([NeuronId(0, KNOWS_STAR), NeuronId(0, DECOY)]).tolist() == [1, 1]
    assert set(locator.select({"only": scores})) == {NeuronId(0, KNOWS_STAR), NeuronId(0, DECOY)}
    house = NeuronSet((NeuronId(0, KNOWS_HOUSE),), "act")
    assert scores.of(house).isnan().all()


# --- collections of pictures


def plain(color: tuple[int, int, int]) -> list[Image.Image]:
    return [Image.fromarray(np.full((32, 32, 3), color, np.uint8))] * 3


def test_collections_of_pictures_have_the_neurons_planted_for_them(planted: Planted) -> None:
    domains = {"red": plain(RED), "blue": plain(BLUE), "gray": plain((128, 128, 128))}
    model = replace(planted.model, batch_size=2)
    found = domain_neurons(model, domains, share=0.5, quantile=0.0, positions="image", site="act")
    star, decoy, house = (NeuronId(0, index) for index in (KNOWS_STAR, DECOY, KNOWS_HOUSE))
    assert [star in one for one in found.values()] == [True, False, False]
    assert [decoy in one for one in found.values()] == [True, False, False]
    assert [house in one for one in found.values()] == [False, True, False]
    assert all(one.site == "act" for one in found.values())


def test_no_more_than_the_share_is_chosen(planted: Planted) -> None:
    domains = {"red": plain(RED), "blue": plain(BLUE)}
    found = domain_neurons(planted.model, domains, share=1 / 16, quantile=0.5, positions="image")
    assert len(found["red"] | found["blue"]) == 1


@pytest.mark.parametrize("domains", [{}, {"red": plain(RED)}, {"red": plain(RED), "none": []}])
def test_fewer_than_two_collections_or_an_empty_one_are_refused(
    planted: Planted, domains: dict[str, list[Image.Image]]
) -> None:
    with pytest.raises(ValueError, match="give two or more, each with pictures; got"):
        domain_neurons(planted.model, domains)
