"""What a model's neurons do while it reads the captioning prompt with a picture."""

from collections.abc import Iterator, Sequence

import torch
from PIL.Image import Image
from torch import Tensor

from kedit.hooks import record
from kedit.models.mllm import MLLM, Forced
from kedit.samples import Progress, silent
from kedit.sites import Site


def prompted(
    model: MLLM, site: Site, images: Sequence[Image], *, progress: Progress = silent, what: str = "pictures"
) -> Iterator[tuple[Forced, dict[int, Tensor]]]:
    """Yield each batch of pictures after the prompt, and the activations of each layer: `[batch, pos, neuron]`.

    Some models flatten batch and positions; here they are apart. No graph is kept.

    Raises:
        ValueError: The site is outside the language model, whose positions these are.
    """
    if site.scope != "language":
        raise ValueError(
            f"neurons of scope `{site.scope}` see no positions of the prompt: only the language model's do"
        )
    starts = range(0, len(images), model.batch_size)
    for start in progress(starts, len(starts), what):
        some = images[start : start + model.batch_size]
        batch = model.forced(some, [()] * len(some))
        with torch.no_grad(), record(model.module, site) as activations:
            model.logits(batch)
        yield batch, {layer: values.reshape(*batch.kinds.shape, -1) for layer, values in activations.items()}
