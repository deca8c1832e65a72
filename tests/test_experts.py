"""Experts stored as one weight have neurons as any other block, each by its layer, expert and index."""

import copy
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from tiny_llava import tiny_llava
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, Qwen2MoeConfig

from kedit.edit.edit import Edit, active
from kedit.edit.operators import Patch, Scale, Zero
from kedit.internals.experts import Gate, Routing, gated
from kedit.internals.hooks import Some, intervene, record
from kedit.internals.sites import Site, SiteError
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.neurons import NeuronId, NeuronSet

FAMILIES: dict[str, Callable[[], Any]] = {
    "mixtral": tiny_families.mixtral,
    "qwen3_moe": tiny_families.qwen3_moe,
    "qwen2_moe": tiny_families.qwen2_moe,
    "gpt_oss": tiny_families.gpt_oss,
}
N_ALL = tiny_families.N_EXPERTS * tiny.NEURONS
IDS = torch.tensor([[1, 5, 6, 11, 20], [1, 7, 8, 9, 31]])


@cache
def built(family: str) -> Any:
    return FAMILIES[family]()


@torch.no_grad()
def logits(module: Any) -> Tensor:
    return module(input_ids=IDS).logits


def experts_of(module: Any, layer: int = 0) -> Any:
    return module.model.layers[layer].mlp.experts


def watched(experts: nn.Module) -> dict[str, Tensor]:
    """Return a dict that holds, after a pass, what the experts were given, their routing and what they gave."""
    seen: dict[str, Tensor] = {}

    def see(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        for name, value in zip(("x", "chosen", "weights"), args, strict=False):
            seen[name] = value
        seen["y"] = output

    seen_handles.append(experts.register_forward_hook(see, with_kwargs=True))
    return seen


seen_handles: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Any:
    yield
    while seen_handles:
        seen_handles.pop().remove()
    for family in FAMILIES:
        module = built(family)
        assert tiny.hooks_of(module) == []
        assert not any("_apply_gate" in vars(one) for one in module.modules())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_recorded_neurons_times_what_they_write_and_the_routing_weights_are_what_the_experts_give(
    family: str, implementation: str
) -> None:
    module = built(family)
    module.set_experts_implementation(implementation)
    site, seen = Site.of(module), watched(experts_of(module))
    with record(module, site) as neurons:
        logits(module)
    module.set_experts_implementation("grouped_mm")
    fired = neurons[0].unflatten(-1, (tiny_families.N_EXPERTS, tiny.NEURONS))
    values = site.value_matrix(module, 0).unflatten(0, fired.shape[1:])
    each = torch.einsum("tef,efd->ted", fired, values)
    bias = getattr(experts_of(module), "down_proj_bias", None)
    given = torch.zeros_like(seen["y"]).reshape(IDS.numel(), -1)
    for token, (experts, weights) in enumerate(zip(seen["chosen"], seen["weights"], strict=True)):
        for expert, weight in zip(experts, weights, strict=True):
            given[token] += weight * (each[token, expert] + (0 if bias is None else bias[expert]))
    torch.testing.assert_close(given, seen["y"].reshape(given.shape), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_of_experts_that_a_token_is_not_routed_to_are_zero(family: str) -> None:
    module = built(family)
    seen = watched(experts_of(module))
    with record(module, Site.of(module)) as neurons:
        logits(module)
    assert neurons[0].shape == (IDS.numel(), N_ALL)
    fires = neurons[0].unflatten(-1, (tiny_families.N_EXPERTS, -1)).ne(0).any(-1)
    routed = torch.zeros_like(fires).scatter(1, seen["chosen"], torch.ones_like(fires))
    assert torch.equal(fires, routed) and 0 < int(routed.sum()) < routed.numel()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", ["edit", "rewrite of all"])
def test_silencing_a_neuron_of_an_expert_equals_zeroing_its_part_of_the_weight_bit_for_bit(
    family: str, way: str
) -> None:
    module = built(family)
    site = Site.of(module)
    silent = [site.of_expert(0, expert, index) for expert in (0, 3) for index in (1, 7)]
    before = logits(module)
    if way == "edit":
        with Edit(NeuronSet(tuple(silent)), Zero()).applied(module):
            hooked = logits(module)
    else:
        keep = torch.ones(N_ALL)
        keep[[one.index for one in silent]] = 0
        with intervene(module, site, {0: lambda activation: activation * keep}):
            hooked = logits(module)
    values = [site.value_vector(module, one) for one in silent]
    kept = [value.clone() for value in values]
    for value in values:
        value.zero_()
    written = logits(module)
    for value, old in zip(values, kept, strict=True):
        value.copy_(old)
    assert torch.equal(hooked, written)
    assert not torch.equal(hooked, before)
    assert torch.equal(logits(module), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_of_some_neurons_is_the_same_rewrite_as_of_all(family: str) -> None:
    module, at = built(family), torch.tensor([0, 5, 30, 31, 95])
    site = Site.of(module)

    def all_of_them(activation: Tensor) -> Tensor:
        changed = activation.clone()
        changed[..., at] = changed[..., at] * 3 + 1
        return changed

    with intervene(module, site, {1: all_of_them}):
        whole = logits(module)
    with intervene(module, site, {1: Some(at, lambda values: values * 3 + 1)}), record(module, site) as neurons:
        some = logits(module)
    assert torch.equal(some, whole) and not torch.equal(some, logits(module))
    off = neurons[1].unflatten(-1, (tiny_families.N_EXPERTS, -1)).eq(0).all(-1)
    assert bool(off.any()), "a token that is not routed to an expert stays so, whatever its neurons are set to"


def test_a_neuron_of_an_expert_that_nobody_is_routed_to_has_no_effect() -> None:
    module = built("mixtral")
    seen = watched(experts_of(module))
    with torch.no_grad():
        before = module(input_ids=IDS[:1, :1]).logits
    away = next(e for e in range(tiny_families.N_EXPERTS) if e not in seen["chosen"])
    there = int(seen["chosen"][0, 0])
    site = Site.of(module)
    for expert, changes in ((away, False), (there, True)):
        ids = tuple(site.of_expert(0, expert, index) for index in range(tiny.NEURONS))
        with Edit(NeuronSet(ids), Patch(5.0)).applied(module), torch.no_grad():
            assert torch.equal(module(input_ids=IDS[:1, :1]).logits, before) is not changes


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_at_the_neurons_agree_with_finite_differences(family: str) -> None:
    module = built(family)
    site = Site.of(module)
    with record(module, site, differentiable=True) as seen:
        found = torch.autograd.grad(module(input_ids=IDS).logits[:, -1, 7].sum(), [seen[0], seen[1]])
    assert all(one.grad is None for one in module.parameters())
    step, which = 0.05, int(found[0].abs().sum(0).argmax())
    sums = []
    for sign in (1, -1):
        shifted = intervene(module, site, {0: Some(torch.tensor([which]), lambda v, s=sign: v + s * step)})
        with shifted, torch.no_grad():
            sums.append(float(module(input_ids=IDS).logits[:, -1, 7].sum().double()))
    routed = seen[0].detach().unflatten(-1, (tiny_families.N_EXPERTS, -1)).ne(0).any(-1)
    mine = routed[:, which // tiny.NEURONS]
    assert (sums[0] - sums[1]) / (2 * step) == pytest.approx(float(found[0][mine, which].sum()), rel=0.1, abs=1e-3)
    assert bool(found[1].ne(0).any())


@pytest.mark.parametrize("positions", ["text", "last"])
def test_edits_by_position_are_the_same_with_and_without_a_cache_and_padding(positions: Any) -> None:
    module = built("mixtral")
    uneven = tiny.prompt([5, 6, 7, 8], [9])
    inputs = {key: uneven[key] for key in ("input_ids", "attention_mask")}
    ids = tuple(NeuronId(layer, index) for layer in range(tiny.LAYERS) for index in range(0, N_ALL, 3))
    plain, _ = tiny.generated(module, inputs)
    with Edit(NeuronSet(ids), Scale(-3.0), positions).applied(module):
        cached, by_cache = tiny.generated(module, inputs)
        whole, by_whole = tiny.generated(module, inputs, use_cache=False)
        row = {key: value[1:, 3:] for key, value in inputs.items()}
        alone, _ = tiny.generated(module, row)
    assert torch.equal(cached, whole) and torch.equal(cached[1:], alone) and not torch.equal(cached, plain)
    torch.testing.assert_close(by_cache, by_whole, atol=2e-5, rtol=1e-4)


def test_edits_nest_are_listed_and_can_be_closed_out_of_order() -> None:
    module, before = built("mixtral"), logits(built("mixtral"))
    one = Edit(NeuronSet(((0, 0), (0, 30))), Zero(), name="one")
    two = Edit(NeuronSet(((0, 1), (0, 31))), Scale(-2.0), name="two")
    with two.applied(module):
        alone = logits(module)
    first, second = one.applied(module), two.applied(module)
    first.__enter__()
    second.__enter__()
    assert active(module) == [one, two]
    assert not torch.equal(logits(module), alone)
    first.__exit__(None, None, None)
    assert torch.equal(logits(module), alone)
    second.__exit__(None, None, None)
    assert torch.equal(logits(module), before)


def test_a_deep_copy_made_meanwhile_is_not_affected() -> None:
    module, before = built("qwen3_moe"), logits(built("qwen3_moe"))
    with Edit(NeuronSet(((0, 0), (0, 30))), Patch(4.0)).applied(module):
        assert isinstance(vars(experts_of(module))["_apply_gate"], Gate)
        twin = copy.deepcopy(module)
        assert not torch.equal(logits(module), before)
        assert torch.equal(logits(twin), before)
    assert torch.equal(logits(twin), before)


def test_a_deep_copy_made_meanwhile_can_be_edited_like_any_other() -> None:
    module, edit = built("qwen3_moe"), Edit(NeuronSet(((0, 0), (0, 30))), Patch(4.0))
    with edit.applied(module):
        twin, edited = copy.deepcopy(module), logits(module)
    plain = logits(twin)
    with edit.applied(twin):
        assert torch.equal(logits(twin), edited) and not torch.equal(edited, plain)
    assert torch.equal(logits(twin), plain)
    assert not any("_apply_gate" in vars(one) for one in twin.modules())


@pytest.mark.parametrize("this_thread_only", [True, False])
def test_another_thread_is_edited_unless_this_one_alone_is_meant(this_thread_only: bool) -> None:
    module, before, found = built("qwen3_moe"), logits(built("qwen3_moe")), []
    edit = Edit(NeuronSet(((0, 0), (0, 30))), Patch(4.0))
    with edit.applied(module, this_thread_only=this_thread_only):
        thread = threading.Thread(target=lambda: found.append(logits(module)))
        thread.start()
        thread.join()
        edited = logits(module)
    assert not torch.equal(edited, before)
    assert torch.equal(found[0], before if this_thread_only else edited)


def test_a_gate_stays_as_long_as_anyone_in_any_thread_uses_it() -> None:
    experts = experts_of(built("mixtral"))
    with gated(experts) as first:
        others: list[Gate] = []

        def enter_and_leave() -> None:
            with gated(experts) as gate:
                others.append(gate)

        thread = threading.Thread(target=enter_and_leave)
        thread.start()
        thread.join()
        assert others == [first] and vars(experts)["_apply_gate"] is first
    assert "_apply_gate" not in vars(experts)


def test_threads_that_edit_one_model_differently_lose_no_layer() -> None:
    module = built("mixtral")
    edits = [Edit(NeuronSet(((0, n), (1, n))), Patch(4.0 + n)) for n in range(4)]
    expected = []
    for edit in edits:
        with edit.applied(module):
            expected.append(logits(module))
    wrong: list[int] = []

    def serve(n: int) -> None:
        for _ in range(25):
            with edits[n].applied(module, this_thread_only=True):
                if not torch.equal(logits(module), expected[n]):
                    wrong.append(n)

    threads = [threading.Thread(target=serve, args=(n,)) for n in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


def test_a_pass_that_fails_leaves_nothing() -> None:
    module, before = built("mixtral"), logits(built("mixtral"))

    def boom(activation: Tensor) -> Tensor:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), intervene(module, Site.of(module), {0: boom, 1: boom}):
        logits(module)
    assert torch.equal(logits(module), before)


def test_a_shared_expert_is_a_block_of_its_own_behind_the_layers() -> None:
    site = Site.of(built("qwen2_moe"))
    assert [site.block(layer).experts for layer in range(4)] == [4, 4, None, None]
    assert site.block(2).output == "model.layers.0.mlp.shared_expert.down_proj"
    assert site.widths == {0: N_ALL, 1: N_ALL, 2: 12, 3: 12}


def test_a_neuron_has_a_name_with_its_expert_and_is_found_by_it() -> None:
    site = Site.of(built("qwen2_moe"))
    one = site.of_expert(1, 3, 5)
    assert one == NeuronId(1, 3 * tiny.NEURONS + 5)
    assert site.expert(one) == (1, 3, 5) and site.label(one) == "1.e3.5"
    assert site.expert(NeuronId(2, 5)) is None and site.label(NeuronId(2, 5)) == "2.5"
    with pytest.raises(SiteError, match=r"layer 2 has no experts but one feed-forward block, `.*shared_expert"):
        site.of_expert(2, 0, 0)
    with pytest.raises(SiteError, match=rf"no neuron 24 of expert 0 in layer 0: 4 experts x {tiny.NEURONS}"):
        site.of_expert(0, 0, 24)


def test_an_implementation_that_hides_the_neurons_is_refused_with_what_helps() -> None:
    module = built("mixtral")
    module.set_experts_implementation("eager")
    text = r"`model\.layers\.0\.mlp\.experts` run with the implementation `eager`.*set_experts_implementation\('grouped"
    try:
        with pytest.raises(SiteError, match=text):
            Edit(NeuronSet(((0, 0),)), Zero()).applied(module).__enter__()
    finally:
        module.set_experts_implementation("grouped_mm")


def test_other_sites_than_mid_are_refused() -> None:
    with pytest.raises(SiteError, match="site `act` needs an activation module"):
        Site.of(built("mixtral"), "act")


def test_experts_without_a_place_for_a_hook_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Closed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down_proj = nn.Parameter(torch.zeros(2, 6, 4))

    block = nn.Module()
    block.norm, block.experts, block.shared = nn.LayerNorm(4), Closed(), nn.Module()
    block.shared.up, block.shared.down = nn.Linear(4, 6), nn.Linear(6, 4)
    module = nn.Module()
    module.blocks = nn.ModuleList([block])
    assert Site.of(module).block(0).output == "blocks.0.shared.down"
    assert "the experts of 1 layers, such as `blocks.0.experts` (Closed), leave no place for a hook" in caplog.text


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_rows_are_laid_out_by_token_and_expert_and_taken_back(implementation: str) -> None:
    chosen = torch.tensor([[2, 0], [1, 2], [0, 1]])
    routing = Routing.of(chosen, 3, implementation)
    rows = torch.stack([routing.tokens * 10.0 + routing.experts, -routing.tokens * 10.0 - routing.experts], dim=1)
    laid = routing.laid_out(rows)
    expected = [[0, 0, 0, 0, 2, -2], [0, 0, 11, -11, 12, -12], [20, -20, 21, -21, 0, 0]]
    assert laid.tolist() == expected
    assert torch.equal(routing.taken_back(laid), rows)
    at = torch.tensor([1, 4, 2])
    assert torch.equal(routing.some(rows, at), laid[:, at])
    changed = laid.clone()
    changed[:, at] += 100
    assert torch.equal(routing.put_back(rows, at, laid[:, at] + 100), routing.taken_back(changed))


def test_experts_of_a_model_that_sees_are_silenced_bit_for_bit() -> None:
    module = tiny_families.qwen3_vl_moe()
    inputs = tiny_families.qwen_prompt([8, 5, 6, 10], [11])
    site = Site.of(module)
    assert site.block(1).output == "model.language_model.layers.1.mlp.experts" and site.block(1).experts == 4
    silent = NeuronSet(tuple(site.of_expert(0, expert, 5) for expert in range(4)))
    with torch.no_grad():
        before = module(**inputs).logits
        with Edit(silent, Zero()).applied(module):
            hooked = module(**inputs).logits
        for one in silent:
            site.value_vector(module, one).zero_()
        assert torch.equal(module(**inputs).logits, hooked) and not torch.equal(hooked, before)


def test_locating_takes_gradients_at_experts_and_at_the_shared_one_beside_them() -> None:
    model = tiny_llava()
    described = copy.deepcopy(model.module.config)
    described.text_config = Qwen2MoeConfig(
        **{**tiny_families.MOE_SIZES, "vocab_size": described.text_config.vocab_size, "max_position_embeddings": 128},
        num_experts=tiny_families.N_EXPERTS, moe_intermediate_size=tiny.NEURONS, shared_expert_intermediate_size=12,
    )  # fmt: skip
    module = tiny.seeded(lambda: LlavaForConditionalGeneration(described))
    model = HuggingFaceMLLM(module, model.processor, "experts", model.prompt, batch_size=2)
    pairs = [without(picture(str(n), (n,)), STAR_CONCEPT) for n in range(2)]
    captions = [Generated("a star", tuple(model.tokenizer("a star", add_special_tokens=False).input_ids))] * 2
    locator = Locator({"only": Stage(GradCAM("all", "sum"), TopK(3))})
    scores = locator.score(model, pairs, captions=captions)["only"]
    mention = model.mention(captions[0], pairs[0].concept)
    assert mention is not None
    batch = model.teacher_forced([pair.sample.image for pair in pairs], [mention.prefix] * 2)
    with record(module, model.site(), differentiable=True) as seen:
        said = model.logits(batch)[:, -1, mention.word[0]].sum()
    gradients = torch.autograd.grad(said, [seen[layer] for layer in range(4)])
    for layer, gradient in enumerate(gradients):
        expected = (gradient * seen[layer]).detach().reshape(-1, seen[layer].shape[-1]).sum(0) / 2
        torch.testing.assert_close(scores.values[layer, : len(expected)], expected, atol=1e-5, rtol=1e-3)
        assert bool(expected.ne(0).any())
