"""The doctor: sound models pass every check that applies to them, with the right numbers."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import tiny_families
import torch
from transformers import CohereConfig, CohereForCausalLM, GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM

from kedit.doctor.comparison import gap, rounding
from kedit.doctor.diagnose import CHECKS, diagnose
from kedit.doctor.finding import Diagnosis, Finding, above, at_most
from kedit.doctor.model_under_test import picture
from kedit.doctor.state import hooks_on
from kedit.models.planted import Planted
from kedit.models.tiny.families import fill, tiny
from tests.text_model import TextModel
from tests.tiny import SIZES, VOCAB, gemma2, gpt2, opt, seeded, state_of

GPT2_SIZES = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
SHORT = tuple(name for name in CHECKS if name != "compiled")
"""All checks but the one that takes seconds."""


def cohere() -> Any:
    return seeded(lambda: CohereForCausalLM(CohereConfig(**SIZES, num_key_value_heads=2)))


def granite() -> Any:
    return seeded(lambda: GraniteForCausalLM(GraniteConfig(**SIZES, num_key_value_heads=2, logits_scaling=4.0)))


def statuses(found: Diagnosis) -> dict[str, str]:
    return {name: one.status for name, one in found.findings.items()}


def test_a_model_that_is_sound_passes_every_check_and_is_afterwards_what_it_was(planted: Planted) -> None:
    planted.model.caption([picture(0)])  # transformers registers hooks of its own when a model first runs
    before = state_of(planted.model.module)
    found = diagnose(planted.model)
    apart = {"drawing": "NOT_APPLICABLE"}
    assert statuses(found) == dict.fromkeys(CHECKS, "SUPPORTED") | apart
    assert found.sound
    assert state_of(planted.model.module) == before


def test_the_numbers_are_those_of_the_model(planted: Planted) -> None:
    found = diagnose(planted.model, ["sites", "padding", "positions", "restored"]).findings
    assert found["sites"].value == 2 and "language 2 x 8" in found["sites"].what
    assert found["padding"].what.startswith("logits changed by 4 columns")  # "describe the picture :" once more
    assert found["positions"].what == "wrong of 32 image positions; another image changes 32"
    n_weights = len(planted.model.module.state_dict())
    assert found["restored"].what.startswith(f"of {n_weights} weights")


def test_a_tiny_family_is_sound() -> None:
    found = diagnose(tiny("janus"), SHORT)
    assert set(statuses(found).values()) == {"SUPPORTED"}


def test_a_model_that_draws_no_pictures_is_spared_the_check_of_drawing() -> None:
    found = diagnose(tiny("llava"), SHORT)
    assert statuses(found) == dict.fromkeys(SHORT, "SUPPORTED") | {"drawing": "NOT_APPLICABLE"}
    assert "drawing (the model draws no pictures)" in str(found)


@pytest.mark.parametrize("build", [gpt2, opt], ids=lambda build: build.__name__)
def test_a_model_without_pictures_is_spared_the_checks_of_pictures(build: Callable[[], Any]) -> None:
    found = diagnose(TextModel(build()), SHORT)
    apart = {name for name, status in statuses(found).items() if status == "NOT_APPLICABLE"}
    assert apart == {"media", "positions", "chat", "drawing"}  # it has no processor
    assert {status for name, status in statuses(found).items() if name not in apart} == {"SUPPORTED"}
    assert str(found).splitlines()[-1].startswith("not applicable: media (the model reads text alone), positions")


def test_a_masked_language_model_is_spared_the_checks_of_generation() -> None:
    found = diagnose(TextModel(tiny_families.bert()), SHORT)
    apart = {name for name, status in statuses(found).items() if status == "NOT_APPLICABLE"}
    by_writing = {"identity_text", "cache", "static_cache", "beams", "prefill", "decode", "text", "last"}
    assert apart == {"media", "positions", "chat", "drawing"} | by_writing
    assert {status for name, status in statuses(found).items() if name not in apart} == {"SUPPORTED"}


@pytest.mark.parametrize("build", [tiny_families.qwen2_moe, tiny_families.gpt_oss], ids=lambda build: build.__name__)
def test_what_experts_write_is_computed_from_their_recorded_neurons_and_the_routing(build: Callable[[], Any]) -> None:
    module = build()
    fill(module, 0)  # biases of experts, too
    found = diagnose(TextModel(module), ["recorded", "column", "zero", "gradients", "restored"])
    assert set(statuses(found).values()) == {"SUPPORTED"}
    assert found.findings["recorded"].value < 1e-5  # type: ignore[operator]


@pytest.mark.parametrize(
    "build",
    [gpt2, tiny_families.gptj, tiny_families.bert, cohere, granite, gemma2],
    ids=lambda build: build.__name__,
)
def test_the_lens_knows_biases_transformations_factors_and_caps(build: Callable[[], Any]) -> None:
    module = build()
    if build is not gemma2:  # whose norms store their scale less one
        fill(module, 0)
    lens = diagnose(TextModel(module), "lens").findings["lens"]
    assert lens.status == "SUPPORTED", lens.why


def test_a_factor_that_the_configuration_does_not_tell_is_found_and_named() -> None:
    module = granite()
    fill(module, 0)
    model = TextModel(module)
    assert diagnose(model, "lens").sound
    module.config.model_type = "hyperclovax"  # which multiplies where Granite divides
    lens = diagnose(model, "lens").findings["lens"]
    assert lens.status == "SILENTLY_WRONG"
    assert "the logits are 0.0625 times it" in lens.why


def test_a_module_in_training_mode_is_examined_as_it_is_used_and_goes_on_training(planted: Planted) -> None:
    module = seeded(lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SIZES, resid_pdrop=0.5))).train()
    assert diagnose(TextModel(module), "identity").sound
    assert all(one.training for one in module.modules())


def test_gradients_that_are_there_stay_and_hide_no_new_one() -> None:
    module = gpt2()
    weight = module.transformer.h[1].mlp.c_proj.weight
    gathered = weight.grad = torch.ones_like(weight)
    assert diagnose(TextModel(module), "weight_gradients").sound
    assert weight.grad is gathered and bool((gathered == 1).all())

    def gathers(*_: object) -> None:
        weight.grad = gathered if weight.grad is None else weight.grad.add_(1)

    handle = module.transformer.h[1].mlp.register_forward_hook(gathers)
    found = diagnose(TextModel(module), "weight_gradients").findings["weight_gradients"]
    handle.remove()
    assert (found.status, found.value) == ("SILENTLY_WRONG", 1)


def test_every_kind_of_hook_of_a_module_is_seen() -> None:
    layer = torch.nn.Linear(2, 2)
    kinds = ("forward_pre_hook", "forward_hook", "full_backward_hook", "full_backward_pre_hook")
    hooks: list[Any] = [lambda *_, kind=kind: None for kind in kinds]
    for kind, hook in zip(kinds, hooks, strict=True):
        getattr(layer, f"register_{kind}")(hook)
    assert set(hooks_on(layer)) == set(hooks)


def test_a_quantized_weight_is_no_column_and_no_fault() -> None:
    module = gpt2()
    projection = module.transformer.h[1].mlp.c_proj
    dense = projection.weight
    projection.weight = torch.nn.Parameter(dense.to(torch.int8), requires_grad=False)
    projection.forward = lambda x: x @ dense + projection.bias
    assert rounding(module) == 5e-2
    column = diagnose(TextModel(module), "column").findings["column"]
    assert column.status == "DEGRADED"
    assert "no column of layer 1 can be zeroed to compare with: the weight is quantized (torch.int8" in column.why


def test_a_check_that_crashes_is_an_error_and_the_others_still_run(planted: Planted) -> None:
    class Mute(TextModel):
        def logits(self, batch: Any, n_last: int = 1) -> Any:
            raise RuntimeError("no voice\nat all")

    found = diagnose(Mute(gpt2()), ["sites", "zero", "cache"])
    assert statuses(found) == {"sites": "SUPPORTED", "zero": "ERROR", "cache": "ERROR"}
    assert found.findings["zero"].why == "RuntimeError: no voice"
    assert found.unsound == ("zero", "cache")


def test_checks_run_in_their_order_under_a_progress_bar(planted: Planted) -> None:
    seen: list[tuple[list[str], int, str]] = []

    def progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
        seen.append((list(items), total, what))
        return seen[0][0]

    found = diagnose(planted.model, ["zero", "sites"], progress=progress)
    assert seen == [(["sites", "zero"], 2, "checks")]
    assert list(found.findings) == ["sites", "zero"]


def test_an_unknown_check_is_refused_with_the_nearest_names(planted: Planted) -> None:
    with pytest.raises(ValueError, match="no check `cach`; nearest: cache, static_cache"):
        diagnose(planted.model, ["cach"])


def test_a_bare_module_is_refused_with_the_way_to_wrap_it(planted: Planted) -> None:
    with pytest.raises(TypeError, match=r"wrap it: `HuggingFaceMLLM\(module, processor\)`"):
        diagnose(planted.model.module)  # type: ignore[arg-type]


def test_a_table_has_a_line_for_each_check_with_its_number_and_its_sentence() -> None:
    found = Diagnosis(
        "m",
        {
            "zero": above(0.5, 0, "change", "nothing happens"),
            "cache": at_most(0.25, 1e-4, "difference", "they differ"),
            "lens": Finding("NOT_APPLICABLE", "no words"),
        },
    )
    assert str(found).splitlines() == [
        "SUPPORTED       zero   0.5 > 0        change",
        "SILENTLY_WRONG  cache  0.25 > 0.0001  difference: they differ",
        "not applicable: lens (no words)",
    ]
    assert found.unsound == ("cache",)


def test_a_number_that_is_not_finite_is_no_success_and_becomes_null_in_a_report() -> None:
    findings = {"a": at_most(float("inf"), 1, "", "far"), "b": above(float("inf"), 1, "", "near"),
                "c": at_most(float("nan"), 1, "", "odd")}  # fmt: skip
    assert {one.status for one in findings.values()} == {"SILENTLY_WRONG"}
    report = json.loads(json.dumps(Diagnosis("m", findings).to_json(), allow_nan=False))
    assert [one["value"] for one in report["checks"].values()] == [None, None, None]
    assert "not finite" in report["checks"]["a"]["why"]
    assert not report["sound"]


def test_a_gap_is_a_share_of_the_largest_value_that_is_no_mask() -> None:
    one, other = torch.tensor([4.0, 1.0, -3e38]), torch.tensor([4.0, 2.0, -3e38])
    assert gap(one, other) == 0.25
    assert gap(one, one) == 0.0
    assert gap(one, torch.tensor([4.0, 1.0, 0.0])) == float("inf")
    assert gap(one, torch.tensor([4.0, float("nan"), -3e38])) == float("inf")
    with pytest.raises(ValueError, match=r"\[3\] and \[2\]"):
        gap(one, one[:2])
