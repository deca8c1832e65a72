"""NAM and its baselines: each formula on a model of two layers whose values are known, and the laws of each."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llava import tiny_llava
from torch import Tensor, nn

import kedit
from kedit.data.scenes import Scenes
from kedit.internals.unembedding import Unembedding
from kedit.locate import readout, strongest
from kedit.locate.causal_effect import CausalEffect
from kedit.locate.locator import Locator, Stage
from kedit.locate.nam import NAM, maximum_semantic, softmax_maximum
from kedit.locate.selection import TopK
from kedit.locate.shipped import shipped
from kedit.locate.strongest import in_memory, keeping, strongest_words
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.planted.builder import WORDS, Wiring, build
from kedit.results.cache import Cache
from kedit.store import Store

PAIRS = [without(picture("one", (5,), (9,)), STAR_CONCEPT), without(picture("two", (1, 2)), STAR_CONCEPT)]
STAR = Generated("star", (WORDS.index("star"),))
CONST, SAYS_STAR, SAYS_OF, CARRIED = range(4)
ACTIVATIONS = ((2.0, 2.0, -1.0, 3.0), (9.0, 1.0, -2.0, 0.0))
"""Of the neurons of both layers. The fifth is the square of what the fourth writes."""
WRITES = (
    ({SAYS_STAR: 3.0}, {SAYS_STAR: 1.0, SAYS_OF: 2.0}, {SAYS_STAR: -4.0}, {CARRIED: 1.0}),
    ({SAYS_STAR: 0.5}, {SAYS_OF: 1.0}, {SAYS_STAR: 1.0, SAYS_OF: -1.0}, {SAYS_STAR: 5.0}),
)
CONTRIBUTIONS = ((6.0, 2.0, 4.0, 0.0), (4.5, 0.0, -2.0, 0.0))
"""Activation times what the neuron writes into the word "star"."""
STRONGEST = ((6.0, 0.0, 4.0, 0.0), (4.5, 0.0, 0.0, 0.0))
"""The same where "star" is the word that the neuron contributes most to; it is "of" for the second and the seventh."""
GRADIENTS = ((3.0, 1.0, -4.0, 3.0), (0.5, 0.0, 1.0, 5.0))


@cache
def by_hand() -> HuggingFaceMLLM:
    """Return a model of two layers without norms and attention, in which every position holds the constant alone."""
    wiring = Wiring(
        d_model=4, n_layers=2, d_ff=4, level=1.0, eyes=(), embedded={}, moved={},
        head={"star": {SAYS_STAR: 1.0}, "of": {SAYS_OF: 1.0}},
    )  # fmt: skip
    model, _ = build("by hand", wiring, lambda blocks: {}, batch_size=2, max_new_tokens=2)
    language = model.module.model.language_model
    with torch.no_grad():
        for layer, active, writes in zip(language.layers, ACTIVATIONS, WRITES, strict=True):
            layer.input_layernorm = layer.post_attention_layernorm = nn.Identity()
            layer.mlp.gate_proj.weight[:, CONST] = 1.0
            layer.mlp.up_proj.weight[:, CONST] = torch.tensor(active)
            for neuron, written in enumerate(writes):
                for dimension, strength in written.items():
                    layer.mlp.down_proj.weight[dimension, neuron] = strength
        for weight in (language.layers[1].mlp.gate_proj.weight, language.layers[1].mlp.up_proj.weight):
            weight[0] = 0.0
            weight[0, CARRIED] = 1.0
    language.norm = nn.Identity()
    return model


def scored(locator: Locator, model: HuggingFaceMLLM | None = None) -> Tensor:
    (scores,) = locator.score(model or by_hand(), PAIRS, captions=[STAR, STAR]).values()
    return scores.values


def of(scorer: Any) -> Locator:
    return Locator({"only": Stage(scorer, TopK(1))})


def softmax(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    """Return the softmax over all of `rows`, from its definition."""
    powers = [[math.exp(value) for value in row] for row in rows]
    return torch.tensor(powers) / sum(map(sum, powers))


def times(rows: tuple[tuple[float, ...], ...], factors: tuple[tuple[float, ...], ...]) -> list[list[float]]:
    return [[a * b for a, b in zip(*pair, strict=True)] for pair in zip(rows, factors, strict=True)]


# --- the formulas, by hand


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nam_act", ACTIVATIONS),
        ("nam_acu", CONTRIBUTIONS),
        ("nam_grad", GRADIENTS),
        ("nam_grat", times(ACTIVATIONS, GRADIENTS)),
        # The gradient of the square grows from zero, so that its mean is half of what it is in the end.
        ("nam_grai", ((6.0, 2.0, 4.0, 4.5), (4.5, 0.0, -2.0, 0.0))),
        ("causal_effect", ((6.0, 2.0, 4.0, 4.5), (4.5, 0.0, -2.0, 0.0))),
    ],
)
def test_a_baseline_has_its_value(name: str, expected: Any) -> None:
    torch.testing.assert_close(scored(shipped(name)), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_nam_is_the_higher_softmax_of_the_filtered_contributions_and_of_the_activations() -> None:
    expected = torch.maximum(softmax(STRONGEST), softmax(ACTIVATIONS))
    torch.testing.assert_close(scored(shipped("nam")), expected, atol=1e-7, rtol=1e-5)


def test_towards_a_region_every_neuron_counts() -> None:
    """With the word's own direction it is the contribution to the word, unfiltered."""
    direction = by_hand().module.lm_head.weight[WORDS.index("star")]
    expected = torch.maximum(softmax(CONTRIBUTIONS), softmax(ACTIVATIONS))
    torch.testing.assert_close(scored(of(NAM(region=direction))), expected, atol=1e-7, rtol=1e-5)
    with pytest.raises(ValueError, match="`region` has 3 entries, the model's residual stream 4"):
        scored(of(NAM(region=torch.ones(3))))


def test_nam_costs_one_forward_a_picture() -> None:
    about = shipped("nam").score(by_hand(), PAIRS, captions=[STAR, STAR])["nam"].provenance
    assert (about["forwards"], about["backwards"]) == ("2", "0")


# --- noise on groups


def test_silencing_a_whole_layer_shares_its_effect_out_evenly() -> None:
    found = scored(of(CausalEffect(positions="target", group=4)))
    torch.testing.assert_close(found, torch.tensor([[16.5 / 4] * 4, [2.5 / 4] * 4]))
    torch.testing.assert_close(scored(of(CausalEffect(group=9, at_once=1))), found)


@pytest.mark.parametrize("group", [1, 4])
def test_noise_changes_the_target_by_its_deviation_times_the_gradients(group: int) -> None:
    """In the last layer, where the target is linear: the mean size of a Gaussian is sqrt(2 / pi) of its deviation."""
    found = scored(of(CausalEffect(positions="target", group=group, noise=1.0, repeats=300, at_once=100)))[1]
    spread = torch.tensor(ACTIVATIONS[1]).std(correction=0)
    steep = torch.tensor(GRADIENTS[1])
    together = steep.abs() if group == 1 else (steep.norm() / 4).repeat(4)
    torch.testing.assert_close(found, together * spread * math.sqrt(2 / math.pi), atol=1e-6, rtol=0.1)


def test_groups_are_drawn_by_seed_anew_for_each_picture_and_repeat() -> None:
    def noise(**options: Any) -> Tensor:
        return scored(of(CausalEffect(group=2, noise=1.0, **options)))

    assert torch.equal(noise(), noise(at_once=64))
    assert not torch.allclose(noise(), noise(seed=1), rtol=0.01)
    alone = [of(CausalEffect(group=2, noise=1.0)).score(by_hand(), [pair], captions=[STAR]) for pair in PAIRS]
    first, second = (one["only"].values for one in alone)
    assert not torch.allclose(first, second, rtol=0.01)
    torch.testing.assert_close((first + second) / 2, noise())
    about = shipped("nam_ce").score(by_hand(), PAIRS, captions=[STAR, STAR])["nam_ce"].provenance
    assert int(about["forwards"]) == 2 * (1 + 2 * 8)  # one group in each of two layers, 8 draws


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 0}, "`group` is a number of neurons, 1 or more, got 0"),
        ({"repeats": 0}, "`repeats` is a number of draws, 1 or more, got 0"),
        ({"repeats": 3}, "`repeats` is 3, and without `group` or `noise` every draw is the same"),
        ({"noise": -1.0}, "`noise` is a finite number, 0 or more, got -1.0"),
        ({"noise": math.inf}, "`noise` is a finite number, 0 or more, got inf"),
    ],
)
def test_groups_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalEffect(**options)


# --- laws


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_softmax_maximum_does_not_change_with_a_shift() -> None:
    direct, active = drawn(2, 3, 5), 4 * drawn(2, 3, 5).flip(2)
    plain = softmax_maximum(direct, active)
    assert plain.dtype == torch.float64
    torch.testing.assert_close(softmax_maximum(direct.double() + 700.0, active.double() - 900.0), plain)
    # Of one of several samples alone, too, since each has a softmax of its own.
    shifts = torch.tensor([0.0, 50.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(softmax_maximum(direct + shifts, active), plain)


def test_what_is_missing_stays_so_and_counts_for_nothing() -> None:
    direct, active = drawn(1, 2, 4), drawn(1, 2, 4).flip(2)
    wider = [torch.cat([one, torch.full((1, 2, 1), torch.nan)], dim=2) for one in (direct, active)]
    found = softmax_maximum(wider[0], wider[1])
    assert found[..., 4:].isnan().all()
    torch.testing.assert_close(found[..., :4], softmax_maximum(direct, active))


def test_with_a_weight_the_final_score_is_the_higher_of_two_shares_of_the_highest() -> None:
    direct = torch.tensor([[[4.0, 1.0], [-8.0, 0.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    active = torch.tensor([[[1.0, 2.0], [-3.0, 4.0]], [[5.0, 10.0], [0.0, 1.0]]])
    channels = torch.stack([direct, active], dim=1)
    joined = NAM(weight=0.5).across_layers(channels)
    torch.testing.assert_close(joined[0], torch.tensor([[1.0, 0.25], [-0.375, 0.5]]))
    torch.testing.assert_close(joined[1], torch.tensor([[0.25, 0.5], [0.0, 0.05]]))
    torch.testing.assert_close(NAM(weight=0).across_layers(channels)[0], torch.tensor([[1.0, 0.25], [0.0, 0.0]]))
    torch.testing.assert_close(NAM(weight=0.5).across_layers(7 * channels), joined)
    missing = channels.index_fill(3, torch.tensor([1]), torch.nan)
    assert NAM(weight=0.5).across_layers(missing).isnan().tolist() == [[[False, True]] * 2] * 2


@pytest.mark.parametrize(
    ("activation", "word", "expected"),
    [
        # Neuron 0 writes 3 and 1 into the words, neuron 1 the other way round, neuron 2 -1 and -2.
        ([2.0, 2.0, 2.0], 0, [6, 0, -2]),
        ([2.0, 2.0, 2.0], 1, [0, 6, 0]),
        ([-2.0, -2.0, -2.0], 0, [0, -2, 0]),
        ([-2.0, -2.0, 0.0], 1, [-2, 0, 0]),
    ],
)
def test_a_neuron_whose_strongest_word_is_another_counts_for_nothing(
    activation: list[float], word: int, expected: list[float]
) -> None:
    table = torch.tensor([[3.0, 1.0, -1.0], [1.0, 3.0, -2.0]])
    tables = torch.stack([table.argmax(0), table.argmin(0)])
    found = maximum_semantic(torch.tensor([[activation]]), table[[word]], tables, torch.tensor([word]))
    assert found.tolist() == [[expected]]


# --- the strongest words


@pytest.mark.parametrize("norm", ["none", "gamma"])
@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_the_strongest_words_are_the_extremes_of_the_whole_product(
    norm: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny_llava().module
    unembedding, values = Unembedding.of(module), drawn(9, 16)
    monkeypatch.setattr(strongest, "ENTRIES_AT_ONCE", 9 * at_once)
    product = unembedding.directions(range(len(unembedding.weight)), norm) @ values.T
    expected = torch.stack([product.argmax(0), product.argmin(0)])
    assert torch.equal(strongest_words(unembedding, values, norm), expected)
    assert len(expected.unique()) > 4


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many neurons each table that is made has."""
    widths: list[int] = []

    def note(unembedding: Unembedding, values: Tensor, norm: Any) -> Tensor:
        widths.append(len(values))
        return strongest_words(unembedding, values, norm)

    monkeypatch.setattr(readout, "strongest_words", note)
    return widths


def test_tables_are_made_once_for_each_layer_however_many_batches_there_are(made: list[int]) -> None:
    many = [PAIRS[0]] * 5
    of(NAM()).score(by_hand(), many, captions=[STAR] * 5)
    assert made == [4, 4]


def test_tables_that_are_kept_are_found_again_and_the_scores_are_the_same(made: list[int]) -> None:
    plain = scored(of(NAM()))
    with keeping(in_memory()):
        again = [scored(of(NAM())) for _ in range(2)]
    assert made == [4] * 4
    assert all(torch.equal(one, plain) for one in again)
    scored(of(NAM()))
    assert made == [4] * 6


def test_a_store_keeps_them_by_the_models_identity(made: list[int], tmp_path: Path) -> None:
    def found(cache: Cache, model: HuggingFaceMLLM) -> Tensor:
        with cache.keeping_words():
            return scored(of(NAM()), model)

    plain = found(Cache.of_model(tmp_path, by_hand()), by_hand())
    assert torch.equal(found(Cache.of_model(tmp_path, by_hand()), by_hand()), plain)
    assert made == [4, 4]
    by_hand.cache_clear()
    other = by_hand()
    by_hand.cache_clear()
    with torch.no_grad():
        other.module.lm_head.weight[WORDS.index("of"), SAYS_OF] = 0.1
    changed = found(Cache.of_model(tmp_path, other), other)
    assert made == [4] * 4
    # "of" gets less than "star" of the second neuron now.
    direct = torch.tensor(STRONGEST)
    direct[0, 1] = 2.0
    expected = softmax_maximum(direct[None], torch.tensor([ACTIVATIONS]))[0].float()
    torch.testing.assert_close(changed, expected)
    assert [entry.kind for entry in Store(tmp_path).ls()] == ["words"] * 4


def test_locating_twice_with_a_store_makes_them_once(made: list[int], tmp_path: Path) -> None:
    def locate(**options: Any) -> Any:
        counts = kedit.Counts(locate=2, target=1, retention=1)
        return kedit.locate_neurons(
            load("scenes"), Scenes(), "star", locate="nam", counts=counts, store=tmp_path, progress=False, **options
        )

    first, other = locate(), locate(seed=1)
    assert len(made) == len(load("scenes").site().blocks)
    assert first.scores["nam"].provenance["samples"] != other.scores["nam"].provenance["samples"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"weight": -1.0}, "`weight` is a finite number, 0 or more, or None for the paper's way, got -1.0"),
        ({"norm": "rms"}, "`norm` is one of none, gamma, got 'rms'"),
        ({"region": torch.ones(2, 3)}, r"`region` is a vector of the residual stream, got shape \(2, 3\)"),
        ({"positions": "last"}, "`positions` is one of .*, got 'last'"),
    ],
)
def test_an_impossible_option_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        NAM(**options)
