"""An edit as arithmetic on the columns of weights, which other programs can hold; and why some edits are none."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kedit.edit.edit import Edit
from kedit.edit.operators import Operator, Patch, Scale, Zero
from kedit.internals.sites import Site
from kedit.internals.weights import features_of, is_conv1d, unwrapped

Form = Literal["merged", "ia3", "lora", "delta"]
"""What an edit can be exported as."""
FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True, eq=False)
class Columns:
    """What an edit does to one output projection: some of its inputs are multiplied, or set to constants."""

    path: str
    """The path of the projection in the model."""
    width: int
    """How many inputs it has."""
    indices: Tensor
    """Which of them are edited: `[k]`."""
    factors: Tensor
    """What each is multiplied by, 32-bit: `[k]`; zero where it is set to a constant."""
    constants: Tensor | None = None
    """What each is set to, 32-bit: `[k]`; None where nothing is added."""
    transposed: bool = False
    """Whether the weight is stored `[in, out]`, as GPT-2's."""

    @property
    def name(self) -> str:
        """The name of the weight among the model's parameters."""
        return f"{self.path}.weight"

    def of(self, weight: Tensor) -> Tensor:
        """Return the edited columns of a weight as it is stored: a copy, `[d_model, k]`."""
        matrix = weight.T if self.transposed else weight
        return matrix[:, self.indices.to(weight.device)].clone()

    def edited(self, weight: Tensor) -> Tensor:
        """Return the same columns as the edit has them, in the weight's own type of number."""
        return (self.of(weight) * self.factors.to(weight.device)).to(weight.dtype)

    def write(self, weight: Tensor, columns: Tensor) -> None:
        """Put `columns` in the place of the edited ones of a weight as it is stored."""
        write_columns(weight, self.indices, columns, transposed=self.transposed)


def write_columns(weight: Tensor, indices: Tensor, columns: Tensor, *, transposed: bool) -> None:
    """Put `columns`, `[d_model, k]`, in the place of the `indices`, `[k]`, of a weight as it is stored."""
    matrix = weight.T if transposed else weight
    matrix[:, indices.to(weight.device)] = columns.to(weight)


def columns_of(edit: Edit, module: nn.Module) -> list[Columns]:
    """Return what an edit does to each output projection, by layer.

    Raises:
        ValueError: It is more than arithmetic on columns, or a projection is no plain linear map.
        SiteError: A neuron does not exist in the model.
    """
    check_edit(edit)
    site = Site.of(module, edit.neurons.site, edit.neurons.scope)
    return [_columns(edit.operator, site, layer, indices, module) for layer, indices in edit.indices(site).items()]


def check_edit(edit: Edit, form: Form | None = None) -> None:
    """Raise a ValueError for an edit that no model is needed to see has no form, or not the one asked for."""
    if not edit.neurons:
        raise ValueError("no neuron is edited, so there is nothing to export")
    if not edit.everywhere:
        raise ValueError(
            f"an edit at `positions={edit.positions}`, `phase={edit.phase}` depends on where a token stands, which no "
            "weight and no adapter sees: export one at `positions=all`, `phase=both`, or apply the edit with kedit"
        )
    if not isinstance(edit.operator, Zero | Scale | Patch):
        raise ValueError(f"`{edit.operator!r:.60}` is no Zero, Scale or Patch: nothing tells what it does to a column")
    patched = isinstance(edit.operator, Patch)
    if edit.neurons.site == "pre" or (patched and edit.neurons.site == "act"):
        raise ValueError(
            f"`{edit.operator!r:.60}` at site `{edit.neurons.site}` acts before the gate's product or the activation "
            "function, and an adapter at what goes into the projection: locate and edit at `mid`"
        )
    if patched and form not in (None, "lora"):
        raise ValueError(
            f"a patch adds a constant, which `to={form}` cannot hold: export it with `to=lora`, whose map has a bias"
        )


def check_plain(columns: Columns, module: nn.Module) -> None:
    """Raise a ValueError unless the weight is a matrix of numbers in memory, whose columns can be written."""
    linear = module.get_submodule(columns.path)
    weight = linear.weight
    assert isinstance(weight, Tensor)
    if weight.is_meta:
        raise ValueError(f"the weight of `{columns.path}` is not in memory: load the model without offloading it")
    if not weight.is_floating_point() or "weight" not in dict(linear.named_parameters(recurse=False)):
        raise ValueError(
            f"the weight of `{columns.path}` ({type(linear).__name__}) is quantized or made anew in each pass, so no "
            "column of it can be changed: load the model as it was saved, or export with `to=ia3`"
        )


def _columns(operator: Operator, site: Site, layer: int, indices: Tensor, module: nn.Module) -> Columns:
    block = site.block(layer)
    linear = module.get_submodule(block.output)
    if block.experts is not None:
        raise ValueError(
            f"layer {layer} keeps its {block.experts} experts as one weight (`{block.output}`), and PEFT and servers "
            "take adapters of linear maps alone: such an edit stays a hook of kedit"
        )
    if unwrapped(linear) is not linear:
        raise ValueError(
            f"`{block.output}` is inside an adapter ({type(linear).__name__}): merge that into the model first "
            "(`merge_and_unload()`)"
        )
    if not isinstance(linear, nn.Linear) and not is_conv1d(linear):
        raise ValueError(
            f"`{block.output}` is a {type(linear).__name__}, and PEFT puts adapters around Linear and Conv1D alone"
        )
    constants = _constants(operator, layer, indices) if isinstance(operator, Patch) else None
    factor = operator.factor if isinstance(operator, Scale) else 0.0
    width = (features_of(linear) or (block.width,))[0]
    factors = torch.full((len(indices),), factor, dtype=torch.float32)
    return Columns(block.output, width, indices, factors, constants, is_conv1d(linear))


def _constants(patch: Patch, layer: int, indices: Tensor) -> Tensor:
    return patch(torch.zeros(len(indices)), layer, indices).float().cpu().contiguous()
