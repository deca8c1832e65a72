"""Pictures, videos and sounds as the processors of transformers take them."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.Image import open as open_picture
from torch.nn import functional

from kedit.arguments import require
from kedit.models.prompting import for_each
from kedit.pixels import in_rgb, upright
from kedit.prompts import Medium, Prompt, Sound, Video

logger = logging.getLogger(__name__)

Pictures = Image | str | Path | Sequence[Image | str | Path]
"""A picture, a file of one, or several of them."""
PARTS: dict[Medium, str] = {"image": "image_processor", "video": "video_processor", "audio": "feature_extractor"}
"""The part of a processor that reads it."""
ZEROS, ROLLOFF = 6, 0.99
"""The width of the low-pass filter in zeros of its sinc, and where it begins to cut, as torchaudio has them."""


def pictures(given: Pictures) -> list[Image]:
    """Return pictures as a list, given one or several; files are read as those of a data set are.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: Something is no picture.
    """
    expected = "a picture of Pillow, a file of one, or a list of these"
    several = [given] if isinstance(given, Image | str | Path) else given
    require(several, Sequence, "images", expected)
    for one in several:
        require(one, (Image, str, Path), "images", expected)
    return [one if isinstance(one, Image) else _read(one) for one in several]


def _read(path: str | Path) -> Image:
    with open_picture(Path(path).expanduser()) as opened:
        return in_rgb(upright(opened))


def given(processor: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return what a processor is given beside the texts of `prompts`: pictures in color, frames or waves; {} for none.

    All frames of a video are shown, with their times; sounds have the rate that the processor wants.

    Raises:
        ValueError: The prompts are of several media, or the processor does not take theirs.
    """
    media = {one.medium for one in prompts}
    if len(media) > 1:
        raise ValueError(f"the prompts of a batch have one medium, got {', '.join(sorted(media))}")
    medium = media.pop() if media else "text"
    if medium == "text":
        return {}
    if getattr(processor, PARTS[medium], None) is None:
        taken = [name for name, part in PARTS.items() if getattr(processor, part, None) is not None]
        raise ValueError(f"{type(processor).__name__} takes {' and '.join(['text', *taken])}, got a prompt of {medium}")
    if medium == "image":
        return {"images": for_each(processor, [in_rgb(one.image) for one in prompts if one.image is not None])}
    if medium == "video":
        videos = [one.video for one in prompts if one.video is not None]
        about = [_metadata(one) for one in videos]
        return {
            "videos": [list(one.frames) for one in videos],
            "videos_kwargs": {"video_metadata": about, "do_sample_frames": False},
        }
    rate, longest = (
        int(processor.feature_extractor.sampling_rate),
        getattr(processor.feature_extractor, "n_samples", None),
    )
    waves = [resampled(one.sound, rate) for one in prompts if one.sound is not None]
    if longest and (cut := sum(len(wave) > longest for wave in waves)):
        logger.warning("%d of %d sounds are cut to the %g s that the model hears", cut, len(waves), longest / rate)
    return {"audio": waves, "audio_kwargs": {"sampling_rate": rate}}


def resampled(sound: Sound, rate: int) -> NDArray[np.float32]:
    """Return the wave of `sound` at another `rate`: `[time]`.

    A Hann-windowed sinc cuts off what the lower of both rates cannot hold (Smith, "Digital Audio Resampling", 2002),
    evaluated where the new samples lie.
    """
    if sound.rate == rate:
        return sound.wave
    shared = math.gcd(sound.rate, rate)
    old, new = sound.rate // shared, rate // shared
    cut = min(old, new) * ROLLOFF
    width = math.ceil(ZEROS * old / cut)
    # Of each block of `old` samples `new` ones are made: a filter for each, `[new, 1, tap]`.
    taps = torch.arange(-width, width + old, dtype=torch.float64) / old
    places = torch.arange(new, dtype=torch.float64)[:, None] / new
    time = ((taps - places) * cut).clamp(-ZEROS, ZEROS)
    kernels = torch.sinc(time) * (time * math.pi / ZEROS / 2).cos() ** 2 * (cut / old)
    wave = functional.pad(torch.from_numpy(sound.wave)[None, None].double(), (width, width + old))
    made = functional.conv1d(wave, kernels[:, None], stride=old)[0].T.reshape(-1)
    kept: NDArray[np.float32] = made[: math.ceil(new * len(sound.wave) / old)].float().numpy()
    return kept


def _metadata(video: Video) -> dict[str, Any]:
    n_frames = len(video.frames)
    return {"total_num_frames": n_frames, "fps": video.rate, "frames_indices": list(range(n_frames))}
