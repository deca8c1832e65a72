"""Is it gone? Round trips by hand, curves of known area, a probe with a control task, and models taught again."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import IdeficsConfig, IdeficsForVisionText2Text

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.edit.relearning import Lessons, language_weights, relearn
from kedit.edit.round_trip import BLOCK, NF4, int8, nf4, round_trip
from kedit.edit.weight_change import WeightChange
from kedit.evaluation.recovery import Recovery, reached
from kedit.inspection.depth import Depth, losses
from kedit.inspection.probe import Ridge, probe
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.identity import weights_digest
from kedit.models.planted.pictures import STAR_CONCEPT, picture, planted_pairs
from kedit.models.planted.smallest import Planted
from kedit.neurons import NeuronSet
from kedit.pipelines.gone import gone
from kedit.pipelines.preparation import Counts
from kedit.pipelines.removal.asking import NO_RIVAL, _first_tokens
from kedit.samples import Concept, Question, Split
from tests.tiny import SIZES
from tests.tiny_families import mixtral

# --- weights in few bits


def test_int8_takes_each_row_in_steps_of_its_largest_number() -> None:
    weight = torch.tensor([[1.0, -0.6, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0], [-254.0, 3.1, 1.0, 100.0]])
    wanted = torch.tensor([[127 / 127, -76 / 127, 38 / 127, 0.0], [0.0] * 4, [-254.0, 4.0, 0.0, 100.0]])
    assert torch.allclose(int8(weight), wanted, atol=1e-6)


def test_the_values_of_nf4_are_quantiles_of_a_normal_distribution() -> None:
    # QLoRA's rule: 8 quantiles above zero, 7 below, zero itself, scaled to a largest of 1.
    end, quantile = 0.9677083, NormalDist().inv_cdf
    above = [quantile(one) for one in np.linspace(end, 0.5, 9)[:-1]]
    below = [-quantile(one) for one in np.linspace(end, 0.5, 8)[:-1]]
    values = np.array(sorted([*above, *below, 0.0]))
    assert np.allclose(values / values.max(), NF4, atol=1e-6)


def test_nf4_takes_the_nearest_value_times_the_scale_of_its_block() -> None:
    weight = torch.zeros(3, 50)  # 150 numbers: blocks of 64, 64 and 22 that do not end with the rows
    weight[0, :4] = torch.tensor([2.0, -2.0, 0.3, -0.5])
    weight[1, 20], weight[2, 49] = 10.0, -0.001  # in the second and the third block
    got = nf4(weight)
    assert BLOCK == 64
    assert got[0, :4].tolist() == pytest.approx([2.0, -2.0, 2 * 0.16093020141124725, -2 * 0.28444138169288635])
    assert got[1, 20] == 10.0
    assert got[2, 49] == pytest.approx(-0.001)
    assert int((got != 0).sum()) == 6
    assert nf4(torch.zeros(5)).tolist() == [0.0] * 5


def test_a_column_set_to_zero_stays_zero_and_the_head_is_left_alone(planted: Planted) -> None:
    module = deepcopy(planted.model.module)
    for name, weight in WeightChange.of_edit(Edit(planted.star, Zero()), module).tensors.items():
        module.get_parameter(name).copy_(weight)
    for form in ("int8", "NF4"):
        change = round_trip(module, form)
        assert "lm_head.weight" not in change.tensors
        assert not change.tensors["model.language_model.layers.0.mlp.down_proj.weight"][:, 3].any()
        assert set(change.tensors) == {f"{path}.weight" for path, one in module.named_modules()
                                       if isinstance(one, torch.nn.Linear) and path != "lm_head"}  # fmt: skip


def test_the_maps_of_experts_take_the_round_trip_one_by_one() -> None:
    module = mixtral()
    for form, small in (("int8", int8), ("NF4", nf4)):
        change = round_trip(module, form).tensors
        assert sum(name.endswith((".down_proj", ".gate_up_proj")) for name in change) == 2 * SIZES["num_hidden_layers"]
        name = "model.layers.1.mlp.experts.down_proj"
        assert all(
            torch.equal(one, small(weight))
            for one, weight in zip(change[name], module.get_parameter(name), strict=True)
        )


# --- curves


def test_area_and_way_to_half_of_a_known_curve() -> None:
    curve = Recovery((0, 2, 4), np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    assert curve.areas.tolist() == [0.75, 0.0]
    assert curve.area().value == pytest.approx(0.375)
    assert curve.steps_to_half().value == 2.0
    assert [one.value for one in curve.curve()] == [0.0, 0.5, 0.5]
    whole = Recovery((0, 8), np.ones((2, 10)))
    assert (whole.area().value, whole.steps_to_half().value) == (1.0, 0.0)
    single = Recovery((0, 2, 4), np.array([[0.0], [1.0], [1.0]])).steps_to_half()
    assert (single.value, single.low, single.n) == (1.0, None, 1)
    assert Recovery((0, 8), np.ones((2, 0))).steps_to_half().why == "there is no sample to measure it on"
    never = Recovery((0, 8), np.zeros((2, 10))).steps_to_half()
    assert (never.value, never.why) == (None, "half is not reached in 8 steps")
    assert reached((0, 4, 8), (0.0, 0.25, 0.75)) == 6.0


@pytest.mark.parametrize("wrong", [{"steps": (1, 2)}, {"steps": (0,)}, {"steps": (0, 2, 1)}, {"rate": 0.0}])
def test_lessons_that_make_no_curve_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`steps` rise from 0|`rate` is a learning rate"):
        Lessons(**wrong)


# --- the probe


def test_ridge_finds_a_linear_map_and_shrinks_by_its_strength() -> None:
    features = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    wanted = features.double() @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + 3
    assert torch.allclose(Ridge.fit(features, wanted, 0.0)(features), wanted, atol=1e-9)
    # Of one feature with variance 1, a penalty of 1 for each sample halves the slope.
    single = Ridge.fit(features[:, :1], features[:, :1].double(), 1.0)
    assert torch.allclose(single.weights * 2, single.scale[:, None], atol=1e-9)


def test_a_probe_reads_what_is_there_and_its_control_task_is_at_chance_where_no_type_can_be_read() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = [number % 2 == 0 for number in range(400)]
    features = torch.randn(400, 8, generator=generator)
    features[:, 0] += torch.tensor(labels) * 6.0
    # The type has nothing to do with what the features hold.
    types = [f"type {number // 2 % 10}" for number in range(400)]
    probed = probe(features[:200], labels[:200], features[200:], labels[200:], (types[:200], types[200:]))
    assert probed.right.mean() > 0.98
    assert abs(probed.control.mean() - 0.5) < 0.06


def test_a_probe_that_can_read_the_type_learns_the_control_task_so_that_nothing_is_selective() -> None:
    types = [f"type {number % 10}" for number in range(400)]
    features = torch.eye(10)[[number % 10 for number in range(400)]]
    labels = [number % 10 < 5 for number in range(400)]
    probed = probe(features[:200], labels[:200], features[200:], labels[200:], (types[:200], types[200:]))
    assert probed.right.mean() == probed.control.mean() == 1.0


# --- depth


def test_the_depth_score_by_hand() -> None:
    never, edited = np.array([[2.0, 1.0, 0.01]]), np.array([[1.0, 3.0, 5.0]])
    # Layer 0 is half gone, layer 1 counts as gone and no more, layer 2 does not count.
    assert Depth(never, edited).score() == pytest.approx((2 * 0.5 + 1 * 1) / 3)
    assert Depth(never, -edited).score() == 0.0
    assert Depth(never * 0.01, edited).measured() is None
    # Of several edits, such as all random ones, it is the mean of their scores.
    both = Depth(never, np.stack([edited, -edited]))
    assert both.score() == pytest.approx(Depth(never, edited).score() / 2)
    assert both.measured()[:1] == (both.score(),)


def test_a_models_own_states_cost_nothing_and_those_without_the_neuron_cost_the_word(planted: Planted) -> None:
    model = planted.model
    prompts = [pair.sample.asked(model.prompt) for pair in planted_pairs(4)]
    word = tuple(model.tokenizer("star", add_special_tokens=False).input_ids)
    before = tuple(model.tokenizer("picture", add_special_tokens=False).input_ids)
    readings = [(prompt, before, word) for prompt in prompts]
    assert np.abs(losses(model, model, readings)).max() < 1e-9
    module = deepcopy(model.module)
    for name, weight in WeightChange.of_edit(Edit(planted.star, Zero()), module).tensors.items():
        module.get_parameter(name).copy_(weight)
    assert losses(model, replace(model, module=module), readings).min() > 1.0


# --- taught again


def twice(model: HuggingFaceMLLM, star: NeuronSet) -> HuggingFaceMLLM:
    """Return the planted model with its star neuron stored a second time, in a neuron without a purpose."""
    copy = replace(model, module=deepcopy(model.module))
    mlp, ((_, own),) = copy.module.model.language_model.layers[0].mlp, star  # type: ignore[union-attr,misc]
    spare = 2
    for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
        weight[spare] = weight[own].clone()
    mlp.down_proj.weight[:, spare] = mlp.down_proj.weight[:, own]
    return copy


class World:
    """Planted pictures as a data set."""

    concepts = (STAR_CONCEPT, Concept("house"))
    questions: tuple[Question, ...] = ()

    def split(self, concept: Any, *, locate: int = 24, target: int = 60, retention: int = 60, seed: int = 0) -> Split:
        pairs = planted_pairs(locate + target + 2 * retention, seed)
        shown = [replace(one.sample, references=("picture star",)) for one in pairs[: locate + target]]
        absent = [
            replace(one.sample, id=f"without-{one.sample.id}", image=one.image, objects=one.sample.objects - {"star"})
            for one in pairs[locate + target :]
        ]
        return Split(tuple(shown[:locate]), tuple(shown[locate:]), tuple(absent[:retention]), tuple(absent[retention:]))


COUNTS = Counts(locate=4, target=4, retention=4)
LESSONS = Lessons(pictures=4, steps=(0, 1, 2, 4), rate=1e-3)
SHORT = Lessons(pictures=1, steps=(0, 1), rate=1e-3)
"""For what is not asked of models that are taught again."""


def shown(result: Any, question: str, against: str | None = None) -> Any:
    return next(one for one in result.answers if question in one.question and against in (None, one.against))


def test_what_is_stored_twice_is_still_named_at_once_and_what_is_stored_once_is_not(planted: Planted) -> None:
    edit = Edit(planted.star, Zero())
    digest = weights_digest(planted.model.module)
    once = gone(edit, planted.model, World(), "star", counts=COUNTS, lessons=LESSONS, controls=1, progress=False)
    both = twice(planted.model, planted.star)
    second = gone(edit, both, World(), "star", counts=COUNTS, lessons=LESSONS, controls=1, progress=False)
    assert weights_digest(planted.model.module) == digest
    assert not any(weight.requires_grad for weight in planted.model.module.parameters())
    assert shown(once, "nothing taught").edited.value == 0.0
    assert shown(once, "nothing taught").control.value == 1.0
    assert shown(second, "nothing taught").edited.value == 1.0
    assert shown(second, "steps to half").edited.value == 0.0
    assert shown(once, "steps to half").edited.value != 0.0
    assert shown(once, "named after NF4").control.n == 4
    # The eye still sees red: what was taken is the word, not the sight.
    assert shown(once, "steps to half").control.why == "no never-knew model: not measured"
    assert shown(once, "depth").edited.why == "no never-knew model: not measured"


def test_equal_models_learn_equally_and_only_in_the_language_model(planted: Planted) -> None:
    pairs = planted_pairs(2)
    prompts, models = [one.sample.asked(planted.model.prompt) for one in pairs], []
    for _ in range(2):
        copy = replace(planted.model, module=deepcopy(planted.model.module))
        assert list(relearn(copy, prompts, ["picture star"] * 2, Lessons(steps=(0, 1, 3)))) == [0, 1, 3]
        models.append(copy.module)
    first, second = (dict(one.named_parameters()) for one in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = {name for name, one in planted.model.module.named_parameters() if not torch.equal(one, first[name])}
    assert changed
    assert changed <= set(language_weights(planted.model.module))
    assert not any("vision" in name or "projector" in name for name in language_weights(planted.model.module))
    assert "lm_head.weight" in language_weights(planted.model.module)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_learn_what_thirty_two_learn(dtype: torch.dtype, planted: Planted) -> None:
    prompts = [one.sample.asked(planted.model.prompt) for one in planted_pairs(2)]

    def learned(dtype: torch.dtype, steps: tuple[int, ...]) -> dict[str, torch.Tensor]:
        module = deepcopy(planted.model.module).to(dtype)
        list(relearn(replace(planted.model, module=module), prompts, ["picture star"] * 2, Lessons(steps=steps)))
        return {name: one.float() for name, one in language_weights(module).items()}

    exact, found = (learned(one, (0, 8)) for one in (torch.float32, dtype))
    for name in exact:
        assert found[name].isfinite().all()
        torch.testing.assert_close(found[name], exact[name], rtol=0.01, atol=3e-4, msg=name)
    moved = [(found[name] - weight.to(dtype).float()).abs().max() for name, weight in
             language_weights(planted.model.module).items()]  # fmt: skip
    assert max(moved) > 4e-4


def test_a_gradient_that_is_no_number_ends_the_lessons(planted: Planted) -> None:
    module = deepcopy(planted.model.module)
    module.get_parameter("lm_head.weight")[0, 0] = float("nan")
    prompts = [one.sample.asked(planted.model.prompt) for one in planted_pairs(1)]
    with pytest.raises(ValueError, match=r"the gradient of step 1 in which .* is taught is nan"):
        list(relearn(replace(planted.model, module=module), prompts, ["picture star"], Lessons(steps=(0, 1))))


def test_an_eye_beside_the_blocks_of_the_language_model_is_not_taught() -> None:
    seeing = {"embed_dim": 16, "image_size": 16, "patch_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
              "intermediate_size": 16}  # fmt: skip
    asking = {"resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8, "resampler_n_latents": 4}
    config = IdeficsConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        cross_layer_interval=1, use_resampler=True, vision_config=seeing, perceiver_config=asking,
    )  # fmt: skip
    names = language_weights(IdeficsForVisionText2Text(config))
    parts = {name.removeprefix("model.").partition(".")[0] for name in names}
    assert parts >= {"embed_tokens", "layers", "norm", "lm_head"}
    assert not parts & {"vision_model", "perceiver_resampler"}


def test_the_result_saves_itself_beside_a_run_and_is_found_again_in_the_store(planted: Planted, tmp_path: Path) -> None:
    edit, asked = Edit(planted.star, Zero()), {"counts": COUNTS, "lessons": LESSONS, "controls": 1, "progress": False}
    first = gone(edit, planted.model, World(), "star", store=tmp_path / "store", never_knew=planted.model, **asked)
    again = gone(edit, planted.model, World(), "star", store=tmp_path / "store", never_knew=planted.model, **asked)
    assert first.to_json() == again.to_json()
    first.save(tmp_path / "run")
    names = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*.*")}
    assert names == {"gone.json", "gone.md", "figures/gone.png", "figures/relearning.png"}
    assert first.table().markdown().count("steps to half") == 1


class Asking(World):
    """The same with questions that need no picture."""

    def __init__(self, *questions: Question) -> None:
        self.questions = questions


def test_other_questions_words_and_pictures_of_equal_ids_are_asked_anew(planted: Planted, tmp_path: Path) -> None:
    asked = {"counts": COUNTS, "lessons": SHORT, "controls": 1, "progress": False}

    def answers(data: Any, store: Path | None) -> dict[str, Any]:
        found = gone(Edit(planted.star, Zero()), planted.model, data, "star", store=store, **asked)
        return {one.question: one.to_json() for one in found.answers}

    said = planted.model.answer([Question("picture", "star", "about")])[0]
    known, other = (Question(text, f"{said} star", "about", others=(said,)) for text in ("picture", "house"))
    alone = World()
    alone.concepts = (STAR_CONCEPT,)
    worlds = (World(), Asking(known), Asking(other, known), alone)
    assert [answers(one, tmp_path) for one in worlds] == [answers(one, None) for one in worlds]

    class Painted(World):
        def split(self, *given: Any, **counts: Any) -> Split:
            shown = super().split(*given, **counts)
            return replace(shown, target=tuple(replace(one, image=picture("plain").image) for one in shown.target))

    with pytest.raises(ValueError, match="the unedited model names `star` in none of 4 pictures"):
        answers(Painted(), tmp_path)


def test_a_choice_among_words_is_between_those_whose_first_tokens_differ(planted: Planted) -> None:
    house, alike = Concept("house"), Concept("star fish")

    def chosen(*concepts: Concept) -> Any:
        data = World()
        data.concepts = (STAR_CONCEPT, *concepts)  # type: ignore[assignment]
        asked: dict[str, Any] = {"counts": COUNTS, "lessons": SHORT, "controls": 1, "progress": False}
        return shown(gone(Edit(planted.star, Zero()), planted.model, data, "star", **asked), "multiple choice")

    plain, both = chosen(house), chosen(house, alike)
    assert both.to_json() == plain.to_json() and "of up to 2" in both.question
    # Half of the pictures show the house, too. In the others, the prior still speaks for the star.
    assert (plain.edited.value, plain.control.value, plain.edited.n) == (1.0, 1.0, 2)
    for one in (chosen(alike), chosen()):
        assert one.edited.value is None and one.control.value is None
        assert one.edited.why == NO_RIVAL and "of up to 1" in one.question


class Blank:
    """A tokenizer that begins every word, or every word behind a blank, with a lone blank."""

    unk_token_id = None
    words = ("", "star", "stars", "sun", "suns")

    def __init__(self, always: bool) -> None:
        self.always = always

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        assert not add_special_tokens
        blank = [0] if self.always or text.startswith(" ") else []
        return SimpleNamespace(input_ids=[*blank, self.words.index(text.strip())])

    def decode(self, ids: list[int]) -> str:
        return " ".join(self.words[one] for one in ids)


def test_a_lone_blank_tells_no_word_from_another() -> None:
    some, none = (SimpleNamespace(tokenizer=Blank(always)) for always in (False, True))
    assert [_first_tokens(some, Concept(one)) for one in ("star", "sun")] == [{1, 2}, {3, 4}]
    assert [_first_tokens(none, Concept(one)) for one in ("star", "sun")] == [{0}, {0}]


def test_an_edit_that_cannot_be_merged_and_data_without_pictures_are_refused(planted: Planted) -> None:
    scoped = Edit(planted.star, Zero(), positions="last")
    with pytest.raises(ValueError, match="depends on where a token stands"):
        gone(scoped, planted.model, World(), "star", counts=COUNTS)
    with pytest.raises(LookupError, match="no concept `sun` in the data"):
        gone(Edit(planted.star, Zero()), planted.model, World(), "sun", counts=COUNTS)
