"""Batches in which no row is padded, so that no number depends on its neighbors.

Padding changes the last bits of what a row gets, by 1e-5 or so of a logit: masked positions are summed along. Between
batches of one length, CPU kernels were found to give each row the same bits however many there are.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence

from PIL.Image import Image

from kedit.models.mllm import MLLM, Forced
from kedit.prompts import Prompt


def of_pictures(model: MLLM, images: Sequence[Image], tails: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Return the places of the pictures in batches of at most `model.batch_size` that are read at one length.

    What decides how many image tokens a picture takes is its size: one of each size is encoded, unless all are equal.

    Args:
        model: Who reads them, after the captioning prompt.
        images: The pictures.
        tails: What else has to agree within a batch, such as the length of what is forced behind the prompt.
    """
    behind: Sequence[Hashable] = tails if tails is not None else [None] * len(images)
    encoded = _encoded([image.size for image in images], lambda place: model.forced([images[place]], [()]))
    return _grouped(list(zip(encoded, behind, strict=True)), model.batch_size)


def of_prompts(model: MLLM, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the places of the prompts in batches of one medium that are read at one length."""
    encoded = _encoded([_size(one) for one in prompts], lambda place: model.read([prompts[place]], [()]))
    return _grouped(list(zip((one.medium for one in prompts), encoded, strict=True)), model.batch_size)


def _encoded(sizes: Sequence[Hashable], alone: Callable[[int], Forced]) -> Iterator[Hashable]:
    """Yield for each place what has to agree in a batch: the shape of its inputs, found once for each of the sizes."""
    first = {size: place for place, size in reversed(list(enumerate(sizes)))}
    shapes = {size: _shape(alone(place)) for size, place in first.items()} if len(first) > 1 else dict.fromkeys(first)
    return (shapes[size] for size in sizes)


def _shape(one: Forced) -> Hashable:
    """Return the number of positions, and the shapes of the inputs but for their first axis.

    The first axis counts samples, or the patches of all of them.
    """
    return one.kinds.shape[1], tuple(sorted((name, tuple(values.shape[1:])) for name, values in one.inputs.items()))


def _size(prompt: Prompt) -> Hashable:
    """Return what decides the length of a prompt: its text and the sizes of what it holds."""
    frames = () if prompt.video is None else (len(prompt.video.frames), prompt.video.frames[0].size, prompt.video.rate)
    sound = () if prompt.sound is None else (len(prompt.sound.wave), prompt.sound.rate)
    return prompt.medium, prompt.text, None if prompt.image is None else prompt.image.size, frames, sound


def _grouped(kinds: Sequence[Hashable], size: int) -> list[list[int]]:
    """Return the places of equal kinds together, in batches of at most `size`, by the first of each kind."""
    groups: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(place)
    return [some[start : start + size] for some in groups.values() for start in range(0, len(some), size)]
