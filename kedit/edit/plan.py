"""An edit before its neurons are known: what a configuration can say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kedit.edit.edit import Edit
from kedit.edit.operators import Operator, Patch, Zero
from kedit.edit.reference import Reference
from kedit.internals.positions import Phase, Positions, check_span
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet, Scope, SiteName
from kedit.samples import Pair, Progress, silent


class EditPlan(Protocol):
    """Makes an edit of the neurons that were located."""

    @property
    def positions(self) -> Positions:
        """Where the edit acts."""
        ...

    @property
    def phase(self) -> Phase:
        """When the edit acts."""
        ...

    def operator_for(self, model: MLLM, pairs: Sequence[Pair], *, progress: Progress = silent) -> Operator:
        """Return the operator; it may need runs of the model on the pictures used for locating."""
        ...

    def edit(self, neurons: NeuronSet, operator: Operator, name: str) -> Edit:
        """Return the edit of `neurons`."""
        ...


@dataclass(frozen=True)
class Plan:
    """An operator that is known beforehand, and where it acts."""

    operator: Operator
    positions: Positions = "all"
    phase: Phase = "both"

    def __post_init__(self) -> None:
        check_span(self.positions, self.phase)

    def operator_for(self, model: MLLM, pairs: Sequence[Pair], *, progress: Progress = silent) -> Operator:
        """Return the operator."""
        return self.operator

    def edit(self, neurons: NeuronSet, operator: Operator, name: str) -> Edit:
        """Return the edit of `neurons`."""
        return Edit(neurons, operator, self.positions, self.phase, name)


@dataclass(frozen=True)
class PatchPlan:
    """A patch whose reference is measured on the model, and where it acts."""

    reference: Reference
    positions: Positions = "all"
    phase: Phase = "both"

    def __post_init__(self) -> None:
        check_span(self.positions, self.phase)

    def operator_for(self, model: MLLM, pairs: Sequence[Pair], *, progress: Progress = silent) -> Operator:
        """Return the patch to the reference activations."""
        return self.reference(model, pairs, progress=progress)

    def edit(self, neurons: NeuronSet, operator: Operator, name: str) -> Edit:
        """Return the edit of `neurons`."""
        return Edit(neurons, operator, self.positions, self.phase, name)


@dataclass(frozen=True)
class NoEdit:
    """Nothing is edited: what is measured is the adapter that the model is given."""


def check_plan(plan: EditPlan, site: SiteName, scope: Scope) -> None:
    """Raise a ValueError unless `plan` can edit neurons of `scope`: what a model would only show later."""
    measured = isinstance(plan, PatchPlan)
    plan.edit(NeuronSet((), site, scope), Patch({}) if measured else Zero(), "check")
