"""The work that is timed: a forward pass and a generation of fixed length, and which neurons are edited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.internals.sites import Site
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronSet


@dataclass(frozen=True, eq=False)
class Workload:
    """A prepared batch, and what is done with it; every way to edit gets the same."""

    inputs: Mapping[str, Tensor]
    n_new: int
    """Every row gets so many new tokens, whatever an edit makes the model say."""
    pad: int

    @classmethod
    def of(cls, model: MLLM, images: Sequence[Image], n_new: int) -> "Workload":
        """Return the captioning prompt on `images`."""
        batch = model.teacher_forced(images, [()] * len(images))
        generation = getattr(model.module, "generation_config", None)
        pad = getattr(generation, "pad_token_id", None)
        return cls(batch.inputs, n_new, 0 if pad is None else int(pad))

    @property
    def shape(self) -> str:
        """The size of the batch, for people."""
        rows, positions = self.inputs["input_ids"].shape
        return f"{rows} pictures, {positions} positions"

    @property
    def writing(self) -> dict[str, object]:
        """The arguments of `generate` beside the inputs."""
        length = {"max_new_tokens": self.n_new, "min_new_tokens": self.n_new}
        return {"do_sample": False, "num_beams": 1, "pad_token_id": self.pad, "disable_compile": True, **length}

    @torch.no_grad()
    def forward(self, module: nn.Module) -> Tensor:
        """Return the logits: `[batch, pos, vocab]`."""
        logits: Tensor = module(**self.inputs).logits
        return logits

    @torch.no_grad()
    def generate(self, module: nn.Module) -> Tensor:
        """Return prompt and new tokens: `[batch, pos]`."""
        written: Tensor = module.generate(**self.inputs, **self.writing)  # type: ignore[operator]
        return written


def drawn(site: Site, share: float, seed: int, layer: int | None = None) -> NeuronSet:
    """Return random neurons: `share` of all, at least one in each layer; or as many, all in `layer`.

    Raises:
        ValueError: The share is out of range, or the layer has too few neurons.
    """
    if not 0 < share < 1:
        raise ValueError(f"`share` lies between 0 and 1, got {share}")
    chance = torch.Generator().manual_seed(seed)

    def some(of: int, count: int) -> tuple[NeuronId, ...]:
        if count > site.widths[of]:
            raise ValueError(f"layer {of} has {site.widths[of]} neurons, too few to draw {count}; lower `share`")
        order = torch.randperm(site.widths[of], generator=chance)[:count]
        return tuple(NeuronId(of, int(index)) for index in order)

    if layer is not None:
        return NeuronSet(some(layer, max(1, round(share * site.n_neurons))), site.name)
    each = {of: max(1, round(share * width)) for of, width in site.widths.items()}
    return NeuronSet(tuple(one for of, count in each.items() for one in some(of, count)), site.name)
