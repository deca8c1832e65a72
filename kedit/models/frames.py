"""Processors that also take videos, where torchvision is missing, of which transformers makes its video processors.

Such a processor cannot even be constructed then, though pictures and texts need none of torchvision. Here the
family's own class is given a stand-in for its video processor: one that does the work with Pillow for the Qwen
family, and one that refuses videos for the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from torch import Tensor

KNOWN = frozenset({"return_tensors", "return_metadata", "video_metadata", "do_sample_frames", "device"})
"""What a call of `Frames` may say beside the videos."""


@dataclass(frozen=True)
class Frames:
    """Turns the frames of a video into the patches that Qwen's vision towers read, several frames to a patch.

    The sizes, the order of the patches and the padding in time are those of transformers' `Qwen2VLVideoProcessor` and
    `Qwen3VLVideoProcessor`. Frames are resized by Pillow, as Qwen's pictures are where torchvision is missing.
    """

    shortest: int = 128 * 28 * 28
    """The least number of pixels of a frame, or of the whole video."""
    longest: int = 768 * 28 * 28
    """The largest number of them."""
    whole: bool = False
    """Whether the two bound the pixels of the whole video, as Qwen3-VL has it, or of each frame."""
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    _auto_class: ClassVar[None] = None
    """Says to transformers that there is no code to save along."""

    def __call__(
        self, videos: Sequence[Sequence[Image]], *, video_metadata: Sequence[Any] | None = None, **said: Any
    ) -> dict[str, Any]:
        """Return `pixel_values_videos`, `[patch, value]`, and `video_grid_thw`, `[video, 3]`, in patches.

        Args:
            videos: The frames of each, all of which are read.
            video_metadata: What is known of each: its `fps`.
            said: What the processor passes along; a TypeError names what is not supported.
        """
        if unknown := sorted(key for key, value in said.items() if key not in KNOWN and value is not None):
            raise TypeError(f"videos without torchvision take no `{unknown[0]}`; install torchvision to set it")
        made = [self._patches(frames) for frames in videos]
        return {
            "pixel_values_videos": torch.cat([patches for patches, _ in made]),
            "video_grid_thw": torch.tensor([grid for _, grid in made]),
            "video_metadata": _described(videos, video_metadata),
        }

    def settings(self) -> dict[str, Any]:
        """Return the settings as the files of a model have them."""
        return {
            "video_processor_type": f"Qwen{3 if self.whole else 2}VLVideoProcessor",
            "size": {"shortest_edge": self.shortest, "longest_edge": self.longest},
            "patch_size": self.patch_size,
            "temporal_patch_size": self.temporal_patch_size,
            "merge_size": self.merge_size,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def _patches(self, frames: Sequence[Image]) -> tuple[Tensor, tuple[int, int, int]]:
        """Return the patches of one video, `[patch, value]`, and how many there are in time, down and across."""
        height, width = self._size(len(frames), frames[0].height, frames[0].width)
        pixels = np.stack([self._pixels(frame, height, width) for frame in frames])
        missing = -len(frames) % self.temporal_patch_size
        pixels = np.concatenate([pixels, pixels[-1:].repeat(missing, 0)])
        size, merge = self.patch_size, self.merge_size
        grid = (len(pixels) // self.temporal_patch_size, height // size, width // size)
        apart = torch.from_numpy(pixels).view(
            *(grid[0], self.temporal_patch_size, 3),
            *(grid[1] // merge, merge, size, grid[2] // merge, merge, size),
        )
        # time, block row, block column, row and column in the block; color, frame, pixel row, pixel column
        return apart.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1), grid

    def _pixels(self, frame: Image, height: int, width: int) -> NDArray[np.float32]:
        """Return one frame standardized: `[color, row, column]`."""
        resized = frame.convert("RGB").resize((width, height), Resampling.BICUBIC)
        mean, std = (np.array(one, np.float32) for one in (self.mean, self.std))
        standard = (np.asarray(resized, np.float32) / np.float32(255) - mean) / std
        return np.asarray(standard.transpose(2, 0, 1), np.float32)

    def _size(self, n_frames: int, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that frames are resized to: whole blocks of merged patches within the bounds."""
        factor, n_counted, n_read = self.patch_size * self.merge_size, 1, 1
        if self.whole:
            step = self.temporal_patch_size
            n_counted = max(n_frames, step)  # A single frame is read twice.
            n_read = round(n_counted / step) * step
            scale = max(factor / height, factor / width, 1.0)
            height, width = int(height * scale), int(width * scale)
        if max(height, width) > 200 * min(height, width):
            raise ValueError(f"a frame may be 200 times as long as wide at most, got {height} x {width} pixels")
        rows, columns = round(height / factor), round(width / factor)
        n_pixels = n_read * rows * columns * factor**2
        if n_pixels > self.longest:
            shrink = math.sqrt(n_counted * height * width / self.longest) * factor
            rows, columns = (max(1, math.floor(side / shrink)) for side in (height, width))
        elif n_pixels < self.shortest:
            grow = math.sqrt(self.shortest / (n_counted * height * width)) / factor
            rows, columns = (math.ceil(side * grow) for side in (height, width))
        return rows * factor, columns * factor


@dataclass(frozen=True)
class NoFrames:
    """Stands where a processor wants a video processor, and refuses videos."""

    family: str
    _auto_class: ClassVar[None] = None
    num_frames: ClassVar[None] = None
    """How a processor would sample frames; SmolVLM's reads it even where there is no video."""
    fps: ClassVar[None] = None

    def __call__(self, videos: Any, **said: Any) -> dict[str, Any]:
        """Raise a ValueError: this family's videos need torchvision."""
        raise ValueError(
            f"the videos of {self.family} need torchvision, which is not installed (its version must match that of "
            "torch); pictures and texts work without"
        )


def read_processor(path: str, described: Any = None, **source: Any) -> Any:
    """Return the processor in the folder or of the id `path`; `described` is its model's configuration, read if None.

    It is what `AutoProcessor` reads, except where that would need torchvision only for videos and has none.
    """
    from transformers import AutoConfig, AutoProcessor
    from transformers.utils.import_utils import is_torchvision_available

    kind = (
        None if is_torchvision_available() else _takes_videos(described or AutoConfig.from_pretrained(path, **source))
    )
    if kind is None:
        return AutoProcessor.from_pretrained(path, **source)
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.video_processing_utils import BaseVideoProcessor

    settings, _ = kind.get_processor_dict(path, **source)
    try:
        video, _ = BaseVideoProcessor.get_video_processor_dict(path, **source)
    except OSError:
        video = {}
    return assembled(
        kind,
        AutoImageProcessor.from_pretrained(path, **source),
        AutoTokenizer.from_pretrained(path, **source),
        video,
        settings,
    )


def assembled(kind: Any, pictures: Any, tokenizer: Any, video: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Return a processor of the class `kind` that does without torchvision.

    Args:
        kind: A processor class of transformers that takes videos.
        pictures: Its image processor.
        tokenizer: Its tokenizer.
        video: The settings of its video processor, as its files have them.
        settings: What else its constructor takes, such as `chat_template`; the rest is left out.
    """
    parts = {"image_processor": pictures, "tokenizer": tokenizer, "video_processor": _frames(kind, video)}
    takes = set(signature(kind.__init__).parameters) - set(parts)
    parts |= {key: value for key, value in settings.items() if key in takes}
    return _own(kind)(**parts)


def _own(kind: Any) -> Any:
    """Return a subclass of `kind`, of the same name, that takes our stand-ins for a video processor and saves them."""

    # transformers reads from the signature what the parts are.
    @wraps(kind.__init__)
    def construct(self: Any, *parts: Any, **named: Any) -> None:
        kind.__init__(self, *parts, **named)

    def check(self: Any, name: str, part: Any) -> Any:
        ours = isinstance(part, Frames | NoFrames)
        return type(part) if ours else kind.check_argument_for_proper_class(self, name, part)

    def to_dict(self: Any) -> dict[str, Any]:
        said: dict[str, Any] = {key: one for key, one in kind.to_dict(self).items() if key != "video_processor"}
        video = self.video_processor
        return said | ({"video_processor": video.settings()} if isinstance(video, Frames) else {})

    own = {"__init__": construct, "check_argument_for_proper_class": check, "to_dict": to_dict}
    return type(kind.__name__, (kind,), own)


def _takes_videos(described: Any) -> Any:
    """Return the processor class of a configuration if all it takes is texts, pictures and videos, else None."""
    from transformers import PROCESSOR_MAPPING

    kind: Any = PROCESSOR_MAPPING.get(type(described), None)
    return kind if kind is not None and set(kind.get_attributes()) == PARTS else None


def _frames(kind: Any, content: Mapping[str, Any]) -> Frames | NoFrames:
    """Return what reads the videos of a processor class, with the settings that its files give."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLProcessor, Qwen3VLProcessor

    whole = issubclass(kind, Qwen3VLProcessor)
    if not whole and not issubclass(kind, Qwen2VLProcessor | Qwen2_5_VLProcessor):
        return NoFrames(kind.__name__)
    if content.get("cap_pixels_per_frame"):
        raise ValueError(f"`cap_pixels_per_frame` of {kind.__name__} needs torchvision, which is not installed")
    size = dict(content.get("size") or {})
    size |= {name: content[key] for name, key in BOUNDS.items() if content.get(key) is not None}
    own = QWEN3 if whole else Frames()
    patches = {key: content[key] for key in ("patch_size", "temporal_patch_size", "merge_size") if key in content}
    return replace(
        own,
        shortest=size.get("shortest_edge", own.shortest),
        longest=size.get("longest_edge", own.longest),
        mean=tuple(content.get("image_mean", own.mean)),
        std=tuple(content.get("image_std", own.std)),
        **patches,
    )


PARTS = {"image_processor", "tokenizer", "video_processor"}
"""What the processors are made of that can be put together here."""
BOUNDS = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
"""What older files call the two bounds of `size`."""
QWEN3 = Frames(128 * 32 * 32, 768 * 32 * 32, True, 16, 2, 2, (0.5,) * 3, (0.5,) * 3)


def _described(videos: Sequence[Any], said: Sequence[Any] | None) -> list[Any]:
    from transformers.video_utils import VideoMetadata

    rates = [None] * len(videos) if said is None else [one["fps"] for one in said]
    return [
        VideoMetadata(total_num_frames=len(frames), fps=rate, frames_indices=list(range(len(frames))))
        for frames, rate in zip(videos, rates, strict=True)
    ]
