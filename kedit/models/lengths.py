"""Batches of prompts of about one length, since every column of padding is work for nothing."""

from collections.abc import Hashable, Sequence

from kedit.models.mllm import MLLM
from kedit.prompts import Prompt


def of_prompts(model: MLLM, prompts: Sequence[Prompt], tails: Sequence[Hashable] | None = None) -> list[list[int]]:
    """Return the places of prompts of one medium in batches of at most `model.batch_size`, the shorter ones first.

    Args:
        model: Who reads them.
        prompts: Texts, or pictures with a question, of which the smaller picture is the shorter prompt.
        tails: What has to agree within a batch, such as the length of what is forced behind the prompt: decoders with
            learned positions cannot be padded there.
    """
    groups: dict[Hashable, list[int]] = {}
    for place in sorted(range(len(prompts)), key=lambda place: _length(prompts[place])):
        groups.setdefault(None if tails is None else tails[place], []).append(place)
    size = model.batch_size
    return [some[start : start + size] for some in groups.values() for start in range(0, len(some), size)]


def _length(prompt: Prompt) -> int:
    return len(prompt.text) if prompt.image is None else prompt.image.width * prompt.image.height
