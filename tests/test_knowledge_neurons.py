"""Knowledge neurons of a multimodal model: what is attributed, what that takes, and what is found."""

import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from PIL import Image
from tiny_llava import N_LAYERS, tiny_llava
from torch import Tensor, nn

from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.knowledge_neurons import KnowledgeNeurons
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import Quantile, TopK
from kedit.locate.sharing import Sharing
from kedit.locate.target import Target
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import Generated, TeacherForced
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT, Planted, picture, without
from kedit.samples import Concept, Counterfactual

CAPTIONS = ("a red star .", "the unicorn", "a picture of the blue sky and a unicorn")
SEEN = Concept("thing", ("star", "unicorn"))
BEST = TopK(3)


@pytest.fixture(scope="module")
def model() -> HuggingFaceMLLM:
    return tiny_llava()


@pytest.fixture(scope="module")
def captions(model: HuggingFaceMLLM) -> list[Generated]:
    return [
        Generated(text, tuple(model.tokenizer(text, add_special_tokens=False).input_ids)) for text in CAPTIONS
    ]  # fmt: skip


@pytest.fixture(scope="module")
def seen() -> list[Counterfactual]:
    plain = Image.new("RGB", (32, 32), (128, 128, 128))
    return [Counterfactual(picture(str(n), (n,), (15 - n, 7)), SEEN, plain) for n in range(len(CAPTIONS))]


def knowing(scorer: KnowledgeNeurons, select: Any = BEST, **options: Any) -> Locator:
    return Locator({"knowledge_neurons": Stage(scorer, select)}, **options)


QUICK = KnowledgeNeurons(4, over_samples="mean")


def test_the_provenance_counts_every_pass(
    model: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    sizes: list[int] = []
    backwards: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        sizes.append(len(output))
        if output.requires_grad and torch.is_grad_enabled():
            output.register_hook(lambda gradient: backwards.append(len(gradient)))

    handle = model.module.get_submodule("lm_head").register_forward_hook(count)
    try:
        scores = knowing(replace(QUICK, at_once=3)).score(model, seen, captions=captions)["knowledge_neurons"]
    finally:
        handle.remove()
    about = scores.provenance
    assert (int(about["forwards"]), int(about["backwards"])) == (sum(sizes), sum(backwards))
    assert (sum(sizes), sum(backwards)) == (3 * (1 + N_LAYERS * 5), 3 * N_LAYERS * 4)


def test_the_provenance_holds_the_largest_completeness_error_and_more_steps_make_it_smaller(
    model: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="kedit.locate.knowledge_neurons"):
        found = [
            float(knowing(replace(QUICK, steps=steps)).score(model, seen, captions=captions)
                  ["knowledge_neurons"].provenance["completeness_error"])
            for steps in (1, 4, 32)
        ]  # fmt: skip
    assert 0 < found[2] < found[1] < found[0]
    assert f"an error of at most {found[0]:.3g}" in caplog.messages[0]
    each = [
        float(knowing(QUICK).score(model, [pair], captions=[caption])
              ["knowledge_neurons"].provenance["completeness_error"])
        for pair, caption in zip(seen, captions, strict=True)
    ]  # fmt: skip
    assert found[1] == pytest.approx(max(each), rel=1e-3)


def test_scoring_leaves_the_model_as_it_was_and_gives_the_same_again(
    model: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    before = tiny.state_of(model.module)
    first = knowing(QUICK).score(model, seen, captions=captions)["knowledge_neurons"]
    assert tiny.state_of(model.module) == before
    with torch.inference_mode():
        inside = knowing(QUICK).score(model, seen, captions=captions)["knowledge_neurons"]
    assert torch.equal(first.values, inside.values)


def test_the_scorers_own_value_counts_and_not_the_locators(
    model: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    def values(scorer: KnowledgeNeurons, target: Target) -> Tensor:
        return knowing(scorer, target=target).score(model, seen, captions=captions)["knowledge_neurons"].values

    prob = values(QUICK, Target("prob"))
    assert torch.equal(prob, values(QUICK, Target("logit")))
    assert not torch.allclose(prob, values(replace(QUICK, value="logit"), Target("prob")))


@pytest.mark.parametrize("positions", ["all", "image", "text", "target"])
def test_one_small_path_is_gradient_times_activation_at_the_same_positions(
    model: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual], positions: Any
) -> None:
    # The right end of a single step is the gradient of the model as it is.
    locator = Locator(
        {
            "path": Stage(KnowledgeNeurons(1, "right", positions, "logit", "mean"), TopK(1)),
            "gradient": Stage(GradCAM(positions, "sum"), TopK(1)),
        }
    )
    scores = locator.score(model, seen, captions=captions)
    torch.testing.assert_close(scores["path"].values, scores["gradient"].values, atol=1e-4, rtol=1e-4)


def test_no_neuron_of_the_last_layer_acts_from_an_image_position(
    model: HuggingFaceMLLM, captions: list[Generated], seen: list[Counterfactual]
) -> None:
    scores = knowing(replace(QUICK, positions="image")).score(model, seen, captions=captions)["knowledge_neurons"]
    assert (scores.values[-1] == 0).all()
    assert (scores.values[0] != 0).any()


def test_a_path_of_image_positions_leads_to_the_planted_neuron_and_one_of_the_target_position_does_not(
    planted: Planted,
) -> None:
    samples = [picture("one", (5,)), picture("two", (1, 2), (9,)), picture("three", (0,), (15, 14))]
    pairs = [without(sample, STAR_CONCEPT) for sample in samples]
    everywhere = knowing(KnowledgeNeurons(positions="image", value="logit"), Sharing())
    assert everywhere.limited(1).select(everywhere.score(planted.model, pairs)) == planted.star
    here = knowing(KnowledgeNeurons(value="logit"), Sharing())
    assert here.score(planted.model, pairs)["knowledge_neurons"].of(planted.star).item() == 0


def test_the_neurons_of_another_concept_are_taken_away_by_set_difference(planted: Planted) -> None:
    samples = [picture("one", (5,), (9,)), picture("two", (1, 2), (9,)), picture("three", (0,), (15, 14))]
    locator = knowing(KnowledgeNeurons(positions="image", value="logit"), Sharing())
    star, house = (
        locator.select(locator.score(planted.model, [without(sample, concept) for sample in samples]))
        for concept in (STAR_CONCEPT, HOUSE_CONCEPT)
    )
    assert planted.star <= star - house
    assert not (star - house) & planted.house


def test_knowledge_neurons_are_a_second_stage_behind_the_difference(planted: Planted) -> None:
    samples = [picture("one", (5,)), picture("two", (1, 2), (9,)), picture("three", (0,), (15, 14))]
    locator = Locator(
        {
            "difference": Stage(ActivationDifference(), Quantile(0.8)),
            "knowledge_neurons": Stage(KnowledgeNeurons(positions="all"), Sharing()),
        }
    )
    scores = locator.score(planted.model, [without(sample, STAR_CONCEPT) for sample in samples])
    passed = locator.select_each(scores)
    assert planted.star | planted.decoy <= passed["difference"]
    assert passed["knowledge_neurons"] == planted.star
    assert "completeness_error" not in scores["difference"].provenance


def test_logits_that_are_no_numbers_are_reported_with_the_sample_and_the_way_out(
    captions: list[Generated], seen: list[Counterfactual]
) -> None:
    broken = tiny_llava()
    with torch.no_grad():
        broken.module.lm_head.weight[-1] = math.nan
    with pytest.raises(ValueError, match=r"the prob of `thing` is nan for sample `0`.*weights are float32.*bfloat16"):
        knowing(QUICK).score(broken, seen, captions=captions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha_rule": "simpson"}, "`alpha_rule` is one of left, right, midpoint, linspace, got 'simpson'"),
        ({"steps": 0}, "`steps` is a number of steps, 1 or more, got 0"),
        ({"at_once": 2.5}, "`at_once` is a number of steps, 1 or more, got 2.5"),
        ({"value": "odds"}, "`value` is one of logit, logprob, prob, margin, got 'odds'"),
        ({"positions": "first"}, "`positions` is one of all, image, text, image_end, target, got 'first'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnowledgeNeurons(**options)


# --- copies


def test_patches_of_dynamic_resolution_are_repeated_in_whole_samples() -> None:
    patches, grid = torch.arange(6.0)[:, None], torch.tensor([[1, 2, 3]])
    row = torch.tensor([[1, 2, 2, 1]])
    three = TeacherForced({"pixel_values": patches, "image_grid_thw": grid}, row, row, row > 1).repeated(3)
    assert three.inputs["pixel_values"].squeeze(1).tolist() == [*range(6)] * 3
    assert three.inputs["image_grid_thw"].tolist() == [[1, 2, 3]] * 3
    assert three.token_types.tolist() == [[1, 2, 2, 1]] * 3
    with pytest.raises(ValueError, match="only a batch of one sample can be repeated, got one of 3"):
        three.repeated(2)


def qwen2_vl() -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {**tiny.SIZES, "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
            "mrope_section": [1, 1, 2]}}  # fmt: skip
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": tiny.WIDTH, "num_heads": 2, "patch_size": 4,
              "mlp_ratio": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}  # fmt: skip
    described = Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=5, vision_start_token_id=6, vision_end_token_id=7,
        video_token_id=8,
    )  # fmt: skip
    return tiny.seeded(lambda: Qwen2VLForConditionalGeneration(described))


@torch.no_grad()
def test_every_copy_of_a_sample_of_dynamic_resolution_gives_the_same_logits() -> None:
    module, generator = qwen2_vl(), torch.Generator().manual_seed(0)
    ids = torch.tensor([[tiny.BOS, 6, 5, 5, 7, 20, 21]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(8, 3 * 2 * 4 * 4, generator=generator),
        "image_grid_thw": torch.tensor([[1, 2, 4]]),
        "mm_token_type_ids": (ids == 5).long(),
    }
    alone = module(**inputs).logits
    three = module(**TeacherForced(inputs, ids, ids, ids > 0).repeated(3).inputs).logits
    torch.testing.assert_close(three, alone.expand(3, -1, -1), atol=1e-5, rtol=1e-5)
