"""One sample, read many times at once: each copy can be changed in a way of its own by a hook."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kedit.locate.scorer import Case, DrawnCase
from kedit.locate.target import Target
from kedit.models.drawings import ForcedDrawings
from kedit.models.mllm import IMAGE, MLLM, TeacherForced


class Repeatable(Protocol):
    """A sample that can be read many times at once."""

    @property
    def model(self) -> MLLM:
        """The model."""
        ...

    @property
    def token_types(self) -> Tensor:
        """What each position holds, `[1, pos]`."""
        ...

    def outputs(self, n: int) -> Tensor:
        """Return the target of each of `n` copies that go through the model together: `[n]`."""
        ...


def copies_of(model: MLLM, case: Case | DrawnCase, target: Target) -> Repeatable:
    """Return a caption that is forced up to the concept's word, or a drawing, as what can be repeated."""
    return DrawnCopies(model, case) if isinstance(case, DrawnCase) else Copies.of(model, case, target)


@dataclass(frozen=True, eq=False)
class DrawnCopies:
    """A drawing as the model that drew it reads it again; the target is how much of the region is drawn."""

    model: MLLM
    case: DrawnCase

    @property
    def token_types(self) -> Tensor:
        """What each column holds, `[1, pos]`: `IMAGE` where the region is drawn from."""
        return region_token_types(self.case.forced, self.case.region)

    def outputs(self, n: int) -> Tensor:
        """Return the target of each of `n` copies that go through the model together: `[n]`."""
        forced, region = self.case.forced.repeated(n), self.case.region[0]
        return torch.stack([forced.shows(row, one, region) for row, one in enumerate(forced.states())])


ELSEWHERE = 3
"""What a column of a drawing holds beside `PADDING`, `TEXT` and `IMAGE`: nothing of the region is drawn from it."""


def region_token_types(forced: ForcedDrawings, region: Tensor) -> Tensor:
    """Return what each column holds, `[batch, pos]`: `IMAGE` is what the region is drawn from, and nothing else.

    Other columns of the drawing are `ELSEWHERE`.

    Args:
        forced: The pass over the drawings.
        region: Where the concept is in each; see `Drawings.region_shape`.
    """
    token_types = forced.token_types.masked_fill(forced.token_types == IMAGE, ELSEWHERE)
    columns = torch.tensor(forced.columns, device=token_types.device)
    inside = forced.inside(region).to(token_types.device)
    token_types[:, columns] = torch.where(inside, IMAGE, token_types[:, columns])
    return token_types


@dataclass(frozen=True, eq=False)
class Copies:
    """A sample as a model reads it, and the target that is read off."""

    model: MLLM
    case: Case
    target: Target
    one: TeacherForced
    """The batch of this sample alone, so without padding."""

    @classmethod
    def of(cls, model: MLLM, case: Case, target: Target) -> "Copies":
        """Force the sample's caption up to the concept's word."""
        asked = case.pair.sample.asked(model.prompt)
        return cls(model, case, target, model.read([asked], [target.prefix(case.mention)]))

    @property
    def token_types(self) -> Tensor:
        """What each position holds, `[1, pos]`."""
        return self.one.token_types

    def outputs(self, n: int) -> Tensor:
        """Return the target of each of `n` copies that go through the model together: `[n]`.

        Raises:
            ValueError: The target of some copy is not a finite number.
        """
        mentions = [self.case.mention] * n
        logits = self.model.logits(self.one.repeated(n), n_last=self.target.n_last(mentions))
        values = self.target.output(logits, mentions)
        if not values.isfinite().all():
            found = values[~values.isfinite()][0].item()
            dtype = next((str(one.dtype).removeprefix("torch.") for one in self.model.module.parameters()), "none")
            raise ValueError(
                f"the {self.target.value} of `{self.case.pair.concept.name}` is {found} for sample "
                f"`{self.case.pair.sample.id}`: the logits of `{self.model.name}`, whose weights are {dtype}, are not "
                "finite; load the model in bfloat16 or float32"
            )
        return values
