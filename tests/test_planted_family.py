"""The planted models say what they see, because of the neurons that are said to be the reason."""

from collections.abc import Sequence
from functools import lru_cache

import pytest
import torch

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.internals.hooks import record
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT
from kedit.models.planted.builder import WORDS
from kedit.models.planted.family import SAYS_STAR, VARIANTS, Draw, PlantedCase, family, plan
from kedit.models.planted.pictures import planted_pairs
from kedit.neurons import NeuronSet

PAIRS = planted_pairs(6, seed=100)
IMAGES = [pair.sample.image for pair in PAIRS] + [pair.image for pair in PAIRS[:2]]
SHOWN = [set(pair.sample.objects) for pair in PAIRS] + [set(pair.sample.objects) - {"star"} for pair in PAIRS[:2]]
NOBODY = NeuronSet()
SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))]
every_seed = pytest.mark.parametrize("seed", range(2))
every_model = pytest.mark.parametrize("seed", SEEDS)
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@lru_cache(maxsize=4)
def case_of(variant: str, seed: int) -> PlantedCase:
    return family(variant, seed)


def captions(case: PlantedCase, silenced: NeuronSet = NOBODY) -> list[list[str]]:
    with Edit(silenced, Zero()).applied(case.model):
        return [one.text.split() for one in case.model.caption(IMAGES)]


def named(case: PlantedCase, silenced: NeuronSet = NOBODY) -> list[set[str]]:
    """Return what each caption names; every caption opens with "picture" and says no word twice."""
    told = captions(case, silenced)
    assert all(words[0] == "picture" and len(set(words)) == len(words) for words in told), told
    return [set(words[1:]) for words in told]


def harmless(case: PlantedCase) -> dict[str, NeuronSet]:
    """Return the sets without which the model says the same; a prior and its brake only together."""
    sets = {role: ids for role, ids in case.others.items() if role in ("noise", "decoys")}
    if "priors" in case.others:
        sets["priors and brakes"] = case.others["priors"] | case.others["brakes"]
    return sets


@every_model
@every_variant
def test_captions_name_what_the_pictures_show(variant: str, seed: int) -> None:
    assert named(case_of(variant, seed)) == SHOWN


@every_model
@every_variant
def test_without_the_truth_the_star_is_not_named_and_all_else_is(variant: str, seed: int) -> None:
    case = case_of(variant, seed)
    assert named(case, case.truth) == [shown - {"star"} for shown in SHOWN]


@every_model
@every_variant
def test_without_decoys_priors_or_noise_the_captions_name_the_same(variant: str, seed: int) -> None:
    case = case_of(variant, seed)
    for role, ids in harmless(case).items():
        assert named(case, ids) == SHOWN, role


@every_variant
def test_every_neuron_has_one_role(variant: str) -> None:
    case = family(variant, 1)
    sets = [case.truth, case.ignored, *case.others.values()]
    assert sum(map(len, sets)) == case.model.site().n_neurons == 192
    assert len({one for ids in sets for one in ids}) == 192
    assert not any(weight.requires_grad for weight in case.model.module.parameters())


def test_a_seed_decides_places_strengths_and_noise() -> None:
    one, same, other = family("distributed", 3), family("distributed", 3), family("distributed", 4)
    weights, again, others = ([*case.model.module.parameters()] for case in (one, same, other))
    assert one.truth == same.truth != other.truth
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def test_the_truth_is_as_large_as_the_variant_says() -> None:
    sizes = {variant: len(case_of(variant, 0).truth) for variant in VARIANTS}
    assert sizes == {
        "plain": 1, "decoys": 1, "prior": 1, "polysemantic": 2, "distributed": 12, "redundant": 2, "late": 3,
        "negative": 1, "generic": 1, "late_negative": 3, "shared": 1,
    }  # fmt: skip
    assert set(case_of("distributed", 0).truth.by_layer()) == {0, 1}
    assert set(case_of("late", 0).truth.by_layer()) == {2}


def activations(case: PlantedCase, images: Sequence[object], ids: NeuronSet) -> torch.Tensor:
    """Return the activations of `ids` at the 16 image positions: `[image, pos, neuron]`."""
    batch = case.model.teacher_forced(images, [()] * len(images))  # type: ignore[arg-type]
    return everywhere(case, images, ids)[batch.token_types == 2].reshape(len(images), 16, len(ids))


def everywhere(case: PlantedCase, images: Sequence[object], ids: NeuronSet) -> torch.Tensor:
    """Return the activations of `ids` up to the answer's position: `[image, pos, neuron]`."""
    batch = case.model.teacher_forced(images, [()] * len(images))  # type: ignore[arg-type]
    with torch.no_grad(), record(case.model.module, case.model.site()) as seen:
        case.model.logits(batch)
    return torch.stack([seen[layer][:, :, index] for layer, index in ids], -1)


def test_decoys_fire_with_the_star_more_strongly_than_the_truth() -> None:
    case = case_of("decoys", 0)
    originals, painted = [pair.sample.image for pair in PAIRS], [pair.image for pair in PAIRS]
    decoys, truth = (activations(case, originals, ids) for ids in (case.others["decoys"], case.truth))
    assert (decoys.amax((0, 1)) > truth.max()).all()
    assert activations(case, painted, case.others["decoys"]).max() == 0


def test_priors_fire_at_every_position_whatever_the_picture() -> None:
    case = case_of("prior", 0)
    fired = activations(case, [PAIRS[0].sample.image, PAIRS[0].image], case.others["priors"])
    # In the first layer exactly, in the second but for what the first has added to the length of the stream.
    assert fired.min() > 0
    torch.testing.assert_close(fired[0], fired[1], rtol=0.2, atol=0)
    value = case.model.site().value_vector(case.model.module, next(iter(case.others["priors"])))
    assert value[SAYS_STAR] > 0


@every_seed
def test_either_of_the_redundant_neurons_suffices(seed: int) -> None:
    case = case_of("redundant", seed)
    for one in case.truth:
        assert named(case, NeuronSet((one,))) == SHOWN


def test_the_negative_neuron_fires_below_zero() -> None:
    case = case_of("negative", 0)
    fired = activations(case, [PAIRS[0].sample.image], case.truth)
    assert fired.min() < 0 == fired.max()


def test_the_polysemantic_neuron_fires_with_star_and_house() -> None:
    case = case_of("polysemantic", 0)
    both = next(pair.sample for pair in PAIRS if len(pair.sample.objects) == 2)
    fired = (activations(case, [both.image], case.truth) > 0).float().mean(1)[0]
    cells = {name: both.regions[name].sum() / 64 / 16 for name in ("star", "house")}
    assert sorted(fired.tolist()) == pytest.approx([cells["star"], cells["star"] + cells["house"]])


@every_seed
def test_without_the_generic_neurons_every_caption_breaks(seed: int) -> None:
    case = case_of("generic", seed)
    assert captions(case, case.others["generic"]) == [["this"] * case.model.max_new_tokens] * len(IMAGES)


@every_seed
@pytest.mark.parametrize("variant", ["generic", "shared"])
def test_what_writes_for_several_words_fires_everywhere_and_most_at_one_color(variant: str, seed: int) -> None:
    case = case_of(variant, seed)
    shown, painted = (activations(case, images, case.others[variant]) for images in (IMAGES[:1], [PAIRS[0].image]))
    assert everywhere(case, IMAGES, case.others[variant]).min() > 0
    red = torch.from_numpy(PAIRS[0].sample.regions["star"][::8, ::8].flatten())
    change = (shown - painted)[0, red]
    quarter = len(case.others[variant]) // 4
    counts = [int(many.all(0).sum()) for many in (change > 0.5, change < -0.5, change.abs() < 1e-5)]
    assert counts == [quarter, quarter, 2 * quarter]


@every_seed
def test_generic_neurons_write_longer_vectors_than_the_truth(seed: int) -> None:
    case = case_of("generic", seed)
    longest = {}
    for role, ids in (("generic", case.others["generic"]), ("truth", case.truth)):
        norms = torch.stack([case.model.site().value_vector(case.model.module, one).norm() for one in ids])
        longest[role] = (everywhere(case, IMAGES, ids) * norms).amax((0, 1))
    assert longest["generic"].min() > longest["truth"].max()


@every_seed
@pytest.mark.parametrize("variant", ["generic", "shared"])
def test_gradient_times_activation_picks_what_writes_for_several_words(variant: str, seed: int) -> None:
    case = case_of(variant, seed)
    wrong = case.others[variant]
    for scorer in (GradCAM(), GradCAM(positions="all", over_positions="sum")):
        top = Locator({"only": Stage(scorer, TopK(len(wrong)))})
        assert top.select(top.score(case.model, PAIRS)) == wrong


@pytest.mark.parametrize("variant", ["generic", "shared"])
def test_what_writes_for_several_words_tells_star_and_house_not_apart(variant: str) -> None:
    case = case_of(variant, 0)
    star, house = (case.model.module.lm_head.weight[WORDS.index(word)] for word in ("star", "house"))
    vectors = torch.stack([case.model.site().value_vector(case.model.module, one) for one in case.others[variant]])
    assert (vectors @ star).min() > 0
    assert torch.equal(vectors @ star, vectors @ house)


@every_seed
def test_any_neuron_of_what_two_words_share_takes_both_and_leaves_the_language(seed: int) -> None:
    case = case_of("shared", seed)
    star, house = (case.model.module.lm_head.weight[WORDS.index(word)] for word in ("star", "house"))
    assert torch.cosine_similarity(star, house, dim=0) > 0.95
    for one in case.others["shared"]:
        assert captions(case, NeuronSet((one,))) == [["picture"]] * len(IMAGES)


@every_seed
def test_late_negative_neurons_fire_below_zero_at_the_answer_and_point_away_from_the_word(seed: int) -> None:
    case, above = case_of("late_negative", seed), case_of("late", seed)
    assert case.truth == above.truth
    images = [PAIRS[0].sample.image, PAIRS[0].image]
    shown, painted = everywhere(case, images, case.truth)[:, -1]
    assert shown.max() < -0.01
    assert painted.abs().max() < 1e-5
    assert all(case.model.site().value_vector(case.model.module, one)[SAYS_STAR] < 0 for one in case.truth)
    # All else is as in the model whose neurons fire above zero.
    batch = case.model.teacher_forced(images, [(), ()])
    assert torch.equal(case.model.logits(batch), above.model.logits(batch))


@pytest.mark.parametrize("layer", range(3))
def test_the_noise_is_evidence_one_by_one_and_silent_together(layer: int) -> None:
    case = case_of("plain", 0)
    ids = NeuronSet(tuple(one for one in case.others["noise"] if one.layer == layer))
    fired = activations(case, IMAGES, ids)
    indices = [one.index for one in ids]
    written = fired * case.model.site().value_matrix(case.model.module, layer)[indices, SAYS_STAR]
    assert written.abs().max() > 0.01
    assert written.sum(-1).abs().max() < 1e-5


def test_the_counterfactual_differs_in_the_star_alone() -> None:
    for pair in PAIRS:
        assert pair.sample.shows(STAR_CONCEPT)
        assert 2 <= pair.sample.region(STAR_CONCEPT).sum() / 64 <= 4
    assert [pair.sample.shows(HOUSE_CONCEPT) for pair in PAIRS] == [False, True] * 3


def test_shares_add_up_to_one() -> None:
    shares = Draw(torch.Generator().manual_seed(0)).shares(12)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) > 0
    planned = plan("distributed", Draw(torch.Generator().manual_seed(0)))
    whole = sum(g * w for one in planned if one.role == "star" for g in one.reads.values() for w in one.writes.values())
    assert 0.8 <= whole <= 1.25


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="no planted variant `plane`; there are plain, decoys"):
        family("plane")
