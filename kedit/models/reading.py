"""What a model's neurons do while it reads the captioning prompt with a picture."""

from collections.abc import Iterator, Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.internals.hooks import record
from kedit.internals.sites import Site
from kedit.models.lengths import of_prompts
from kedit.models.mllm import MLLM, TeacherForced
from kedit.progress import Batched
from kedit.prompts import Prompt
from kedit.samples import Progress, silent


def prompted(
    model: MLLM, site: Site, images: Sequence[Image], *, progress: Progress = silent, what: str = "reading"
) -> Iterator[tuple[list[int], TeacherForced, dict[int, Tensor]]]:
    """Yield the places of some pictures, their batch after the prompt, and each layer's activations.

    The activations are `[batch, pos, neuron]`: some models flatten batch and positions; here they are apart. No graph
    is kept.

    Raises:
        ValueError: The site is outside the language model, whose positions these are.
    """
    if site.scope != "language":
        raise ValueError(
            f"neurons of scope `{site.scope}` see no positions of the prompt: only the language model's do"
        )
    chunks = of_prompts(model, [Prompt(model.prompt, image) for image in images])
    for places in progress(Batched(chunks, [*map(len, chunks)], "pictures"), len(chunks), what):
        some = [images[place] for place in places]
        batch = model.teacher_forced(some, [()] * len(some))
        with torch.no_grad(), record(model.module, site) as activations:
            model.logits(batch)
        yield (
            places,
            batch,
            {layer: values.reshape(*batch.token_types.shape, -1) for layer, values in activations.items()},
        )
