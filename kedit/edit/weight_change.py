"""Other weights as an edit: what an adapter or another tool did to a model, alive only inside `with`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kedit.edit.columns import check_edit, check_plain, columns_of
from kedit.edit.edit import Edit, module_of
from kedit.internals.weights import is_conv1d


@dataclass(frozen=True, eq=False)
class WeightChange:
    """Other numbers in some of a model's weights; they are in it only inside `with change.applied(model)`."""

    tensors: Mapping[str, Tensor]
    """What the weights become, by the name of the parameter."""
    teacher_forceable: ClassVar[bool] = True

    @classmethod
    def between(cls, base: nn.Module, other: nn.Module) -> "WeightChange":
        """Return what makes the weights of `base` those of `other`, a model of the same architecture.

        Raises:
            ValueError: A weight of the one is not in the other, or has another shape; or a saved buffer differs.
        """
        saved, others_saved = base.state_dict(), dict(other.named_buffers())
        for name, one in base.named_buffers():
            if name in saved and not (name in others_saved and torch.equal(one.cpu(), others_saved[name].cpu())):
                raise ValueError(f"the buffer `{name}` differs: weights alone can be put into a model and taken out")
        mine, others = dict(base.named_parameters()), dict(other.named_parameters())
        if odd := sorted(mine.keys() ^ others.keys()):
            raise ValueError(f"the weight `{odd[0]}` is in one of the two models alone, so they are not alike")
        tensors = {}
        for name, weight in mine.items():
            new = others[name].detach().to("cpu", weight.dtype)
            if new.shape != weight.shape:
                shapes = f"{tuple(weight.shape)} and {tuple(new.shape)}"
                raise ValueError(f"the weight `{name}` is {shapes}: the models are not alike")
            if not torch.equal(weight.detach().cpu(), new):
                tensors[name] = new
        return cls(tensors)

    @classmethod
    @torch.no_grad()
    def of_edit(cls, edit: Edit, module: nn.Module) -> "WeightChange":
        """Return the weights that an edit comes to, as `kedit export to=merged` writes them.

        Raises:
            ValueError: It is more than arithmetic on columns, or a projection is no plain matrix in memory.
        """
        check_edit(edit, "merged")
        tensors = {}
        for one in columns_of(edit, module):
            check_plain(one, module)
            tensors[one.name] = module.get_parameter(one.name).detach().clone()
            one.write(tensors[one.name], one.edited(tensors[one.name]))
        return cls(tensors)

    @property
    def acts(self) -> bool:
        """Whether any weight is another."""
        return bool(self.tensors)

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Write the weights into `model` until the end of the `with` block; it then has its own again, to the bit."""
        module = module_of(model)
        former = {name: module.get_parameter(name).detach().clone() for name in self.tensors}
        try:
            _write(module, self.tensors)
            yield
        finally:
            _write(module, former)

    @torch.no_grad()
    def dealt(self, model: Any, seed: int) -> "WeightChange":
        """Return a random change as large as this one: each weight's is dealt out anew among the weight's inputs.

        It has the same size, rank and singular values, and writes in the same directions, but reads something else.

        Args:
            model: The model that is changed, without the change.
            seed: Equal seeds give equal changes.
        """
        module, tensors = module_of(model), dict[str, Tensor]()
        generator = torch.Generator().manual_seed(seed)
        for name, new in self.tensors.items():
            was = module.get_parameter(name).detach().cpu()
            inputs = 0 if new.ndim == 2 and is_conv1d(module.get_submodule(name.rpartition(".")[0])) else -1
            order = torch.randperm(new.shape[inputs], generator=generator)
            tensors[name] = (was.float() + (new.float() - was.float()).index_select(inputs, order)).to(new.dtype)
        return WeightChange(tensors)


@torch.no_grad()
def _write(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, new in tensors.items():
        module.get_parameter(name).copy_(new)
