"""Sums of floating-point numbers that do not depend on their order, on batches or on shards."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

LIMB = 32
"""Bits of a digit."""
LIMIT = 2**31
"""So many numbers can be added: a digit's sum of less than 2**63 fits into 64 bits."""
LOWEST = "lowest"
DIGITS = "digits"
WILD = "wild"
COUNT = "count"


class ExactSum:
    """The exact sum of tensors of floats, entry by entry, in fixed point.

    A number is cut into digits of 32 bits at places that are the same for all numbers, and each place has an integer
    sum. No addition rounds, so any order and any grouping leave the same integers. That holds for all finite 64-bit
    floats, subnormal ones included, and fewer than 2**31 of them; the one rounding is that of `value`. Places that no
    number reaches take no memory: scores of 32 bits that span a factor of 2**40 take three or four.

    What is infinite or not a number is added as IEEE 754 does, which depends on no order either.
    """

    def __init__(self) -> None:
        self.n = 0
        """How many numbers were added, in each entry."""
        self._places: dict[int, Tensor] = {}
        """Integers by the place p of their digits, each worth 2 ** (32 * p)."""
        self._wild: Tensor | None = None
        """The sum of what is not finite."""

    def add(self, values: Tensor) -> None:
        """Add the `n` entries along the first axis of `values`, `[n, ...]`; an OverflowError if they are too many."""
        self._count(len(values))
        rest = values.detach().cpu().double()
        finite = rest.isfinite()
        if not bool(finite.all()):
            self._add_wild(rest.masked_fill(finite, 0.0).sum(0))
            rest = rest.masked_fill(~finite, 0.0)
        highest = float(rest.abs().amax()) if rest.numel() else 0.0
        place = (math.frexp(highest)[1] - 1) // LIMB
        self._add_digits(place, torch.zeros(rest.shape[1:], dtype=torch.int64))
        while bool(rest.any()):
            # In two steps: the factor of both may be too large or too small for a float. Neither step rounds a digit.
            half = 2.0 ** (-LIMB // 2 * place)
            digits = (rest * half * half).trunc()
            rest = rest - digits / half / half
            self._add_digits(place, digits.long().sum(0))
            place -= 1

    def merge(self, other: "ExactSum") -> None:
        """Add what another one summed, as if its numbers had been added here."""
        if not other.n:
            return
        self._count(other.n)
        for place, digits in other._places.items():
            self._add_digits(place, digits)
        if other._wild is not None:
            self._add_wild(other._wild)

    def value(self) -> Tensor:
        """Return the sum rounded once, to the nearest 64-bit float (ties to even; once more if it is subnormal).

        Raises:
            ValueError: Nothing was added.
        """
        lowest, digits = self._canonical()
        rounded = _rounded(digits.abs(), lowest)
        total = torch.where((digits < 0).any(0), -rounded, rounded)
        return total if self._wild is None else torch.where(self._wild == 0, total, self._wild)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors, equal for equal sums of equally many numbers."""
        if not self.n:
            return {}
        lowest, digits = self._canonical()
        state = {DIGITS: digits, LOWEST: torch.tensor(lowest), COUNT: torch.tensor(self.n)}
        return state if self._wild is None else state | {WILD: self._wild}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Self:
        """Return the sum that `tensors` described."""
        made = cls()
        if state:
            made.n = int(state[COUNT])
            made._places = dict(enumerate(state[DIGITS].unbind(0), int(state[LOWEST])))
            made._wild = state.get(WILD)
        return made

    def _count(self, more: int) -> None:
        if self.n + more >= LIMIT:
            raise OverflowError(f"an exact sum takes fewer than {LIMIT} numbers; {self.n} and {more} more are too many")
        self.n += more

    def _add_digits(self, place: int, digits: Tensor) -> None:
        self._places[place] = self._places[place] + digits if place in self._places else digits

    def _add_wild(self, some: Tensor) -> None:
        self._wild = some if self._wild is None else self._wild + some

    def _canonical(self) -> tuple[int, Tensor]:
        """Return the place of the lowest digit and the digits, `[place, ...]`: all of one entry with its sign.

        None reaches 2**32; places at either end that are zero everywhere are left out.
        """
        if not self._places:
            raise ValueError("there is no sum: nothing was added")
        lowest, highest = min(self._places), max(self._places)
        none = torch.zeros_like(self._places[lowest])
        # One place more takes what is carried out of the highest.
        digits = _carried(torch.stack([self._places.get(place, none) for place in range(lowest, highest + 2)]))
        sign = torch.where(digits[-1] < 0, -1, 1)
        digits = sign * _carried(sign * digits)
        used = digits.reshape(len(digits), -1).any(1).nonzero().flatten().tolist()
        return (lowest + used[0], digits[used[0] : used[-1] + 1].clone()) if used else (0, digits[:1])


def _carried(digits: Tensor) -> Tensor:
    """Return the same number with every digit but the highest in [0, 2**32): `[place, ...]`, least first."""
    carried = digits.clone()
    for lower, higher in pairwise(carried):
        over = lower >> LIMB
        lower -= over << LIMB
        higher += over
    return carried


def _rounded(digits: Tensor, lowest: int) -> Tensor:
    """Return digits in [0, 2**32), `[place, ...]`, as the nearest 64-bit float.

    The 61 leading bits and, in one more, whether anything follows: a conversion to 53 bits then rounds as the whole
    number would.
    """
    # Two empty places below, so that there are three from every highest one on.
    padded = torch.cat([torch.zeros_like(digits[:1])] * 2 + [digits])
    places = torch.arange(len(padded)).view(-1, *[1] * (digits.ndim - 1))
    top = torch.where(padded != 0, places, 2).amax(0)
    first, second, third = (padded.gather(0, (top - step)[None])[0] for step in range(3))
    bits = torch.frexp(first.double()).exponent.long()
    left, right = (30 - bits).clamp(min=0), (bits - 30).clamp(min=0)
    leading = (first << (62 - bits)) | (second << left >> right) | (third >> (bits + 2))
    lost = (second & ((1 << right) - 1)) | (third & ((1 << (bits + 2)) - 1))
    lower = ((places < top - 2) & (padded != 0)).any(0)
    whole = leading | ((lost != 0) | lower).long()
    exponent = (lowest + top - 2) * LIMB - 62 + bits
    half = exponent // 2
    return torch.ldexp(torch.ldexp(whole.double(), half), exponent - half)
