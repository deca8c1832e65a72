"""NAM's image editing in closed form, and what it asks of the neurons of a concept."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kedit.edit.turning import Turn, least_change
from kedit.inspection.concepts import best, by_layer, in_all, its_own
from kedit.inspection.decode import decode, mean_words
from kedit.internals.hooks import record
from kedit.models.drawing import drawer
from kedit.models.drawings import Drawings
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronScores, NeuronSet

SEEDS = st.integers(0, 10**6)


def drawn(seed: int, samples: int = 4, neurons: int = 6, width: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(samples, neurons, generator=generator, dtype=torch.float64)
    return activations, torch.randn(samples, width, generator=generator, dtype=torch.float64)


# --- the closed form


@given(SEEDS, st.floats(1e-4, 1.0))
def test_no_other_change_costs_less(seed: int, tau: float) -> None:
    a, d = drawn(seed)
    best, ridge = least_change(a, d, tau), tau * torch.linalg.matrix_norm(a, 2) ** 2

    def cost(change: Tensor) -> float:
        return float((a @ change - d).square().sum() + ridge * change.square().sum())

    for number in range(5):
        noise = torch.randn(best.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        assert cost(best + 0.01 * noise) >= cost(best)


def test_of_one_sample_each_neuron_changes_by_its_activation() -> None:
    """dW_k = a_k d / (sum a^2 + tau sum a^2)."""
    a, d = torch.tensor([[3.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0]])
    expected = a.T @ d / (25 + 0.1 * 25)
    torch.testing.assert_close(least_change(a, d, 0.1), expected.double())


@given(SEEDS)
def test_without_a_ridge_the_wanted_change_is_made_by_the_least_norm(seed: int) -> None:
    a, d = drawn(seed)
    found = least_change(a, d, 0.0)
    torch.testing.assert_close(a @ found, d, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found, torch.linalg.pinv(a) @ d, atol=1e-5, rtol=1e-5)


@given(SEEDS)
def test_a_larger_ridge_has_a_smaller_norm(seed: int) -> None:
    a, d = drawn(seed)
    norms = [float(least_change(a, d, tau).norm()) for tau in (0.0, 0.01, 0.1, 1.0)]
    assert norms == sorted(norms, reverse=True)


def test_stronger_neurons_need_less() -> None:
    a, d = drawn(1)
    assert least_change(2 * a, d, 0.0).norm() == pytest.approx(float(least_change(a, d, 0.0).norm()) / 2)


def test_what_is_no_regression_is_refused() -> None:
    a, d = drawn(0)
    with pytest.raises(ValueError, match=r"for each sample's activations, got \[4, 6\] and \[3, 3\]"):
        least_change(a, d[:3])
    with pytest.raises(ValueError, match="`tau` is a finite number, 0 or more, got -1"):
        least_change(a, d, -1)
    with pytest.raises(ValueError, match="none of the neurons is active"):
        least_change(0 * a, d)


# --- in a model


def test_the_last_layers_columns_move_the_state_by_just_that() -> None:
    """What a layer writes changes by the activations times what was added; outside the `with`, nothing has changed."""
    model = tiny("janus")
    draws, site = drawer(model), model.site("mid")
    codes = torch.arange(16)[None] % draws.codebook
    forced = draws.teacher_forced(Drawings(("a star",), tuple(draws.decode(codes)), codes, 0))
    neurons = NeuronSet((NeuronId(2, 3), NeuronId(2, 7)))
    norm = model.module.model.language_model.norm
    streams: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda module, given: streams.append(given[0].detach()))
    try:
        with torch.no_grad(), record(model.module, site) as activations:
            forced.states()
        active = activations[2].view(-1, activations[2].shape[-1])[list(forced.columns)][:, [3, 7]]
        wanted = torch.ones(len(active), streams[0].shape[-1])
        turn = Turn(neurons, least_change(active, wanted))
        before = model.module.state_dict()["model.language_model.layers.2.mlp.down_proj.weight"].clone()
        with torch.no_grad(), turn.change(model, 0.5).applied(model):
            forced.states()
    finally:
        handle.remove()
    moved = (streams[1] - streams[0])[0, list(forced.columns)]
    torch.testing.assert_close(moved, (0.5 * active.double() @ turn.added).float(), atol=1e-4, rtol=1e-3)
    assert torch.equal(model.module.state_dict()["model.language_model.layers.2.mlp.down_proj.weight"], before)


def test_columns_are_those_of_mid() -> None:
    with pytest.raises(ValueError, match="at the site `mid`, got `act`"):
        Turn(NeuronSet((NeuronId(0, 0),), "act"), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"`added` is \[1, d_model\], got \[2, 4\]"):
        Turn(NeuronSet((NeuronId(0, 0),)), torch.ones(2, 4))


# --- sets


def some(*indices: int) -> NeuronSet:
    return NeuronSet(tuple(NeuronId(0, one) for one in indices))


def test_what_is_in_all_sets_is_counted_of_the_largest() -> None:
    assert in_all([some(1, 2, 3, 4), some(2, 3, 4), some(3, 4, 5)]) == 0.5
    assert in_all([some(1, 2), some(1, 2)]) == 1
    assert in_all([some(), some()]) == 0
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        in_all([some(1)])


def test_neurons_of_a_concept_alone_are_told_from_shared_ones() -> None:
    sets = {"a": some(1, 2, 3, 4), "b": some(3, 4, 5, 6), "c": some(4, 7, 8, 9)}
    found = its_own(sets, kappas=(0.4, 0.6, 1.0))
    assert found["a"] == {"alone": 0.5, "0.40": 0.5, "0.60": 0.75, "1.00": 0.75}
    assert its_own({"a": some(1), "b": some(1)})["a"]["alone"] == 0
    for wrong, why in (({"a": some(1)}, "got 1 concepts"), ({"a": some(1), "b": some()}, "`b` has no neuron")):
        with pytest.raises(ValueError, match=why):
            its_own(wrong)
    with pytest.raises(ValueError, match="a kappa is a chance above 0 and at most 1, got 2"):
        its_own(sets, kappas=(2,))


def test_layers_hold_the_mean_over_concepts_and_what_both_kinds_share() -> None:
    first = NeuronScores(torch.tensor([[3.0, 2.0, 0.0], [1.0, 0.0, 0.0]]), "first")
    second = NeuronScores(torch.tensor([[3.0, 0.0, 0.0], [2.0, 0.0, 0.0]]), "second")
    assert best(first, 2) == some(0, 1)
    found = by_layer({"a": (first, second), "b": (first, first)}, 2)
    assert found == {"I-neurons": [2.0, 0.0], "T-neurons": [1.5, 0.5], "both": [1.5, 0.0]}


def test_one_neuron_says_its_own_words() -> None:
    model, one = tiny("janus"), some(3)
    assert mean_words(model, one, 4) == tuple(
        repr(w) if not w.strip().isalnum() else w for w in decode(model, one, 4)[0].raw
    )
    with pytest.raises(ValueError, match="no neuron"):
        mean_words(model, some())
