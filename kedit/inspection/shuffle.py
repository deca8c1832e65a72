"""A model whose image tokens arrive in another order: is what it locates bound to where things are?"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kedit.internals.hooks import replacing
from kedit.internals.positions import following
from kedit.internals.sites import decoder_path
from kedit.models.mllm import MLLM


class ShuffleError(ValueError):
    """Image tokens could not be shuffled: the results would be those of the untouched model."""


@contextmanager
def shuffled(model: MLLM, seed: int) -> Iterator[None]:
    """Permute the image tokens on their way into the language model, until the end of the `with` block.

    The tokens' places stay, what stands in them moves. Pictures of equally many tokens are permuted alike, so that
    the two pictures of a counterfactual pair still correspond token by token. (Pan et al. 2023, region invariance.)

    Args:
        model: The model; nothing of it is changed.
        seed: Which permutation.

    Raises:
        ShuffleError: The model names no image token, feeds pictures in elsewhere too, or no image token came by.
    """
    module: nn.Module = model.module
    token = getattr(getattr(module, "config", None), "image_token_id", None)
    if not isinstance(token, int):
        raise ShuffleError(f"the configuration of {type(module).__name__} names no `image_token_id` to shuffle")
    moved = 0
    with ExitStack() as stack:
        span = stack.enter_context(following(module, token)).of(decoder_path(module))

        def permute(given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
            nonlocal moved
            embedded = named.get("inputs_embeds")
            if not isinstance(embedded, Tensor):
                raise ShuffleError(f"{type(module).__name__} gives its decoder no `inputs_embeds`")
            if any(value is not None for name, value in named.items() if "deepstack" in name):
                raise ShuffleError(f"{type(module).__name__} feeds picture features into later layers as well")
            mask = span.where("image", "both", embedded.shape[0] * embedded.shape[1])
            moved += int(mask.sum())
            return given, named | {"inputs_embeds": _permuted(embedded, mask, seed)}

        stack.enter_context(replacing(module, decoder_path(module), permute))
        yield
    if not moved:
        raise ShuffleError(f"no image token passed the embedding of {type(module).__name__}: nothing was shuffled")


def _permuted(embedded: Tensor, mask: Tensor, seed: int) -> Tensor:
    """Return `[batch, pos, width]` with each row's image tokens permuted among their positions."""
    result = embedded.clone()
    for row, here in enumerate(mask):
        places = here.nonzero().squeeze(1).to(embedded.device)
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
        result[row, places] = embedded[row, places[order.to(embedded.device)]]
    return result
