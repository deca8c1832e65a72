"""Turning one drawn thing into another: what is read, the least change, and the norm at which drawings turn."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL.Image import Image

from kedit.evaluation.statistics import Measured
from kedit.internals.hooks import record
from kedit.locate.drawn import Depicted
from kedit.models.drawing import drawer
from kedit.models.drawings import Drawings
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet
from kedit.pipelines.artist import Artist
from kedit.pipelines.seers import Seen
from kedit.pipelines.turn import Step, Turned, read_region, swapped, turn_for, turned
from kedit.samples import Concept

STAR, MOON, TREE = Concept("star"), Concept("moon"), Concept("tree")
PROMPTS = ["a red star", "two red stars", "a blue star and a green moon", "a tree and a red star", "a tree"]


class Halves:
    """Sees a star in drawings whose left half is the brighter, a moon in the others, and a tree in all."""

    def __call__(self, picture: Image, concepts: Sequence[Concept]) -> Seen:
        pixels = np.asarray(picture.convert("L"), float)
        left, right = (half.mean() for half in np.array_split(pixels, 2, axis=1))
        there = {"star": left > right, "moon": left <= right, "tree": True}
        return Seen({one.name: pixels > 0 for one in concepts if there[one.name]}, None)


def test_prompts_are_swapped_where_they_name_the_one_thing_once() -> None:
    assert swapped(PROMPTS, STAR, MOON) == {
        "a red star": "a red moon",
        "a tree and a red star": "a tree and a red moon",
    }


def test_a_region_is_read_at_the_columns_that_predict_it() -> None:
    model = tiny("janus")
    draws, site = drawer(model), model.site("mid")
    codes = torch.arange(32).view(2, 16) % draws.codebook
    cells = torch.zeros(2, 16, dtype=torch.bool)
    cells[0, [1, 2]] = cells[1, 5] = True
    shown = Depicted(STAR, Drawings(("a star", "a red star"), tuple(draws.decode(codes)), codes, 0), cells)
    found = read_region(model, shown)
    forced = draws.teacher_forced(shown.drawings[1:2])
    with torch.no_grad(), record(model.module, site) as activations:
        states = forced.states()
    expected = activations[1].view(-1, activations[1].shape[-1])[forced.columns[5]]
    torch.testing.assert_close(found.active[1][1], expected)
    # The last stream is what the final norm reads.
    with torch.no_grad():
        torch.testing.assert_close(model.module.model.language_model.norm(found.last[1]), states[0, 5])
    neurons = NeuronSet((NeuronId(0, 2), NeuronId(1, 4)))
    torch.testing.assert_close(found.of(neurons)[1, 1], expected[4])
    turn = turn_for(found, found, neurons)
    assert turn.norm == pytest.approx(0, abs=1e-6)


def test_drawings_are_counted_that_showed_the_one_thing_and_now_show_the_other() -> None:
    model = tiny("janus", batch_size=8)
    artist, prompts = Artist(model, Halves()), [f"a red star {n}" for n in range(6)]
    shown = artist.depicted(prompts, STAR)
    neurons = NeuronSet(tuple(NeuronId(2, n) for n in range(10)))
    reading = read_region(model, shown)
    moved = turn_for(reading, type(reading)(-reading.last, reading.active), neurons)
    found = turned(artist, moved, prompts, STAR, MOON, (STAR, MOON, TREE), strengths=(0.001, 8.0))
    weak, strong = found.steps
    assert weak.turned.value == 0
    assert weak.turned.n == len(shown.drawings)
    assert strong.norm == pytest.approx(8 * moved.norm)
    assert strong.turned.value == strong.gone.value
    assert "shows moon instead" in found.table().markdown()


def test_the_least_norm_lies_on_the_line_between_two_strengths() -> None:
    def step(norm: float, share: float) -> Step:
        figure = Measured(share, share, share, 10)
        return Step(norm, norm, figure, figure, figure)

    found = Turned("star", "moon", 3, (step(1.0, 0.1), step(2.0, 0.3), step(4.0, 0.7)))
    assert found.least == pytest.approx(3.0)
    assert found.to_json()["least"] == pytest.approx(3.0)
    assert Turned("star", "moon", 3, found.steps[:2]).least is None
    assert "never half of them" in str(Turned("star", "moon", 3, found.steps[:2]))


def test_strengths_go_from_weak_to_strong() -> None:
    artist = Artist(tiny("janus"), Halves())
    for wrong in ((), (2.0, 1.0), (0.0,)):
        with pytest.raises(ValueError, match="`strengths` are numbers above 0, from weak to strong"):
            turned(artist, None, PROMPTS, STAR, MOON, (), strengths=wrong)  # type: ignore[arg-type]
