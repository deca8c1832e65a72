"""Shuffled image tokens, the modalities' states by layer, responses and grids, on a model whose states are known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.inspection import convergence
from kedit.inspection.convergence import streams
from kedit.inspection.grid import NoGridError, token_grids
from kedit.inspection.heatmap import other_regions
from kedit.inspection.responses import at_image, by_modality, mean_activation, pointing, strongest
from kedit.inspection.shuffle import ShuffleError, shuffled
from kedit.internals.hooks import after, replacing
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models import planted as written
from kedit.models.mllm import IMAGE, TEXT, TeacherForced
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT, Planted, picture, without
from kedit.models.planted.smallest import KNOWS_STAR
from kedit.samples import Question
from tests import tiny

BOTH = picture("both", star=(1, 6), house=(12,))
STAR_ONLY = picture("star", star=(5,))
EMPTY = picture("empty")


# Hooks


def test_replacing_calls_the_submodule_with_other_arguments_until_the_end_of_the_block() -> None:
    module, ids = tiny.llama(), torch.tensor([[5, 6, 7]])
    other = torch.tensor([[8, 9, 10]])
    plain, wanted = module(ids).logits, module(other).logits
    with replacing(module, "model.embed_tokens", lambda args, kwargs: ((other,), kwargs)):
        assert torch.equal(module(ids).logits, wanted)
    with replacing(module, "model.embed_tokens", lambda args, kwargs: None):
        assert torch.equal(module(ids).logits, plain)
    assert torch.equal(module(ids).logits, plain)
    assert tiny.hooks_of(module) == []


def test_seeing_an_output_afterwards_does_not_change_it() -> None:
    module, ids, seen = tiny.llama(), torch.tensor([[5, 6, 7]]), list[Tensor]()
    plain = module(ids).logits
    with after(module, "model.embed_tokens", seen.append) as hook:
        assert torch.equal(module(ids).logits, plain)
    assert hook.n_calls == 1
    assert torch.equal(seen[0], module.model.embed_tokens(ids))
    assert tiny.hooks_of(module) == []


# Shuffling


def locator() -> Locator:
    return Locator(
        {"difference": Stage(ActivationDifference(), TopK(4)), "gradcam": Stage(GradCAM(), TopK(1))}, target=forcing()
    )


def forcing() -> Any:
    from kedit.locate.target import Target

    return Target(on_missing="force")


def test_shuffling_moves_what_neurons_do_among_the_image_tokens(planted: Planted) -> None:
    site = planted.model.site("mid")

    def values() -> np.ndarray:
        return at_image(planted.model, site, [planted.star], [BOTH.image])[0].values[:, 0]

    plain = values()
    with shuffled(planted.model, 0):
        moved = values()
    assert not np.array_equal(plain, moved)
    assert sorted(moved) == pytest.approx(sorted(plain))
    assert np.array_equal(values(), plain)


def test_pictures_of_a_batch_are_permuted_alike_and_seeds_differ(planted: Planted) -> None:
    site = planted.model.site("mid")

    def peaks(seed: int) -> list[int]:
        with shuffled(planted.model, seed):
            seen = at_image(planted.model, site, [planted.star], [STAR_ONLY.image, STAR_ONLY.image])
        return [int(one.values[:, 0].argmax()) for one in seen]

    found = [peaks(seed) for seed in range(6)]
    assert all(first == second for first, second in found)
    assert len({first for first, _ in found}) > 1


def test_what_is_located_in_a_model_that_ignores_places_survives_shuffling(planted: Planted) -> None:
    pairs = [without(one, STAR_CONCEPT) for one in (BOTH, STAR_ONLY)]
    plain = locator().score(planted.model, pairs)
    with shuffled(planted.model, 3):
        moved = locator().score(planted.model, pairs)
        captions = planted.model.caption([BOTH.image])[0].text
    for name in plain:
        assert torch.allclose(plain[name].values, moved[name].values, atol=1e-5)
    assert locator().select(moved) == planted.star
    assert captions == "picture star house"


def test_a_model_that_sees_no_picture_cannot_be_shuffled(planted: Planted) -> None:
    question = Question("what is this ?", "star", "naming")
    with (
        pytest.raises(ShuffleError, match="no image token passed the embedding of LlavaForConditionalGeneration"),
        shuffled(planted.model, 0),
    ):
        planted.model.answer([question])
    with (
        pytest.raises(ShuffleError, match="LlamaForCausalLM names no `image_token_id`"),
        shuffled(
            SimpleNamespace(module=tiny.llama()),
            0,  # type: ignore[arg-type]
        ),
    ):
        pass


def test_a_failure_inside_the_block_is_not_hidden_and_leaves_no_hook(planted: Planted) -> None:
    with pytest.raises(RuntimeError, match="inside"), shuffled(planted.model, 0):
        raise RuntimeError("inside")
    assert tiny.our_hooks(planted.model.module) == []


# Convergence


def test_the_cosines_before_the_first_block_are_those_of_the_embeddings(planted: Planted) -> None:
    found = streams(planted.model, [EMPTY.image])
    # All embeddings are 1 in one dimension; the last of the four words, ":", has a second 1 of its own.
    half = 1 / 2**0.5
    mean = (1 + 0.25**2) ** 0.5
    assert found.depths == 3
    assert found.convergence["image"][0, 0] == pytest.approx(half)
    assert found.convergence["special"][0, 0] == pytest.approx(half)
    assert found.convergence["text"][0, 0] == pytest.approx(1.25 * half / mean)
    assert found.probing["image"][0, 0] == pytest.approx(1 / mean)
    assert found.telomeres is not None
    assert found.telomeres[0, 0] == pytest.approx((3 + half) / 4)


def test_identical_states_have_converged() -> None:
    model = written.planted().model
    module: Any = model.module
    module.model.language_model.embed_tokens.weight.fill_(1.0)
    module.model.multi_modal_projector.linear_2.weight.zero_()
    module.model.multi_modal_projector.linear_2.bias.fill_(1.0)
    found = streams(model, [BOTH.image, EMPTY.image])
    assert found.telomeres is not None
    curves = [*found.convergence.values(), *found.probing.values(), found.telomeres]
    for curve in curves:
        assert curve == pytest.approx(np.ones((2, 3)), abs=1e-6)


def test_batches_change_nothing(planted: Planted) -> None:
    images = [one.image for one in (BOTH, STAR_ONLY, EMPTY, BOTH, STAR_ONLY)]
    together = streams(planted.model, images).convergence["image"]
    alone = np.concatenate([streams(planted.model, [image]).convergence["image"] for image in images])
    assert planted.model.batch_size < len(images)
    assert together == pytest.approx(alone, abs=1e-6)


def test_zeroing_neurons_moves_the_states_from_their_layer_on(planted: Planted) -> None:
    plain = streams(planted.model, [STAR_ONLY.image]).convergence["image"]
    with Edit(planted.star, Zero()).applied(planted.model):
        edited = streams(planted.model, [STAR_ONLY.image]).convergence["image"]
    assert edited[0, 0] == plain[0, 0]
    assert edited[0, 1] != plain[0, 1]


def test_a_modality_that_no_prompt_has_is_left_out(planted: Planted) -> None:
    found = streams(planted.model, [EMPTY.image])
    assert set(found.convergence) == set(found.probing) == {"text", "special", "image"}


def test_no_picture_is_refused(planted: Planted) -> None:
    with pytest.raises(ValueError, match="there is no picture"):
        streams(planted.model, [])


# Responses


def test_the_star_neuron_fires_where_the_stars_are(planted: Planted) -> None:
    seen = at_image(planted.model, planted.model.site("mid"), [planted.star, planted.house], [BOTH.image, EMPTY.image])
    assert np.flatnonzero(seen[0].of(planted.star)[:, 0]).tolist() == [1, 6]
    assert np.flatnonzero(seen[0].of(planted.house)[:, 0]).tolist() == [12]
    stars = mean_activation(seen, planted.star)
    assert stars[0] > 0 and stars[1] == 0


def test_a_neuron_that_fires_below_zero_is_known_for_it_and_turned_round() -> None:
    plain, turned = written.planted(), written.planted()
    mlp: Any = turned.model.module.model.language_model.layers[0].mlp
    mlp.up_proj.weight[KNOWS_STAR] *= -1
    mlp.down_proj.weight[:, KNOWS_STAR] *= -1
    images, both = [BOTH.image, STAR_ONLY.image], plain.star | plain.house
    peaks, mirrored = (strongest(one.model, one.model.site("mid"), both, images) for one in (plain, turned))
    (star,), (house,) = plain.star, plain.house
    assert mirrored[star] == -peaks[star] < 0 < peaks[house] == mirrored[house]
    expected, seen = (
        at_image(one.model, one.model.site("mid"), [both], images, below)
        for one, below in ((plain, ()), (turned, {star}))
    )
    assert all(np.array_equal(a.values, b.values) for a, b in zip(expected, seen, strict=True))


def test_padding_counts_for_nothing_in_a_mean_even_where_it_is_no_number() -> None:
    values, mask = torch.ones(1, 1, 2, 3), torch.tensor([[True, False]])
    values[:, :, 1] = torch.nan
    assert convergence._mean(values, mask).tolist() == [[[1.0, 1.0, 1.0]]]


def test_the_strongest_activation_is_a_mean_over_pictures_and_unknown_without_any(planted: Planted) -> None:
    site, (star,) = planted.model.site("mid"), planted.star
    single = [strongest(planted.model, site, planted.star, [one.image])[star] for one in (STAR_ONLY, EMPTY)]
    both = strongest(planted.model, site, planted.star, [STAR_ONLY.image, EMPTY.image])
    assert single[1] == 0 < single[0]
    assert both[star] == pytest.approx(single[0] / 2)
    assert strongest(planted.model, site, planted.star, []) == {}


def test_a_map_of_the_star_neuron_points_at_the_star_and_a_map_of_the_house_neuron_does_not(planted: Planted) -> None:
    seen = at_image(planted.model, planted.model.site("mid"), [planted.star, planted.house], [BOTH.image])[0]
    others = other_regions(BOTH, STAR_CONCEPT)
    star, house = (pointing(seen.of(one), (4, 4), BOTH, STAR_CONCEPT, others) for one in (planted.star, planted.house))
    assert (star.hit, star.auc) == (True, 1.0)
    assert star.iou > 0.5 > house.iou
    assert not house.hit
    assert house.auc is not None and house.auc < 0.5
    assert pointing(seen.of(planted.star), (4, 4), BOTH, HOUSE_CONCEPT, np.zeros_like(others)).auc is None


def test_neurons_are_sorted_by_the_modality_that_they_answer_to(planted: Planted) -> None:
    both = planted.star | planted.house
    found = by_modality(planted.model, planted.model.site("mid"), both, [BOTH.image])
    assert found == {"text": both - both, "special": both - both, "image": both}


# Grids


def teacher_forced(*counts: int, inputs: dict[str, Tensor] | None = None) -> TeacherForced:
    width = max(counts) + 1
    token_types = torch.tensor([[IMAGE] * count + [TEXT] * (width - count) for count in counts])
    return TeacherForced(inputs or {}, token_types, token_types, token_types > 0)


def test_the_grid_of_a_model_is_the_square_of_its_image_tokens(planted: Planted) -> None:
    batch = planted.model.teacher_forced([BOTH.image, EMPTY.image], [(), ()])
    assert token_grids(planted.model.module, batch) == [(4, 4), (4, 4)]


@pytest.mark.parametrize("count", [0, 5, 17])
def test_tokens_that_fill_no_square_have_no_grid(count: int) -> None:
    with pytest.raises(NoGridError, match=f"{count} image tokens of a picture do not fill a grid"):
        token_grids(tiny.llava(), teacher_forced(4, count))


def test_a_model_with_a_q_former_has_no_grid_even_if_its_tokens_would_fill_one() -> None:
    with pytest.raises(NoGridError, match="`qformer` of Blip2ForConditionalGeneration resamples the picture"):
        token_grids(tiny.blip2(), teacher_forced(4))


def test_a_grid_that_the_processor_tells_is_taken_merged() -> None:
    module = nn.Module()
    module.config = SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2))  # type: ignore[assignment]
    sizes = torch.tensor([[1, 4, 6], [1, 2, 8]])
    assert token_grids(module, teacher_forced(6, 4, inputs={"image_grid_thw": sizes})) == [(2, 3), (1, 4)]
