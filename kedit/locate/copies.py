"""One sample, read many times at once: each copy can be changed in a way of its own by a hook."""

from dataclasses import dataclass

from torch import Tensor

from kedit.locate.scorer import Case
from kedit.locate.target import Target
from kedit.models.mllm import MLLM, TeacherForced


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

    def outputs(self, n: int) -> Tensor:
        """Return the target of each of `n` copies that go through the model together: `[n]`.

        Raises:
            ValueError: The target of some copy is not a finite number.
        """
        mentions = [self.case.mention] * n
        logits = self.model.logits(repeated(self.one, n), n_last=self.target.n_last(mentions))
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


def repeated(one: TeacherForced, n: int) -> TeacherForced:
    """Return `n` copies of a batch of one sample.

    Whole samples are repeated along the first axis, whether it counts samples or, as the pixels of models with
    dynamic resolution, the patches of all of them.
    """
    if len(one.token_types) != 1:
        raise ValueError(f"only a batch of one sample can be repeated, got one of {len(one.token_types)}")

    def copies(values: Tensor) -> Tensor:
        return values.repeat(n, *[1] * (values.ndim - 1))

    inputs = {name: copies(values) for name, values in one.inputs.items()}
    return TeacherForced(inputs, copies(one.token_types), copies(one.modalities), copies(one.prompt))
