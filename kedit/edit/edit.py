"""An edit: which neurons, what happens to them, and where."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kedit.edit.missed import watch
from kedit.edit.operators import Operator, Patch, check_operator
from kedit.internals.hooks import Some, intervene, labels
from kedit.internals.positions import Phase, Positions, Span, check_span, following, image_token
from kedit.internals.sites import Site, SiteError
from kedit.internals.wrappers import SPREADING, as_written, bare, checkpoints
from kedit.neurons import NeuronSet, Scope


class EditWarning(UserWarning):
    """An edit did not act on all that ran: on a layer that no hook reaches, or on what went on after its end."""


class Change(Protocol):
    """What changes a model for as long as a `with` lasts: an `Edit`, or other weights."""

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        ...

    @property
    def teacher_forceable(self) -> bool:
        """Whether an answer that is read behind its prompt is changed as it is while it is written."""
        ...

    def applied(self, model: Any) -> AbstractContextManager[None]:
        """Change `model` until the end of the `with` block."""
        ...


@dataclass(frozen=True, eq=False)
class Edit:
    """Neurons and an operator; it acts only inside `with edit.applied(model)`.

    Edits nest, and each acts on what the earlier ones left. No weight is written. Pairs of layer and index, or indices
    by layer, become a `NeuronSet`.

    Example:
        with Edit(neurons, Zero()).applied(model):
            captions = model.caption(images)
    """

    neurons: NeuronSet
    operator: Operator
    positions: Positions = "all"
    phase: Phase = "both"
    name: str = "edit"

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", NeuronSet.of(self.neurons))
        check_operator(self.operator)
        check_span(self.positions, self.phase)
        if isinstance(self.operator, Patch) and self.operator.site not in (None, self.neurons.site):
            raise ValueError(
                f"the reference was measured at `{self.operator.site}`, and the neurons are at `{self.neurons.site}`; "
                "give both the same `site`"
            )
        if self.neurons.scope != "language":
            self._check_scope(self.neurons.scope)

    @property
    def acts(self) -> bool:
        """Whether there is a neuron to edit, so that the model may say something else."""
        return len(self.neurons) > 0

    @property
    def everywhere(self) -> bool:
        """Whether the edit acts at every position, so that positions need not be told apart."""
        return self.positions == "all" and self.phase == "both"

    @property
    def teacher_forceable(self) -> bool:
        """Whether an answer that is read behind its prompt is edited as it is while it is written.

        It is not where the edit acts from the prompt's end on or in one phase: read in one pass, the answer is prompt.
        """
        return self.positions != "last" and self.phase == "both"

    def with_random(self, widths: Mapping[int, int], seeds: Sequence[int]) -> "list[Edit]":
        """Return this edit, and for each seed that of as many random neurons of each layer."""
        random = (replace(self, neurons=self.neurons.layer_matched(widths, one), name=f"random {one}") for one in seeds)
        return [self, *random]

    @contextmanager
    def applied(self, model: Any, *, this_thread_only: bool = False) -> Iterator[None]:
        """Edit `model` until the end of the `with` block, in whatever thread it runs.

        What is compiled runs as it is written meanwhile. Whatever is to be edited has to end before the block does: a
        thread that generates has to be joined, and `backward` called. An EditWarning says at the end where that, or an
        edited layer, was missed.

        Args:
            model: Any `nn.Module` with feed-forward blocks, or an object that holds one as `.module`.
            this_thread_only: Leave calls of the model in other threads alone, for a server that edits one model
                differently in several threads.

        Raises:
            SiteError: A neuron does not exist in the model; nothing is changed.
            ValueError: A patch has not a value for each neuron of a layer; or `this_thread_only` with gradient
                checkpointing, whose backward pass may run in another thread.
        """
        module = module_of(model)
        site = Site.of(module, self.neurons.site, self.neurons.scope)
        layers, where = self.indices(site), {"this_thread_only": this_thread_only}
        self._check_reference(site)
        if this_thread_only and checkpoints(module):
            raise ValueError("gradient checkpointing computes blocks again in other threads: edit in all of them")
        with ExitStack() as stack:
            stack.enter_context(as_written())  # compiled code passes hooks by that came later
            columns = None
            if layers and not self.everywhere:
                columns = stack.enter_context(following(module, wanted_token(module, self.positions), **where))
            spans = {layer: columns.of(site.block(layer).output) for layer in layers} if columns else {}
            rewrites = {layer: Some(at, self._rewrite(layer, at, spans.get(layer))) for layer, at in layers.items()}
            hooks = stack.enter_context(intervene(module, site, rewrites, label=self, **where))
            missed = stack.enter_context(watch(module, hooks))
            yield
            for what in missed():
                warnings.warn(f"edit `{self.name}`: {what}", EditWarning, stacklevel=3)

    def indices(self, site: Site) -> dict[int, Tensor]:
        """Return the neurons to edit, by layer; a SiteError names one that `site` does not have."""
        layers = self.neurons.by_layer()
        for layer, indices in layers.items():
            if indices[-1] >= site.block(layer).width:
                raise SiteError(f"no neuron {indices[-1]} in layer {layer}, which has {site.block(layer).width}")
        return {layer: torch.tensor(indices) for layer, indices in layers.items()}

    def _check_reference(self, site: Site) -> None:
        if not isinstance(self.operator, Patch) or not isinstance(self.operator.reference, Mapping):
            return
        for layer, values in self.operator.reference.items():
            if layer in site.blocks and values.shape != (site.block(layer).width,):
                raise ValueError(
                    f"the reference of layer {layer} has a value for each of its {site.block(layer).width} neurons, "
                    f"edited or not; got a tensor of shape {tuple(values.shape)}"
                )

    def _check_scope(self, scope: Scope) -> None:
        if not self.everywhere:
            raise ValueError(
                f"`positions` and `phase` mean the language model's sequence, and the neurons are of scope `{scope}`, "
                f"which has none: edit them at `positions=all`, `phase=both` (got {self.positions}, {self.phase})"
            )
        if isinstance(self.operator, Patch) and isinstance(self.operator.reference, Mapping):
            raise ValueError(
                f"a reference is measured in the language model, and the neurons are of scope `{scope}`: "
                "patch them to a constant"
            )

    def _rewrite(self, layer: int, indices: Tensor, span: Span | None) -> Callable[[Tensor], Tensor]:
        def rewrite(old: Tensor) -> Tensor:
            new = self.operator(old, layer, indices.to(old.device)).to(old.dtype)
            return new if span is None else torch.where(_mask(span, self, old, layer)[..., None], new, old)

        return rewrite


def module_of(model: Any) -> nn.Module:
    """Return the module to edit: `model` itself, or what it holds as `.module`."""
    module = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    if not isinstance(module, nn.Module):
        raise TypeError(f"`model` is a module, or holds one as `.module`; got {type(model).__name__} {model!r:.60}")
    # Hooks of a module act in its replicas on other devices, too.
    return bare(module.module if type(module).__name__ in SPREADING else module)  # type: ignore[arg-type]


def active(model: Any) -> list[Edit]:
    """Return the edits that act on `model` right now, in order."""
    return [label for label in labels(module_of(model)) if isinstance(label, Edit)]


def table(edits: Sequence[Edit]) -> str:
    """Return a plain-text table of `edits`, one line each."""
    rows = [("name", "operator", "neurons", "layers", "positions", "phase")]
    for one in edits:
        layers = ",".join(map(str, one.neurons.by_layer())) or "-"
        rows.append((one.name, repr(one.operator), str(len(one.neurons)), layers, one.positions, one.phase))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def wanted_token(module: nn.Module, positions: Positions) -> int | None:
    """Return the image token, if `positions` ask for it; a LookupError says that they cannot be told."""
    if positions not in ("image", "text", "image_end"):
        return None
    found = image_token(module)
    if found is None and positions != "text":
        raise LookupError(
            f"`positions={positions}` needs image tokens, and the configuration of {type(module).__name__} "
            "names no `image_token_id`, or its layers look at the picture from outside the sequence; use `all`"
        )
    return found


def _mask(span: Span, edit: Edit, values: Tensor, layer: int) -> Tensor:
    """Return where the edit acts, in the leading shape of `values` (some models flatten it)."""
    leading = values.shape[:-1]
    return span.where(edit.positions, edit.phase, leading.numel(), layer).to(values.device).reshape(leading)
