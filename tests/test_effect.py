"""The contrastive effect and the damage: by hand, sample by sample, and what they cost."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_scorers import PAIRS, scored, written
from tiny_llava import N_LAYERS
from torch import Tensor

from kedit.internals.hooks import intervene, record
from kedit.internals.unembedding import Unembedding
from kedit.locate.choosing import choose_neurons
from kedit.locate.damage import Damage
from kedit.locate.difference import ActivationDifference
from kedit.locate.effect import Effect, EffectPath, Selective
from kedit.locate.enough import Enough, names_concept, sizes
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.locate.shards import check_shareable
from kedit.locate.target import Target, margins
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import Generated, Mention
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.planted import planted as planted_model
from kedit.models.planted.family import VARIANTS, family
from kedit.models.planted.pictures import planted_pairs
from kedit.neurons import NeuronId
from kedit.samples import Counterfactual

MARGIN = Target(value="margin")


@pytest.fixture(scope="module")
def planted() -> HuggingFaceMLLM:
    return planted_model().model


@pytest.fixture(scope="module")
def captions(tiny: HuggingFaceMLLM) -> list[Generated]:
    return [written(tiny, text) for text in ("a star", "the red star", "a house and a star .")]


def mentions(model: HuggingFaceMLLM, captions: list[Generated]) -> list[Mention]:
    found = [model.mention(one, pair.concept) for one, pair in zip(captions, PAIRS, strict=True)]
    return [one for one in found if one is not None]


def margin(logits: Tensor, token: int) -> Tensor:
    """The definition, plainly: the logit less the mean of the ten largest of the other logits."""
    others = torch.cat([logits[:token], logits[token + 1 :]])
    return logits[token] - others.sort(descending=True).values[:10].mean()


def with_gradients(model: HuggingFaceMLLM, image: object, prefix: tuple[int, ...], words: int) -> tuple[Tensor, ...]:
    """Return the last `words` logits of one picture and each layer's activations, in a graph."""
    batch = model.teacher_forced([image], [prefix])  # type: ignore[list-item]
    with record(model.module, model.site("mid"), differentiable=True) as activations:
        logits = model.logits(batch, n_last=words)
    return logits[0], *(activations[layer] for layer in range(N_LAYERS))


def test_a_margin_is_the_logit_less_the_mean_of_the_ten_best_others() -> None:
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([4, 0, 19])
    expected = [margin(row, int(token)) for row, token in zip(logits, tokens, strict=True)]
    torch.testing.assert_close(margins(logits, tokens), torch.stack(expected))
    torch.testing.assert_close(margins(logits + 7, tokens), margins(logits, tokens))


def test_a_small_vocabulary_has_fewer_rivals() -> None:
    logits = torch.tensor([[3.0, 1.0, -1.0]])
    assert margins(logits, torch.tensor([0])).item() == 3.0


@pytest.mark.parametrize("path", ["all", "answer"])
def test_the_gradient_paths_are_an_activation_or_its_change_times_the_gradient_of_the_margin(
    tiny: HuggingFaceMLLM, captions: list[Generated], path: str
) -> None:
    expected = []
    for pair, mention in zip(PAIRS, mentions(tiny, captions), strict=True):
        logits, *activations = with_gradients(tiny, pair.sample.image, mention.prefix, 1)
        _, *without = with_gradients(tiny, pair.image, mention.prefix, 1)
        gradients = torch.autograd.grad(margin(logits[-1], mention.word[0]), activations)
        changes = [a - b for a, b in zip(activations, without, strict=True)] if path == "all" else activations
        effects = [(a * g)[0] for a, g in zip(changes, gradients, strict=True)]
        expected.append(torch.stack([one.sum(0) if path == "all" else one[-1] for one in effects]).detach())
    found = scored(tiny, captions, {"effect": Effect(path)}, target=MARGIN)["effect"].values  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-4, atol=1e-7)


def test_the_direct_path_of_the_last_layer_is_what_zeroing_does_where_the_norm_divides_as_before(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    """No later layer reads the last one: with the norm's divisor held, the direct effect is the whole one."""
    unembedding, last = Unembedding.of(tiny.module), N_LAYERS - 1
    values = tiny.site("mid").value_matrix(tiny.module, last)
    expected = []
    for pair, mention in zip(PAIRS, mentions(tiny, captions), strict=True):
        streams: list[Tensor] = []
        assert unembedding.norm is not None
        handle = unembedding.norm.register_forward_pre_hook(lambda _, inputs, kept=streams: kept.append(inputs[0]))
        logits, *activations = with_gradients(tiny, pair.sample.image, mention.prefix, 1)
        handle.remove()
        stream, word = streams[0][0, -1], mention.word[0]
        others = [token for token in logits[-1].argsort(descending=True).tolist() if token != word][:10]
        sigma = stream.pow(2).mean().sqrt()

        def lens(vector: Tensor, sigma: Tensor = sigma, word: int = word, others: list[int] = others) -> Tensor:
            said = unembedding.weight @ (unembedding.gamma * vector / sigma)
            return said[word] - said[others].mean()

        whole = lens(stream)
        without = [lens(stream - a * v) for a, v in zip(activations[last][0, -1], values, strict=True)]
        expected.append((whole - torch.stack(without)).detach())
    found = scored(tiny, captions, {"effect": Effect("direct")}, target=MARGIN)["effect"].values[last]
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-3, atol=1e-6)


def test_auto_looks_at_the_answer_where_neurons_write_half_of_the_margin_for_the_concept() -> None:
    direct, everywhere = torch.tensor([[3.0, -9.0], [2.0, torch.nan]]), torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
    gained = torch.tensor([[3.5, -6.0], [1.5, torch.nan]])

    def chosen(margin: float) -> Tensor:
        return Effect().across_samples(torch.stack([direct, everywhere, gained, torch.full((2, 2), margin)]))

    torch.testing.assert_close(chosen(10.0), direct, equal_nan=True)
    torch.testing.assert_close(chosen(10.1), everywhere, equal_nan=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_auto_finds_where_planted_knowledge_acts(variant: str) -> None:
    """Neurons that write the word whatever is shown, or write noise, do not make it look at the answer."""
    case = family(variant)
    pairs = planted_pairs(4, case.seed)
    paths: tuple[EffectPath, ...] = ("auto", "direct", "all")
    stages = {path: Stage(Effect(path), TopK(4)) for path in paths}
    found = Locator(stages, target=MARGIN).score(case.model, pairs)  # type: ignore[arg-type]
    torch.testing.assert_close(found["auto"].values, found["direct" if "late" in variant else "all"].values)


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"redundant", "shared"}))
def test_selective_ranks_the_planted_neurons_first(variant: str) -> None:
    case = family(variant, 1)
    locator = Locator({"selective": Stage(Selective(), TopK(4))}, target=MARGIN)  # type: ignore[arg-type]
    found = locator.score(case.model, planted_pairs(6, case.seed))["selective"].values
    ranked = found.flatten().argsort(descending=True).tolist()
    ignored = {one.layer * found.shape[1] + one.index for one in case.ignored}
    first = [place for place in ranked if place not in ignored][: len(case.truth)]
    assert {NeuronId(*divmod(place, found.shape[1])) for place in first} == set(case.truth)


def test_the_damage_is_the_length_of_the_effects_on_the_rest_of_the_caption_without_the_concept(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    expected = []
    for pair, caption, mention in zip(PAIRS, captions, mentions(tiny, captions), strict=True):
        logits, *activations = with_gradients(tiny, pair.image, caption.tokens, len(caption.tokens) + 1)
        words, start = [*caption.tokens, int(logits[-1].argmax())], len(mention.prefix)
        words[start] = next(one for one in logits[start].argsort(descending=True).tolist() if one != words[start])
        others = [place for place in range(len(words)) if not 0 < place - start < len(mention.word)]
        kept = torch.stack([margin(logits[place], words[place]) for place in others]).mean()
        gradients = torch.autograd.grad(kept, activations)
        lengths = [(a * g)[0].pow(2).sum(0).sqrt() for a, g in zip(activations, gradients, strict=True)]
        expected.append(torch.stack(lengths).detach())
    found = scored(tiny, captions, {"damage": Damage()}, target=MARGIN)["damage"].values
    torch.testing.assert_close(found, -torch.stack(expected).mean(0), rtol=1e-4, atol=1e-7)
    assert bool((found < 0).any())


def test_the_words_own_tokens_are_no_damage(tiny: HuggingFaceMLLM) -> None:
    """A word of several tokens is forced up to its last one for the answer; none of them counts as damage."""
    captions = [written(tiny, "a starfish")] * 3
    pairs = [replace(pair, concept="starfish") for pair in PAIRS]
    first, last = (
        Locator({"damage": Stage(Damage(), TopK(1))}, target=Target(value="margin", subtokens=which)).score(
            tiny, pairs, captions=captions
        )["damage"].values
        for which in ("first", "last")
    )  # fmt: skip
    torch.testing.assert_close(first, last, rtol=1e-4, atol=1e-7)


def test_selective_is_the_effect_less_the_weighted_damage(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    scorers = {"effect": Effect(), "damage": Damage(), "none": Selective(weight=0.0), "twice": Selective(weight=2.0)}
    found = {name: one.values for name, one in scored(tiny, captions, scorers, target=MARGIN).items()}
    torch.testing.assert_close(found["none"], found["effect"])
    torch.testing.assert_close(found["twice"], found["effect"] + 2 * found["damage"])


def test_it_costs_no_forward_beside_two_stage_filtering_and_one_backward(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    paper = {"difference": ActivationDifference(), "gradcam": GradCAM()}
    counted = {}
    for name, scorers in {"two": paper, "three": paper | {"selective": Selective()}, "one": {"s": Selective()}}.items():
        passes: list[int] = []
        count = lambda activation, seen=passes: seen.append(len(activation))  # noqa: E731
        with intervene(tiny.module, tiny.site("mid"), {0: count}):
            scores = next(iter(scored(tiny, captions, scorers, target=MARGIN).values()))
        stated = tuple(int(scores.provenance[key]) for key in ("forwards", "backwards"))
        assert sum(passes) == stated[0]
        counted[name] = stated
    assert counted == {"two": (6, 3), "three": (6, 6), "one": (6, 6)}


def test_other_scores_do_not_depend_on_whether_the_damage_is_read(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    alone = scored(tiny, captions, {"difference": ActivationDifference(), "gradcam": GradCAM()})
    beside = scored(tiny, captions, {"difference": ActivationDifference(), "gradcam": GradCAM(), "damage": Damage()})
    for name, scores in alone.items():
        torch.testing.assert_close(beside[name].values, scores.values)


def test_the_model_is_as_it_was_and_no_weight_has_a_gradient(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    before = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    scored(tiny, captions, {"selective": Selective()}, target=MARGIN)
    for name, value in tiny.module.named_parameters():
        assert value.grad is None
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Effect("sideways"), "`path` is one of auto, direct, answer, all"),
        (lambda: Selective(weight=-1.0), "`weight` is what the damage counts"),
        (lambda: Selective(weight=float("nan")), "`weight` is what the damage counts"),
        (lambda: Selective("up"), "`path` is one of"),
        (lambda: Target(value="margins"), "`value` is one of logit, logprob, prob, margin"),
    ],
)
def test_a_wrong_option_is_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_shares_of_the_samples_are_refused_since_what_auto_chooses_is_no_mean() -> None:
    with pytest.raises(ValueError, match="Selective makes of them is no mean"):
        check_shareable(Locator({"selective": Stage(Selective(), TopK(1))}))


# --- as few neurons as take the word


@pytest.fixture(scope="module")
def starry() -> list[Counterfactual]:
    return [without(one, STAR_CONCEPT) for one in (picture("a", (5,)), picture("b", (1, 2), (9,)))]


def test_the_sizes_grow_by_a_third_or_a_half_and_end_at_the_last() -> None:
    assert sizes(16) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert sizes(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert sizes(1) == [1]


def test_no_smaller_set_on_the_path_takes_the_word(planted: HuggingFaceMLLM, starry: list[Counterfactual]) -> None:
    """By trying all of them: the planted model says "star" until its neuron is gone."""
    locator = Locator({"effect": Stage(Effect("all"), TopK(1))}, target=MARGIN)
    scores = locator.score(planted, starry)
    cases, site = locator.cases(planted, starry), planted.site("mid")
    ranked = scores["effect"].ranking()
    still = {size: names_concept(planted, site, cases, ranked[:size]) for size in (0, *sizes(32))}
    assert all(still[0])
    expected = min(size for size, says in still.items() if not any(says))
    choice = choose_neurons(Enough(at_most=32), planted, locator, starry, scores)
    assert list(choice.neurons) == sorted(ranked[:expected])


def test_where_no_number_suffices_all_are_kept_with_a_warning(
    planted: HuggingFaceMLLM, starry: list[Counterfactual], caplog: pytest.LogCaptureFixture
) -> None:
    locator = Locator({"effect": Stage(Effect("all"), TopK(1))}, target=MARGIN)
    scores, cases = locator.score(planted, starry)["effect"], locator.cases(planted, starry)
    house = planted_model().house
    assert Enough().choose(planted, locator, cases, scores, house) == house
    assert "zeroing the best 1 neurons takes the word from 0 % of the pictures, not from 95 %" in caplog.text


def test_a_word_that_the_model_does_not_say_cannot_be_taken(planted: HuggingFaceMLLM) -> None:
    """Where the word is forced, pictures without it are located with."""
    locator = Locator({"effect": Stage(Effect("all"), TopK(1))}, target=replace(MARGIN, on_missing="force"))
    starless = [Counterfactual(picture("c", house=(3,)), STAR_CONCEPT, picture("c").image)]
    scores = locator.score(planted, starless)
    with pytest.raises(ValueError, match="names the concept in none of the pictures"):
        choose_neurons(Enough(), planted, locator, starless, scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"share": 0.0}, "`share` is a share"), ({"share": "most"}, "`share`"), ({"at_most": 0}, "`at_most`")],
)
def test_a_wrong_option_of_enough_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Enough(**options)
