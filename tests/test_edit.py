"""Edits: what each operator does, and that whatever happens meanwhile, the model is itself again afterwards."""

import copy
import threading
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from kedit.edit.edit import Edit, EditWarning, active, table
from kedit.edit.operators import Operator, Patch, Scale, Zero, amplify
from kedit.internals.hooks import record
from kedit.internals.sites import Site, SiteError
from kedit.internals.wrappers import as_written
from kedit.models.planted import Planted, picture
from kedit.neurons import NeuronId, NeuronSet

SOME = NeuronSet(tuple(NeuronId(layer, i) for layer in range(tiny.LAYERS) for i in range(0, tiny.NEURONS, 2)))
REFERENCE = {layer: torch.linspace(-2.0, 3.0, tiny.NEURONS) for layer in range(tiny.LAYERS)}
OPERATORS: dict[str, Operator] = {
    "zero": Zero(),
    "scale": Scale(0.5),
    "amplify": amplify(2.0),
    "patch to a constant": Patch(1.5),
    "patch to a reference": Patch(REFERENCE, "a ramp"),
}
PROMPTS = tiny.prompt([5, 6, 7], [8, 9, 10])
UNEVEN = tiny.prompt([5, 6, 7, 8], [9])


class StopError(Exception):
    """What a foreign hook raises in the middle of a forward pass."""


@cache
def llava() -> Any:
    return tiny.llava()


@torch.no_grad()
def logits(module: Any) -> Tensor:
    return module(**PROMPTS).logits


def stopping(module: Any, on_call: int) -> Any:
    """Attach a foreign hook that raises in the last block on its `on_call`-th call."""
    calls = iter(range(1, on_call + 1))

    def stop(one: nn.Module, args: object) -> None:
        if next(calls) == on_call:
            raise StopError

    return module.model.language_model.layers[-1].mlp.down_proj.register_forward_pre_hook(stop)


def normal_exit(module: Any, edit: Edit) -> None:
    before = logits(module)
    with edit.applied(module):
        assert not torch.equal(logits(module), before)


def exception_in_forward(module: Any, edit: Edit) -> None:
    handle = stopping(module, 1)
    with pytest.raises(StopError), edit.applied(module):
        logits(module)
    handle.remove()


def exception_in_generate(module: Any, edit: Edit) -> None:
    handle = stopping(module, 3)
    with pytest.raises(StopError), edit.applied(module):
        tiny.generated(module, PROMPTS)
    handle.remove()


def exception_in_the_body(module: Any, edit: Edit, error: type[BaseException] = ValueError) -> None:
    with pytest.raises(error), edit.applied(module):
        logits(module)
        raise error


def failed_entry(module: Any, edit: Edit, one: NeuronId, told: str) -> None:
    bad = Edit(edit.neurons | NeuronSet((one,)), edit.operator, "image")
    with pytest.raises(SiteError, match=told):
        bad.applied(module).__enter__()
    assert tiny.our_hooks(module) == []


def closed_out_of_order(module: Any, edit: Edit) -> None:
    other = Edit(NeuronSet(((0, 1), (1, 3))), Scale(-4.0))
    with other.applied(module):
        alone = logits(module)
    first, second = edit.applied(module), other.applied(module)
    first.__enter__()
    second.__enter__()
    both = logits(module)
    first.__exit__(None, None, None)
    assert torch.equal(logits(module), alone) and not torch.equal(both, alone)
    second.__exit__(None, None, None)


def foreign_hooks(module: Any, edit: Edit) -> None:
    target, fired = module.get_submodule(Site.of(module).module_path(0)), []
    before = target.register_forward_pre_hook(lambda one, args: fired.append(("before", args[0].clone())))
    with edit.applied(module):
        during = target.register_forward_pre_hook(lambda one, args: fired.append(("during", args[0].clone())))
        logits(module)
    assert [name for name, _ in fired] == ["before", "during"]
    assert not torch.equal(fired[0][1], fired[1][1])
    fired.clear()
    logits(module)
    assert [name for name, _ in fired] == ["before", "during"]
    assert torch.equal(fired[0][1], fired[1][1])
    before.remove()
    during.remove()


def deep_copy(module: Any, edit: Edit) -> None:
    before = logits(module)
    with edit.applied(module):
        twin = copy.deepcopy(module)
        assert torch.equal(logits(twin), before)
        assert tiny.our_hooks(twin) == []
        assert not torch.equal(logits(module), before)
    assert tiny.weights_hash(twin) == tiny.weights_hash(module)


def two_threads(module: Any, edit: Edit, this_thread_only: bool) -> None:
    before, entered, said = logits(module), threading.Event(), []

    def speak() -> None:
        entered.wait()
        said.extend(logits(module) for _ in range(3))

    other = threading.Thread(target=speak)
    other.start()
    with edit.applied(module, this_thread_only=this_thread_only):
        entered.set()
        edited = [logits(module) for _ in range(3)]
        other.join()
    expected = before if this_thread_only else edited[0]
    assert len(said) == 3 and all(torch.equal(one, expected) for one in said)
    assert all(torch.equal(one, edited[0]) and not torch.equal(one, before) for one in edited)


def generation(module: Any, edit: Edit, inputs: dict[str, Tensor], **options: Any) -> None:
    before, _ = tiny.generated(module, inputs, n_new=3, **options)
    with edit.applied(module):
        _, edited = tiny.generated(module, inputs, n_new=3, **options)
    after, unedited = tiny.generated(module, inputs, n_new=3, **options)
    assert torch.equal(before, after)
    assert not torch.equal(edited, unedited)


EVENTS: dict[str, Callable[[Any, Edit], None]] = {
    "normal exit": normal_exit,
    "exception in forward": exception_in_forward,
    "exception in generate": exception_in_generate,
    "exception in the body": exception_in_the_body,
    "KeyboardInterrupt": partial(exception_in_the_body, error=KeyboardInterrupt),
    "wrong layer": partial(failed_entry, one=NeuronId(7, 0), told="no layer 7 with neurons; the model has layers 0 to"),
    "wrong index": partial(failed_entry, one=NeuronId(1, 24), told="no neuron 24 in layer 1, which has 24"),
    "closed out of order": closed_out_of_order,
    "foreign hooks": foreign_hooks,
    "deepcopy": deep_copy,
    "two threads": partial(two_threads, this_thread_only=False),
    "one thread of two": partial(two_threads, this_thread_only=True),
    "generate with a cache": partial(generation, inputs=PROMPTS),
    "generate without a cache": partial(generation, inputs=PROMPTS, use_cache=False),
    "generate with a static cache": partial(generation, inputs=PROMPTS, cache_implementation="static"),
    "beam search": partial(generation, inputs=PROMPTS, num_beams=3),
    "left padding": partial(generation, inputs=UNEVEN),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(("operator", "positions"), [*((one, "all") for one in OPERATORS), ("zero", "image")])
def test_after_an_edit_the_model_is_what_it_was(operator: str, event: str, positions: Any) -> None:
    module = llava()
    # In this order, since transformers attaches hooks of its own in the first forward pass.
    before, state = logits(module), tiny.state_of(module)
    EVENTS[event](module, Edit(SOME, OPERATORS[operator], positions))
    assert tiny.our_hooks(module) == []
    assert tiny.state_of(module) == state
    assert torch.equal(logits(module), before)


@pytest.mark.parametrize("name", ["mid", "act", "pre"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_named_neurons_get_the_operators_values_and_the_others_keep_every_bit(operator: str, name: Any) -> None:
    module, rule = llava(), OPERATORS[operator]
    site, indices = Site.of(module, name), torch.arange(0, tiny.NEURONS, 2)
    edit = Edit(NeuronSet(tuple(NeuronId(0, int(i)) for i in indices), name), rule)
    with record(module, site) as old:
        logits(module)
    with edit.applied(module), record(module, site) as new:
        logits(module)
    values = old[0][..., indices]
    expected = {
        "zero": torch.zeros_like(values),
        "scale": values * 0.5,
        "amplify": values * 2,
        "patch to a constant": torch.full_like(values, 1.5),
        "patch to a reference": REFERENCE[0][indices].expand_as(values),
    }
    assert torch.equal(new[0][..., indices], expected[operator])
    assert torch.equal(new[0][..., indices + 1], old[0][..., indices + 1])


def said_with(*operators: Operator) -> Tensor:
    """Return the logits under the operators on the same neurons, the first one applied first."""
    module = llava()
    edits = [Edit(SOME, one).applied(module) for one in operators]
    for one in edits:
        one.__enter__()
    said = logits(module)
    for one in reversed(edits):
        one.__exit__(None, None, None)
    return said


def test_scaling_by_one_changes_no_bit_and_scaling_by_zero_silences() -> None:
    assert torch.equal(said_with(Scale(1.0)), logits(llava()))
    assert torch.equal(said_with(Scale(0.0)), said_with(Zero()))
    assert torch.equal(said_with(Patch(0.0)), said_with(Zero()))


def test_edits_compose_in_the_order_in_which_they_are_applied() -> None:
    assert torch.equal(said_with(Scale(2.0), Scale(3.0)), said_with(Scale(6.0)))
    assert torch.equal(said_with(Scale(4.0), Zero()), said_with(Zero()))
    assert torch.equal(said_with(Patch(1.0), Scale(3.0)), said_with(Patch(3.0)))
    assert torch.equal(said_with(Scale(3.0), Patch(1.0)), said_with(Patch(1.0)))
    assert not torch.equal(said_with(Patch(1.0), Scale(3.0)), said_with(Scale(3.0), Patch(1.0)))


def test_edits_of_disjoint_neurons_add_up_to_one_of_their_union() -> None:
    module = llava()
    left = NeuronSet(tuple(one for one in SOME if one.index < 12))
    with Edit(left, Zero()).applied(module), Edit(SOME - left, Zero()).applied(module):
        assert torch.equal(logits(module), said_with(Zero()))


def test_an_edit_is_a_value_that_can_be_applied_again() -> None:
    module, edit = llava(), Edit(SOME, Zero())
    for _ in range(2):
        with edit.applied(module):
            assert torch.equal(logits(module), said_with(Zero()))


def test_gradients_pass_an_edit_and_no_weight_gets_one() -> None:
    module = tiny.llama()
    ids = torch.tensor([[1, 5, 6]])
    layer_one = NeuronSet(tuple(NeuronId(1, i) for i in range(tiny.NEURONS)))
    gradients = []
    for operator in (Scale(1.0), Scale(3.0), Zero()):
        with record(module, Site.of(module), differentiable=True) as seen, Edit(layer_one, operator).applied(module):
            target = module.model(input_ids=ids).last_hidden_state.sum()
            gradients.append(torch.autograd.grad(target, seen[1])[0])
    assert not torch.equal(gradients[0], torch.zeros_like(gradients[0]))
    assert not torch.allclose(gradients[0], gradients[1])
    assert torch.equal(gradients[2], torch.zeros_like(gradients[2]))
    assert all(one.grad is None and not one.requires_grad for one in module.parameters())


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_model_in_half_precision_stays_in_it(operator: str) -> None:
    module = tiny.llama().to(torch.bfloat16)
    site, ids = Site.of(module), torch.tensor([[1, 5, 6]])
    with torch.no_grad(), Edit(SOME, OPERATORS[operator]).applied(module), record(module, site) as seen:
        assert module(input_ids=ids).logits.dtype == torch.bfloat16
    assert seen[0].dtype == torch.bfloat16


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_plain_module_of_the_users_is_edited_like_its_weights(operator: str) -> None:
    module, inputs = tiny.plain(), torch.ones(2, 3, tiny.WIDTH)
    before = module(inputs)
    with Edit(SOME, OPERATORS[operator]).applied(module):
        assert not torch.equal(module(inputs), before)
    assert torch.equal(module(inputs), before)
    silent_twin = copy.deepcopy(module)
    for layer, indices in SOME.by_layer().items():
        silent_twin.blocks[layer][2].weight[:, list(indices)] = 0.0
    with Edit(SOME, Zero()).applied(module):
        assert torch.equal(module(inputs), silent_twin(inputs))


def test_an_object_that_holds_a_module_is_edited_like_the_module(planted: Planted) -> None:
    images = [picture("both", star=(1, 2), house=(9,)).image]
    with Edit(planted.star, Zero()).applied(planted.model):
        assert active(planted.model) == active(planted.model.module) != []
        assert planted.model.caption(images)[0].text == "picture house"
    assert planted.model.caption(images)[0].text == "picture star house"


def test_an_edit_whose_layers_never_run_warns_at_the_line_that_applied_it() -> None:
    expected = pytest.warns(
        EditWarning, match="edit `mute`: the model never ran the 2 edited layers: nothing was edited"
    )
    with expected as told, Edit(SOME, Zero(), name="mute").applied(llava()):
        pass
    assert Path(told[0].filename).name == "test_edit.py"


def test_an_edit_of_one_thread_that_only_another_one_could_have_run_warns() -> None:
    with (
        pytest.warns(EditWarning, match="nothing was edited"),
        Edit(SOME, Zero()).applied(llava(), this_thread_only=True),
    ):
        other = threading.Thread(target=lambda: logits(llava()))
        other.start()
        other.join()


@torch.no_grad()
@pytest.mark.parametrize("whole", [True, False])
def test_what_was_compiled_before_is_edited_in_calls_of_every_shape_and_compiled_afterwards(whole: bool) -> None:
    module, ids = tiny.llama(), PROMPTS["input_ids"]
    torch.compiler.reset()
    if not whole:
        module.model.layers[1].mlp = torch.compile(module.model.layers[1].mlp, backend="eager", dynamic=False)
    run = torch.compile(module, backend="eager", dynamic=False) if whole else module
    first, plain = Edit(SOME, Zero()), run(input_ids=ids).logits
    for _ in range(2):
        with first.applied(run), Edit(NeuronSet.of({0: [5]}), Scale(2.0)).applied(run):
            found = [run(input_ids=one).logits for one in (ids[:, :3], ids)]
        torch.compiler.reset()
        with first.applied(module), Edit(NeuronSet.of({0: [5]}), Scale(2.0)).applied(module):
            wanted = [module(input_ids=one).logits for one in (ids[:, :3], ids)]
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
        torch.testing.assert_close(run(input_ids=ids).logits, plain)
    torch.compiler.reset()


def test_those_who_end_in_another_order_than_they_began_leave_the_compiler_as_it_was() -> None:
    torch.compiler.reset()
    one, other = as_written(), as_written()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    calls: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        calls.append(1)
        return graph

    double = torch.compile(lambda x: 2 * x, backend=backend)
    double(torch.ones(1))
    assert not calls
    other.__exit__(None, None, None)
    double(torch.ones(1))
    assert calls
    torch.compiler.reset()


def test_a_patch_has_a_value_for_each_neuron_of_a_layer() -> None:
    edit = Edit([(0, 0), (0, 3)], Patch({0: torch.ones(2)}))
    with pytest.raises(ValueError, match=r"of layer 0 has a value for each of its 24 neurons, .* of shape \(2,\)"):
        edit.applied(tiny.llama()).__enter__()


@pytest.mark.parametrize(
    ("positions", "phase"), [("all", "both"), ("image", "both"), ("last", "both"), ("all", "decode")]
)
def test_a_generation_that_is_streamed_from_its_own_thread_is_edited(positions: Any, phase: Any) -> None:
    edit = Edit(SOME, Scale(-3.0), positions, phase)
    plain, _ = tiny.generated(llava(), PROMPTS)
    with edit.applied(llava()):
        expected, _ = tiny.generated(llava(), PROMPTS)
    streamed: list[Tensor] = []
    with edit.applied(llava()):
        thread = threading.Thread(target=lambda: streamed.append(tiny.generated(llava(), PROMPTS)[0]))
        thread.start()
        thread.join()
    assert torch.equal(streamed[0], expected) and not torch.equal(expected, plain)


def test_threads_that_generate_side_by_side_each_have_their_own_positions() -> None:
    edit, rows = Edit(SOME, Scale(-3.0), "last"), [tiny.row_of(UNEVEN, row) for row in range(2)]
    with edit.applied(llava()):
        expected = [tiny.generated(llava(), row)[0] for row in rows]
    turns, said = threading.Barrier(2, timeout=60), dict[int, Tensor]()

    def take_turns(*_: object) -> None:
        turns.wait()

    handle = llava().register_forward_pre_hook(take_turns)
    with edit.applied(llava()):
        threads = [
            threading.Thread(target=lambda n=n: said.update({n: tiny.generated(llava(), rows[n])[0]})) for n in range(2)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    handle.remove()
    assert all(torch.equal(said[n], expected[n]) for n in range(2))


def test_a_thread_that_goes_on_after_the_edit_is_named() -> None:
    ran, go_on = threading.Event(), threading.Event()

    def generate() -> None:
        logits(llava())
        ran.set()
        go_on.wait()

    thread = threading.Thread(target=generate, name="streamer")
    with pytest.warns(EditWarning, match="the thread streamer ran the edited model and goes on after the edit ends"):
        with Edit(SOME, Zero()).applied(llava()):
            thread.start()
            ran.wait()
        go_on.set()
        thread.join()


# --- gradient checkpointing, which computes blocks again in the backward pass


def trainee(reentrant: bool) -> Any:
    module = tiny.llama().requires_grad_(True).train()
    # The method and its argument were renamed in transformers 5.24.
    renamed = getattr(module, "activation_checkpointing_enable", None)
    (renamed or module.gradient_checkpointing_enable)({"use_reentrant": reentrant})
    return module


def backward_in_another_thread(loss: Tensor) -> None:
    """What autograd does on every GPU."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            loss.backward()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def gradients(module: Any) -> list[Tensor]:
    return [one.grad.clone() for one in module.parameters() if one.grad is not None]


TEXT = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 11, 12]])
LIMITED = [("all", "both"), ("last", "both"), ("text", "prefill")]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("positions", "phase"), LIMITED)
def test_gradients_of_a_checkpointed_model_are_the_edited_ones_in_whatever_thread(
    positions: Any, phase: Any, reentrant: bool
) -> None:
    edit, plain = Edit(SOME, Scale(-3.0), positions, phase), tiny.llama().requires_grad_(True)
    with edit.applied(plain):
        plain(input_ids=TEXT, labels=TEXT).loss.backward()
    module = trainee(reentrant)
    with edit.applied(module):
        backward_in_another_thread(module(input_ids=TEXT, labels=TEXT).loss)
    assert len(gradients(plain)) == len(gradients(module)) > 0
    for expected, found in zip(gradients(plain), gradients(module), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_layer_that_is_computed_again_for_an_earlier_call_is_refused_where_positions_count() -> None:
    module = trainee(reentrant=False)
    refused = pytest.raises(ValueError, match=r"computed again .* after the model was called once more")
    with refused, Edit(SOME, Scale(-3.0), "last").applied(module):
        first = module(input_ids=TEXT, labels=TEXT).loss
        (first + module(input_ids=TEXT[:, :3], labels=TEXT[:, :3]).loss).backward()


def test_one_step_after_the_other_is_trained_under_an_edit_by_position() -> None:
    module = trainee(reentrant=False)
    with Edit(SOME, Scale(-3.0), "last").applied(module):
        for n in (5, 3):
            module(input_ids=TEXT[:, :n], labels=TEXT[:, :n]).loss.backward()
            with torch.no_grad():
                module(input_ids=TEXT)
    assert all(bool(one.isfinite().all()) for one in gradients(module))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backward_pass_that_is_left_for_later_warns_if_blocks_are_computed_again(reentrant: bool) -> None:
    module = trainee(reentrant)
    with (
        pytest.warns(EditWarning, match="call `backward` inside the `with` block"),
        Edit(SOME, Scale(-3.0)).applied(module),
    ):
        module(input_ids=TEXT, labels=TEXT)
    with warnings.catch_warnings(), Edit(SOME, Scale(-3.0)).applied(module):
        warnings.simplefilter("error", EditWarning)
        module(input_ids=TEXT, labels=TEXT).loss.backward()
    with warnings.catch_warnings(), torch.no_grad(), Edit(SOME, Scale(-3.0)).applied(module):
        warnings.simplefilter("error", EditWarning)
        module(input_ids=TEXT)


def test_an_edit_of_one_thread_is_refused_where_blocks_are_computed_again() -> None:
    refused = pytest.raises(ValueError, match="gradient checkpointing computes blocks again in other threads")
    with refused, Edit(SOME, Zero()).applied(trainee(reentrant=False), this_thread_only=True):
        pass


@pytest.mark.parametrize("positions", ["all", "image", "last"])
def test_an_edit_of_no_neurons_does_nothing_and_warns_of_nothing(positions: Any) -> None:
    before = logits(llava())
    with warnings.catch_warnings(), Edit(NeuronSet(), Zero(), positions).applied(llava()):
        warnings.simplefilter("error")
        assert tiny.our_hooks(llava()) == []
        assert torch.equal(logits(llava()), before)


def test_active_edits_are_listed_in_order_and_only_inside_with() -> None:
    module = llava()
    first, second = Edit(SOME, Scale(2.0), name="first"), Edit(SOME, Zero(), "image", name="second")
    with first.applied(module):
        with second.applied(module):
            assert active(module) == [first, second]
            logits(module)
        assert active(module) == [first]
        logits(module)
    assert active(module) == []


def test_the_table_of_edits_has_a_line_for_each() -> None:
    edits = [
        Edit(NeuronSet(((0, 1), (3, 2), (3, 4))), Zero(), "image", "prefill", "mute"),
        Edit(NeuronSet(), Patch(REFERENCE, "counterfactual mean"), name="nothing"),
    ]
    assert table(edits).splitlines() == [
        "name     operator                    neurons  layers  positions  phase",
        "mute     Zero()                      3        0,3     image      prefill",
        "nothing  Patch(counterfactual mean)  0        -       all        both",
    ]


def test_operators_and_edits_show_what_they_do() -> None:
    assert repr(Scale(0.5)) == "Scale(factor=0.5)"
    assert repr(amplify()) == "Scale(factor=2.0)"
    assert repr(Patch(1.0)) == "Patch(1.0)"
    shown = repr(Edit(NeuronSet(((0, 1),)), Zero(), "image", name="mute"))
    assert shown == (
        "Edit(neurons=NeuronSet(1 neurons at `mid`, by layer {0: 1}), operator=Zero(), positions='image', "
        "phase='both', name='mute')"
    )


def test_patches_are_equal_when_their_references_are() -> None:
    same = {layer: values.clone() for layer, values in REFERENCE.items()}
    assert Patch(REFERENCE) == Patch(same) and Patch(1.0) == Patch(1.0)
    assert Patch(REFERENCE) != Patch({0: REFERENCE[0]})
    assert Patch(REFERENCE) != Patch({0: REFERENCE[0], 1: REFERENCE[1] + 1})
    assert Patch(1.0) != Patch(2.0) and Patch(1.0) != Patch(REFERENCE) and Patch(1.0) != Scale(1.0)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_factors_and_constants_that_are_not_finite_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=f"`factor` is a finite number, got {factor}"):
        Scale(factor)
    with pytest.raises(ValueError, match=f"the reference is a finite number, got {factor}"):
        Patch(factor)
    with pytest.raises(ValueError, match="the reference of layer 3 holds values that are not finite"):
        Patch({0: torch.ones(2), 3: torch.tensor([1.0, factor])})


@pytest.mark.parametrize("factor", [1.0, 0.5, -2.0, float("nan")])
def test_amplifying_by_one_or_less_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=rf"`amplify` needs a factor > 1, got {factor}"):
        amplify(factor)


def test_a_patch_without_the_layer_fails_when_it_runs_and_leaves_nothing() -> None:
    module = llava()
    refused = pytest.raises(LookupError, match=r"the reference has no layer 1; it has \[0\]")
    with refused, Edit(SOME, Patch({0: REFERENCE[0]})).applied(module):
        logits(module)
    assert tiny.our_hooks(module) == []


@pytest.mark.parametrize(("key", "value"), [("positions", "images"), ("phase", "generate")])
def test_an_unknown_position_or_phase_is_named(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"`{key}` is one of .*, got '{value}'"):
        Edit(SOME, Zero(), **{key: value})  # type: ignore[arg-type]
