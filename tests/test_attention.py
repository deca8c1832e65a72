"""Watching a model's attention shows what it attends to, changes nothing, and leaves nothing behind."""

import copy
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from kedit.models.attention import CAPTURE, Attention, attending


def gemma2_with_a_window() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = tiny.SIZES | {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 3}
    return tiny.seeded(lambda: Gemma2ForCausalLM(Gemma2Config(**sizes)))


TEXT_MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "qwen2, grouped": tiny.qwen2,
    "llama, grouped": lambda: tiny.llama(num_key_value_heads=1),
    "gemma2, capped, grouped, with a window": gemma2_with_a_window,
    "phi3": tiny.phi3,
    "opt": tiny.opt,
    "gpt2": tiny.gpt2,
    "gpt_neox": tiny.gpt_neox,
}
LEFT_PADDED = torch.tensor([[1, 7, 8, 9, 10, 11], [0, 0, 0, 1, 7, 8]])


def named(module: Any, implementation: str) -> Any:
    module.set_attn_implementation(implementation)
    return module


def words(ids: Tensor = LEFT_PADDED) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": (ids != tiny.PAD).long()}


@torch.no_grad()
def logits(module: Any, inputs: dict[str, Tensor]) -> Tensor:
    found: Tensor = module(**inputs, use_cache=False).logits
    return found


def implementations(module: Any) -> set[str]:
    found = (getattr(one, "config", None) for one in module.modules())
    return {one._attn_implementation for one in found if one is not None}


def probabilities(attention: Attention) -> Tensor:
    hidden = attention.logits().masked_fill(~attention.allowed(), -torch.inf)
    return hidden.softmax(-1)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", TEXT_MODELS)
def test_the_logits_are_the_same_to_the_bit_and_the_implementation_is_restored(name: str, implementation: str) -> None:
    if "capped" in name and implementation == "sdpa":
        pytest.skip("transformers' sdpa cannot cap its logits")
    module = named(TEXT_MODELS[name](), implementation)
    before = logits(module, words())
    with attending(module) as seen:
        watched = logits(module, words())
    assert torch.equal(watched, before)
    assert torch.equal(logits(module, words()), before)
    assert implementations(module) == {implementation}
    assert sorted(seen) == list(range(tiny.LAYERS))


@pytest.mark.parametrize("build", [tiny.llava, tiny.blip2])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_only_the_language_models_attention_is_seen(build: Callable[[], Any], implementation: str) -> None:
    module = named(build(), implementation)
    inputs = tiny.prompt([7, 8, 9], [7])
    before = logits(module, inputs)
    with attending(module) as seen:
        assert torch.equal(logits(module, inputs), before)
    n_positions = inputs["input_ids"].shape[1]
    assert {one.query.shape[2] for one in seen.values()} == {n_positions}
    assert len(seen) == tiny.LAYERS
    assert implementations(module) == {implementation}


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_what_is_seen_gives_the_probabilities_that_the_model_reports(name: str) -> None:
    module = named(TEXT_MODELS[name](), "eager")
    with torch.no_grad():
        reported = module(**words(), use_cache=False, output_attentions=True).attentions
    with attending(module) as seen:
        logits(module, words())
    valid = LEFT_PADDED != tiny.PAD
    for layer, expected in enumerate(reported):
        made = probabilities(seen[layer])
        for row, keep in enumerate(valid):
            torch.testing.assert_close(made[row][:, keep][:, :, keep], expected[row][:, keep][:, :, keep])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_on_the_left_changes_nothing_that_is_seen(implementation: str) -> None:
    module = named(tiny.qwen2(), implementation)
    with attending(module) as seen:
        logits(module, words())
    with attending(module) as alone:
        logits(module, words(LEFT_PADDED[1:, 3:]))
    for layer, one in seen.items():
        torch.testing.assert_close(probabilities(one)[1:, :, 3:, 3:], probabilities(alone[layer]))
        assert not one.allowed()[1, :, 3:, :3].any()


def test_some_samples_of_what_is_seen_are_those_of_the_batch() -> None:
    module = tiny.qwen2()
    with attending(module) as seen:
        logits(module, words())
    for one in seen.values():
        torch.testing.assert_close(one.rows(slice(1, 2)).logits(), one.logits()[1:])
        assert torch.equal(one.rows(slice(1, 2)).allowed(), one.allowed()[1:])


def test_a_query_is_weighed_with_its_own_key_of_several_heads() -> None:
    query = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    key = torch.tensor([[[[3.0, 5.0]]]])
    assert Attention(query, key, 0.5).logits().flatten().tolist() == [1.5, 5.0]
    capped = Attention(query, key, 0.5, softcap=2.0).logits().flatten()
    torch.testing.assert_close(capped, 2 * torch.tensor([0.75, 2.5]).tanh())


def test_a_mask_of_any_form_says_who_may_look_where() -> None:
    query = key = torch.zeros(2, 1, 3, 4)
    causal = torch.ones(3, 3).tril().bool()
    assert torch.equal(Attention(query, key, 1.0).allowed()[0, 0], causal)
    keys = torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert torch.equal(Attention(query, key, 1.0, keys).allowed()[0, 0], causal & torch.tensor([False, True, True]))
    every = torch.ones(1, 1, 3, 3).bool()
    assert Attention(query, key, 1.0, every).allowed().all()
    added = torch.zeros(1, 1, 3, 3).masked_fill(~causal, torch.finfo(torch.float32).min)
    assert torch.equal(Attention(query, key, 1.0, added).allowed()[0, 0], causal)


def test_watches_nest_and_the_outer_one_sees_on() -> None:
    module = named(tiny.llama(), "sdpa")
    with attending(module) as outer:
        with attending(module) as inner:
            logits(module, words())
        assert inner.keys() == outer.keys()
        assert torch.equal(inner[0].query, outer[0].query)
        assert implementations(module) == {CAPTURE + "sdpa"}
        outer.clear()
        logits(module, words())
        assert len(outer) == tiny.LAYERS
    assert implementations(module) == {"sdpa"}


def test_each_of_two_models_is_seen_by_its_own_watch() -> None:
    one, other = named(tiny.llama(0), "sdpa"), named(tiny.llama(1), "eager")
    with attending(one) as first, attending(other) as second:
        logits(one, words())
        assert first and not second
        first.clear()
        logits(other, words())
        assert second and not first
    assert (implementations(one), implementations(other)) == ({"sdpa"}, {"eager"})


def test_two_models_that_share_a_configuration_are_told_apart() -> None:
    from transformers import LlamaForCausalLM

    one = named(tiny.llama(), "sdpa")
    other = tiny.seeded(lambda: LlamaForCausalLM(one.config), 1)
    assert other.config is one.config
    before = logits(other, words())
    with attending(one) as seen:
        assert torch.equal(logits(other, words()), before)
        assert not seen
    assert implementations(one) == {"sdpa"}


def test_an_error_inside_restores_the_implementation() -> None:
    module = named(tiny.llama(), "sdpa")
    before = logits(module, words())
    with pytest.raises(RuntimeError, match="stop"), attending(module):
        raise RuntimeError("stop")
    assert implementations(module) == {"sdpa"}
    assert torch.equal(logits(module, words()), before)


def test_an_implementation_that_somebody_sets_meanwhile_is_kept() -> None:
    module = named(tiny.llama(), "sdpa")
    with attending(module):
        module.set_attn_implementation("eager")
    assert implementations(module) == {"eager"}


def test_what_another_thread_runs_is_not_seen_and_is_right() -> None:
    module = named(tiny.llama(), "sdpa")
    before = logits(module, words())
    found: list[Tensor] = []
    with attending(module) as seen:
        other = threading.Thread(target=lambda: found.append(logits(module, words())))
        other.start()
        other.join()
        assert not seen
    assert torch.equal(found[0], before)


def test_threads_that_leave_in_the_order_in_which_they_came_restore_the_implementation() -> None:
    module = named(tiny.llama(), "sdpa")
    inside, may_leave = threading.Event(), threading.Event()
    seen_by_other: list[int] = []

    def watch() -> None:
        with attending(module) as seen:
            inside.set()
            may_leave.wait(10)
            logits(module, words())
            seen_by_other.append(len(seen))

    other = threading.Thread(target=watch)
    with attending(module):
        other.start()
        assert inside.wait(10)
    assert implementations(module) == {CAPTURE + "sdpa"}
    may_leave.set()
    other.join()
    assert seen_by_other == [tiny.LAYERS]
    assert implementations(module) == {"sdpa"}


def test_a_copy_made_while_the_model_is_watched_runs_on_unseen_and_can_be_watched() -> None:
    module = named(tiny.llama(), "sdpa")
    before = logits(module, words())
    with attending(module) as seen:
        twin = copy.deepcopy(module)
        assert torch.equal(logits(twin, words()), before)
        assert not seen
    assert torch.equal(logits(twin, words()), before)
    with attending(twin) as seen:
        assert torch.equal(logits(twin, words()), before)
        assert len(seen) == tiny.LAYERS
    assert implementations(twin) == {"sdpa"}


def test_no_model_is_kept_alive_by_what_transformers_knows() -> None:
    module = named(tiny.llama(), "sdpa")
    with attending(module) as seen:
        logits(module, words())
    gone = weakref.ref(module)
    seen.clear()
    del module, seen
    gc.collect()
    assert gone() is None


def test_a_model_that_does_not_say_how_it_attends_is_refused() -> None:
    with (
        pytest.raises(LookupError, match="Plain does not say how its attention is implemented"),
        attending(tiny.plain()),
    ):
        pass
