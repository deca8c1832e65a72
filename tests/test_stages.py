"""Tests of what a method may be: channels joined across layers or samples, probers, control pictures, votes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image
from tiny_llava import D_FF, N_LAYERS, tiny_llava
from torch import Tensor

from kedit.internals.sites import Site
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.reduction import OverSamples, RunningReduction, Vote
from kedit.locate.scorer import Case, LayerEvidence, Need, Probed
from kedit.locate.selection import Above, Quantile, TopK
from kedit.locate.target import Target
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import MLLM, MODALITIES, Generated
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.samples import Counterfactual

PICTURES = (picture("a", (5,)), picture("b", (1, 2), (9,)), picture("c", (0,), (15,)))
PAIRS = [without(one, STAR_CONCEPT) for one in PICTURES]


@pytest.fixture(scope="module")
def captions(tiny: HuggingFaceMLLM) -> list[Generated]:
    return [Generated("a star", tuple(tiny.tokenizer("a star", add_special_tokens=False).input_ids))] * len(PAIRS)


@dataclass(frozen=True)
class MeanAndMax:
    """Two channels, the mean and the maximum over positions, joined across layers into mean / highest maximum."""

    needs: frozenset[Need] = frozenset()
    over_samples: OverSamples = "mean"

    def score(self, evidence: LayerEvidence) -> Tensor:
        return torch.stack([evidence.original.mean(1), evidence.original.amax(1)], dim=1)

    def across_layers(self, scores: Tensor) -> Tensor:
        assert scores.shape[1:] == (2, N_LAYERS, D_FF)
        return scores[:, 0] / scores[:, 1].amax((1, 2), keepdim=True)


@dataclass(frozen=True)
class Share:
    """Two channels, activity with and without the concept, whose means over samples are divided at the end."""

    needs: frozenset[Need] = frozenset({"counterfactual"})
    over_samples: OverSamples = "mean"

    def score(self, evidence: LayerEvidence) -> Tensor:
        assert evidence.counterfactual is not None
        return torch.stack([evidence.original.abs().sum(1), evidence.counterfactual.abs().sum(1)], dim=1)

    def across_samples(self, means: Tensor) -> Tensor:
        return means[0] / means.sum(0)


@dataclass
class Recorder:
    """A scorer that keeps the evidence it saw."""

    needs: frozenset[Need]
    over_samples: OverSamples = "mean"

    def __post_init__(self) -> None:
        self.seen: list[LayerEvidence] = []

    def score(self, evidence: LayerEvidence) -> Tensor:
        self.seen.append(evidence)
        return evidence.original.sum(1)


@dataclass(frozen=True)
class Countdown:
    """A prober whose scores count down through the model, in two passes a sample."""

    over_samples: OverSamples = "mean"

    def probe(self, model: MLLM, site: Site, cases: Sequence[Case], target: Target) -> Iterator[Probed]:
        for number in range(len(cases)):
            scores = -torch.arange(float(site.n_neurons)).reshape(1, len(site.blocks), -1) * (number + 1)
            yield Probed(scores, forwards=2, backwards=1)


def located(model: HuggingFaceMLLM, captions: list[Generated], **stages: object) -> Locator:
    return Locator({name: Stage(scorer, TopK(3)) for name, scorer in stages.items()})  # type: ignore[arg-type]


# --- channels


def test_channels_are_joined_for_each_sample_across_its_layers(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    joined = Locator({"a": Stage(MeanAndMax(), TopK(3))}).score(tiny, PAIRS, captions=captions)["a"].values
    recorder = Recorder(frozenset())
    Locator({"a": Stage(recorder, TopK(3))}).score(replace(tiny, batch_size=1), PAIRS, captions=captions)
    expected = []
    for sample in range(len(PAIRS)):
        layers = [one.original[0] for one in recorder.seen[sample * N_LAYERS : (sample + 1) * N_LAYERS]]
        expected.append(torch.stack([one.mean(0) for one in layers]) / max(one.max() for one in layers))
    torch.testing.assert_close(joined, torch.stack(expected).mean(0))


def test_channels_are_joined_after_the_mean_over_samples(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    joined = Locator({"a": Stage(Share(), TopK(3))}).score(tiny, PAIRS, captions=captions)["a"].values
    recorder = Recorder(frozenset({"counterfactual"}))
    Locator({"a": Stage(recorder, TopK(3))}).score(tiny, PAIRS, captions=captions)
    with_it, without_it = torch.zeros(N_LAYERS, D_FF), torch.zeros(N_LAYERS, D_FF)
    for one in recorder.seen:
        assert one.counterfactual is not None
        with_it[one.layer] += one.original.abs().sum((0, 1))
        without_it[one.layer] += one.counterfactual.abs().sum((0, 1))
    torch.testing.assert_close(joined, with_it / (with_it + without_it))


# --- probers


def test_a_prober_is_a_stage_like_any_other_and_its_passes_are_counted(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    stages = {"gradcam": Stage(GradCAM(), Quantile(0.5)), "probed": Stage(Countdown(), TopK(2))}
    scores = Locator(stages).score(tiny, PAIRS, captions=captions)
    assert list(scores) == ["gradcam", "probed"]
    assert scores["probed"].values[0, :3].tolist() == [0, -2, -4]
    about = scores["probed"].provenance
    assert (about["forwards"], about["backwards"]) == (str(3 + 6), str(3 + 3))
    candidates = Locator(stages).select_each(scores)["gradcam"]
    assert Locator(stages).select(scores).ids == candidates.ids[:2]


def test_a_prober_alone_costs_its_own_passes_only(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    about = Locator({"a": Stage(Countdown(), TopK(1))}).score(tiny, PAIRS, captions=captions)["a"].provenance
    assert (about["forwards"], about["backwards"]) == ("6", "3")


# --- layers


def test_scores_stand_in_the_row_of_their_layer_where_some_layers_have_no_neurons(captions: list[Generated]) -> None:
    """A mixture of blocks, of which the middle one has no feed-forward block that kedit finds."""
    model, whole = tiny_llava(), tiny_llava()
    block = model.module.get_submodule("model.language_model.layers.1")
    block.mlp = torch.nn.Identity()
    assert list(model.site("mid").blocks) == [0, 2]
    stages = {"gradcam": Stage(GradCAM("all", "sum", Vote(0.9)), TopK(2)), "probed": Stage(Countdown(), TopK(2))}
    scores = Locator(stages).score(model, PAIRS, captions=captions)
    for one in scores.values():
        assert one.values.isnan().all(1).tolist() == [False, True, False]
    assert scores["gradcam"].ties is not None
    assert {one.layer for one in scores["gradcam"].ranking()} == {0, 2}
    assert whole.site("mid").by_layer_number(torch.ones(3, 4)).tolist() == [[1.0] * 4] * 3


# --- equal budgets


@pytest.mark.parametrize("k", [0, 1, 5])
def test_a_limited_locator_keeps_the_best_of_what_its_earlier_stages_let_through(
    tiny: HuggingFaceMLLM, captions: list[Generated], k: int
) -> None:
    whole = Locator(
        {"difference": Stage(ActivationDifference(), Quantile(0.5)), "gradcam": Stage(GradCAM(), Above(1e9))}
    )
    scores = whole.score(tiny, PAIRS, captions=captions)
    each = whole.limited(k).select_each(scores)
    assert each["difference"] == whole.select_each(scores)["difference"]
    assert set(each["gradcam"]) == set(scores["gradcam"].ranking(each["difference"])[:k])


# --- what the evidence holds


def test_a_control_picture_costs_a_forward_and_is_subtracted(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    """With the counterfactual as its own control, nothing is left."""
    pairs = [replace(pair, control=pair.image) for pair in PAIRS]
    stage = {"a": Stage(ActivationDifference(control=True), TopK(1))}
    scores = Locator(stage).score(tiny, pairs, captions=captions)["a"]
    assert scores.values.abs().max() == 0
    assert scores.provenance["forwards"] == "9"
    unchanged = [replace(pair, control=pair.sample.image) for pair in PAIRS]
    plain = Locator({"a": Stage(ActivationDifference(), TopK(1))}).score(tiny, PAIRS, captions=captions)["a"]
    assert torch.equal(Locator(stage).score(tiny, unchanged, captions=captions)["a"].values, plain.values)


def test_a_missing_control_picture_is_refused_by_name(tiny: HuggingFaceMLLM, captions: list[Generated]) -> None:
    with pytest.raises(ValueError, match=r"sample `a` has no control picture; set `inpaint\.control`"):
        Locator({"a": Stage(ActivationDifference(control=True), TopK(1))}).score(tiny, PAIRS, captions=captions)


def test_a_control_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the control picture of sample `a` is \(3, 3\) pixels"):
        Counterfactual(PICTURES[0], STAR_CONCEPT, PICTURES[0].image, Image.new("RGB", (3, 3)))


def test_the_readout_is_the_product_of_output_matrix_and_value_vectors(planted: Planted) -> None:
    model = planted.model
    recorder = Recorder(frozenset({"unembedding"}))
    Locator({"a": Stage(recorder, TopK(1))}).score(model, PAIRS)
    star = model.words(range(20)).index("star")
    module = model.module
    for one in recorder.seen:
        assert one.target is not None
        assert one.readout is not None
        assert one.target.tolist() == [star] * len(one.target)
        values = module.model.language_model.layers[one.layer].mlp.down_proj.weight  # [d_model, neuron]
        torch.testing.assert_close(one.readout.onto([star])[0], module.lm_head.weight[star] @ values)


def test_prompt_and_modalities_leave_out_padding_and_forced_words(tiny: HuggingFaceMLLM) -> None:
    batch = tiny.teacher_forced([one.image for one in PICTURES[:2]], [(5, 6, 7), (5,)])
    names = [[MODALITIES[code] for code in row] for row in batch.modalities.tolist()]
    assert names[1][:2] == ["padding", "padding"]
    assert names[0].count("image") == int((batch.token_types[0] == 2).sum())
    assert names[0][-3:] == ["text"] * 3
    assert "special" in names[0]
    assert batch.prompt[0].tolist() == [True] * (len(names[0]) - 3) + [False] * 3
    assert batch.prompt[1].tolist() == [False] * 2 + [True] * (len(names[0]) - 3) + [False]


# --- votes


def test_a_vote_counts_the_samples_in_which_a_neuron_comes_near_the_best() -> None:
    scores = torch.tensor([[[1.0, 0.6, 0.1]], [[0.2, 1.0, 0.1]], [[-1.0, -2.0, -3.0]]])
    running = RunningReduction(Vote(of_max=0.5))
    running.add(scores[:2])
    running.add(scores[2:])
    torch.testing.assert_close(running.result(), torch.tensor([[1, 2, 0]]).double() / 3)
    ties = running.ties()
    assert ties is not None
    torch.testing.assert_close(ties, scores.double().mean(0))


def test_neurons_of_equal_votes_are_ranked_by_their_mean_score(
    tiny: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    plain = Locator({"a": Stage(GradCAM(), TopK(1))}).score(tiny, PAIRS, captions=captions)["a"]
    voted = Locator({"a": Stage(GradCAM(over_samples=Vote(0.9)), TopK(1))}).score(tiny, PAIRS, captions=captions)["a"]
    order = voted.ranking()
    keys = [(voted.values[one].item(), plain.values[one].item()) for one in order]
    assert keys == sorted(keys, reverse=True)
    assert len(set(voted.values.flatten().tolist())) <= len(PAIRS) + 1


@pytest.mark.parametrize(
    ("options", "match"), [({"quantile": 1.5}, "between 0 and 1, got 1.5"), ({"of_max": 0.0}, "got 0.0")]
)
def test_a_vote_with_an_impossible_bar_is_refused(options: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Vote(**options)
