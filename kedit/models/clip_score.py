"""CLIPScore (Hessel et al. 2021) with a CLIP model from a local folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch.nn.functional import normalize

WEIGHT = 2.5
"""The factor of Hessel et al., which spreads the scores over [0, 1] for captions."""


@dataclass(frozen=True)
class ClipScore:
    """Scores how well texts fit pictures."""

    path: str

    def __post_init__(self) -> None:
        if not Path(self.path).is_dir():
            raise FileNotFoundError(f"no CLIP folder `{self.path}`; give a folder with a CLIP model and its processor")

    @property
    def name(self) -> str:
        """What reports call the model."""
        return Path(self.path).name

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], images: Sequence[Image]) -> list[list[float]]:
        """Return 2.5 * max(cos, 0) of each text with each picture: `[text][image]`.

        Long texts are cut where the text encoder ends.
        """
        if not texts or not images:
            raise ValueError(f"CLIPScore compares texts with pictures, got {len(texts)} and {len(images)}")
        module, processor = self._loaded
        rgb = [image.convert("RGB") for image in images]
        inputs = processor(text=list(texts), images=rgb, padding=True, truncation=True, return_tensors="pt")
        output = module(**inputs.to(module.device))
        cosines = normalize(output.text_embeds, dim=-1) @ normalize(output.image_embeds, dim=-1).T
        scores: list[list[float]] = (WEIGHT * cosines.float().clamp(min=0)).tolist()
        return scores

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import CLIPModel, CLIPProcessor

        module = CLIPModel.from_pretrained(self.path, local_files_only=True).eval()
        return module, CLIPProcessor.from_pretrained(self.path, local_files_only=True)
