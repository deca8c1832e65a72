"""Locating finds the planted truth, its gradients are right, and it costs what it says."""

import copy
import dataclasses
import gc
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import get_args

import pytest
import torch
from PIL import Image
from tiny_llava import D_FF, N_LAYERS, OneMore, tiny_llava
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.locate.difference import ActivationDifference
from kedit.locate.evidence import SAMPLES_AT_ONCE
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.reduction import Evidence, OverPositions, OverSamples, over_positions
from kedit.locate.scorer import LayerEvidence, Need
from kedit.locate.selection import Above, Quantile, RatioOfMax, TopK
from kedit.locate.target import Target
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import IMAGE, PADDING, TEXT, Generated, Mention
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT, Planted, picture, without
from kedit.models.planted import planted as planted_from
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.samples import Concept, Counterfactual

SAMPLES = (
    picture("one star", (5,)),
    picture("stars and a house", (1, 2), (9,)),
    picture("a house", (), (3,)),
    picture("nothing"),
    picture("a star and houses", (0,), (15, 14)),
)
CONCEPTS = {"star": STAR_CONCEPT, "house": HOUSE_CONCEPT}
CAPTIONS = ("a red star .", "the unicorn", "a picture of the blue sky and a unicorn", "star", "a , a : stars on a star")
SEEN = Concept("thing", ("star", "unicorn"))
"""What every one of `CAPTIONS` names, in one to three tokens after none to eight."""
BOTH = {
    "difference": Stage(ActivationDifference(), RatioOfMax(0.1)),
    "gradcam": Stage(GradCAM(), RatioOfMax(0.2)),
}


def pairs_of(concept: Concept) -> list[Counterfactual]:
    return [without(sample, concept) for sample in SAMPLES if sample.shows(concept)]


@pytest.fixture(scope="module")
def tiny() -> HuggingFaceMLLM:
    model = tiny_llava()
    model.module.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def captions(tiny: HuggingFaceMLLM) -> list[Generated]:
    return [written(tiny, text) for text in CAPTIONS]


@pytest.fixture(scope="module")
def seen() -> list[Counterfactual]:
    """Five pictures of something, each with a counterfactual of one gray."""
    plain = Image.new("RGB", SAMPLES[0].image.size, (128, 128, 128))
    samples = [picture(str(n), (n,), (15 - n, 7)) for n in range(len(CAPTIONS))]
    return [Counterfactual(sample, SEEN, plain) for sample in samples]


def written(model: HuggingFaceMLLM, text: str) -> Generated:
    return Generated(text, tuple(model.tokenizer(text, add_special_tokens=False).input_ids))


def one_stage(scorer: object, select: object = TopK(1), **options: object) -> Locator:
    return Locator({"only": Stage(scorer, select)}, **options)  # type: ignore[arg-type]


@dataclass
class Keep:
    """A scorer that copies all evidence, by layer; one entry for each batch."""

    needs: frozenset[Need] = frozenset({"gradient"})
    over_samples: OverSamples = "mean"
    seen: dict[int, list[LayerEvidence]] = field(default_factory=dict)

    def score(self, evidence: LayerEvidence) -> Tensor:
        tensors = {name: one.clone() for name, one in vars(evidence).items() if isinstance(one, Tensor)}
        self.seen.setdefault(evidence.layer, []).append(LayerEvidence(evidence.layer, **tensors))
        return evidence.original.sum(1)


# --- the planted truth


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CONCEPTS)
def test_two_stages_return_exactly_the_planted_neuron(name: str, seed: int) -> None:
    truth = planted_from(seed)
    scores = Locator(BOTH).score(truth.model, pairs_of(CONCEPTS[name]))
    assert Locator(BOTH).select(scores) == getattr(truth, name)


def test_the_first_stage_keeps_the_decoy_and_drops_the_prior(planted: Planted) -> None:
    locator = one_stage(ActivationDifference(), RatioOfMax(0.5))
    scores = locator.score(planted.model, pairs_of(STAR_CONCEPT))
    assert locator.select(scores) == planted.star | planted.decoy
    assert scores["only"].of(planted.prior).item() == 0
    assert scores["only"].of(planted.house).item() == 0


def test_the_second_stage_alone_keeps_the_prior_and_drops_the_decoy(planted: Planted) -> None:
    locator = one_stage(GradCAM(positions="all"), TopK(2))
    scores = locator.score(planted.model, pairs_of(STAR_CONCEPT))
    assert locator.select(scores) == planted.star | planted.prior
    assert scores["only"].of(planted.decoy).item() == 0


def test_the_order_of_the_stages_does_not_change_what_passes_both_thresholds(planted: Planted) -> None:
    scores = Locator(BOTH).score(planted.model, pairs_of(STAR_CONCEPT))
    swapped = Locator(dict(reversed(BOTH.items())))
    assert list(swapped.select_each(scores)) == ["gradcam", "difference"]
    assert swapped.select(scores) == planted.star


@pytest.mark.parametrize("name", CONCEPTS)
def test_zeroing_the_planted_neuron_silences_its_concept_alone(planted: Planted, name: str) -> None:
    images = [sample.image for sample in SAMPLES]
    before = [one.text for one in planted.model.caption(images)]
    assert any(name in text for text in before)
    with Edit(getattr(planted, name), Zero()).applied(planted.model):
        after = [one.text for one in planted.model.caption(images)]
    assert after == [" ".join(word for word in text.split() if word != name) for text in before]
    assert [one.text for one in planted.model.caption(images)] == before


@pytest.mark.parametrize("other", ["decoy", "prior"])
def test_zeroing_the_decoy_or_the_prior_changes_no_caption(planted: Planted, other: str) -> None:
    images = [sample.image for sample in SAMPLES]
    before = planted.model.caption(images)
    with Edit(getattr(planted, other), Zero()).applied(planted.model):
        assert planted.model.caption(images) == before


# --- what it costs


class Work:
    """How many calls and how many samples went forward, and backward through the logits."""

    def __init__(self) -> None:
        self.forward: list[int] = []
        self.backward: list[int] = []


@contextmanager
def counted(model: HuggingFaceMLLM) -> Iterator[Work]:
    work = Work()

    def forward(module: torch.nn.Module, args: tuple[object, ...], kwargs: Mapping[str, Tensor]) -> None:
        work.forward.append(len(kwargs["input_ids"]))

    def logits(module: torch.nn.Module, args: tuple[object, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: work.backward.append(len(gradient)))

    handles = [
        model.module.register_forward_pre_hook(forward, with_kwargs=True),
        model.module.get_submodule("lm_head").register_forward_hook(logits),
    ]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    ("stages", "forwards", "backwards"),
    [(("difference", "gradcam"), 2, 1), (("difference",), 2, 0), (("gradcam",), 1, 1)],
)
def test_a_sample_costs_two_forwards_and_one_backward_at_most(
    tiny: HuggingFaceMLLM,
    captions: list[Generated],
    seen: list[Counterfactual],
    stages: Sequence[str],
    forwards: int,
    backwards: int,
) -> None:
    model = dataclasses.replace(tiny, batch_size=2)
    locator = Locator({name: BOTH[name] for name in stages})
    with counted(model) as work:
        scores = locator.score(model, seen, captions=captions)
    n = len(seen)
    assert (sum(work.forward), sum(work.backward)) == (forwards * n, backwards * n)
    lengths = Counter(len(case.mention.prefix) for case in locator.cases(model, seen, captions))
    n_batches = sum(-(-count // 2) for count in lengths.values())
    assert (len(work.forward), len(work.backward)) == (forwards * n_batches, backwards * n_batches)
    about = scores[stages[0]].provenance
    assert (about["forwards"], about["backwards"]) == (str(forwards * n), str(backwards * n))


def test_an_unknown_caption_is_generated_once_for_each_picture(planted: Planted) -> None:
    pairs = pairs_of(STAR_CONCEPT)
    seen_bars: list[tuple[int, str]] = []

    def progress(items: Sequence[object], total: int, what: str) -> Sequence[object]:
        seen_bars.append((total, what))
        return items

    Locator(BOTH).score(dataclasses.replace(planted.model, batch_size=2), pairs, progress=progress)  # type: ignore[arg-type]
    assert seen_bars == [(2, "captions"), (2, "locate")]


@dataclass
class Watch:
    """A scorer that holds no tensor but counts how many of those it saw have their memory still."""

    part: str
    needs: frozenset[Need]
    over_samples: OverSamples = "mean"
    seen: list[StorageWeakRef] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)

    def score(self, evidence: LayerEvidence) -> Tensor:
        self.seen.append(StorageWeakRef(getattr(evidence, self.part).untyped_storage()))
        self.alive.append(n_alive(self.seen))
        return evidence.original.sum(1)


def n_alive(storages: Sequence[StorageWeakRef]) -> int:
    return len({one.cdata for one in storages if not one.expired()})


@contextmanager
def uncollected() -> Iterator[None]:
    """Let only reference counts free memory."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize(("part", "need"), [("counterfactual", "counterfactual"), ("gradient", "gradient")])
def test_the_memory_of_a_layers_evidence_is_free_before_the_next_layer_is_scored(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], part: str, need: Need
) -> None:
    watch = Watch(part, frozenset({need}))
    stages = {"watch": Stage(watch, TopK(1)), **BOTH}
    with uncollected():
        scores = Locator(stages).score(tiny, seen, captions=captions[:1] * len(seen))
    assert len(watch.seen) == N_LAYERS * math.ceil(len(seen) / SAMPLES_AT_ONCE)
    assert max(watch.alive) == 1
    assert n_alive(watch.seen) == 0
    assert all(one.values.shape == (N_LAYERS, D_FF) for one in scores.values())


def test_activations_are_free_before_the_next_batch(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    watch = Watch("original", frozenset({"gradient"}))
    one_at_a_time = dataclasses.replace(tiny, batch_size=1)
    with uncollected():
        Locator({"watch": Stage(watch, TopK(1)), **BOTH}).score(one_at_a_time, seen, captions=captions)
    assert len(watch.seen) == len(seen) * N_LAYERS
    assert max(watch.alive) <= N_LAYERS
    assert n_alive(watch.seen) == 0


# --- batches


@pytest.mark.parametrize(
    ("value", "subtokens"),
    [("logit", "first"), ("logit", "mean"), ("logit", "last"), ("logprob", "mean"), ("prob", "last")],
)
def test_scores_do_not_depend_on_the_batch_or_on_its_padding(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], value: str, subtokens: str
) -> None:
    locator = Locator(BOTH, target=Target(value, subtokens))  # type: ignore[arg-type]
    one, two, five = (
        locator.score(dataclasses.replace(tiny, batch_size=size), seen, captions=captions) for size in (1, 2, 5)
    )
    for name in BOTH:
        largest = float(one[name].values.abs().max())
        assert largest > 1e-4
        for other in (two, five):
            torch.testing.assert_close(other[name].values, one[name].values, atol=1e-5 * largest, rtol=0)


def test_every_reduction_is_blind_to_padding(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    options = [(where, how) for where in get_args(Evidence) for how in get_args(OverPositions)]
    scorers = [scorer(*one) for one in options for scorer in (ActivationDifference, GradCAM)]
    locator = Locator({repr(scorer): Stage(scorer, TopK(1)) for scorer in scorers})
    one, five = (locator.score(dataclasses.replace(tiny, batch_size=size), seen, captions=captions) for size in (1, 5))
    assert len(one) == 40
    for name in one:
        torch.testing.assert_close(five[name].values, one[name].values, rtol=1e-4, atol=1e-6)


# --- gradients


def by_hand(
    model: HuggingFaceMLLM, pair: Counterfactual, mention: Mention, target: Target
) -> Callable[[int, Tensor, Tensor], Tensor]:
    """Return what the target becomes for several changes of a layer's activations at once, without kedit's hooks.

    The changes are factors `[change, pos or 1, neuron]` and what is added after them, of the same shape.
    """
    batch = model.teacher_forced([pair.sample.image], [target.prefix(mention)])
    module = copy.deepcopy(model.module).double()

    def run(layer: int, factor: Tensor, added: Tensor) -> Tensor:
        inputs = {key: one.repeat(len(factor), *[1] * (one.ndim - 1)) for key, one in batch.inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].double()
        down = module.get_submodule(f"model.language_model.layers.{layer}.mlp.down_proj")
        handle = down.register_forward_pre_hook(lambda module, inputs: (inputs[0] * factor + added,))
        with torch.no_grad():
            rows = module(**inputs).logits[:, -1]
        handle.remove()
        rows = {"logit": rows, "logprob": rows.log_softmax(-1), "prob": rows.softmax(-1)}[target.value]
        found: Tensor = rows[:, mention.word[0]]
        return found

    return run


# The norms and the attention of transformers compute in 32 bit: a smaller step drowns in their noise.
STEP = 1e-2


@pytest.mark.parametrize("value", ["logit", "logprob", "prob"])
def test_summed_gradcam_is_the_effect_of_scaling_a_neuron_a_little(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], value: str
) -> None:
    target = Target(value)  # type: ignore[arg-type]
    mention = tiny.mention(captions[2], SEEN)
    assert mention is not None
    scores = one_stage(GradCAM("all", "sum"), target=target).score(tiny, seen[2:3], captions=captions[2:3])["only"]
    run = by_hand(tiny, seen[2], mention, target)
    one_each = torch.eye(D_FF, dtype=torch.double)[:, None]
    nothing = torch.zeros_like(one_each)
    for layer in range(N_LAYERS):
        effect = run(layer, 1 + STEP * one_each, nothing) - run(layer, 1 - STEP * one_each, nothing)
        expected = effect.float() / (2 * STEP)
        assert expected.abs().min() > 0
        torch.testing.assert_close(scores.values[layer], expected, rtol=5e-3, atol=5e-4 * float(expected.abs().max()))


def test_the_gradient_at_each_position_is_the_finite_difference_there(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    mention = tiny.mention(captions[1], SEEN)
    assert mention is not None
    keep = Keep()
    one_stage(keep).score(tiny, seen[1:2], captions=captions[1:2])
    run = by_hand(tiny, seen[1], mention, Target())
    for layer, index in ((0, 3), (1, 11), (2, 5)):
        found = keep.seen[layer][0].gradient
        assert found is not None
        n_positions = found.shape[1]
        added = torch.zeros(n_positions, n_positions, D_FF, dtype=torch.double)
        added[range(n_positions), range(n_positions), index] = STEP
        expected = (run(layer, torch.ones_like(added), added) - run(layer, torch.ones_like(added), -added)).float()
        expected /= 2 * STEP
        scale = float(expected.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[0, :, index], expected, rtol=5e-3, atol=5e-4 * scale)


def test_before_the_target_the_gradient_of_the_last_layer_is_exactly_zero_and_no_other_is(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    keep = Keep()
    one_stage(keep).score(tiny, seen, captions=captions)
    assert sorted(keep.seen) == list(range(N_LAYERS))
    for layer, batches in keep.seen.items():
        for evidence in batches:
            assert evidence.gradient is not None
            assert evidence.gradient[:, -1].abs().amax(1).min() > 0
            earlier = evidence.gradient[:, :-1][evidence.token_types[:, :-1] == IMAGE]
            assert (earlier.abs().max() == 0) == (layer == N_LAYERS - 1)


class Behind(nn.Module):
    """A head that reads what `lead` makes of the last hidden states."""

    def __init__(self, head: nn.Module, lead: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.lead = head, lead

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lead(hidden))
        return logits


@pytest.mark.parametrize("trainable", [True, False])
def test_a_model_without_a_gradient_is_refused_and_not_scored_zero(
    captions: list[Generated], seen: list[Counterfactual], trainable: bool
) -> None:
    # Harry24k/adversarial-attacks-pytorch#150: linear maps of 8 bits without a backward pass
    model = tiny_llava()
    model.module.set_output_embeddings(Behind(model.module.get_output_embeddings(), Tensor.detach))
    model.module.requires_grad_(trainable)
    for locator in (one_stage(GradCAM()), Locator(BOTH)):
        with pytest.raises(ValueError, match="no gradient of the concept's word reaches a layer"):
            locator.score(model, seen, captions=captions)


@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_gradient_that_is_no_number_is_refused(
    captions: list[Generated], seen: list[Counterfactual], factor: float
) -> None:
    model = tiny_llava()

    def spoil(hidden: Tensor) -> Tensor:
        hidden.register_hook(lambda gradient: gradient * factor)
        return hidden

    model.module.set_output_embeddings(Behind(model.module.get_output_embeddings(), spoil))
    with pytest.raises(ValueError, match=rf"the gradient in layer {N_LAYERS - 1} of `.*` is (inf|nan)"):
        one_stage(GradCAM()).score(model, seen, captions=captions)


def test_a_frozen_model_scores_like_a_trainable_one_and_no_weight_gets_a_gradient(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    trainable = tiny_llava()
    frozen, free = (Locator(BOTH).score(model, seen, captions=captions) for model in (tiny, trainable))
    for name in BOTH:
        torch.testing.assert_close(free[name].values, frozen[name].values, rtol=1e-5, atol=1e-7)
    assert all(weight.requires_grad and weight.grad is None for weight in trainable.module.parameters())
    assert all(not weight.requires_grad and weight.grad is None for weight in tiny.module.parameters())


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_grad_mode_changes_no_score_and_is_restored(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], around: Callable[[], torch.no_grad]
) -> None:
    expected = Locator(BOTH).score(tiny, seen, captions=captions)
    with around():
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = Locator(BOTH).score(tiny, seen, captions=captions)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes
    assert all(torch.equal(found[name].values, expected[name].values) for name in BOTH)


class Failing(Keep):
    """A scorer that fails on the second layer it sees."""

    def score(self, evidence: LayerEvidence) -> Tensor:
        if self.seen:
            raise KeyboardInterrupt
        return super().score(evidence)


@pytest.mark.parametrize("need", ["counterfactual", "gradient"])
def test_an_interrupted_run_leaves_no_hook_and_the_grad_mode_as_it_was(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], need: Need
) -> None:
    with torch.no_grad():
        with pytest.raises(KeyboardInterrupt):
            one_stage(Failing(frozenset({need}))).score(tiny, seen, captions=captions)
        assert not torch.is_grad_enabled()


# --- evidence and its reductions


VALUES = torch.tensor([[[9.0], [-5.0], [1.0], [2.0]], [[-1.0], [-3.0], [4.0], [-6.0]]])
TOKEN_TYPES = torch.tensor([[PADDING, IMAGE, IMAGE, TEXT], [TEXT, IMAGE, TEXT, TEXT]])


@pytest.mark.parametrize(
    ("positions", "how", "expected"),
    [
        ("all", "max", [2, 4]),
        ("all", "abs_max", [5, 6]),
        ("all", "sum", [-2, -6]),
        ("all", "mean", [-2 / 3, -6 / 4]),
        ("image", "max", [1, -3]),
        ("image", "abs_max", [5, 3]),
        ("image", "sum", [-4, -3]),
        ("image", "mean", [-2, -3]),
        ("text", "max", [2, 4]),
        ("text", "abs_max", [2, 6]),
        ("text", "sum", [2, -3]),
        ("text", "mean", [2, -1]),
        ("target", "max", [2, -6]),
        ("target", "abs_max", [2, 6]),
        ("target", "sum", [2, -6]),
        ("target", "mean", [2, -6]),
    ],
)
def test_a_reduction_over_positions_is_what_it_is_by_hand(positions: str, how: str, expected: list[float]) -> None:
    found = over_positions(VALUES, TOKEN_TYPES, positions, how)  # type: ignore[arg-type]
    torch.testing.assert_close(found, torch.tensor([[float(one)] for one in expected]))


@pytest.mark.parametrize("how", ["max", "abs_max", "sum", "mean"])
def test_padding_never_counts_even_if_it_is_not_a_number(how: str) -> None:
    spoiled = VALUES.masked_fill((TOKEN_TYPES == PADDING)[..., None], math.nan)
    assert torch.equal(
        over_positions(spoiled, TOKEN_TYPES, "all", how), over_positions(VALUES, TOKEN_TYPES, "all", how)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["max", "abs_max", "sum", "mean"])
def test_a_sample_without_positions_that_count_scores_zero(how: str) -> None:
    token_types = TOKEN_TYPES.clone()
    token_types[1] = TEXT
    found = over_positions(VALUES, token_types, "image", how)  # type: ignore[arg-type]
    assert found[0].abs() > 0
    assert found[1] == 0
    with pytest.raises(ValueError, match="counts image tokens, and the prompts hold none"):
        over_positions(VALUES, torch.full_like(TOKEN_TYPES, TEXT), "image", how)  # type: ignore[arg-type]


def test_a_difference_is_of_the_sizes_a_signed_one_of_the_activations_and_abs_max_counts_any_change() -> None:
    original = torch.tensor([[[1.0, 0.0, 5.0, -2.0, 1.0]]])
    other = torch.tensor([[[0.0, 3.0, 5.0, 0.0, -1.0]]])
    evidence = LayerEvidence(0, torch.tensor([[IMAGE]]), original, other)
    assert ActivationDifference().score(evidence).tolist() == [[1, -3, 0, 2, 0]]
    assert ActivationDifference(signed=True).score(evidence).tolist() == [[1, -3, 0, -2, 2]]
    assert ActivationDifference(signed=True, over_positions="abs_max").score(evidence).tolist() == [[1, 3, 0, 2, 2]]


@pytest.mark.parametrize("over_positions", ["max", "sum", "mean", "abs_max"])
def test_the_difference_is_blind_to_signs_and_the_published_one_where_none_is_negative(over_positions: str) -> None:
    generator = torch.Generator().manual_seed(0)
    original, other = torch.randn(2, 3, 5, 7, generator=generator)
    token_types = torch.full((3, 5), IMAGE)
    # A neuron whose inputs and outputs are turned round fires with the other sign everywhere and does the same.
    turned = torch.tensor([1, -1, 1, -1, -1, 1, -1])
    plain = ActivationDifference(over_positions=over_positions)  # type: ignore[arg-type]
    scores = plain.score(LayerEvidence(0, token_types, original, other))
    assert torch.equal(plain.score(LayerEvidence(0, token_types, original * turned, other * turned)), scores)
    published = dataclasses.replace(plain, signed=True)
    assert torch.equal(published.score(LayerEvidence(0, token_types, original.abs(), other.abs())), scores)


def test_gradcam_multiplies_before_it_reduces() -> None:
    original = torch.tensor([[[1.0], [-2.0]]])
    gradient = torch.tensor([[[3.0], [-4.0]]])
    evidence = LayerEvidence(0, torch.tensor([[IMAGE, IMAGE]]), original, gradient=gradient)
    assert GradCAM().score(evidence).tolist() == [[8]]
    assert GradCAM(over_positions="sum").score(evidence).tolist() == [[11]]


@pytest.mark.parametrize("scorer", [ActivationDifference, GradCAM])
@pytest.mark.parametrize("name", ["positions", "over_positions", "over_samples"])
def test_an_unknown_option_of_a_scorer_is_refused_with_the_known_ones(scorer: type, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is one of .*max|all.*, got 'median'"):
        scorer(**{name: "median"})


def test_a_scorer_that_needs_both_runs_sees_both_with_the_gradient(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    both, plain = Keep(frozenset({"counterfactual", "gradient"})), Keep(frozenset({"counterfactual"}))
    Locator({"both": Stage(both, TopK(1)), "plain": Stage(plain, TopK(1))}).score(tiny, seen, captions=captions)
    for layer in range(N_LAYERS):
        for one, other in zip(both.seen[layer], plain.seen[layer], strict=True):
            assert one.gradient is not None and one.counterfactual is not None and other.counterfactual is not None
            assert torch.equal(one.counterfactual, other.counterfactual)
            assert torch.equal(one.original, other.original)
            assert not torch.equal(one.original, one.counterfactual)


def test_both_pictures_are_read_after_the_same_words(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    same = [Counterfactual(pair.sample, SEEN, pair.sample.image) for pair in seen]
    scores = one_stage(ActivationDifference("all", "abs_max")).score(tiny, same, captions=captions)["only"]
    assert scores.values.max() == 0


# --- samples


@dataclass
class Given:
    """A scorer that returns the values it was given, one row for each sample."""

    values: Tensor
    over_samples: OverSamples
    needs: frozenset[Need] = frozenset()
    calls: Counter[int] = field(default_factory=Counter)

    def score(self, evidence: LayerEvidence) -> Tensor:
        start = self.calls[evidence.layer]
        self.calls[evidence.layer] += len(evidence.token_types)
        return self.values[start : start + len(evidence.token_types), evidence.layer]


@pytest.mark.parametrize("how", ["mean", "max", "vote"])
def test_a_reduction_over_samples_is_what_it_is_by_hand(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], how: OverSamples
) -> None:
    values = torch.randn(5, N_LAYERS, D_FF, generator=torch.Generator().manual_seed(3))
    values[3:, 1, 4] = 9.0
    best = torch.zeros(5, N_LAYERS * D_FF).scatter_(1, values.flatten(1).argmax(1, keepdim=True), 1.0)
    expected = {"mean": values.mean(0), "max": values.amax(0), "vote": best.mean(0).reshape(N_LAYERS, D_FF)}[how]
    model, same = dataclasses.replace(tiny, batch_size=2), captions[:1] * len(seen)
    scores = one_stage(Given(values, how)).score(model, seen, captions=same)["only"]
    torch.testing.assert_close(scores.values, expected)
    assert how != "vote" or scores.values[1, 4] >= 0.4


@pytest.mark.parametrize("how", ["mean", "max", "vote"])
def test_neurons_that_a_narrower_layer_does_not_have_have_no_score(
    captions: list[Generated], seen: list[Counterfactual], how: OverSamples
) -> None:
    model = tiny_llava()
    block = model.module.get_submodule("model.language_model.layers.1")
    narrow = copy.deepcopy(model.module.config.text_config)
    narrow.intermediate_size = 5
    block.mlp = type(block.mlp)(narrow)  # type: ignore[operator]
    stages = {"gradcam": Stage(GradCAM("all", "sum", how), TopK(1000))}
    scores = Locator(stages).score(model, seen, captions=captions)["gradcam"]
    assert scores.values.isnan().sum(1).tolist() == [0, D_FF - 5, 0]
    assert Locator(stages).select({"gradcam": scores}).by_layer()[1] == tuple(range(5))


def test_an_unknown_reduction_of_a_users_scorer_is_refused(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    with pytest.raises(ValueError, match="`over_samples` is one of mean, max, vote, got 'median'"):
        one_stage(Given(torch.zeros(5, N_LAYERS, D_FF), "median")).score(tiny, seen, captions=captions)  # type: ignore[arg-type]


# --- the target


LOGITS = torch.tensor([[[0.0, 1.0, 2.0, 3.0], [4.0, 6.0, 5.0, 7.0]], [[3.0, 1.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]]])
MENTIONS = (Mention((), (1, 2)), Mention((0, 0), (3,)))


@pytest.mark.parametrize(("subtokens", "expected"), [("first", [6, 1]), ("mean", [(1 + 5) / 2, 1]), ("last", [5, 1])])
def test_the_target_reads_the_words_tokens_off_the_last_positions(subtokens: str, expected: list[float]) -> None:
    target = Target(subtokens=subtokens)  # type: ignore[arg-type]
    assert target.output(LOGITS, MENTIONS).tolist() == expected
    assert target.n_last(MENTIONS) == (2 if subtokens == "mean" else 1)
    assert target.prefix(MENTIONS[0]) == (() if subtokens == "first" else (1,))
    assert target.prefix(MENTIONS[1]) == (0, 0)


def test_log_probability_and_probability_are_those_of_the_softmax() -> None:
    row = [math.exp(one) for one in (4.0, 6.0, 5.0, 7.0)]
    share = row[1] / sum(row)
    assert Target("prob").output(LOGITS, MENTIONS).tolist() == pytest.approx([share, 0.25])
    assert Target("logprob").output(LOGITS, MENTIONS).tolist() == pytest.approx([math.log(share), math.log(0.25)])


@pytest.mark.parametrize(
    ("options", "value"),
    [({"value": "odds"}, "odds"), ({"subtokens": "all"}, "all"), ({"on_missing": "raise"}, "raise")],
)
def test_an_unknown_option_of_the_target_is_refused(options: dict[str, str], value: str) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` is one of .*, got '{value}'"):
        Target(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("subtokens", ["first", "mean", "last"])
def test_a_word_of_several_tokens_is_scored_along_its_spelling(
    tiny: HuggingFaceMLLM, seen: list[Counterfactual], subtokens: str
) -> None:
    """The target equals the logits of the pieces, each after the ones before it, read one by one."""
    mentions = [tiny.mention(written(tiny, text), SEEN) for text in ("a unicorn", "the red star", "unicorns")]
    words = [mention for mention in mentions if mention is not None]
    assert [len(word.word) for word in words] == [3, 1, 4]
    images = [pair.sample.image for pair in seen[:3]]
    target = Target(subtokens=subtokens)  # type: ignore[arg-type]
    with torch.no_grad():
        batch = tiny.teacher_forced(images, [target.prefix(word) for word in words])
        found = target.output(tiny.logits(batch, target.n_last(words)), words)
        for number, word in enumerate(words):
            spelled = [
                tiny.logits(tiny.teacher_forced([images[number]], [word.prefix + word.word[:n]]))[0, -1, token]
                for n, token in enumerate(word.word)
            ]
            expected = {"first": spelled[0], "last": spelled[-1], "mean": torch.stack(spelled).mean()}[subtokens]
            torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-5)


def test_a_caption_without_the_concept_is_skipped_or_forced(
    tiny: HuggingFaceMLLM, seen: list[Counterfactual], caplog: pytest.LogCaptureFixture
) -> None:
    captions = [written(tiny, text) for text in ("a red star", "a blue sky", "the starfish", "two stars", "star .")]
    with caplog.at_level(logging.INFO, "kedit"):
        skipping = Locator(BOTH).cases(tiny, seen, captions)
    assert [case.pair.sample.id for case in skipping] == ["0", "3", "4"]
    assert "2 of 5 captions do not name `thing`: skipped" in caplog.text
    forcing = Locator(BOTH, target=Target(on_missing="force")).cases(tiny, seen, captions)
    assert [case.pair.sample.id for case in forcing] == ["0", "1", "2", "3", "4"]
    stub = written(tiny, "a picture of star").tokens
    assert [forcing[n].mention for n in (1, 2)] == [Mention(stub[:-1], stub[-1:])] * 2
    assert [forcing[n].mention for n in (0, 3, 4)] == [case.mention for case in skipping]


def test_the_provenance_counts_what_was_skipped(planted: Planted) -> None:
    pairs = pairs_of(STAR_CONCEPT)
    captions = [Generated("picture star", (7, 5)), Generated("picture", (7,)), Generated("picture star", (7, 5))]
    about = Locator(BOTH).score(planted.model, pairs, captions=captions)["gradcam"].provenance
    assert about["skipped"] == "1"
    assert about["samples"] == '["one star", "a star and houses"]'
    assert about["concept"] == "star"
    assert about["model"] == "planted"
    assert about["target"] == repr(Target())


def test_a_model_that_says_nothing_for_nan_is_told_from_one_that_does_not_know_the_word(
    tiny: HuggingFaceMLLM, seen: list[Counterfactual]
) -> None:
    broken = replace(tiny, module=copy.deepcopy(tiny.module))
    broken.module.get_parameter("lm_head.weight")[0, 0] = torch.nan
    with pytest.raises(ValueError, match="the logits of `tiny` are NaN, so it says nothing"):
        Locator(BOTH).score(broken, seen, captions=[written(tiny, "")] * len(seen))


def test_no_usable_caption_is_an_error_that_quotes_one_and_says_what_to_do(
    planted: Planted, tiny: HuggingFaceMLLM, seen: list[Counterfactual]
) -> None:
    captions = [written(tiny, "the starfish")] * len(seen)
    with pytest.raises(
        ValueError, match=r"none of the model's 5 captions names `thing` .*'the starfish'.*on_missing=force"
    ):
        Locator(BOTH).score(tiny, seen, captions=captions)
    unknown = [Counterfactual(pair.sample, Concept("zebra"), pair.image) for pair in pairs_of(STAR_CONCEPT)]
    with pytest.raises(ValueError, match=r"names `zebra` .*cannot spell"):
        Locator(BOTH, target=Target(on_missing="force")).score(planted.model, unknown)


def test_pictures_read_at_different_lengths_are_refused_with_both_counts(tiny: HuggingFaceMLLM) -> None:
    model = OneMore(tiny.module, tiny.processor, prompt=tiny.prompt)
    sample = picture("red corner", (0,))
    pair = without(sample, STAR_CONCEPT)
    n_before = tiny.teacher_forced([pair.image], [()]).token_types.shape[1]
    with pytest.raises(ValueError, match=f"have {n_before + 1} and {n_before} positions.*red corner"):
        Locator(BOTH).score(model, [pair], captions=[written(tiny, "star")])
    with pytest.raises(ValueError, match=r"\(16, 16\) pixels, the original \(32, 32\)"):
        Counterfactual(sample, STAR_CONCEPT, Image.new("RGB", (16, 16)))


# --- the locator


def scored(*rows: Sequence[float]) -> dict[str, NeuronScores]:
    return {name: NeuronScores(torch.tensor([row]), name) for name, row in zip(("a", "b", "c"), rows, strict=False)}


def test_a_later_stage_chooses_among_the_earlier_ones_picks() -> None:
    scores = scored([5, 4, 3, 2, 1], [0, 1, 2, 3, 9], [1, 2, 0, 9, 9])
    stages = {"a": Stage(Keep(), TopK(3)), "b": Stage(Keep(), TopK(2)), "c": Stage(Keep(), TopK(1))}
    each = Locator(stages).select_each(scores)
    assert list(each) == ["a", "b", "c"]
    assert [[one.index for one in kept] for kept in each.values()] == [[0, 1, 2], [1, 2], [1]]
    assert each["c"] <= each["b"] <= each["a"]
    assert Locator(stages).select(scores) == each["c"]


def test_the_order_of_the_stages_is_the_order_of_the_filters() -> None:
    scores = scored([5, 4, 3], [0, 1, 2])
    first = {"a": Stage(Keep(), TopK(2)), "b": Stage(Keep(), TopK(1))}
    assert Locator(first).select(scores).ids == (NeuronId(0, 1),)
    assert Locator(dict(reversed(first.items()))).select(scores).ids == (NeuronId(0, 2),)


def test_selecting_is_pure(caplog: pytest.LogCaptureFixture) -> None:
    scores = scored([5, 4, 3], [0, 1, 2])
    locator = Locator({"a": Stage(Keep(), Quantile(0.3)), "b": Stage(Keep(), Above(0.5))})
    before = {name: one.values.clone() for name, one in scores.items()}
    assert locator.select_each(scores) == locator.select_each(scores)
    assert all(torch.equal(scores[name].values, before[name]) for name in scores)
    assert not caplog.records


def test_the_stage_that_empties_the_selection_is_named_with_its_highest_score(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scores = scored([5, 4, 3], [0, 7, 99], [1, 1, 1])
    stages = {"a": Stage(Keep(), TopK(2)), "b": Stage(Keep(), Above(50)), "c": Stage(Keep(), TopK(1))}
    assert Locator(stages).select_each(scores) == {
        "a": NeuronSet((NeuronId(0, 0), NeuronId(0, 1))), "b": NeuronSet(), "c": NeuronSet(),
    }  # fmt: skip
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warned] == [
        "stage `b` keeps no neuron with Above(threshold=50, at_most=None); its highest score is 7"
    ]


def test_scores_that_are_not_numbers_are_counted_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    scores = {"a": replace(scored([math.nan, 1, math.nan])["a"], provenance={"invalid": "2"})}
    kept = Locator({"a": Stage(Keep(), TopK(3))}).select(scores)
    assert kept.ids == (NeuronId(0, 1),)
    assert "stage `a`: 2 scores are not a number" in caplog.text


def test_scores_of_a_stage_that_are_missing_are_an_error_naming_it() -> None:
    with pytest.raises(ValueError, match="no scores for stage `b`; there are a"):
        Locator({"a": Stage(Keep(), TopK(1)), "b": Stage(Keep(), TopK(1))}).select(scored([1, 2]))


def test_a_locator_without_stages_pairs_or_enough_captions_is_refused(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    with pytest.raises(ValueError, match="at least one stage, got none"):
        Locator({})
    with pytest.raises(ValueError, match="no counterfactual pairs"):
        Locator(BOTH).score(tiny, [])
    with pytest.raises(ValueError, match="5 pairs need as many captions, got 2"):
        Locator(BOTH).score(tiny, seen, captions=captions[:2])


@pytest.mark.parametrize("site", ["mid", "act", "pre"])
def test_scores_are_one_number_for_each_neuron_at_the_site(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], site: str
) -> None:
    scores = Locator(BOTH, site=site).score(tiny, seen, captions=captions)  # type: ignore[arg-type]
    for name, one in scores.items():
        assert one.values.shape == (N_LAYERS, D_FF)
        assert (one.site, one.method) == (site, repr(BOTH[name].scorer))
    assert Locator(BOTH, site=site).select(scores).site == site  # type: ignore[arg-type]


def test_gradcam_is_the_same_at_the_activation_and_after_the_gate(
    tiny: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    """With m = a * u the products m * dy/dm and a * dy/da are equal."""
    mid, act = (
        one_stage(GradCAM("all", "sum"), site=site).score(tiny, seen, captions=captions)["only"]
        for site in ("mid", "act")
    )
    torch.testing.assert_close(act.values, mid.values, rtol=1e-4, atol=1e-6)
