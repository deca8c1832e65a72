"""The same edit, neurons of a feed-forward layer set to zero, made by kedit and in other ways."""

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from experiments.costs.workload import Workload
from kedit.doctor.state import hooks_on
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.internals.sites import Site
from kedit.neurons import NeuronSet

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Way:
    """One way to edit: what it does for a forward pass and for a generation, attached and removed each time."""

    forward: Call
    generate: Call
    note: str = ""


@dataclass(frozen=True, eq=False)
class Task:
    """A model, an edit and the work to do with both."""

    module: nn.Module
    site: Site
    neurons: NeuronSet
    work: Workload
    columns: Mapping[str, Tensor] = field(init=False)
    """For each edited output projection, the indices of the neurons to zero."""

    def __post_init__(self) -> None:
        device = next(self.module.parameters()).device
        columns = {
            self.site.module_path(layer): torch.tensor(indices, device=device)
            for layer, indices in self.neurons.by_layer().items()
        }
        object.__setattr__(self, "columns", columns)


class UnavailableError(Exception):
    """A way cannot be measured; the message says why."""


def unedited(task: Task) -> Way:
    """Return the model as it is."""
    return Way(lambda: task.work.forward(task.module), lambda: task.work.generate(task.module))


def raw_hooks(task: Task) -> Way:
    """Return one plain forward pre-hook for each edited layer."""

    def hooked(call: Callable[[nn.Module], Tensor]) -> Call:
        def run() -> Tensor:
            with ExitStack() as attached:
                for path, columns in task.columns.items():
                    target = task.module.get_submodule(path)
                    hook = target.register_forward_pre_hook(
                        lambda _, inputs, columns=columns: (zeroed(inputs[0], columns),)
                    )
                    attached.callback(hook.remove)
                return call(task.module)

        return run

    return Way(hooked(task.work.forward), hooked(task.work.generate))


def kedit_edit(task: Task) -> Way:
    """Return kedit's own."""
    edit = Edit(task.neurons, Zero())

    def edited(call: Callable[[nn.Module], Tensor]) -> Call:
        def run() -> Tensor:
            with edit.applied(task.module):
                return call(task.module)

        return run

    return Way(edited(task.work.forward), edited(task.work.generate))


def nnsight_edit(task: Task) -> Way:
    """Return the edit as an nnsight trace, on a copy of the model: wrapping replaces its modules' forwards."""
    _need("nnsight")
    from nnsight import NNsight

    model, work = NNsight(copy.deepcopy(task.module)), task.work
    places = [(model.get(path), columns) for path, columns in task.columns.items()]

    def forward() -> Tensor:
        with torch.no_grad(), model.trace(**work.inputs):
            for place, columns in places:
                place.input = zeroed(place.input, columns)
            logits = model.output.logits.save()
        return logits  # noqa: RET504 (nnsight runs the block elsewhere: it can assign, not return)

    def generate() -> Tensor:
        with torch.no_grad(), model.trace(fn="generate", **work.inputs, **work.writing) as tracer:
            for _ in tracer.iter[: work.n_new]:
                for place, columns in places:
                    place.input = zeroed(place.input, columns)
            written = tracer.result.save()
        return written  # noqa: RET504

    return Way(forward, generate)


def pyvene_edit(task: Task) -> Way:
    """Return the edit as pyvene interventions, on a copy of the model: it sets every `requires_grad` to False."""
    _need("pyvene")
    import pyvene

    class ZeroNeurons(pyvene.ConstantSourceIntervention):  # type: ignore[misc]
        def __init__(self, columns: Tensor) -> None:
            super().__init__(keep_last_dim=True)
            self.columns = columns

        def forward(self, base: Tensor, source: object = None, subspaces: object = None) -> Tensor:
            return zeroed(base, self.columns)

    edits = [
        {"component": f"{path}.input", "intervention": ZeroNeurons(columns)} for path, columns in task.columns.items()
    ]
    model, work = pyvene.IntervenableModel(edits, model=copy.deepcopy(task.module)), task.work
    # It deletes every hook of the model before each call, and with them those by which transformers 5
    # collects the vision tower's hidden states: the second call on a LLaVA then fails.
    model._remove_forward_hooks = lambda: None

    @torch.no_grad()
    def forward() -> Tensor:
        logits: Tensor = model(work.inputs)[1].logits
        return logits

    @torch.no_grad()
    def generate() -> Tensor:
        written: Tensor = model.generate(work.inputs, intervene_on_prompt=True, **work.writing)[1]
        return written

    return Way(forward, generate, "with its removal of all other hooks switched off, which breaks LLaVA")


RIVALS: dict[str, Callable[[Task], Way]] = {"nnsight": nnsight_edit, "pyvene": pyvene_edit}
"""Who else can make the edit, by the name of the package."""


def zeroed(activation: Tensor, columns: Tensor) -> Tensor:
    """Return `activation` `[..., neuron]` with `columns` at zero, not in place."""
    changed = activation.clone()
    changed[..., columns] = 0
    return changed


def checked(task: Task, build: Callable[[Task], Way], raw: Way) -> Way:
    """Return the way once its logits and tokens are bit for bit those of the raw hooks: correct before fast.

    Raises:
        UnavailableError: It cannot be imported, it fails, or it does something else.
    """
    try:
        way = build(task)
        pairs = {"logits": (way.forward(), raw.forward()), "tokens": (way.generate(), raw.generate())}
    except UnavailableError:
        raise
    # A rival's error may be anything, and it must cost one row of the table, not the table.
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        raise UnavailableError(f"fails: {type(error).__name__}: {first[:120]}") from error
    for what, (own, theirs) in pairs.items():
        if own.shape != theirs.shape:
            raise UnavailableError(f"its {what} have shape {tuple(own.shape)}, the raw hook's {tuple(theirs.shape)}")
        if not torch.equal(own, theirs):
            apart = (own.double() - theirs.double()).abs().max().item()
            raise UnavailableError(f"its {what} differ from the raw hook's by up to {apart:.3g}")
    return way


def traces_left(task: Task) -> list[str]:
    """Return the modules whose hooks or forward an edit has changed once it is over; empty if none."""
    # The first forward pass of a transformers model leaves hooks of its own on the vision tower.
    task.work.forward(task.module)
    before = _fingerprint(task.module)
    with Edit(task.neurons, Zero()).applied(task.module):
        task.work.forward(task.module)
    after = _fingerprint(task.module)
    return [path for path in after if after[path] != before[path]]


def _fingerprint(module: nn.Module) -> dict[str, object]:
    return {
        path: ([id(hook) for hook in hooks_on(one)], id(one.__dict__.get("forward")))
        for path, one in module.named_modules()
    }


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise UnavailableError(f"`{package}` is not installed; the extra `bench` brings it: pip install 'kedit[bench]'")
