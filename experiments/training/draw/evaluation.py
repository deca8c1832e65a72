"""How well the trained model draws what it is asked for, on captions it has not seen, and how well it captions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from experiments.training.draw.codes import codes
from experiments.training.scenes.evaluation import named
from kedit.data.finder import Found, find
from kedit.data.scene import Scene
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.models.drawings import Drawer
from kedit.models.mllm import MLLM
from kedit.progress import show_progress


class Asked(NamedTuple):
    """What a caption asks for: the colors and categories, and how many of each."""

    kinds: frozenset[tuple[str, str]]
    counts: tuple[tuple[str, str, int], ...]

    @classmethod
    def of(cls, one: Scene) -> "Asked":
        """Return what the captions of a scene ask for."""
        counts = tuple(sorted((phrase.color, phrase.category, phrase.count) for phrase in one.phrases))
        return cls(frozenset((color, category) for color, category, _ in counts), counts)

    @property
    def categories(self) -> frozenset[str]:
        """The categories."""
        return frozenset(category for _, category in self.kinds)


def found_scores(pictures: Sequence[Image], scenes: Sequence[Scene]) -> dict[str, Measured]:
    """Return what the exact finder says of pictures that should show what `scenes` do.

    `categories` is the share that show exactly the categories, `colors` of those that show each in its color,
    `counts` of those that also show it as often, `valid` of those that are a scene of the picture world at all.
    """
    seen = [find(one) for one in show_progress(pictures, len(pictures), "finder, pictures")]
    return _scores([(Asked.of(one), _found(what), what.is_valid) for one, what in zip(scenes, seen, strict=True)])


def captioned_scores(judge: MLLM, pictures: Sequence[Image], scenes: Sequence[Scene]) -> dict[str, Measured]:
    """Return what a captioning model says of pictures that should show what `scenes` do: categories and colors."""
    captions = [named(caption.text) for caption in judge.caption(list(pictures), progress=show_progress)]
    hits: dict[str, list[float]] = {"categories": [], "colors": []}
    for one, said in zip(scenes, captions, strict=True):
        asked = Asked.of(one)
        hits["categories"].append(float({category for _, category in said} == asked.categories))
        hits["colors"].append(float(set(said) == asked.kinds))
    return {name: bootstrap_mean(some) for name, some in hits.items()}


def tokenizer_scores(draws: Drawer, centers: Tensor, scenes: Sequence[Scene]) -> dict[str, dict[str, Measured]]:
    """Return what the finder says of pictures decoded from their true codes, and from those the encoder says.

    Of the latter also the share of the objects' cells whose code is the true one, `codes`.
    """
    true = torch.stack([torch.from_numpy(codes(one, centers)) for one in scenes])
    read = draws.encode([one.image() for one in scenes])
    on_object = true >= 4
    exact = found_scores(draws.decode(true), scenes)
    again = found_scores(draws.decode(read), scenes)
    right = (read == true)[on_object].float().tolist()
    return {"true codes": exact, "encoded": again | {"codes": bootstrap_mean(right)}}


def _found(what: Found) -> Asked:
    return Asked.of(what.scene)


def _scores(pairs: Sequence[tuple[Asked, Asked, bool]]) -> dict[str, Measured]:
    hits: dict[str, list[bool]] = {"categories": [], "colors": [], "counts": [], "valid": []}
    for asked, found, valid in pairs:
        hits["categories"].append(asked.categories == found.categories)
        hits["colors"].append(asked.kinds == found.kinds)
        hits["counts"].append(asked.counts == found.counts)
        hits["valid"].append(valid)
    return {name: bootstrap_mean([float(hit) for hit in some]) for name, some in hits.items()}
