"""Experts whose weights are stored as one: which row of their computation is which token's and which expert's.

transformers computes the experts of a layer as one matrix product of [row, neuron], a row for each token and each
expert that it is routed to. Here the rows are laid out as `[token, neuron]`, the neurons of all experts side by side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from kedit.internals.block_stacks import SiteError

_GATES = Lock()
"""Held while a gate is put in place or taken away: threads that edit one model share its gates."""
ORDERED = ("grouped_mm", "batched_mm")
"""The implementations of transformers in which the order of the rows is known."""


@dataclass(frozen=True, eq=False)
class Routing:
    """Which token and which expert each row of the experts' computation is of."""

    tokens: Tensor
    """`[row]`."""
    experts: Tensor
    """`[row]`."""
    n_tokens: int
    n_experts: int

    @classmethod
    def of(cls, chosen: Tensor, n_experts: int, implementation: str) -> "Routing":
        """Return the routing that `chosen`, the experts of each token `[token, k]`, leads to.

        `batched_mm` goes token by token; `grouped_mm` sorts the rows by expert, with the same call as here.
        """
        experts = chosen.reshape(-1)
        if implementation == "batched_mm":
            order = torch.arange(len(experts), device=experts.device)
        else:
            experts, order = torch.sort(experts)
        return cls(order // chosen.shape[-1], experts, len(chosen), n_experts)

    def laid_out(self, rows: Tensor) -> Tensor:
        """Return `[token, neuron]` from `[row, neuron of the expert]`: zero for experts a token is not routed to."""
        blank = rows.new_zeros(self.n_tokens, self.n_experts, rows.shape[-1])
        return blank.index_put((self.tokens, self.experts), rows).flatten(1)

    def taken_back(self, laid_out: Tensor) -> Tensor:
        """Return `[row, neuron of the expert]` from `[token, neuron]`; what is there for other experts is dropped."""
        return laid_out.reshape(self.n_tokens, self.n_experts, -1)[self.tokens, self.experts]

    def some(self, rows: Tensor, at: Tensor) -> Tensor:
        """Return the neurons `at` alone, `[token, len(at)]`, without laying out the others."""
        columns, mine = self._where(rows, at)
        picked = torch.where(mine, rows[:, columns], 0)
        return picked.new_zeros(self.n_tokens, len(at)).index_add(0, self.tokens, picked)

    def put_back(self, rows: Tensor, at: Tensor, new: Tensor) -> Tensor:
        """Return `rows` with the neurons `at` set to `new`, `[token, len(at)]`, where their expert is routed to."""
        columns, mine = self._where(rows, at)
        which, what = mine.nonzero(as_tuple=True)
        return rows.index_put((which, columns[what]), new[self.tokens[which], what])

    def _where(self, rows: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of the neurons `at` in their expert's rows, and whose rows those are: `[row, len(at)]`."""
        width = rows.shape[-1]
        return at % width, self.experts[:, None] == (at // width)[None]


class Gate(nn.Module):
    """Stands in for the method `_apply_gate` of experts while they are hooked: its output are the neurons, by row.

    A deep copy of the experts made meanwhile has a gate of its own, without hooks, that does what the method does.
    """

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        # As a tuple, so that the experts do not become a part of their own gate.
        self.of = (experts,)
        self.n_users = 0

    def forward(self, gate_and_up: Tensor) -> Tensor:
        """Return what the experts' own method makes of the gate and up projections: `[row, neuron]`."""
        own: Any = type(self.of[0])
        made: Tensor = own._apply_gate(self.of[0], gate_and_up)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> "Gate":
        return Gate(memo[id(self.of[0])])


@contextmanager
def gated(experts: nn.Module) -> Iterator[Gate]:
    """Yield the module whose output are the neurons of `experts`; it stands in their place while anyone uses it.

    Raises:
        RuntimeError: Something else stands there.
    """
    own = vars(experts)
    with _GATES:
        gate = own.setdefault("_apply_gate", Gate(experts))
        if not isinstance(gate, Gate):
            raise RuntimeError(f"something else has put a `_apply_gate` of its own on {type(experts).__name__}")
        gate.n_users += 1
    try:
        yield gate
    finally:
        with _GATES:
            gate.n_users -= 1
            if not gate.n_users:
                own.pop("_apply_gate", None)


def gates(module: nn.Module) -> list[Gate]:
    """Return the gates that stand in `module` right now."""
    return [gate for one in module.modules() if isinstance(gate := vars(one).get("_apply_gate"), Gate)]


def check_order(experts: nn.Module, path: str) -> str:
    """Return the implementation the experts run with; a SiteError says why their neurons cannot be told apart."""
    described: Any = experts.config
    implementation = str(getattr(described, "_experts_implementation", None))
    if implementation not in ORDERED:
        raise SiteError(
            f"the experts `{path}` run with the implementation `{implementation}`, in which nothing tells whose "
            f"neurons are computed; call `model.set_experts_implementation('{ORDERED[0]}')`"
        )
    if getattr(experts, "_is_expert_parallel", False):
        raise SiteError(f"the experts `{path}` are spread over several devices; load the model on one")
    return implementation
