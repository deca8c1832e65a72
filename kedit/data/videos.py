"""Videos as frames: a folder or a list of pictures, or an animated GIF, PNG or WebP; what cannot be used says why."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from kedit.data.pictures import LEAST_SIDE, SampleError, fitted, read, shown
from kedit.prompts import Video

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What the names of the frames in a folder end with; other files in it are not looked at."""


def read_video(
    paths: Sequence[Path], *, rate: float | None = None, max_frames: int = 16, max_side: int | None = None
) -> Video:
    """Return the frames at `paths`, at most `max_frames` of them, evenly spread.

    Args:
        paths: The files of the frames; or one path, of a folder of them, in the order of the numbers in their
            names, or of an animated picture.
        rate: Frames a second; by default what an animated picture says of itself, else 1.
        max_frames: The most that are kept; the video's rate is that of those kept.
        max_side: The longer side, in pixels, to which larger frames are shrunk; None keeps them.

    Raises:
        SampleError: A file is missing or cannot be read, there is no frame, or they are not all of one size.
    """
    for path in paths:
        if not path.exists():
            raise SampleError("missing_video", f"there is no `{shown(path)}`")
    own_rate = None
    if len(paths) == 1 and not paths[0].is_dir():
        frames, n_frames, own_rate = _animated(paths[0], max_frames)
    else:
        files = _in_folder(paths[0]) if len(paths) == 1 else list(paths)
        n_frames = len(files)
        frames = [read(partial(Path, files[place])) for place in _spread(n_frames, max_frames)]
    if not frames:
        raise SampleError(
            "empty_video", f"there is no picture in `{shown(paths[0])}`" if paths else "there is no frame"
        )
    sizes = sorted({one.size for one in frames})
    if len(sizes) > 1:
        raise SampleError("frame_sizes", f"the frames of a video have one size, got {sizes} (width, height) pixels")
    shown_rate = (rate or own_rate or 1.0) * len(frames) / n_frames
    return Video(tuple(fitted(one, max_side) for one in frames), shown_rate)


def _in_folder(folder: Path) -> list[Path]:
    """Return the pictures in a folder, 2.png before 10.png."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and not path.name.startswith(".")]
    return sorted(
        found, key=lambda path: [(int(part), part) if part.isdecimal() else (0, part) for part in _parts(path)]
    )


def _parts(path: Path) -> list[str]:
    """Return a name in parts that are digits or none, beginning with one that is none."""
    return re.split(r"([0-9]+)", path.name)


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist() if most > 1 else [0]


def _animated(path: Path, max_frames: int) -> tuple[list[Image.Image], int, float | None]:
    """Return the frames of an animated picture that are kept, how many it has, and its rate if it says so."""
    try:
        with Image.open(path) as opened:
            n_frames = int(getattr(opened, "n_frames", 1))
            kept, frames, lengths = set(_spread(n_frames, max_frames)), [], []
            for number in range(n_frames):
                opened.seek(number)
                frame = opened.convert("RGBA")
                lengths.append(float(opened.info.get("duration", 0)))
                if number in kept:
                    white = Image.new("RGBA", frame.size, "white")
                    frames.append(Image.alpha_composite(white, frame).convert("RGB"))
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them stumble over.
        raise SampleError(
            "unreadable_video",
            f"cannot read `{shown(path)}` as a picture that moves ({type(error).__name__}: {shown(error)}); frames can "
            f"be had by: ffmpeg -i {shown(path.name)} -r 2 frames/%04d.png",
        ) from error
    if min(frames[0].size) < LEAST_SIDE:
        raise SampleError("too_small", f"the frames have {frames[0].size} pixels, each side needs {LEAST_SIDE} or more")
    milliseconds = sum(lengths)
    return frames, n_frames, 1000 * n_frames / milliseconds if milliseconds > 0 else None
