"""Models that find a concept's region in a picture: by its name, or inside its box."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from kedit.models.loading import without_bars
from kedit.samples import Concept, Mask, Sample

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""


@dataclass(frozen=True)
class ClipSeg:
    """Finds the region that a text describes, with CLIPSeg (Lüddecke and Ecker 2022)."""

    path: str
    """The model's folder, or its id on the hub."""
    prompt: str = "{concept}"
    """What to look for; `{concept}` stands for the concept's name."""
    threshold: float = 0.4
    """From 0 to 1: how sure of a pixel the model has to be."""
    device: str = "cpu"
    """Where to run: cpu, cuda, cuda:1, ..."""
    download: bool = False
    """Whether a model may be fetched from the hub; otherwise its cache is searched."""

    refines: ClassVar[bool] = False
    """Regions that the data set has are better than what is found."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"`threshold` is a probability between 0 and 1, got {self.threshold}")

    @torch.no_grad()
    def __call__(self, sample: Sample, concept: Concept) -> Mask:
        """Return the region of `concept`: `[height, width]`; empty where nothing is found."""
        module, processor = self._loaded
        text = self.prompt.replace("{concept}", concept.name)
        inputs = processor(text=[text], images=[sample.image.convert("RGB")], padding=True, return_tensors="pt")
        logits = module(**inputs.to(module.device)).logits
        sure = logits.reshape(logits.shape[-2:]).float().sigmoid().cpu().numpy()
        # The processor has stretched the picture to the model's square, without cutting.
        at_size = Image.fromarray(sure).resize(sample.image.size, Image.Resampling.BILINEAR)
        found: Mask = np.array(at_size) >= self.threshold
        return found

    def release(self) -> None:
        """Let the model go; the next picture loads it again."""
        self.__dict__.pop("_loaded", None)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        return _read(CLIPSegForImageSegmentation, CLIPSegProcessor, self.path, self.device, download=self.download)


@dataclass(frozen=True)
class Sam:
    """Narrows the boxes of a data set down to what is in them, with SAM (Kirillov et al. 2023)."""

    path: str
    """The model's folder, or its id on the hub."""
    threshold: float = 0.0
    """A pixel's logit from which on it belongs to the thing."""
    device: str = "cpu"
    """Where to run: cpu, cuda, cuda:1, ..."""
    download: bool = False
    """Whether a model may be fetched from the hub; otherwise its cache is searched."""

    refines: ClassVar[bool] = True
    """It starts from the region that the data set has."""

    @torch.no_grad()
    def __call__(self, sample: Sample, concept: Concept) -> Mask:
        """Return the region of `concept` inside its boxes: `[height, width]`; empty where nothing is found.

        Raises:
            LookupError: The sample has no region of the concept, so no box.
        """
        module, processor = self._loaded
        found = boxes(np.asarray(sample.region(concept)).astype(bool))
        if not found:
            return np.zeros((sample.image.height, sample.image.width), bool)
        corners = [[[float(side) for side in box] for box in found]]
        inputs = processor(images=[sample.image.convert("RGB")], input_boxes=corners, return_tensors="pt")
        sizes = [inputs[name].cpu() for name in ("original_sizes", "reshaped_input_sizes")]
        output = module(**inputs.to(module.device), multimask_output=False)
        masks = processor.post_process_masks(output.pred_masks.float().cpu(), *sizes, mask_threshold=self.threshold)[0]
        inside = np.zeros((sample.image.height, sample.image.width), bool)
        for mask, (left, top, right, bottom) in zip(masks[:, 0].numpy(), found, strict=True):
            inside[top:bottom, left:right] |= mask[top:bottom, left:right].astype(bool)
        return inside

    def release(self) -> None:
        """Let the model go; the next picture loads it again."""
        self.__dict__.pop("_loaded", None)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import SamModel, SamProcessor

        return _read(SamModel, SamProcessor, self.path, self.device, download=self.download)


def boxes(region: Mask) -> list[Box]:
    """Return the boxes around the parts of `region` that an empty row or column separates, from the top left on."""
    return list(_parts(region, 0, 0))


def _parts(region: Mask, top: int, left: int) -> Iterator[Box]:
    runs = [_runs(region.any(axis)) for axis in (1, 0)]
    if not runs[0]:
        return
    if len(runs[0]) == len(runs[1]) == 1:
        (first, last), (start, end) = runs[0][0], runs[1][0]
        yield left + start, top + first, left + end, top + last
        return
    for first, last in runs[0]:
        for start, end in runs[1]:
            yield from _parts(region[first:last, start:end], top + first, left + start)


def _runs(filled: Any) -> list[tuple[int, int]]:
    """Return where each run of true values begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], filled, [False])).astype(np.int8)))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _read(kind: Any, processor: Any, path: str, device: str, *, download: bool) -> tuple[Any, Any]:
    """Return a segmenter and its processor; a FileNotFoundError says what is missing, a ValueError what is wrong."""
    from safetensors import SafetensorError

    folder = str(Path(path).expanduser()) if path.startswith("~") else path
    try:
        with without_bars():
            prepare = processor.from_pretrained(folder, local_files_only=not download)
            module, told = kind.from_pretrained(
                folder, local_files_only=not download, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(
            f"no {kind.__name__} in `{path}`: {reason}; give a folder that has its model and its processor, or an id "
            "with `segment.download=true`"
        ) from error
    if told["missing_keys"]:
        lost = sorted(told["missing_keys"])
        raise ValueError(f"`{path}` is no {kind.__name__}: it lacks {len(lost)} of its weights, such as `{lost[0]}`")
    return module.eval().requires_grad_(False).to(device), prepare
