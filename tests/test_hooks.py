"""Recording and intervening: what is seen, in what order, by which thread, and that nothing stays behind."""

import copy
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import tiny
import torch
from torch import Tensor, nn

from kedit.internals.hooks import before, intervene, labels, record
from kedit.internals.sites import Site, SiteError

SITES = ["mid", "act", "pre"]
IDS = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 10]])


def raise_boom(*_: object) -> None:
    raise RuntimeError("boom")


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return tiny.llama()


@pytest.fixture(autouse=True)
def nothing_changed(module: nn.Module) -> Iterator[None]:
    # In this order, since transformers attaches hooks of its own in the first forward pass.
    before, state = logits(module), tiny.state_of(module)
    yield
    assert tiny.state_of(module) == state
    assert torch.equal(logits(module), before)


@torch.no_grad()
def logits(module: nn.Module) -> Tensor:
    return module(input_ids=IDS).logits


def double(activation: Tensor) -> Tensor:
    return activation * 2


@pytest.mark.parametrize("name", SITES)
def test_recording_sees_what_a_plain_hook_sees_and_changes_nothing(module: nn.Module, name) -> None:
    site, seen = Site.of(module, name), {}
    handles = []
    for layer in site.blocks:
        target = module.get_submodule(site.module_path(layer))
        keep = partial(lambda layer, one, args, out: seen.update({layer: out if name == "act" else args[0]}), layer)
        handles.append(target.register_forward_hook(keep))
    with record(module, site) as recorded:
        said = logits(module)
    for handle in handles:
        handle.remove()
    assert list(recorded) == list(seen) == [0, 1]
    assert all(torch.equal(recorded[layer], seen[layer]) for layer in seen)
    assert torch.equal(said, logits(module))


def test_recording_keeps_the_last_forward_pass_after_the_block_ends(module: nn.Module) -> None:
    with record(module, Site.of(module)) as recorded:
        module(input_ids=IDS[:, :2])
        assert recorded[0].shape == (2, 2, tiny.NEURONS)
        logits(module)
    module(input_ids=IDS[:1])
    assert recorded[0].shape == (2, 4, tiny.NEURONS)


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize(("build", "step", "rel"), [(tiny.gpt2, 1e-5, 1e-5), (tiny.llama, 1e-3, 0.02)])
def test_gradients_of_a_frozen_model_agree_with_finite_differences_in_every_layer(build, step, rel, name) -> None:
    # Llama's norms compute in 32 bits whatever the weights, hence its longer step.
    module = build().double()
    site = Site.of(module, name)

    def target() -> Tensor:
        return module(input_ids=IDS).logits[:, -1, 3].sum()

    with record(module, site, differentiable=True) as recorded:
        gradients = torch.autograd.grad(target(), list(recorded.values()))
    generator = torch.Generator().manual_seed(0)
    for layer, gradient in enumerate(gradients):
        direction = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        up, down = (nudged(module, site, layer, way * step * direction, target) for way in (1, -1))
        assert float((gradient * direction).sum()) == pytest.approx((up - down) / (2 * step), rel=rel)
    assert all(one.grad is None and not one.requires_grad for one in module.parameters())


@torch.no_grad()
def nudged(module: nn.Module, site: Site, layer: int, nudge: Tensor, target: Callable[[], Tensor]) -> float:
    with intervene(module, site, {layer: nudge.add}):
        return float(target())


def test_a_differentiable_recording_has_the_same_values_and_logits(module: nn.Module) -> None:
    site = Site.of(module)
    with record(module, site) as plain:
        said = logits(module)
    with record(module, site, differentiable=True) as recorded:
        again = module(input_ids=IDS).logits
    assert torch.equal(said, again.detach()) and again.requires_grad
    assert all(torch.equal(plain[layer], recorded[layer].detach()) for layer in plain)
    assert not any(one.requires_grad for one in plain.values())


def test_gradients_of_a_trainable_model_reach_the_neurons_without_filling_grad() -> None:
    module = tiny.llama().requires_grad_(True)
    with record(module, Site.of(module), differentiable=True) as recorded:
        target = module(input_ids=IDS).logits[:, -1, 3].sum()
        trainable = torch.autograd.grad(target, list(recorded.values()))
    module.requires_grad_(False)
    with record(module, Site.of(module), differentiable=True) as recorded:
        target = module(input_ids=IDS).logits[:, -1, 3].sum()
        frozen = torch.autograd.grad(target, list(recorded.values()))
    assert all(one.grad is None for one in module.parameters())
    for a, b in zip(trainable, frozen, strict=True):
        torch.testing.assert_close(a, b)


def test_a_rewrite_that_returns_none_leaves_the_activations_alone_and_is_still_called(module: nn.Module) -> None:
    before = logits(module)
    with intervene(module, Site.of(module), {0: lambda activation: None}) as hooks:
        assert torch.equal(logits(module), before)
    assert {layer: hook.n_calls for layer, hook in hooks.items()} == {0: 1}


@pytest.mark.parametrize("name", SITES)
def test_a_rewrite_acts_on_its_layer_and_is_seen_by_what_is_attached_later(module: nn.Module, name) -> None:
    site = Site.of(module, name)
    with record(module, site) as unedited, intervene(module, site, {0: double}), record(module, site) as edited:
        logits(module)
    assert torch.equal(edited[0], unedited[0] * 2)
    assert torch.equal(edited[1], unedited[1])


def test_an_input_is_never_written_in_place(module: nn.Module) -> None:
    site = Site.of(module)
    inputs: list[tuple[Tensor, Tensor]] = []
    target = module.get_submodule(site.module_path(0))
    handle = target.register_forward_pre_hook(lambda one, args: inputs.append((args[0], args[0].clone())))
    with intervene(module, site, {0: double}):
        logits(module)
    handle.remove()
    assert all(torch.equal(given, kept) for given, kept in inputs)


@pytest.mark.parametrize("layers", [(9,), (0, 1, 9), (0, -1)])
def test_a_missing_layer_leaves_no_hook_on_the_others(module: nn.Module, layers: tuple[int, ...]) -> None:
    site = Site.of(module)
    failing = intervene(module, site, dict.fromkeys(layers, double))
    with pytest.raises(SiteError, match=f"no layer {layers[-1]} with neurons"):
        failing.__enter__()
    assert tiny.our_hooks(module) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_way_out_of_the_body_removes_the_hooks(module: nn.Module, error: type[BaseException]) -> None:
    site = Site.of(module)
    with pytest.raises(error), intervene(module, site, {0: double}), record(module, site):
        assert len(tiny.our_hooks(module)) == 3
        raise error
    assert tiny.our_hooks(module) == []


def test_a_rewrite_that_fails_during_a_forward_pass_removes_the_hooks(module: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="boom"), intervene(module, Site.of(module), {0: double, 1: raise_boom}):
        logits(module)
    assert tiny.our_hooks(module) == []


def test_foreign_hooks_before_and_during_stay_and_fire_in_order_of_registration(module: nn.Module) -> None:
    site, order = Site.of(module), []
    target = module.get_submodule(site.module_path(0))

    def note(name: str, one: nn.Module, args: tuple[Tensor]) -> None:
        order.append((name, float(args[0].abs().sum())))

    first = target.register_forward_pre_hook(partial(note, "first"))
    with intervene(module, site, {0: double}):
        second = target.register_forward_pre_hook(partial(note, "second"))
        logits(module)
    (_, raw), (_, doubled) = order
    assert [name for name, _ in order] == ["first", "second"]
    assert doubled == pytest.approx(2 * raw)
    order.clear()
    logits(module)
    assert order == [("first", raw), ("second", raw)]
    first.remove()
    second.remove()


def test_a_foreign_hook_that_rewrites_is_kept_on_both_sides_of_ours(module: nn.Module) -> None:
    site = Site.of(module)
    target = module.get_submodule(site.module_path(0))
    with record(module, site) as plain:
        logits(module)
    handle = target.register_forward_pre_hook(lambda one, args: (args[0] + 1,))
    with intervene(module, site, {0: double}), record(module, site) as after:
        logits(module)
    handle.remove()
    torch.testing.assert_close(after[0], 2 * (plain[0] + 1))


def test_interventions_closed_out_of_order_leave_the_other_one_acting(module: nn.Module) -> None:
    site = Site.of(module)
    with intervene(module, site, {0: torch.zeros_like}):
        alone = logits(module)
    first = intervene(module, site, {0: double})
    second = intervene(module, site, {0: torch.zeros_like})
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(logits(module), alone)
    second.__exit__(None, None, None)


@pytest.mark.parametrize("name", SITES)
def test_a_deep_copy_made_meanwhile_is_not_affected_and_forgets_the_hooks(module: nn.Module, name) -> None:
    unedited = logits(module)
    with intervene(module, Site.of(module, name), {0: double, 1: double}):
        twin = copy.deepcopy(module)
        assert torch.equal(logits(twin), unedited)
        assert not torch.equal(logits(module), unedited)
        assert tiny.hooks_of(twin) == []
    assert torch.equal(logits(twin), unedited)


def test_a_deep_copy_keeps_foreign_hooks_and_can_be_intervened_in(module: nn.Module) -> None:
    calls: list[int] = []
    handle = module.register_forward_pre_hook(lambda one, args: calls.append(1))
    with intervene(module, Site.of(module), {0: double}), before(module, "model", lambda args, kwargs: None):
        edited = logits(module)
        twin = copy.deepcopy(module)
        with intervene(twin, Site.of(twin), {0: double}):
            assert torch.equal(logits(twin), edited)
    handle.remove()
    assert len(calls) == 2
    assert tiny.our_hooks(twin) == []
    assert len(tiny.hooks_of(twin)) == 1


@pytest.mark.parametrize("this_thread_only", [True, False])
def test_hooks_act_in_every_thread_unless_this_one_alone_is_meant(module: nn.Module, this_thread_only: bool) -> None:
    unedited, said, where = logits(module), [], {"this_thread_only": this_thread_only}
    calls: list[int] = []
    site = Site.of(module)
    with (
        intervene(module, site, {0: double, 1: double}, **where) as hooks,
        record(module, site) as recorded,
        before(module, "model", lambda args, kwargs: calls.append(1), **where),
    ):
        other = threading.Thread(target=lambda: said.extend(logits(module) for _ in range(3)))
        other.start()
        other.join()
        n_seen = 0 if this_thread_only else 3
        assert recorded == {}, "a recording is of the thread that asked for it"
        assert len(calls) == n_seen and {hook.n_calls for hook in hooks.values()} == {n_seen}
        edited = logits(module)
    assert not torch.equal(edited, unedited)
    assert len(said) == 3 and all(torch.equal(one, unedited if this_thread_only else edited) for one in said)


def test_labels_name_who_intervenes_once_each_and_in_the_order_of_acting(module: nn.Module) -> None:
    site = Site.of(module)
    with (
        intervene(module, site, {1: double}, label="late"),
        intervene(module, site, {0: double, 1: double}, label="early"),
        intervene(module, site, {0: double}),
    ):
        assert labels(module) == ["early", "late"]
    assert labels(module) == []


def test_seeing_a_call_beforehand_gives_its_arguments_and_does_not_change_them(module: nn.Module) -> None:
    seen: list[Tensor] = []
    unedited = logits(module)
    with before(module, "model.embed_tokens", lambda args, kwargs: seen.append(args[0])) as hook:
        assert torch.equal(logits(module), unedited)
    assert hook.n_calls == 1 and torch.equal(seen[0], IDS)
