"""Batches of pictures of about one length, since every column of padding is work for nothing."""

from collections.abc import Hashable, Sequence

from PIL.Image import Image

from kedit.models.mllm import MLLM


def of_pictures(model: MLLM, images: Sequence[Image], tails: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Return the places of the pictures in batches of at most `model.batch_size`, the smaller pictures first.

    Args:
        model: Who reads them, after the captioning prompt.
        images: The pictures.
        tails: What has to agree within a batch, such as the length of what is forced behind the prompt: decoders with
            learned positions cannot be padded there.
    """
    groups: dict[Hashable, list[int]] = {}
    for place in sorted(range(len(images)), key=lambda place: images[place].width * images[place].height):
        groups.setdefault(None if tails is None else tails[place], []).append(place)
    size = model.batch_size
    return [some[start : start + size] for some in groups.values() for start in range(0, len(some), size)]
